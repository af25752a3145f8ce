"""What it takes to start: imports, a notebook; and to measure a run of MS MARCO's size.

`python bench_startup.py evaluate` measures such a run and prints seconds and peak memory in GB.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from harness import machine_name, peak_memory, record

PROJECT = Path(__file__).parents[2]
IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
QUERIES, DEPTH = 6980, 1000


def run(*arguments: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=PROJECT)
    return done.stdout


def test_import():
    """Of the library, whose names are loaded when they are first used."""
    seconds = median(float(run("-c", IMPORT.format("gdmtl_lib"))) for _ in range(5))
    record("import gdmtl_lib, seconds", seconds, 0.3, seconds, "at most 0.3", machine_name())


def test_import_of_evaluation():
    """It has to do without torch, whose import alone takes longer than all the rest."""
    torch_free = IMPORT.format("gdmtl_lib.evaluation.measures") + "; import sys; assert 'torch' not in sys.modules"
    ours = median(float(run("-c", torch_free)) for _ in range(3))
    torch = median(float(run("-c", IMPORT.format("torch"))) for _ in range(3))
    record("import gdmtl_lib.evaluation.measures against import torch, seconds", ours, torch, ours / torch, "at most 1")


def test_evaluation():
    """Six measures with residuals of 6,980 queries with 1,000 candidates each."""
    seconds, gigabytes = (float(text) for text in run(__file__, "evaluate").split())
    record("evaluation of 6,980 x 1,000, seconds", seconds, 8, seconds, "at most 8")
    record("evaluation of 6,980 x 1,000, peak memory, GB", gigabytes, 1.5, gigabytes, "at most 1.5")


def test_notebook(tmp_path):
    """From the start of the kernel until the parameters of 03_train are resolved, and the kernel is gone again."""
    from gdmtl_lib.sweep.notebooks import execute_notebook

    notebook = json.loads((PROJECT / "notebooks" / "03_train.ipynb").read_text(encoding="utf-8"))
    code = [number for number, cell in enumerate(notebook["cells"]) if cell["cell_type"] == "code"]
    notebook["cells"] = notebook["cells"][: code[1] + 1]
    (tmp_path / "03_train.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    seconds = []
    for number in range(3):
        started = time.perf_counter()
        execute_notebook(tmp_path / "03_train.ipynb", tmp_path / f"{number}.ipynb", {"epochs": 1}, PROJECT, "bench")
        seconds.append(time.perf_counter() - started)
    record("a notebook's own overhead, seconds", median(seconds), 5, median(seconds), "at most 5")


def evaluate() -> None:
    import numpy as np
    import pandas as pd

    from gdmtl_lib.evaluation.measures import PAPER_MEASURES, evaluate

    rng = np.random.default_rng(0)
    parts = []  # numbers as text take seven times what they take in the frame: not all at once, or they were the peak
    for first in range(0, QUERIES, 500):
        query_ids = np.repeat([f"q{query}" for query in range(first, min(first + 500, QUERIES))], DEPTH)
        docs = np.concatenate([rng.choice(8_841_823, DEPTH, replace=False) for _ in range(len(query_ids) // DEPTH)])
        parts.append(pd.DataFrame({"query_id": query_ids, "doc_id": docs.astype(str), "score": rng.normal(size=len(docs))}))
    run = pd.concat(parts, ignore_index=True)
    del parts
    relevant = run.groupby("query_id", sort=False).sample(1, random_state=0)
    qrels = relevant[["query_id", "doc_id"]].assign(relevance=1)
    started = time.perf_counter()
    values = evaluate(run, qrels)
    seconds = time.perf_counter() - started
    assert len(values) == QUERIES * len(PAPER_MEASURES) and "torch" not in sys.modules
    ranks = run.groupby("query_id", sort=False)["score"].rank(ascending=False)[relevant.index].to_numpy()
    expected = np.where(ranks <= 10, 1 / ranks, 0)
    assert np.abs(values.loc[values["measure"] == "RR@10", "value"].to_numpy() - expected).max() < 1e-6
    print(seconds, peak_memory() / 2**30)


if __name__ == "__main__":
    evaluate()
