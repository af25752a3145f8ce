"""BM25's k1 and b, tuned for recall on some training queries (Section 5.1)."""

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from .bm25 import QUIET_SECONDS, check_parameters, open_index
from .collection import Collection
from .files import read_table, write_lines
from .splits import nested_sample
from .trec import frame_hash, recall

# DeepCT repeats words by their weights, and a large k1 lets the repetitions count: the paper's runs have 27 and 0.62.
K1S = (0.6, 0.9, 1.2, 2.0, 5.0, 10.0, 18.0, 27.0)
BS = (0.2, 0.4, 0.5, 0.62, 0.75, 0.9)


def tune_bm25(
    collection: Collection, split: str, table: str | os.PathLike[str], depth: int = 1000, queries: int = 1000,
    k1s: Sequence[float] = K1S, bs: Sequence[float] = BS, relevance_level: int = 1, **index,
) -> pd.DataFrame:
    """Recall at a depth for every k1 and b of a grid, over a sample of a split's queries with a relevant passage.

    The table is kept as CSV, a row as soon as it is known: an interrupted call goes on, and one with a larger grid
    computes what is new. One of other queries, judgments, passages or another depth is written anew.

    table: the CSV file. depth: candidates a query, those that recall counts. queries: how many to sample; all where
    there are fewer. k1s, bs: the grid. relevance_level: the lowest that counts. index: as of `open_index`.

    Returns k1, b, recall, queries; the best first, of equals the smaller k1, then the smaller b. Recall is the mean
    over queries of the share of their relevant passages that are found. Raises ValueError as `bm25_candidates`, and
    where the grid is empty or no query of the split has a relevant passage.
    """
    grid = list(itertools.product(dict.fromkeys(map(float, k1s)), dict.fromkeys(map(float, bs))))
    if not grid or queries < 1:
        found = f"{len(grid)} pairs and {queries} queries"
        raise ValueError(f"expected at least one k1, one b and one query, found {found}")
    for k1, b in grid:
        check_parameters(depth, k1, b)
    qrels = collection.qrels(split)
    relevant = qrels[qrels["relevance"] >= relevance_level]
    query_ids = relevant["query_id"].unique().tolist()
    if not query_ids:
        what = f"no query of {split!r} in {collection.name!r}"
        raise ValueError(f"{what} has a passage of grade {relevance_level} or more")
    query_ids = nested_sample(query_ids, queries)
    relevant = relevant[relevant["query_id"].isin(query_ids)]
    texts = dict(zip(query_ids, collection.query_texts(query_ids), strict=True))
    path = Path(table)
    with open_index(collection, split, **index) as opened:
        of = json.dumps([frame_hash(relevant[["query_id", "doc_id"]]), texts, depth, opened.key], sort_keys=True)
        made_from = hashlib.sha256(of.encode()).hexdigest()[:16]
        known = _known(path, made_from)
        todo = [pair for pair in grid if pair not in known]
        for k1, b in tqdm(todo, desc=f"tuning BM25 on {len(texts)} queries", unit="settings", delay=QUIET_SECONDS):
            run = opened.search(texts, depth, k1, b)
            known[k1, b] = 0.0 if run.empty else float(recall(run, relevant, depth).mean())
            lines = [f"{k1!r},{b!r},{value!r},{made_from}\n" for (k1, b), value in sorted(known.items())]
            write_lines(path, ["k1,b,recall,made_from\n", *lines])
    rows = [(k1, b, known[k1, b], len(texts)) for k1, b in grid]
    found = pd.DataFrame(rows, columns=["k1", "b", "recall", "queries"])
    equal = found["recall"].round(12)  # recalls that are equal but for rounding tie
    return found.iloc[np.lexsort((found["b"], found["k1"], -equal))].reset_index(drop=True)


def _known(path: Path, made_from: str) -> dict[tuple[float, float], float]:
    """What an earlier call found, if it was of the same."""
    try:
        table = read_table(path, text=["made_from"])
        same = table[table["made_from"] == made_from]
        return {(float(k1), float(b)): float(recall) for k1, b, recall in same[["k1", "b", "recall"]].to_numpy()}
    except (OSError, ValueError, KeyError):
        return {}
