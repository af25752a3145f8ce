"""Texts to measure with: real sentences, in the lengths of WikiQA's passages and of MS MARCO's.

The folder that GDMTL_BENCH_DATA names may hold `wikiqa/` and `squad-sentences/`, as `load_collection` reads them; what
is not there is taken from the embedded collection.
"""

import os
import random
from itertools import groupby
from pathlib import Path

import pandas as pd

import gdmtl_lib as gdmtl
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.splits import Split

DATA = Path(os.environ.get("GDMTL_BENCH_DATA", "no folder"))
QUERIES = 16
PROFILES = ("three sentences", "MS MARCO's lengths")


def texts_like(profile: str, builder) -> tuple[list[str], list[str]]:
    """Queries and passages of a profile."""
    return three_sentences() if profile == PROFILES[0] else like_ms_marco(builder, number=500)


def three_sentences() -> tuple[list[str], list[str]]:
    """Queries, and passages of three neighbouring sentences (of the embedded collection: its passages)."""
    if not (DATA / "wikiqa").is_dir():
        collection = gdmtl.load_collection("sample")
        return collection.queries("dev")["text"].tolist(), [text for _, text in collection.passages()]
    collection = gdmtl.load_collection(f"wikiqa:{DATA / 'wikiqa'}")
    documents = groupby(collection.passages("dev"), key=lambda passage: passage[0].rpartition("-")[0])
    sentences = [[text for _, text in document] for _, document in documents]
    passages = [" ".join(document[i : i + 3]) for document in sentences for i in range(0, len(document) - 2, 3)]
    return collection.queries("dev")["text"].tolist(), passages


def like_ms_marco(builder, number: int) -> tuple[list[str], list[str]]:
    """Queries and passages with the lengths of MS MARCO's: passages of 75 word pieces in the mean and 150 at the 95th
    percentile (a gamma distribution of shape 4), queries of 8 in the mean (3 to 13).

    Made of running text, cut where the drawn length is reached. builder: an InputBuilder, whose word pieces count.
    """
    rng = random.Random(0)
    questions, passages = three_sentences()

    def cut(texts, length):
        words = [word for text in rng.sample(texts, min(len(texts), 60)) for word in text.split()]
        pieces = [len(ids) for ids in builder.tokens(words[: int(length) + 1])]
        kept = 0
        while kept < len(pieces) and sum(pieces[: kept + 1]) <= max(length, pieces[0]):
            kept += 1
        return " ".join(words[:kept])

    queries = [cut(questions, 3 + 10 * (i + 0.5) / QUERIES) for i in range(QUERIES)]
    return queries, [cut(passages, rng.gammavariate(4, 75 / 4)) for _ in range(number)]


def collection_of(queries: list[str], passages: list[str], depth: int) -> tuple[Collection, pd.DataFrame]:
    """A collection of the texts, and for each of the first QUERIES queries `depth` candidates, drawn from the passages."""
    rng, passages = random.Random(0), {f"d{i}": text for i, text in enumerate(passages)}
    frame = pd.DataFrame({"query_id": [f"q{i}" for i in range(QUERIES)], "text": queries[:QUERIES]}, dtype=str)
    rows = [(query_id, doc_id) for query_id in frame["query_id"] for doc_id in rng.sample(sorted(passages), depth)]
    candidates = pd.DataFrame(rows, columns=["query_id", "doc_id"])
    return Collection("benchmark", passages, {"bench": Split(frame)}), candidates
