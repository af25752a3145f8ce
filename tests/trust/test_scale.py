"""MS MARCO's size, with made-up ids: what starts in seconds there, and what memory does not grow with.

`make stress` runs these at that size, a plain test run at a fiftieth. Each measures a process of its own, because a
process never tells how much less it could have used.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARE = 1 if os.environ.get("GDMTL_STRESS") else 50
MEGABYTE = 2**20

PEAK = f"""
import sys
sys.path.append({str(Path(__file__).parents[1] / "benchmarks")!r})
from harness import peak_memory as peak
"""


def measured(code: str, *arguments: object) -> list[float]:
    """What a process prints, as numbers."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK + code, *map(str, arguments)],
        cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [float(number) for number in done.stdout.split()]


INSTANCES = """
import sys, time
import numpy as np, pandas as pd
from gdmtl_lib.training.batches import TrainingInstances
queries, pairs, passages, depth = (int(n) for n in sys.argv[1:])
query_ids = np.array([str(3 * number) for number in range(queries)], dtype=object)
doc_ids = np.array([str(number) for number in range(passages)], dtype=object)
places = np.add.outer(np.arange(queries) * 7, np.arange(depth) * 13).ravel() % passages
candidates = pd.DataFrame({"query_id": np.repeat(query_ids, depth), "doc_id": doc_ids[places], "score": 1.0})
judged = np.append(np.arange(queries), np.arange(pairs - queries))
relevant = (judged + np.append(np.zeros(queries, int), np.full(pairs - queries, 500))) % passages
qrels = pd.DataFrame({"query_id": query_ids[judged], "doc_id": doc_ids[relevant], "relevance": 1})
before, started = peak(), time.perf_counter()
instances = TrainingInstances(qrels, candidates)
seconds = time.perf_counter() - started
for epoch in range(10):
    instances.instance(epoch, int(instances.order(epoch)[0]))
print(len(instances), seconds, peak() - before)
"""


@pytest.mark.slow
def test_training_data_of_msmarcos_size_start_at_once():
    """532,761 pairs of 502,939 queries, ten candidates each, ten epochs: under a minute, under 2 GB more."""
    sizes = (502_939 // SHARE, 532_761 // SHARE, 8_841_823 // SHARE, 10)
    pairs, seconds, memory = measured(INSTANCES, *sizes)
    assert pairs == sizes[1]
    assert seconds < 60
    assert memory < 2048 * MEGABYTE / SHARE + 50 * MEGABYTE


RERANKING = """
import sys
import numpy as np, pandas as pd
from gdmtl_lib.inference import rerank as reranking
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.splits import Split
from gdmtl_lib.pretrained import build_model
pairs, depth = int(sys.argv[1]), 1000
queries = pd.DataFrame({"query_id": [f"q{number}" for number in range(pairs // depth)], "text": "ice"})
collection = Collection("made up", {str(number): f"passage {number}" for number in range(5000)}, {"dev": Split(queries)})
doc_ids = np.array([str(number) for number in range(5000)], dtype=object)
candidates = pd.DataFrame({
    "query_id": np.repeat(queries["query_id"].to_numpy(), depth),
    "doc_id": doc_ids[np.tile(np.arange(depth), pairs // depth)], "score": 1.0,
})
model = build_model("bert", checkpoint=sys.argv[2], layers=1)
run = reranking.rerank(model, collection, candidates, output=sys.argv[3], progress=False, device="cpu")
assert len(run) == pairs
print(peak())
"""


@pytest.mark.slow
def test_rerankings_memory_does_not_grow_with_the_candidates(toy_bert_folder, tmp_path):
    """At 2,000,000 pairs within 300 MB of that at 200,000: the candidates and the run, and nothing for each pair."""
    few, many = (
        measured(RERANKING, pairs // SHARE, toy_bert_folder, tmp_path / f"{pairs}.trec.gz")[0]
        for pairs in (200_000, 2_000_000)
    )
    assert many - few < (300 if SHARE == 1 else 40) * MEGABYTE


LENGTHS = """
import random, sys
from gdmtl_lib.data.collection import Collection
import pandas as pd
from gdmtl_lib.data.splits import Split
from gdmtl_lib.inference import rerank as reranking
from gdmtl_lib.pretrained import build_model
draw = random.Random(0)
passages = {str(number): "ice " * draw.randint(5, 90) for number in range(int(sys.argv[1]))}
queries = pd.DataFrame({"query_id": ["q"], "text": "ice"})
candidates = pd.DataFrame({"query_id": "q", "doc_id": list(passages), "score": 1.0})
reranking.CHUNK_PAIRS = 500
model = build_model("bert", checkpoint=sys.argv[2], layers=1)
reranking.rerank(model, Collection("made up", passages, {"dev": Split(queries)}), candidates, progress=False, device="cpu")
print(peak())
"""


@pytest.mark.slow
def test_rerankings_memory_does_not_grow_with_the_shapes_of_its_passes(toy_bert_folder):
    """No two packed passes have one length, and oneDNN remembers a thousand shapes unless told otherwise: half a gigabyte
    after six thousand passages, four gigabytes after a twentieth of MS MARCO's dev."""
    few, many = (measured(LENGTHS, passages, toy_bert_folder)[0] for passages in (500, 6000))
    assert many - few < 200 * MEGABYTE
