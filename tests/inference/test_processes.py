"""Re-ranking in several processes: the bytes of one, whatever happens to them on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tests.conftest import in_a_child, spread

import gdmtl_lib as gdmtl
from gdmtl_lib.inference import processes as rerank_processes, rerank as reranking
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.splits import Split
from gdmtl_lib.pretrained import build_model

from .conftest import candidates_of, collection_of

QUERIES, CHUNK = 20, 18  # 180 pairs in ten chunks of two queries


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A collection that other processes find: that of `conftest`, as files."""
    folder, toy = tmp_path_factory.mktemp("collection"), collection_of(queries=QUERIES)
    lines = {"passages.tsv": toy.passages(), "queries.dev.tsv": toy.queries("dev").itertuples(index=False)}
    for name, rows in lines.items():
        (folder / name).write_text("".join(f"{key}\t{text}\n" for key, text in rows))
    return folder


@pytest.fixture(scope="module")
def model(toy_bert_folder):
    return spread(build_model("gdmtl", checkpoint=toy_bert_folder), 5)


@pytest.fixture
def job(model, folder, tmp_path, monkeypatch):
    """Model, collection and candidates, neither by score nor query by query, and the bytes that one process writes."""
    monkeypatch.setattr(reranking, "CHUNK_PAIRS", CHUNK)
    collection = gdmtl.load_collection(folder)
    candidates = candidates_of(collection).sample(frac=1, random_state=0)
    rerank((model, collection, candidates), tmp_path / "whole.trec")
    return (model, collection, candidates), (tmp_path / "whole.trec").read_bytes()


def rerank(job, output, processes=1, **options):
    return gdmtl.rerank(*job, output=output, processes=processes, progress=False, device="cpu", **options)


class Forked:
    """What `run_processes` uses of Popen, as a fork of this process: it has loaded what a job imports."""

    def __init__(self, command, env, **_):
        reads, writes = os.pipe()
        self.stdin, (printed, prints) = open(writes, "wb"), os.pipe()

        def work():
            for stream in (1, 2):
                os.dup2(prints, stream)
            sys.stdin, sys.argv = open(reads), command[2:]
            sys.stdout = sys.stderr = open(1, "w", closefd=False)
            torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
            if command[1] == "-c":
                exec(command[2], {})
            else:
                rerank_processes.main(Path(command[3]), int(command[4]))

        self.child = in_a_child(work)
        os.close(reads), os.close(prints)
        self.stdout, self.kill = open(printed, errors="replace"), self.child.kill

    def wait(self):
        self.child.join()
        return self.child.exitcode


FORKING = SimpleNamespace(**vars(subprocess) | {"Popen": Forked})


@pytest.fixture
def forked(one_thread, monkeypatch):
    """Processes of a job are forks; that they can be started anew is tested beside."""
    monkeypatch.setattr(rerank_processes, "subprocess", FORKING)


def replaced(monkeypatch, source, of=0):
    """Let one of the processes run other code, which is given its folder and its number."""
    original = rerank_processes.run_processes

    def run_processes(commands, *arguments):
        changed = [command if i != of else [sys.executable, "-c", source, *command[3:]] for i, command in enumerate(commands)]
        original(changed, *arguments)

    monkeypatch.setattr(rerank_processes, "run_processes", run_processes)


def scored(output):
    """How many chunks are on disk, by process."""
    home = output.with_name(f"{output.name}.processes")
    return {path.name: len(path.read_bytes().splitlines()) - 1 for path in home.glob("scores.*")}


# After so many chunks the process kills itself.
DYING = """
import os, signal, sys
from pathlib import Path
from gdmtl_lib.inference import scoring as partial_scores, processes as rerank_processes
append = partial_scores.PartialScores.append
def dying(self, number, scores):
    if number == {chunks}:
        print("about to die", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, number, scores)
partial_scores.PartialScores.append = dying
rerank_processes.main(Path(sys.argv[1]), int(sys.argv[2]))
"""


def test_two_processes_give_the_bytes_of_one(one_thread, job, tmp_path, monkeypatch):
    """Five chunks each, of processes that are started; and the frame that is returned, and without a file too, where
    three are forked."""
    job, whole = job
    told = []
    tqdm = reranking.tqdm

    def bar(**options):
        made = tqdm(**options)
        made.update = told.append
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reranking, "tqdm", bar)
        run = rerank(job, tmp_path / "shared.trec", processes=2)
    assert (tmp_path / "shared.trec").read_bytes() == whole
    assert sum(told) == len(run) == 9 * QUERIES and len(told) >= 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shared.trec", "whole.trec"]
    pd.testing.assert_frame_equal(run, rerank(job, None))
    monkeypatch.setattr(rerank_processes, "subprocess", FORKING)
    pd.testing.assert_frame_equal(run, rerank(job, None, processes=3))


def test_a_process_that_is_killed_stops_all_and_what_was_scored_is_kept(forked, job, tmp_path, monkeypatch):
    job, whole = job
    output = tmp_path / "shared.trec"
    with pytest.MonkeyPatch.context() as patch:
        replaced(patch, DYING.format(chunks=3))
        with pytest.raises(RuntimeError) as error:
            rerank(job, output, processes=2)
    assert str(error.value) == "re-ranking in 2 processes failed (number 0, exit code -9):\nabout to die"
    assert scored(output)["scores.0"] == 3
    assert {path.name for path in output.with_name("shared.trec.processes").iterdir()} <= {"scores.0", "scores.1"}
    # Resumed, it has two chunks to go: it would die again at its third, and does not.
    replaced(monkeypatch, DYING.format(chunks=2))
    rerank(job, output, processes=2)
    assert output.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shared.trec", "whole.trec"]


@pytest.mark.parametrize("processes", [1, 3])
def test_what_another_number_of_processes_has_left_is_not_mixed_in(forked, job, tmp_path, processes):
    """It is scored anew; nothing of it stays."""
    job, whole = job
    output = tmp_path / "shared.trec"
    with pytest.MonkeyPatch.context() as patch:
        replaced(patch, DYING.format(chunks=2))
        with pytest.raises(RuntimeError, match="failed"):
            rerank(job, output, processes=2)
    rerank(job, output, processes=processes)
    assert output.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shared.trec", "whole.trec"]


@pytest.mark.slow
def test_what_another_model_has_left_is_not_mixed_in(forked, job, toy_bert_folder, tmp_path):
    (model, *rest), whole = job
    output = tmp_path / "shared.trec"
    with pytest.MonkeyPatch.context() as patch:
        replaced(patch, DYING.format(chunks=2))
        with pytest.raises(RuntimeError, match="failed"):
            rerank((build_model("gdmtl", checkpoint=toy_bert_folder), *rest), output, processes=2)
    rerank((model, *rest), output, processes=2)
    assert output.read_bytes() == whole


PARENT = """
import sys
sys.path.insert(0, {path!r})
import gdmtl_lib as gdmtl
from gdmtl_lib.inference import rerank as reranking
from tests.inference.conftest import candidates_of
from gdmtl_lib.pretrained import load_model
reranking.CHUNK_PAIRS = 9
collection = gdmtl.load_collection({folder!r})
print("ready", flush=True)
gdmtl.rerank(load_model({model!r}), collection, candidates_of(collection), {output!r}, processes=2, progress=False, device="cpu")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="this system does not list its processes in /proc")
def test_killed_itself_it_leaves_no_process_behind_and_resumes(model, folder, tmp_path, monkeypatch):
    """The processes end with the one that started them, before another call could write beside them."""
    monkeypatch.setattr(reranking, "CHUNK_PAIRS", 9)
    collection = gdmtl.load_collection(folder)
    job = model, collection, candidates_of(collection)
    model.save_pretrained(tmp_path / "model")
    output = tmp_path / "shared.trec"
    source = PARENT.format(
        path=str(Path(__file__).parent), folder=str(folder), model=str(tmp_path / "model"), output=str(output)
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen([sys.executable, "-c", source], env=environment)
    waited = time.monotonic()
    while not scored(output) and parent.poll() is None and time.monotonic() - waited < 120:
        time.sleep(0.001)
    parent.kill()
    assert parent.wait() == -signal.SIGKILL
    waited = time.monotonic()
    while (left := of_job(output)) and time.monotonic() - waited < 10:
        time.sleep(0.05)
    assert left == []
    rerank(job, output, processes=2)
    rerank(job, tmp_path / "whole.trec")
    assert output.read_bytes() == (tmp_path / "whole.trec").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "shared.trec", "whole.trec"]


def of_job(output):
    """The processes of a job that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:  # it has ended
            continue
        if b"gdmtl_lib.inference" in command and str(output).encode() in command:
            found.append(command)
    return found


SLEEPING = "import time; print('pairs scored: 1', flush=True); time.sleep(60)"


def test_an_interrupt_ends_the_processes():
    """They would sleep for a minute; what they tell interrupts us, as a stopped notebook cell does."""

    def interrupt(pairs):
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        rerank_processes.run_processes([[sys.executable, "-c", SLEEPING]] * 2, [dict(os.environ)] * 2, interrupt)
    assert time.monotonic() - started < 50


def test_a_process_that_fails_ends_the_others_and_is_quoted():
    """The last 25 lines of what it printed, not what it told of its progress."""
    failing = "import sys; print('pairs scored: 2'); [print('line', i) for i in range(40)]; sys.exit(3)"
    commands, told, started = [[sys.executable, "-c", source] for source in (SLEEPING, failing)], [], time.monotonic()
    with pytest.raises(RuntimeError) as error:
        rerank_processes.run_processes(commands, [dict(os.environ)] * 2, told.append)
    tail = "\n".join(f"line {i}" for i in range(15, 40))
    assert str(error.value) == f"re-ranking in 2 processes failed (number 1, exit code 3):\n{tail}"
    assert 2 in told
    assert time.monotonic() - started < 50


def test_each_process_sees_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(rerank_processes.torch, "get_num_threads", lambda: 7)
    for visible, expected in (("2,3,5", ["2", "3"]), ("4", ["4", "4"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        seen = rerank_processes.environments(2, "cuda")
        assert [each["CUDA_VISIBLE_DEVICES"] for each in seen] == expected
    on_cpu = rerank_processes.environments(3, "cpu")
    assert [(each["CUDA_VISIBLE_DEVICES"], each["OMP_NUM_THREADS"]) for each in on_cpu] == [("", "2")] * 3
    assert rerank_processes.environments(9, "cpu")[8]["OMP_NUM_THREADS"] == "1"


def test_one_chunk_is_scored_here(model, folder, tmp_path, monkeypatch):
    """There is nothing to share, so no process is started; the collection needs no name either."""
    monkeypatch.setattr(rerank_processes, "run_processes", lambda *_: pytest.fail("a process was started"))
    collection = collection_of(queries=QUERIES)
    job = model, collection, candidates_of(collection)
    rerank(job, tmp_path / "one.trec", processes=2)
    rerank(job, tmp_path / "whole.trec")
    assert (tmp_path / "one.trec").read_bytes() == (tmp_path / "whole.trec").read_bytes()


def other_name(collection):
    return Collection("toy", dict(collection.passages()), {"dev": Split(collection.queries("dev"))})


def other_texts(collection):
    passages = {doc_id: text + " ice" for doc_id, text in collection.passages()}
    return Collection(collection.name, passages, {"dev": Split(collection.queries("dev"))})


@pytest.mark.parametrize(("change", "found"), [(other_name, "no collection 'toy'"), (other_texts, "whose texts are others")])
def test_a_collection_that_others_cannot_open(job, tmp_path, change, found):
    (model, collection, candidates), _ = job
    changed = change(collection)
    with pytest.raises(ValueError) as error:
        rerank((model, changed, candidates), tmp_path / "out" / "shared.trec", processes=2)
    message = str(error.value)
    assert message.startswith(
        f"several processes open the collection by its name: expected one that load_collection finds, found {changed.name!r} ({found}"
    )
    assert message.endswith("use one process, or write it into a folder")
    assert not (tmp_path / "out").exists()


def test_unknown_passages_are_named(forked, job, tmp_path):
    (model, collection, candidates), _ = job
    candidates = candidates.reset_index(drop=True)
    candidates.loc[0, "doc_id"] = "d99"
    with pytest.raises(RuntimeError, match="has no passage 'd99'"):
        rerank((model, collection, candidates), tmp_path / "shared.trec", processes=2)
    assert not (tmp_path / "shared.trec").exists()


def test_the_toys_scores_lie_apart(job):
    """Or all of the above would hold for anything."""
    job, _ = job
    assert np.std(rerank(job, None)["score"]) > 0.01
