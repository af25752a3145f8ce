"""A job of a sweep is done while what it made is there, and as it was."""

import dataclasses
import os

import pytest

from gdmtl_lib.sweep.job import Job


@pytest.fixture
def job(tmp_path):
    def run():
        for name, text in {"bert/seed0/run.trec": "run", "tables/t.csv": "t", "notebooks/n.ipynb": "n"}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return [tmp_path / "bert/seed0/run.trec", tmp_path / "tables/t.csv", tmp_path / "notebooks/n.ipynb"]

    return Job("name", "a" * 64, tmp_path, run)


def test_a_job_is_done_while_what_it_made_is_there(job, tmp_path):
    assert not job.is_done()
    job.execute()
    assert job.is_done() and job.stamp == tmp_path / ".jobs" / ("name." + "a" * 16)
    (tmp_path / "bert/seed0/run.trec").touch()
    (tmp_path / "tables/t.csv").write_text("drawn anew by hand")
    assert job.is_done()


@pytest.mark.parametrize("name", ["bert/seed0/run.trec", "tables/t.csv", "notebooks/n.ipynb", ".jobs/name.aaaaaaaaaaaaaaaa"])
def test_a_job_is_not_done_without_what_it_made(job, tmp_path, name):
    job.execute()
    (tmp_path / name).unlink()
    assert not job.is_done()


@pytest.mark.parametrize("name", ["bert/seed0/run.trec", ".jobs/name.aaaaaaaaaaaaaaaa"])
def test_a_job_is_not_done_where_its_result_was_changed(job, tmp_path, name):
    job.execute()
    (tmp_path / name).write_text("other")
    assert not job.is_done()


def test_a_stamp_of_earlier_inputs_goes(job):
    job.execute()
    later = dataclasses.replace(job, key="b" * 64)
    assert not later.is_done()
    later.execute()
    assert later.is_done() and not job.is_done()


def test_a_job_that_fails_leaves_no_stamp(tmp_path):
    job = Job("name", "a" * 64, tmp_path, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job.execute()
    assert list(job.stamp.parent.glob("name*")) == []


def test_a_job_that_is_being_run_is_not_run_twice(job):
    again = []
    outer = dataclasses.replace(job, run=lambda: again.append(pytest.raises(RuntimeError, job.execute)) or job.run())
    outer.execute()
    assert str(again[0].value) == f"name is being run already, by process {os.getpid()}: let it end, or end it"
    job.execute()  # and when it has ended, it can be
