"""What the tests of re-ranking and of the likelihood share: random texts and their candidates."""

import random

import pandas as pd
import pytest

import gdmtl_lib as gdmtl
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.splits import Split

WORDS = "ice blue glacier river water city king war north south light year day food long old new the of in".split()
HOW = dict(progress=False, device="cpu")


def collection_of(queries=7, passages=40, longest=30, last=()):
    """Passages and queries of random words and of many lengths. last: queries to ask besides."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(passages + queries)] + [*last]
    asked = pd.DataFrame({"query_id": [f"q{i}" for i in range(queries + len(last))], "text": texts[passages:]}, dtype=str)
    return Collection("toy", {f"d{i}": text for i, text in enumerate(texts[:passages])}, {"dev": Split(asked)})


def candidates_of(collection, depth=9, seed=1):
    rng = random.Random(seed)
    doc_ids = list(collection.doc_ids())
    rows = [
        (query_id, doc_id, float(depth - rank))
        for query_id in collection.queries("dev")["query_id"]
        for rank, doc_id in enumerate(rng.sample(doc_ids, depth))
    ]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score"])


def rerank(model, *arguments, **options):
    return gdmtl.rerank(model, *arguments, **HOW | options)


@pytest.fixture(scope="module")
def collection():
    """One query has a single word."""
    return collection_of(queries=5, passages=12, longest=25, last=["ice"])


@pytest.fixture(scope="module")
def candidates(collection):
    return candidates_of(collection, depth=7)
