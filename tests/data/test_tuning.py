"""BM25's k1 and b: recall by hand, the table that is kept, and what makes it new."""

import pandas as pd
import pytest

from gdmtl_lib.data import bm25 as tuning
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.bm25 import Index, tune_bm25
from gdmtl_lib.data.splits import Split

PASSAGES = {"short": "ice", "long": "ice ice " + "wind " * 30, "other": "king"}


def make(**relevant: str) -> Collection:
    """make(q1="short long"): the queries, all of them `ice`, and their relevant passages."""
    queries = pd.DataFrame({"query_id": list(relevant), "text": "ice"})
    rows = [(query_id, doc_id, 1) for query_id, docs in relevant.items() for doc_id in docs.split()]
    qrels = pd.DataFrame([*rows, (next(iter(relevant)), "other", 0)], columns=["query_id", "doc_id", "relevance"])
    return Collection("toy", PASSAGES, {"train": Split(queries, qrels)})


@pytest.fixture
def searched(monkeypatch) -> list[tuple[float, float]]:
    """The settings that are searched with from here on."""
    pairs: list[tuple[float, float]] = []
    search = Index.search

    def spy(self, texts, depth, k1, b):
        pairs.append((k1, b))
        return search(self, texts, depth, k1, b)

    monkeypatch.setattr(Index, "search", spy)
    return pairs


@pytest.fixture(scope="module")
def index_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("indexes")


def tune(collection, tmp_path, index_dir, **changes):
    given = {"depth": 1, "k1s": [1.0], "bs": [0.0, 1.0], "index_dir": index_dir} | changes
    return tune_bm25(collection, "train", tmp_path / "tuning" / "bm25.csv", **given)


def test_recall_by_hand(tmp_path, index_dir):
    """With b = 0 the long passage with two `ice` wins, with b = 1 the short one: q1 wants the short one, q2 both, so
    at depth 1 the means are (0 + 1/2) / 2 and (1 + 1/2) / 2; `other`, which is not found by `ice`, halves q3."""
    two = make(q1="short", q2="short long")
    table = tune(two, tmp_path, index_dir)
    assert table.to_dict("list") == {"k1": [1.0, 1.0], "b": [1.0, 0.0], "recall": [0.75, 0.25], "queries": [2, 2]}
    assert tune(two, tmp_path, index_dir, depth=2)["recall"].tolist() == [1.0, 1.0]
    assert tune(make(q3="short other"), tmp_path, index_dir, depth=9)["recall"].tolist() == [0.5, 0.5]


def test_what_is_known_is_not_searched_again(tmp_path, index_dir, searched):
    collection = make(q1="short", q2="long")
    first = tune(collection, tmp_path, index_dir)
    assert len(searched) == 2
    pd.testing.assert_frame_equal(tune(collection, tmp_path, index_dir), first)
    assert len(searched) == 2
    larger = tune(collection, tmp_path, index_dir, bs=[0.0, 0.5, 1.0])
    assert searched[2:] == [(1.0, 0.5)] and len(larger) == 3
    tune(collection, tmp_path, index_dir, depth=2)
    tune(make(q1="short"), tmp_path, index_dir, depth=2)
    assert len(searched) == 7
    (tmp_path / "tuning" / "bm25.csv").write_bytes(b"\x00damaged")
    tune(collection, tmp_path, index_dir)
    assert len(searched) == 9


def test_an_interrupted_call_goes_on(tmp_path, index_dir, searched, monkeypatch):
    collection = make(q1="short")
    recall = tuning.recall
    with monkeypatch.context() as patched:
        calls = iter([recall, None])
        patched.setattr(tuning, "recall", lambda *given: next(calls)(*given))
        with pytest.raises(TypeError):
            tune(collection, tmp_path, index_dir)
    table = tune(collection, tmp_path, index_dir)
    assert searched == [(1.0, 0.0), (1.0, 1.0), (1.0, 1.0)] and len(table) == 2


def test_the_sample_is_of_queries_with_a_relevant_passage(tmp_path, index_dir):
    collection = make(**{f"q{number}": "short" for number in range(20)})
    assert tune(collection, tmp_path, index_dir, queries=5)["queries"].tolist() == [5, 5]
    assert tune(collection, tmp_path, index_dir, queries=50)["queries"].tolist() == [20, 20]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k1s": []}, "expected at least one k1, one b and one query, found 0 pairs and 1000 queries"),
        ({"queries": 0}, "expected at least one k1, one b and one query, found 2 pairs and 0 queries"),
        ({"bs": [2]}, "expected b to be a number from 0 to 1, found 2.0"),
        ({"relevance_level": 2}, "no query of 'train' in 'toy' has a passage of grade 2 or more"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(tmp_path, index_dir, changes, message):
    with pytest.raises(ValueError) as caught:
        tune(make(q1="short"), tmp_path, index_dir, **changes)
    assert str(caught.value) == message
