"""The sweep killed between jobs and inside of them: started again, it ends with the same tables.

GDMTL_STRESS=1 (`make stress`): 8 kills instead of 2.
"""

import os
import random
import signal
import time
from contextlib import suppress
from multiprocessing import Process
from pathlib import Path

import pytest
import yaml
from tests import warm

PROJECT = Path(__file__).parents[2]
KILLS = 8 if os.environ.get("GDMTL_STRESS") else 2
# With them the tables so far, which whatever ended last has written, are replaced by the final ones.
TARGETS = ("04_rerank_and_evaluate_dev", "04_rerank_and_evaluate_cast", "06_win_tie_loss_dev")

pytestmark = pytest.mark.slow


@pytest.fixture
def config(toy_bert_folder) -> dict:
    """A sweep of two toy systems and two splits."""
    config = yaml.safe_load((PROJECT / "papermill_runs" / "configs" / "smoke.yaml").read_text())
    config["parameters"] |= {"checkpoint": str(toy_bert_folder)}
    return config | {"systems": ["bert", "gdmtl"], "studies": {}}


@pytest.fixture
def start(tmp_path, config):
    """Starts it into a folder, in a session of its own."""
    file = tmp_path / "smoke.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))  # the first split is the one to validate on
    started = []

    def start(folder: Path) -> Process:
        arguments = warm.of_sweep(file, folder, *TARGETS)
        started.append(warm.start(warm.snakemake, arguments, cwd=PROJECT, printed=folder / "printed.txt"))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def finish(start, folder: Path) -> None:
    """Start it until it is finished. What a killed sweep has left running keeps its jobs until it ends: those fail
    in a sentence meanwhile."""
    for _ in range(10):
        before = (folder / "printed.txt").stat().st_size if (folder / "printed.txt").exists() else 0
        process = start(folder)
        process.join(600)
        if process.exitcode == 0:
            return
        said = (folder / "printed.txt").read_bytes()[before:].decode()
        assert "being run already, by process" in said or "is training into" in said, said
        time.sleep(2)
    pytest.fail(f"not finished after ten starts: {said}")


def stamps(folder: Path) -> set[Path]:
    """Of the jobs that are done."""
    return set((folder / "smoke" / ".jobs").glob("[!.]*"))


def running(folder: Path, process: Process, until: float) -> set[str]:
    """The jobs that are under way, once there are any."""
    while process.is_alive() and time.monotonic() < until:
        if found := {path.name[1:].removesuffix(".lock") for path in (folder / "smoke" / ".jobs").glob(".*.lock")}:
            return found
        time.sleep(0.01)
    return set()


def results(folder: Path) -> dict[str, bytes]:
    """Every result that is a function of the config, by its path."""
    kinds = ("tables/*.csv", "*/seed*/run.*.trec.gz", "*/seed*/per_query.*.csv", "*/seed*/history.csv",
             "*/seed*/checkpoint/model.safetensors", "bm25/run.*.trec.gz", "bm25/per_query.*.csv")  # fmt: skip
    return {str(path.relative_to(folder)): path.read_bytes() for kind in kinds for path in folder.glob(kind)}


def test_a_sweep_killed_again_and_again_ends_with_the_same_tables(start, config, tmp_path):
    """Killed after a random number of jobs and a random time more: all of its processes, or Snakemake alone. Its jobs go
    on then, and the sweep is started again while they do, or when they have ended: Snakemake believes that the one left
    its file half written, though it is done."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    started = time.monotonic()
    values = config | {"results": str(whole)}
    assert not warm.forked(warm.sweep, "smoke", values, TARGETS, cwd=PROJECT, printed=whole / "printed.txt")
    took, rng, kills = time.monotonic() - started, random.Random(0), 0
    jobs = len(stamps(whole))
    for number in range(KILLS):
        process = start(killed)
        done = number * jobs // KILLS + rng.randint(0, 1)  # so that the kills spread over the sweep
        until = time.monotonic() + 3 * took
        while process.is_alive() and time.monotonic() < until and len(stamps(killed)) < done:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, took / jobs))
        if number % 2:
            before = running(killed, process, until)
            process.kill()
            while number % 4 == 1 and not before <= {path.name.partition(".")[0] for path in stamps(killed)}:
                assert time.monotonic() < until + 3 * took, f"{before} have not ended"
                time.sleep(0.05)
        else:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGKILL)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    finish(start, killed)
    assert kills >= max(1, KILLS // 2)
    found, expected = results(killed / "smoke"), results(whole / "smoke")
    assert found.keys() == expected.keys() and len(expected) > 15
    assert {name for name in expected if found[name] != expected[name]} == set()
    # What was being written when it was killed is removed by the next that writes there, an hour later.
    left = [path.name for path in (killed / "smoke").rglob("*") if path.name.endswith((".partial", ".lock"))]
    assert left == []
