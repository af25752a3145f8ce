"""The notebooks as files, as papermill runs them, and all of them together in the sweep of `smoke.yaml`."""

import ast
import json
import os
import re
import subprocess
import sys
import time
from itertools import takewhile
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pandas as pd
import pytest

from tests import warm

from gdmtl_lib.settings import TrainingSettings
from gdmtl_lib.systems import LABELS, SYSTEMS

PROJECT = Path(__file__).parents[2]
NOTEBOOKS = [path for path in sorted((PROJECT / "notebooks").glob("*.ipynb")) if path.stem != "00_index"]
SPLITS = ("dev", "cast")


# ---- as files


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def notebook(request):
    return nbformat.read(request.param, 4)


@pytest.fixture
def parameters(notebook):
    [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def test_no_outputs_are_committed(notebook):
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(notebook))
    assert "widgets" not in notebook.metadata


def test_it_opens_with_a_title_and_what_it_reads_writes_and_takes(notebook):
    text = notebook.cells[0].source
    assert notebook.cells[0].cell_type == "markdown" and text.startswith("# ")
    assert all(f"| {row} |" in text for row in ("reads", "writes", "takes"))


def test_what_comes_before_the_first_result_is_folded(notebook):
    """The title and one paragraph, and then what there is to see."""
    title, text, rest = notebook.cells[0].source.split("\n\n", 2)
    assert title.startswith("# ") and text.startswith("**") and len(text) < 500
    assert rest.startswith("<details><summary>") and rest.endswith("\n\n</details>")
    assert all(cell.metadata.jupyter.source_hidden for cell in notebook.cells[1:4])


def test_a_picture_follows_the_title(notebook):
    """Folded cells alone stand between; 03 trains first, and what 13 shows are texts."""
    if not re.search("^# (03|13) ", notebook.cells[0].source):
        folded = takewhile(lambda cell: cell.metadata.get("jupyter", {}).get("source_hidden"), notebook.cells[1:])
        assert [cell for cell in folded if "gdmtl.plots." in cell.source]


def test_formulas_need_no_network(notebook):
    """MathJax comes from one: what is set in dollars stays so in a page without it."""
    assert not [cell.source for cell in notebook.cells if cell.cell_type == "markdown" and re.search(r"\$[^$]+\$", cell.source)]


def test_every_parameter_is_typed_and_has_its_help(parameters):
    """One literal a line: what papermill's `--help-notebook` shows."""
    for line in parameters.source.splitlines():
        assert re.fullmatch(r"\w+: [\w\[\], |]+ = [^#]+  # \S.*", line), line
        [declaration] = ast.parse(line).body
        ast.literal_eval(declaration.value)
        assert "=" not in line.partition("#")[2], f"papermill misreads an equals sign in {line!r}"


def test_parameters_are_checked_first(notebook, parameters):
    cells = code_cells(notebook)
    assert cells[0] is parameters
    assert "resolve_parameters(In, globals())" in cells[1].source
    assert "torch" not in cells[1].source and "import gdmtl_lib as" not in cells[1].source  # an error takes no seconds


def test_every_parameter_is_used(notebook, parameters):
    code = "\n".join(cell.source for cell in code_cells(notebook)[1:])
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    if "fields(gdmtl.TrainingSettings)" in code:
        used |= set(TrainingSettings.__dataclass_fields__)
    declared = {line.partition(":")[0] for line in parameters.source.splitlines()}
    assert declared <= used


def test_cells_are_short(notebook):
    assert max(len(cell.source.splitlines()) for cell in code_cells(notebook)[1:]) <= 18


def test_the_index_says_of_every_notebook_what_the_readme_and_the_notebook_say():
    index = nbformat.read(PROJECT / "notebooks" / "00_index.ipynb", 4)
    rows = dict(re.findall(r"^\| \[\w+\]\((\w+)\.ipynb\) \| (.*) \|$", "\n".join(cell.source for cell in index.cells), re.MULTILINE))
    readme = dict(re.findall(r"^\| \[`(\w+)`\]\(notebooks/\w+\.ipynb\) \| (.*) \|$", (PROJECT / "README.md").read_text(), re.MULTILINE))
    takes = {path.stem: re.search(r"\| takes \| (.*) \|", nbformat.read(path, 4).cells[0].source)[1] for path in NOTEBOOKS}
    assert rows == {name: f"{readme[name]} | {words}" for name, words in takes.items()}


# ---- as papermill runs them


def papermill(*arguments, cwd=PROJECT):
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", *map(str, arguments)]
    started = time.monotonic()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    return done, time.monotonic() - started


@pytest.mark.parametrize(
    ("folder", "notebook"), [(PROJECT, "notebooks/03_train.ipynb"), (PROJECT / "notebooks", "03_train.ipynb")]
)
def test_a_misspelt_parameter_stops_the_training_at_once(folder, notebook, tmp_path):
    done, seconds = papermill(notebook, tmp_path / "out.ipynb", "-p", "modle", "gdmtl", cwd=folder)
    assert done.returncode != 0 and seconds < 60
    assert "unknown parameter 'modle' (did you mean 'model'?): this notebook has model, collection, train_split" in done.stderr


def test_a_value_of_the_wrong_type_stops_the_training_at_once(tmp_path):
    done, seconds = papermill("notebooks/03_train.ipynb", tmp_path / "out.ipynb", "-p", "epochs", "many")
    assert done.returncode != 0 and seconds < 60
    assert "parameter epochs must be int, found 'many' (str)" in done.stderr


# ---- in the sweep


def sweep(folder, *arguments, **config):
    """Run the sweep of `smoke.yaml`, some of it changed, with its results and Snakemake's own files in a folder. Returns
    its status and what it printed."""
    return snakemake(folder, warm.of_sweep("smoke", folder, *arguments, **config))


def snakemake(folder, arguments):
    printed = folder / "printed.txt"
    printed.unlink(missing_ok=True)
    return warm.forked(warm.snakemake, arguments, cwd=folder, printed=printed), printed.read_text()


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """The results of the whole sweep of `smoke.yaml`, and what it printed: begun by Snakemake as everybody starts it, the
    many jobs after that without its starts."""
    folder = tmp_path_factory.mktemp("sweep")
    arguments = warm.of_sweep("smoke", folder, "--until", "train_bert_seed0", "denoise_steps3_seed0")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments], capture_output=True, text=True, timeout=1200,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    status = warm.forked(warm.sweep, "smoke", {"results": str(folder)}, cwd=PROJECT, printed=folder / "printed.txt")
    text += (folder / "printed.txt").read_text()
    assert status == 0, text
    return folder / "smoke", text


def test_every_system_is_trained_and_measured_on_every_split(smoke):
    folder, _ = smoke
    for system in SYSTEMS:
        names = ["checkpoint/model.safetensors", "history.csv", "timing.csv", "settings.json", "03_train.ipynb",
                 "training_curves.png", "training_curves.pdf"]  # fmt: skip
        names += [f"{name}.{split}.{kind}" for split in SPLITS for name, kind in (("run", "trec.gz"), ("per_query", "csv"))]
        for name in names:
            assert (folder / system / "seed0" / name).stat().st_size > 0


def test_every_figure_and_table_is_there(smoke):
    folder, _ = smoke
    def of(names, *splits):
        return {f"{name}.{split}" for name in names.split() for split in splits}

    both = "effectiveness differences twins win_tie_loss rank_shifts"
    figures = {"collection_lengths", "collection_categories", "collection_grades", "candidate_recall", "mlm_ablation",
               "attention_masks", "mixed_mask", "expansion", "attention_heads", "attention_blocks", "architectures",
               "interactions"} | of(f"{both} score_distributions query_deltas", *SPLITS)  # fmt: skip
    figures |= {"cross_attention_before", "cross_attention_after"}
    figures |= of("categories training_size learning_curves loss_weighting choices denoising intervals cost", "dev") | of("transfer transfer_shared", "cast")
    tables = {"collection", "collection_categories", "candidate_recall", "shared_information_needs"}
    tables |= of(f"{both} score_overlap query_extremes", *SPLITS) | of("transfer transfer_differences", "cast")
    tables |= of("categories training_size loss_weighting choices denoising intervals architectures", "dev")
    for kind, start in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        found = {path.name.removesuffix(f".{kind}"): path for path in (folder / "figures").glob(f"*.{kind}")}
        assert figures <= set(found)
        assert all(path.read_bytes().startswith(start) for path in found.values())
    found = {path.name.removesuffix(".csv"): path for path in (folder / "tables").glob("*.csv")}
    assert tables <= set(found)
    for path in found.values():
        assert len(pd.read_csv(path)) > 0
        assert path.with_suffix(".tex").read_text().startswith("\\begin{tabular}")


def test_the_table_holds_all_nine_systems_in_the_papers_form(smoke):
    folder, _ = smoke
    for split in SPLITS:
        table = pd.read_csv(folder / "tables" / f"effectiveness.{split}.csv", index_col="system", dtype=str)
        assert set(table.index) == set(LABELS.values()) and table.index[0] == "BM25"
        assert list(table.columns) == ["MRR@10", "MRR@100", "NDCG@10", "NDCG@20", "RBP0.5", "RBP0.8"]
        assert all(re.fullmatch(r"0\.\d{3}( [▲△▼▽])?", value) for value in table["MRR@10"])
        assert all(re.fullmatch(r"0\.\d{3} \+0\.\d{3}( [▲△▼▽])?", value) for value in table["RBP0.8"])


def executed_notebooks(folder):
    paths = sorted(folder.rglob("*.ipynb"))
    executed = {path.stem.partition("_")[0] for path in paths}
    assert executed == {path.stem.partition("_")[0] for path in NOTEBOOKS}  # every one of them
    return {path: nbformat.read(path, 4) for path in paths}


def test_no_notebook_shows_an_error_or_a_warning(smoke):
    folder, _ = smoke
    for path, notebook in executed_notebooks(folder).items():
        for cell in code_cells(notebook):
            for output in cell.outputs:
                assert output.output_type != "error", path
                assert output.get("name") != "stderr", f"{path}: {output.text}"
                assert "%|" not in output.get("data", {}).get("text/plain", ""), path  # a progress bar that has stopped


def test_results_on_cast_are_called_transfer(smoke):
    folder, _ = smoke
    says = {
        split: f"{split} holds another kind of queries than train" in (folder / "notebooks" / f"04_rerank_and_evaluate_{split}.ipynb").read_text()
        for split in SPLITS
    }
    assert says == {"dev": False, "cast": True}


def test_the_sweep_shows_the_table_early_and_ends_with_the_page(smoke):
    folder, text = smoke
    so_far = "sample?dev=60&cast=30, dev, so far:"
    assert so_far in text and "BERT, seed 0: " in text
    assert text.index(so_far) < text.index("GDMTL_C, seed 0: ")
    assert f"Results: {folder}\nAll figures and tables: {folder}/index.html" in text
    links = {unquote(link) for link in re.findall(r'(?:href|srcset)="([^"# ]+)(?: 2x)?"', (folder / "index.html").read_text())}
    assert all((folder / link).is_file() for link in links)
    wanted = {path for kind in ("png", "pdf", "csv", "tex") for part in ("figures", "tables") for path in folder.glob(f"{part}/*.{kind}")}
    wanted |= set(executed_notebooks(folder))
    assert {str(path.relative_to(folder)) for path in wanted} <= links


def test_a_second_call_does_nothing_though_everything_was_touched(smoke):
    folder, _ = smoke
    stamps = {path: path.stat().st_ino for path in (folder / ".jobs").iterdir()}
    for path in [*folder.rglob("*"), *NOTEBOOKS]:
        path.touch()
    started = time.monotonic()
    status, text = sweep(folder.parent)
    assert status == 0 and time.monotonic() - started < 60
    assert "cells" not in text and f"All figures and tables: {folder}/index.html" in text
    assert {path: path.stat().st_ino for path in (folder / ".jobs").iterdir()} == stamps


def test_a_deleted_figure_is_drawn_again_and_nothing_else(smoke):
    """Notebook 02 draws it."""
    folder, _ = smoke
    (folder / "figures" / "candidate_recall.png").unlink()
    status, text = sweep(folder.parent)
    assert status == 0, text
    assert (folder / "figures" / "candidate_recall.png").exists()
    executed = set(re.findall(r"^\r?([\w+, ]+): \d+/\d+ cells", text, re.MULTILINE))
    assert executed == {"02_collection_and_candidates"}


def test_a_notebook_reads_the_results_from_the_notebooks_folder_too(smoke, tmp_path):
    folder, _ = smoke
    before = (folder / "bert" / "seed0" / "run.dev.trec.gz").stat().st_ino
    of_smoke = {"results_dir": str(folder), "collection": "sample?dev=60&cast=30", "depth": 3}
    arguments = ["04_rerank_and_evaluate.ipynb", str(tmp_path / "out.ipynb"), "-y", json.dumps(of_smoke)]
    printed = tmp_path / "printed.txt"
    assert warm.forked(warm.papermill, arguments, cwd=PROJECT / "notebooks", printed=printed) == 0, printed.read_text()
    assert "GDMTL+ (1)" in (tmp_path / "out.ipynb").read_text()
    assert (folder / "bert" / "seed0" / "run.dev.trec.gz").stat().st_ino == before  # what is there is not computed again


def test_a_failed_job_names_its_executed_notebook_and_the_last_error(tmp_path):
    status, text = sweep(
        tmp_path, "--until", "train_bert_seed0", systems=["bert"], parameters={"layers": 99, "epochs": 1}
    )
    assert status != 0
    assert f"executed notebook: {tmp_path}/smoke/bert/seed0/03_train.ipynb" in text
    assert "BERT, seed 0 failed. ValueError: " in text
    assert "Traceback" not in text


def test_a_wrong_config_stops_before_anything_runs(tmp_path):
    status, text = sweep(tmp_path, sytems=["bert"])
    assert status != 0
    assert "config smoke: unknown key 'sytems' (did you mean 'systems'?)" in text
    assert not (tmp_path / "smoke").exists()


def test_a_config_has_to_be_named(tmp_path):
    status, text = snakemake(tmp_path, ["-s", str(PROJECT / "papermill_runs" / "Snakefile"), "--cores", "1"])
    assert status != 0
    assert "name one config: --configfile papermill_runs/configs/sample.yaml" in text
