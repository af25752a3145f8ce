"""The GPUs of a machine, shared out among jobs."""

import fcntl
import os

import pytest

from gdmtl_lib.backbones import gpus


def test_gpus_are_those_that_cuda_may_see(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-5f")
    assert gpus.visible_gpus() == ["2", "GPU-5f"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.visible_gpus() == []


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
