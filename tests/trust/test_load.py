"""Load: notebooks side by side all succeed, and re-ranking for a long time takes no more memory than for a short one.

GDMTL_STRESS=1 (`make stress`): 20 notebooks, four at a time, and 15 minutes; else 4 notebooks and 8 seconds.
"""

import os
import subprocess
import sys
from multiprocessing import Process
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests import warm

STRESS = bool(os.environ.get("GDMTL_STRESS"))
RUNS, SECONDS = (20, 900) if STRESS else (4, 8)
PROJECT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def test_notebooks_four_at_a_time_all_succeed(tmp_path):
    """03_train of the smoke config; all of one seed, so all end alike."""
    smoke = yaml.safe_load((PROJECT / "papermill_runs" / "configs" / "smoke.yaml").read_text())
    smoke = smoke["parameters"] | {"depth": smoke["depth"]}
    options = [part for name, value in smoke.items() for part in ("-p", name, str(value))]

    def start(number: int) -> Process:
        arguments = ["notebooks/03_train.ipynb", str(tmp_path / f"{number}.ipynb"), *options]
        arguments += ["-p", "output_dir", str(tmp_path / str(number))]
        return warm.start(warm.papermill, arguments, cwd=PROJECT, printed=tmp_path / f"{number}.txt")

    for first in range(0, RUNS, 4):
        running = {number: start(number) for number in range(first, min(first + 4, RUNS))}
        for number, process in running.items():
            process.join()
            assert process.exitcode == 0, f"run {number}: {(tmp_path / f'{number}.txt').read_text()}"
    histories = {(tmp_path / str(number) / "history.csv").read_bytes() for number in range(RUNS)}
    assert len(histories) == 1


SOAK = """
import sys, time
import gdmtl_lib as gdmtl
collection = gdmtl.load_collection("sample")
candidates = gdmtl.bm25_candidates(collection, "dev", depth=4, index_dir=sys.argv[2]).head(16)
model = gdmtl.build_model("gdmtl")
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
started, rounds = time.monotonic(), 0
while rounds < 20 or time.monotonic() - started < float(sys.argv[1]):
    gdmtl.rerank(model, collection, candidates, output=sys.argv[3], progress=False, device="cpu")
    print(resident(), flush=True)
    rounds += 1
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not say how much is resident")
def test_a_soak_of_reranking_leaves_memory_flat(tmp_path):
    """MiniLM on the embedded collection, again and again: after the first fifth of the time its peaks stay within 2%."""
    with open(tmp_path / "memory.txt", "w") as printed:
        command = [sys.executable, "-c", SOAK, str(SECONDS), str(tmp_path / "indexes"), str(tmp_path / "run.trec.gz")]
        done = subprocess.run(command, cwd=PROJECT, stdout=printed, stderr=subprocess.PIPE, text=True, timeout=SECONDS + 300)
    assert done.returncode == 0, done.stderr
    pages = [int(line) for line in (tmp_path / "memory.txt").read_text().split()]
    _, first, *later = (max(part) for part in np.array_split(pages, 5))
    assert max(later) <= 1.02 * first, f"most pages in memory, of five parts of the time: {[first, *later]}"
