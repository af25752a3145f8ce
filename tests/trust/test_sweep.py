"""The sweep killed between jobs and inside of them: started again, it ends with the same tables.

GDMTL_STRESS=1 (`make stress`): 8 kills instead of 2.
"""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
KILLS = 8 if os.environ.get("GDMTL_STRESS") else 2
# With them the tables so far, which whatever ended last has written, are replaced by the final ones.
TARGETS = ("04_rerank_and_evaluate_dev", "04_rerank_and_evaluate_cast", "06_win_tie_loss_dev")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def start(tmp_path_factory, toy_bert_folder):
    """Starts a sweep of two toy systems and two splits into a folder, in a session of its own."""
    config = yaml.safe_load((PROJECT / "papermill_runs" / "configs" / "smoke.yaml").read_text())
    config |= {"systems": ["bert", "gdmtl"], "studies": {}}
    config["parameters"] |= {"checkpoint": str(toy_bert_folder)}
    file = tmp_path_factory.mktemp("config") / "smoke.yaml"
    file.write_text(yaml.safe_dump(config))

    def start(folder: Path) -> subprocess.Popen:
        command = [
            sys.executable, "-m", "snakemake", *TARGETS, "-s", str(PROJECT / "papermill_runs" / "Snakefile"),
            "--cores", "2", "--max-threads", "1", "--configfile", str(file), "--directory", str(folder),
            "--config", f"results={folder}",
        ]  # fmt: skip
        with open(folder / "printed.txt", "ab") as printed:
            return subprocess.Popen(
                command, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True,
                env=os.environ | {"PYTHONPATH": str(PROJECT)},
            )  # fmt: skip

    return start


def finish(start, folder: Path) -> None:
    """Start it until it is finished. What a killed sweep has left running keeps its jobs until it ends: those fail
    in a sentence meanwhile."""
    for _ in range(10):
        before = (folder / "printed.txt").stat().st_size if (folder / "printed.txt").exists() else 0
        if start(folder).wait(timeout=600) == 0:
            return
        said = (folder / "printed.txt").read_bytes()[before:].decode()
        assert "being run already, by process" in said or "is training into" in said, said
        time.sleep(2)
    pytest.fail(f"not finished after ten starts: {said}")


def results(folder: Path) -> dict[str, bytes]:
    """Every result that is a function of the config, by its path."""
    kinds = ("tables/*.csv", "*/seed*/run.*.trec.gz", "*/seed*/per_query.*.csv", "*/seed*/history.csv",
             "*/seed*/checkpoint/model.safetensors", "bm25/run.*.trec.gz", "bm25/per_query.*.csv")  # fmt: skip
    return {str(path.relative_to(folder)): path.read_bytes() for kind in kinds for path in folder.glob(kind)}


def test_a_sweep_killed_again_and_again_ends_with_the_same_tables(start, tmp_path):
    """Killed after a random number of jobs and a random time more: Snakemake alone, whose jobs then go on without it,
    or all of its processes."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    started = time.monotonic()
    finish(start, whole)
    took, rng, kills = time.monotonic() - started, random.Random(0), 0
    jobs = len(list((whole / "smoke" / ".jobs").iterdir()))
    for number in range(KILLS):
        child = start(killed)
        done = number * jobs // KILLS + rng.randint(0, 1)  # so that the kills spread over the sweep
        until = time.monotonic() + took
        while child.poll() is None and time.monotonic() < until:
            if len(list((killed / "smoke" / ".jobs").glob("*"))) >= done:
                break
            time.sleep(0.05)
        time.sleep(rng.uniform(0, took / jobs))
        if number % 2:
            child.kill()
        else:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(child.pid, signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
    finish(start, killed)
    assert kills >= max(1, KILLS // 2)
    found, expected = results(killed / "smoke"), results(whole / "smoke")
    assert found.keys() == expected.keys() and len(expected) > 15
    assert {name for name in expected if found[name] != expected[name]} == set()
    # What was being written when it was killed is removed by the next that writes there, an hour later.
    left = [path.name for path in (killed / "smoke").rglob("*") if path.name.endswith((".partial", ".lock"))]
    assert left == []
