"""Training in several processes: the job's files say all, and a process that fails is heard.

That several processes give the losses of one is in test_loop.
"""

import json
import sys
import time
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import gdmtl_lib as gdmtl
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.splits import Split
from gdmtl_lib.training import launch
from gdmtl_lib.pretrained import build_model, load_model
from gdmtl_lib.settings import TrainingSettings

FILES = {
    "passages.tsv": "d1\tblue glacier ice\nd2\tan old king\nd3\twater of the river\n",
    "queries.train.tsv": "q1\twhy is ice blue\nq2\twho was king\n",
    "qrels.train.tsv": "q1 0 d1 1\nq2 0 d2 1\n",
    "queries.dev.tsv": "q3\triver water\n",
    "qrels.dev.tsv": "q3 0 d3 2\n",
}
CANDIDATES = pd.DataFrame(
    [("q1", "d3", 2.0), ("q1", "d1", 1.0), ("q2", "d2", 0.1 + 0.2), ("q2", "d1", 0.25)],
    columns=["query_id", "doc_id", "score"],
)
VALIDATION = pd.DataFrame([("q3", "d1", 2.0), ("q3", "d3", 1.0)], columns=["query_id", "doc_id", "score"])
SETTINGS = TrainingSettings(
    epochs=1, batch_size=2, learning_rate=1e-3, max_length=32, target_length=8, precision="fp32", device="cpu", seed=3
)


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "collection"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return gdmtl.load_collection(folder)


@pytest.mark.parametrize("validation", [None, VALIDATION])
def test_a_job_trains_what_it_was_written_of(toy_bert_folder, collection, tmp_path, validation):
    """One process of a job, run here, ends like a training without a job; so every part of it arrives."""
    model = build_model("gdmtl", checkpoint=toy_bert_folder)
    job = tmp_path / "job"
    launch.write_job(job, tmp_path / "a", model, collection, CANDIDATES, SETTINGS, validation, relevance_level=2)
    gdmtl.train(**launch.read_job(job))
    gdmtl.train(model, collection, CANDIDATES, SETTINGS, tmp_path / "b", validation, relevance_level=2)
    described = [json.loads((tmp_path / name / "settings.json").read_text()) for name in "ab"]
    assert described[0] == described[1]
    weights = [load_model(tmp_path / name / "checkpoint").state_dict() for name in "ab"]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def test_a_job_replaces_one_that_was_left_behind(toy_bert_folder, collection, tmp_path):
    model, job = build_model("bert", checkpoint=toy_bert_folder), tmp_path / "job"
    launch.write_job(job, tmp_path / "a", model, collection, CANDIDATES, SETTINGS, VALIDATION, 1)
    launch.write_job(job, tmp_path / "a", model, collection, CANDIDATES, SETTINGS, None, 1)
    assert sorted(path.name for path in job.iterdir()) == ["candidates.trec.gz", "initial", "job.json"]


def python(monkeypatch, source):
    """Let a job be a line of Python instead of torchrun. Returns what it was to be."""
    commands, original = [], launch.subprocess.Popen

    def popen(command, **arguments):
        commands.append((command, arguments["env"]))
        return original([sys.executable, "-c", source], **arguments)

    monkeypatch.setattr(launch, "subprocess", SimpleNamespace(**vars(launch.subprocess) | {"Popen": popen}))
    return commands


def test_what_is_run(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launch.os, "cpu_count", lambda: 7)
    commands = python(monkeypatch, "import sys; print('so far'); print('wärmer', file=sys.stderr)")
    launch.run_job(tmp_path, processes=3)
    [(command, environment)] = commands
    assert command == [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3",
        "-m", "gdmtl_lib.training", str(tmp_path),
    ]  # fmt: skip
    assert environment["OMP_NUM_THREADS"] == "2"  # the machine's seven cores shared among three
    shown = capsys.readouterr().err
    assert "so far\n" in shown and "wärmer\n" in shown


def test_the_users_number_of_threads_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    commands = python(monkeypatch, "")
    launch.run_job(tmp_path, processes=2)
    assert commands[0][1]["OMP_NUM_THREADS"] == "5"


def test_a_process_that_fails_is_quoted(tmp_path, monkeypatch):
    """The last 25 lines of what it printed."""
    python(monkeypatch, "import sys; [print('line', i) for i in range(40)]; sys.exit(3)")
    with pytest.raises(RuntimeError) as error:
        launch.run_job(tmp_path, processes=2)
    expected = "\n".join(["training in 2 processes failed (exit code 3):", *(f"line {i}" for i in range(15, 40))])
    assert str(error.value) == expected


def test_what_a_process_ended_with_stands_first(tmp_path, monkeypatch):
    """torchrun prints a page after it."""
    python(monkeypatch, "print('[rank0]: ValueError: no such passage'); [print('line', i) for i in range(40)]; raise SystemExit(1)")
    with pytest.raises(RuntimeError, match=r"\(exit code 1\):\n\[rank0\]: ValueError: no such passage\nline 15\n"):
        launch.run_job(tmp_path, processes=2)


def test_a_collection_that_others_cannot_open_is_refused_before_anything_is_written(toy_bert_folder, collection, tmp_path):
    splits = {name: Split(collection.queries(name), collection.qrels(name)) for name in collection.splits}
    unnamed = Collection("mine", dict(collection.passages()), splits)
    with pytest.raises(ValueError, match="several processes open the collection by its name: .* found 'mine' "):
        gdmtl.train(build_model("bert", checkpoint=toy_bert_folder), unnamed, CANDIDATES, SETTINGS, tmp_path / "out", processes=2)
    assert not (tmp_path / "out").exists()


def test_a_failed_job_is_cleared_away(toy_bert_folder, collection, tmp_path, monkeypatch):
    python(monkeypatch, "import sys; sys.exit(1)")
    model = build_model("bert", checkpoint=toy_bert_folder)
    with pytest.raises(RuntimeError, match=r"training in 2 processes failed \(exit code 1\)"):
        gdmtl.train(model, collection, CANDIDATES, SETTINGS, tmp_path / "out", processes=2)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["settings.json"]


def test_an_interrupt_ends_the_processes(tmp_path, monkeypatch):
    """It would sleep for a minute; what it prints interrupts us, as a stopped notebook cell does."""
    python(monkeypatch, "import time; print('running', flush=True); time.sleep(60)")
    started = []

    def interrupt(text):
        started.append(text)
        raise KeyboardInterrupt

    monkeypatch.setattr(launch.sys, "stderr", SimpleNamespace(write=interrupt))
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launch.run_job(tmp_path, processes=2)
    assert started[0].strip() == "running"
    assert time.monotonic() - begin < 50


@pytest.mark.parametrize(("processes", "there"), [(2, 1), (9, 8)])
def test_more_processes_than_gpus_are_refused_at_once(processes, there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(ValueError) as error:
        launch.check_processes(processes, torch.device("cuda"))
    assert str(error.value) == (
        f"processes must be at most {there}, the number of GPUs that are visible here, found {processes}: lower it, or "
        "train with device cpu"
    )
    launch.check_processes(there, torch.device("cuda"))
    launch.check_processes(processes, torch.device("cpu"))


def test_processes_on_the_cpu_see_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    commands = python(monkeypatch, "")
    for device in ("cpu", "cuda"):
        launch.run_job(tmp_path, 2, torch.device(device))
    assert [environment["CUDA_VISIBLE_DEVICES"] for _, environment in commands] == ["", "3,4"]
