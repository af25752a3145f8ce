"""What notebooks 02 and 10 ask of a collection reads the passages that candidates and judgments name, and no others."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from gdmtl_lib.evaluation import tables as inspection
from gdmtl_lib.experiments import overview, transfer
from gdmtl_lib.data.collection import Collection, describe
from gdmtl_lib.data.splits import Split


class OnDisk(Mapping):
    """Nine million passages: found by id, never gone through."""

    fingerprint = "0" * 64

    def __init__(self):
        self.read = set()

    def __getitem__(self, doc_id: str) -> str:
        if not doc_id.isdecimal() or int(doc_id) >= len(self):
            raise KeyError(doc_id)
        self.read.add(doc_id)
        return "a passage of ice " * (1 + int(doc_id) % 3)

    def __len__(self) -> int:
        return 9_000_000

    def __iter__(self):
        pytest.fail("all passages were gone through")

    items = values = keys = __iter__


def split_of(kind: str, queries: int) -> Split:
    """Queries with a relevant passage each, of which the two splits share some."""
    ids = [f"{kind}{number}" for number in range(queries)]
    judged = [(query, str(7 * number), 1) for number, query in enumerate(ids)]
    return Split(
        pd.DataFrame({"query_id": ids, "text": [f"{kind} ice {number}" for number in range(queries)]}),
        pd.DataFrame(judged, columns=["query_id", "doc_id", "relevance"]),
    )


@pytest.fixture
def collection():
    return Collection("large", OnDisk(), {"train": split_of("t", 50), "dev": split_of("d", 4)})


@pytest.fixture
def candidates():
    rows = [(f"d{query}", str(7 * query + place), 3.0 - place, place + 1) for query in range(4) for place in range(3)]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score", "rank"])


def test_the_overview_reads_judged_passages_alone(collection, candidates, monkeypatch):
    levels = {"train": 1, "dev": 1}
    assert overview.split_sizes(collection, levels)["passages"].tolist() == [9_000_000] * 2
    assert collection._passages.read == set()
    monkeypatch.setattr(overview, "SAMPLED", 20)
    lengths = overview.text_lengths(collection, list(levels))
    assert {kind: len(words) for kind, words in lengths.items()} == {"judged passages (sample)": 20, "queries": 54}
    read = collection._passages.read
    assert len(read) == 20 and all(int(doc_id) % 7 == 0 for doc_id in read)
    assert sorted(lengths["judged passages (sample)"]) == sorted(4 * (1 + int(doc_id) % 3) for doc_id in read)
    # A larger sample holds the smaller one: it is drawn by a hash, not by chance.
    monkeypatch.setattr(overview, "SAMPLED", 30)
    before = set(read)
    overview.text_lengths(collection, list(levels))
    assert len(read) == 30 and before < read
    assert overview.category_shares(collection, list(levels)).empty
    assert overview.grade_counts(collection, list(levels)).to_numpy().tolist() == [[1], [1]]
    assert len(overview.example_queries(collection, "dev", candidates)) == 3
    assert np.allclose(overview.recall_by_depth(candidates, collection.qrels("dev"), 3), 1)
    assert describe(collection, {"dev": candidates})["recall"].tolist() == [1]


def test_transfer_reads_shared_and_shown_passages_alone(collection, candidates):
    shared = transfer.shared_needs(collection, "train", collection, "dev")
    assert shared["doc_id"].tolist() == ["0", "7", "14", "21"]
    assert len(transfer.shared_examples(shared)) == 4
    shown = inspection.top_passages(["d0", "d1"], {"bm25": candidates}, collection, collection.qrels("dev"))
    assert len(shown) == 2
    assert collection._passages.read == {"0", "7", "14", "21"}


def test_its_hashes_do_not_read_it(collection):
    """Of what an index, a run or a job of a sweep is made from."""
    assert collection.fingerprint() == collection.passages_fingerprint("dev") == "0" * 64
    assert collection.passage_count() == collection.passage_count("dev") == 9_000_000
    with pytest.raises(ValueError, match="has no split 'test'"):
        collection.passages_fingerprint("test")
