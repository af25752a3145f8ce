"""Security: weights are data, parameters are data, configs are data, and nothing is written outside of its folder."""

import ast
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
import yaml
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from snakemake.common.configfile import load_configfile
from tests import warm
from tests.data.conftest import FOLDER, write

import gdmtl_lib as gdmtl
from gdmtl_lib.experiments import notebook
from gdmtl_lib.sweep import config as sweep_config
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.sweep.notebooks import execute_notebook
from gdmtl_lib.pretrained import build_model, load_model

PROJECT = Path(__file__).parents[2]
SOURCES = sorted(PROJECT.glob("gdmtl_lib/*.py"))
NOTEBOOKS = sorted(PROJECT.glob("notebooks/*.ipynb"))
KERNEL = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}


# --- code


def code_of(path):
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = [cell["source"] for cell in nbformat.read(path, 4)["cells"] if cell["cell_type"] == "code"]
    return "\n".join(cell for cell in cells if not cell.startswith("%"))


# What runs what it is given; `eval` is allowed once, where notebook.py reads a type, without any builtins.
DANGEROUS_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "torch.load",
    "joblib.load", "pd.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "np.load", "numpy.load",
    "tarfile.open", "zipfile.ZipFile", "shutil.unpack_archive", "marshal.loads", "shelve.open",
}  # fmt: skip


@pytest.mark.parametrize("path", [*SOURCES, *NOTEBOOKS], ids=lambda path: path.name)
def test_no_code_is_run_that_was_data(path):
    tree = ast.parse(code_of(path))
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = sorted(DANGEROUS_CALLS.intersection(calls))
    assert found == (["eval"] if path.name == "notebook.py" else [])
    assert calls.count("eval") <= 1
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword):
            assert node.arg != "trust_remote_code"
            assert node.arg != "shell" or ast.unparse(node.value) == "False"
            assert node.arg != "use_safetensors" or ast.unparse(node.value) == "True"
            assert node.arg != "allow_pickle" or ast.unparse(node.value) == "False"


def test_a_type_that_is_an_expression_is_not_run(tmp_path):
    """A notebook's own text, but without builtins all the same."""
    with pytest.raises(NameError):
        notebook.check_value("x", 1, "__import__('os').system('touch " + str(tmp_path / "run") + "')")
    assert list(tmp_path.iterdir()) == []


# --- weights


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def test_the_malicious_pickle_works(tmp_path):
    """Or the next test would say nothing."""
    pickle.loads(pickle.dumps(Malicious(tmp_path / "run"))).close()
    assert (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "training_args.bin", "adapter_model.bin"])
def test_a_malicious_pickle_is_never_opened(tmp_path, toy_bert_folder, name):
    """Offered in the weights' place, under their name, and beside them."""
    folder, marker = tmp_path / "checkpoint", tmp_path / "run"
    shutil.copytree(toy_bert_folder, folder)
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps({"bert.weight": Malicious(marker)}))
    if name in ("pytorch_model.bin", "model.safetensors"):
        with pytest.raises(Exception, match="safetensors|[Hh]eader"):
            build_model("bert", checkpoint=folder)
    else:
        build_model("bert", checkpoint=folder)
    with pytest.raises(ValueError):  # the folder's config is no gdmtl model's
        load_model(folder)
    assert not marker.exists()


def test_a_checkpoint_cannot_bring_code(tmp_path, toy_bert_folder):
    """transformers' auto_map names a Python file in the checkpoint, which only `trust_remote_code` would run."""
    folder, marker = tmp_path / "checkpoint", tmp_path / "run"
    build_model("bert", checkpoint=toy_bert_folder).save_pretrained(folder)
    (folder / "SHA256SUMS").unlink()
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Model: pass\nclass Config: pass\n")
    config = (folder / "config.json").read_text()
    auto_map = '"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": "evil.Model"},'
    (folder / "config.json").write_text(config.replace("{", "{" + auto_map, 1))
    load_model(folder)
    build_model("bert", checkpoint=folder)
    assert not marker.exists()


# --- parameters of notebooks


NASTY = [
    "__import__('os').system('touch RUN')",
    "'; __import__('os').system('touch RUN'); '",
    '"""\n__import__("os").system("touch RUN")\n"""',
    "\\'\n__import__('os').system('touch RUN')\n#",
    "{__import__('os').system('touch RUN')}",
    "%system touch RUN",
    "!touch RUN\n%%bash\ntouch RUN",
    "\\",
    "\\\\'",
    "tab\tand\r\nlines\u2028 and \u202e right to left, e\u0301, 😀",
    "",
]


@pytest.mark.parametrize("text", NASTY)
def test_a_text_arrives_as_that_text(text, tmp_path, monkeypatch):
    """Through papermill's own injection, what `-p` and the sweep go through; the cell that it makes is run here."""
    cell = nbformat.v4.new_code_cell('collection: str = "sample"  # what to read', metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=KERNEL), tmp_path / "tiny.ipynb")
    given = {"collection": text, "systems": [text], "kept": {text: text}}
    injected = parameterize_notebook(load_notebook_node(str(tmp_path / "tiny.ipynb")), given).cells[1].source
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    values = {}
    exec(injected, values)
    assert {name: values[name] for name in given} == given
    assert list(Path().iterdir()) == []


def test_texts_arrive_in_a_kernel(tmp_path):
    """All of them at once, in a notebook that writes down what it got."""
    cells = [
        nbformat.v4.new_code_cell("texts: list[str] = []  # what to write down", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("import json\nwith open('got.json', 'w') as file:\n    json.dump(texts, file)"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), tmp_path / "tiny.ipynb")
    execute_notebook(tmp_path / "tiny.ipynb", tmp_path / "done.ipynb", {"texts": NASTY}, tmp_path, "tiny")
    assert json.loads((tmp_path / "got.json").read_text()) == NASTY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done.html", "done.ipynb", "got.json", "tiny.ipynb"]


# --- configs


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch RUN']",
        "!!python/object/new:os.system ['touch RUN']",
        "!!python/name:os.system",
        "?__import__('os').system('touch RUN')",
        "{__import__('os').system('touch RUN')}",
    ],
)
def test_a_config_is_loaded_safely(tmp_path, monkeypatch, value):
    """By what Snakemake itself reads `--configfile` with. It runs the expressions of a file only if that says
    `__use_yte__: true` itself; then it is a program of its author's."""
    monkeypatch.chdir(tmp_path)
    Path("evil.yaml").write_text(f"collection: {value}\n")
    try:
        found = load_configfile("evil.yaml")["collection"]
    except Exception as error:
        assert "YAML" in str(error)
    else:
        if not isinstance(found, str):  # a name, found but not called; or YAML's own mapping
            with pytest.raises(ValueError, match="collection must be str, found"):
                sweep_config.read_config(smoke() | {"collection": found}, "evil", PROJECT)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.yaml"]


def smoke():
    return yaml.safe_load((PROJECT / "papermill_runs" / "configs" / "smoke.yaml").read_text())


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "..", ".", "", "a/b", ".hidden", "a b", "a\nb", "a;b", "$(b)"])
def test_a_config_cannot_name_another_folder(name):
    with pytest.raises(ValueError) as error:
        sweep_config.read_config(smoke(), name, PROJECT)
    assert str(error.value) == (
        f"config {name!r}: expected a name of letters, digits, '-', '_' and '.'; rename the file"
    )


def test_a_configs_results_lie_in_their_folder(tmp_path):
    config = sweep_config.read_config(smoke() | {"results": str(tmp_path)}, "smoke-2.1", PROJECT)
    assert Path(config.folder) == tmp_path / "smoke-2.1"


# --- names that would lead out of a folder


@pytest.mark.parametrize(
    "name", ["../evil", "../../../etc/passwd", "/etc/passwd", "..", "../", "a/../../b", "irds:../../x", "~/x", "\0", "a\nb"]
)
def test_a_collections_name_cannot_lead_out_of_the_results(name):
    runs = notebook.project_folder() / "papermill_runs"
    folder = notebook.results_folder(name)
    assert folder == runs or folder.parent == runs
    assert re.fullmatch(r"[\w.-]*", folder.name)


def test_a_split_is_one_that_the_collection_has(tmp_path):
    """A run is written to `run.<split>.trec.gz`: a name with a slash never comes so far."""
    collection = load_collection(write(tmp_path))
    for call in (collection.queries, collection.qrels, lambda split: gdmtl.bm25_candidates(collection, split)):
        with pytest.raises(ValueError, match=r"has no split '\.\./\.\./evil': its splits are dev, train"):
            call("../../evil")


@pytest.mark.parametrize("name", ["queries.a.b.tsv", "queries...tsv", "queries..tsv"])
def test_a_split_has_no_dots(tmp_path, name):
    write(tmp_path)
    (tmp_path / name).write_text("q9\tice\n")
    with pytest.warns(UserWarning, match=f"/{name} is not read"):
        assert load_collection(tmp_path).splits == ("dev", "train")


def test_ids_never_name_a_file(tmp_path):
    """Passages and queries with ids like paths are re-ranked and measured, and nothing lies where the ids say."""
    ids = {"q3": "../../q", "q4": "/tmp/q", "d1": "../d1", "d3": "C:\\d3"}
    changed = {}
    for name, text in FOLDER.items():
        for old, new in ids.items():
            text = re.sub(rf"\b{old}\b", lambda _, new=new: new, text)
        changed[name] = text
    folder = tmp_path / "collection"
    folder.mkdir()
    for name, text in changed.items():
        (folder / name).write_text(text)
    collection = load_collection(folder)
    candidates = gdmtl.bm25_candidates(collection, "dev", depth=3, index_dir=tmp_path / "indexes")
    values = gdmtl.evaluate(candidates, collection.qrels("dev"))
    assert set(values["query_id"]) == {"../../q"}
    gdmtl.runs.write_run(candidates, tmp_path / "run.trec")
    assert set(gdmtl.runs.read_run(tmp_path / "run.trec")["query_id"]) <= {"../../q", "/tmp/q"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["collection", "indexes", "run.trec"]


# --- JupyterLab


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="no make on the PATH")
def test_make_lab_listens_on_loopback_and_asks_for_its_token(tmp_path):
    """The command that `make lab` would run, run: on 127.0.0.1 alone, and its contents only with the token."""
    shown = subprocess.run(["make", "-n", "lab"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    [command] = [line.split() for line in shown.splitlines() if "-m jupyterlab" in line]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *command[1:], "--no-browser", f"--port={port}", "--ServerApp.port_retries=0"]
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path)}
    environment = {name: value for name, value in environment.items() if name != "JUPYTER_TOKEN"}
    log = tmp_path / "log"
    with open(log, "w") as file, subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=file) as server:
        try:
            for _ in range(600):
                found = re.search(r"token=(\w+)", log.read_text())
                with socket.socket() as inside:  # it names its address before it answers there
                    answers = found and inside.connect_ex(("127.0.0.1", port)) == 0
                if answers or server.poll() is not None:
                    break
                time.sleep(0.1)
            assert answers and server.poll() is None, log.read_text()
            address = f"http://127.0.0.1:{port}/api/contents"
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(address)
            assert refused.value.code == 403
            assert urllib.request.urlopen(f"{address}?token={found[1]}").status == 200
            others = {address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
            for other in others - {"127.0.0.1", "127.0.1.1"}:
                with socket.socket() as outside:
                    assert outside.connect_ex((other, port)) != 0
        finally:
            server.terminate()


def test_a_key_that_stands_twice_is_refused_by_the_sweep_too(tmp_path):
    """Of the two Snakemake's own reader takes the last."""
    (tmp_path / "twice.yaml").write_text((PROJECT / "papermill_runs" / "configs" / "smoke.yaml").read_text() + "depth: 7\n")
    arguments = warm.of_sweep(tmp_path / "twice.yaml", tmp_path, "--dry-run")
    assert warm.forked(warm.snakemake, arguments, cwd=PROJECT, printed=tmp_path / "printed.txt") == 1
    printed = (tmp_path / "printed.txt").read_text()
    assert f"{tmp_path / 'twice.yaml'} is no config in YAML: key 'depth' stands twice, line " in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["printed.txt", "twice.yaml"]
