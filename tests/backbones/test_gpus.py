"""The GPUs of a machine, shared out among jobs."""

import fcntl
import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from gdmtl_lib.backbones import gpus


def test_gpus_are_those_that_cuda_may_see(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-5f")
    assert gpus.visible_gpus() == ["2", "GPU-5f"]
    for none in ("", "-1", "-1,0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert gpus.visible_gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,-1,0")
    assert gpus.visible_gpus() == ["1"]


def test_a_containers_gpus_are_counted_as_cuda_counts_them(monkeypatch, tmp_path):
    for name in ("nvidia3", "nvidia7", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "Path", lambda path: tmp_path if path == "/dev" else Path(path))
    assert gpus.visible_gpus() == ["0", "1"]


@pytest.mark.parametrize(("processes", "first", "second"), [(1, "0", "1"), (2, "0,1", "2,3")])
def test_two_jobs_do_not_share_a_gpu(monkeypatch, tmp_path, processes, first, second):
    monkeypatch.setattr(gpus.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    with gpus.own_gpus({"processes": processes}):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == first
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")  # as another job finds it
        with gpus.own_gpus({"processes": processes}):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == second
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    with gpus.own_gpus({"processes": processes}):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == first


def test_jobs_of_other_sizes_do_not_share_a_gpu_and_a_large_one_waits(monkeypatch, tmp_path):
    monkeypatch.setattr(gpus.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(gpus, "LOOK_AGAIN_SECONDS", 0.01)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    taken = []

    def large():
        with gpus.own_gpus({"processes": 2}):
            taken.append(os.environ["CUDA_VISIBLE_DEVICES"])

    with ExitStack() as first, ExitStack() as second:
        first.enter_context(gpus.own_gpus({}))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
        second.enter_context(gpus.own_gpus({}))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
        waiting = threading.Thread(target=large)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive() and not taken
        first.close()
        waiting.join(60)
        assert taken == ["0,2"]


def test_a_gpu_is_free_again_when_the_process_has_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(gpus.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    if os.fork() == 0:  # holds the GPU and dies with it
        with gpus.own_gpus({}):
            os._exit(0)
    os.wait()
    with gpus.own_gpus({}):
        [lock] = tmp_path.iterdir()
        with open(lock) as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_without_gpus_nothing_is_locked(monkeypatch, tmp_path):
    monkeypatch.setattr(gpus.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with gpus.own_gpus({"device": "cpu"}):
        assert list(tmp_path.iterdir()) == []
