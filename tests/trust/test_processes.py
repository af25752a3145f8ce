"""Two processes and one output: the second stops at once and says who holds it; a killed holder holds nothing."""

import errno
import os
import subprocess
import sys

import pytest
from tests.inference.conftest import candidates_of as candidates_to_rerank
from tests.inference.conftest import collection_of as collection_to_rerank
from tests.training.conftest import Training

import gdmtl_lib as gdmtl
from gdmtl_lib.data import files
from gdmtl_lib.pretrained import build_model
from gdmtl_lib.training.folder import TrainingFolder

HOLDER = """
import time
from gdmtl_lib.data.files import hold_lock
with hold_lock({lock!r}, "it is taken"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder():
    """Start a process that holds a lock file; it is killed at the end at the latest."""
    children = []

    def hold(lock):
        source = HOLDER.format(lock=str(lock))
        child = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout.readline() == "held\n"
        return child

    yield hold
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


def test_the_second_training_stops_at_once_and_names_the_first(holder, toy_bert_folder, tmp_path):
    first = holder(tmp_path / "out" / ".lock")
    train = Training(toy_bert_folder)
    with pytest.raises(RuntimeError) as error:
        train(tmp_path / "out")
    assert str(error.value) == (
        f"{tmp_path}/out is being trained into already, by process {first.pid}: let it end, or end it"
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    with pytest.raises(RuntimeError, match=f"by process {first.pid}"):
        train(tmp_path / "out", processes=2)
    with pytest.raises(RuntimeError, match=f"by process {first.pid}"):
        train(tmp_path / "out", resume=False)
    first.kill()
    first.wait()
    train(tmp_path / "out")
    assert not (tmp_path / "out" / ".lock").exists()


def test_processes_that_outlive_who_launched_them_keep_the_folder(holder, toy_bert_folder, tmp_path):
    first = holder(tmp_path / "out" / ".processes.lock")
    for processes in (1, 2):
        with pytest.raises(RuntimeError) as error:
            Training(toy_bert_folder)(tmp_path / "out", processes=processes)
        assert str(error.value) == (
            f"{tmp_path}/out is being trained into already, by process {first.pid}: let it end, or end it"
        )
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".processes.lock"]


@pytest.mark.parametrize(("rank", "locks"), [("0", [".lock", ".processes.lock"]), ("1", [".lock"])])
def test_the_first_of_launched_processes_holds_a_lock_beside_the_launchers(holder, tmp_path, monkeypatch, rank, locks):
    holder(tmp_path / "out" / ".lock")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a run")
    monkeypatch.setenv("RANK", rank)
    with TrainingFolder(tmp_path / "out", {}).held():
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == locks


def test_the_second_re_ranking_stops_at_once_and_names_the_first(holder, toy_bert_folder, tmp_path):
    """Otherwise the scores of two models could meet in one partial file, each line good by itself."""
    collection = collection_to_rerank()
    job = build_model("bert", checkpoint=toy_bert_folder), collection, candidates_to_rerank(collection)
    first = holder(tmp_path / ".run.trec.lock")
    with pytest.raises(RuntimeError) as error:
        gdmtl.rerank(*job, output=tmp_path / "run.trec", progress=False)
    assert str(error.value) == (
        f"{tmp_path}/run.trec is being written already, by process {first.pid}: let it end, or end it"
    )
    gdmtl.rerank(*job, output=tmp_path / "other.trec", progress=False)
    first.kill()
    first.wait()
    gdmtl.rerank(*job, output=tmp_path / "run.trec", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.trec", "run.trec"]


def test_a_lock_is_free_after_an_error_and_leaves_no_folder(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), files.hold_lock(tmp_path / "new" / ".lock", "it is taken"):
            raise ZeroDivisionError
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path):
    with files.hold_lock(tmp_path / ".lock", "it is taken"):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
    assert tmp_path.is_dir()


CONTENDER = """
import sys, time
from pathlib import Path
from gdmtl_lib.data.files import hold_lock
folder, taken = Path(sys.argv[1]), 0
while taken < 40:
    try:
        with hold_lock(folder / ".lock", "it is taken"):
            file = folder / "count"
            count = int(file.read_text())
            time.sleep(0.001)
            file.write_text(str(count + 1))
            taken += 1
    except RuntimeError:
        pass
    time.sleep(0.0005)
"""


def test_no_two_processes_hold_a_lock_at_once(tmp_path):
    """Three of them count in one file, which each reads, waits and writes: a count is lost if two are in."""
    (tmp_path / "count").write_text("0")
    children = [subprocess.Popen([sys.executable, "-c", CONTENDER, str(tmp_path)]) for _ in range(3)]
    assert [child.wait(timeout=60) for child in children] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "120"


def test_where_a_file_system_has_no_flock_nothing_is_locked(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    with files.hold_lock(tmp_path / ".lock", "it is taken"), files.hold_lock(tmp_path / ".lock", "it is taken"):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_another_error_of_the_lock_is_told(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match="Input/output error"), files.hold_lock(tmp_path / ".lock", "it is taken"):
        pass
