import pandas as pd
import pytest

from gdmtl_lib.experiments import doc2query as generated
from gdmtl_lib.data.collection import Collection, load_collection
from gdmtl_lib.data.splits import Split
from gdmtl_lib.experiments.results import Results


def split_of(queries, qrels, doc_ids=None):
    return Split(
        pd.DataFrame(queries.items(), columns=["query_id", "text"]),
        pd.DataFrame(qrels, columns=["query_id", "doc_id", "relevance"]),
        doc_ids=doc_ids,
    )


@pytest.fixture
def collection():
    """d1 is relevant to a training query and to q1; d2, d3 to q2 alone; q3 finds nothing relevant."""
    passages = {"d1": "glacier ice", "d2": "the northern king", "d3": "river city", "d4": "water"}
    return Collection("toy", passages, {
        "train": split_of({"t1": "why is ice blue"}, [("t1", "d1", 1), ("t1", "d2", 0)]),
        "dev": split_of(
            {"q1": "blue ice", "q2": "monarch", "q3": "day"},
            [("q1", "d1", 1), ("q2", "d2", 2), ("q2", "d3", 1), ("q3", "d4", 0)], ("d1", "d2", "d3"),
        ),
    })  # fmt: skip


def test_distinct_by_hand():
    """Words a b a, a b: 2 of 5 differ; pairs ab, ba, ab: 2 of 3."""
    assert generated.distinct(["a b A", "a b"], 1) == 2 / 5
    assert generated.distinct(["a b A", "a b"], 2) == 2 / 3
    assert generated.distinct(["a"], 2) == generated.distinct([], 1) == 0
    with pytest.raises(ValueError, match="n must be at least 1, found 0"):
        generated.distinct(["a"], 0)


def test_diversity_by_hand():
    table = generated.diversity({"one": ["a b", "a b"], "none": []})
    assert table.loc["one"].to_dict() == {"words": 2, "different texts": 0.5, "distinct-1": 0.5, "distinct-2": 0.5}
    assert table.loc["none"].tolist() == [0, 0, 0, 0] and table.index.name == "writer"


def test_agreement_by_hand():
    """Of "why is the ice blue" (5 words) and "why ice is blue" (4) 3 stand in one order: F is 2 * 3 / (5 + 4). An article
    and a full stop make no other answer."""
    found = generated.agreement(["why is the ice blue", "The ice.", ""], ["why ice is blue", "ice", "water"])
    assert found == pytest.approx({"exact match": 1 / 3, "ROUGE-L": (2 / 3 + 2 / 3 + 0) / 3}, abs=1e-6)
    assert all(value != value for value in generated.agreement([], []).values())
    with pytest.raises(ValueError):
        generated.agreement(["a"], [])


def test_unseen_leaves_out_what_was_learned(collection):
    found = generated.unseen(collection, "dev", "train")
    assert list(found.itertuples(index=False, name=None)) == [("q2", "d2", 2), ("q2", "d3", 1)]
    assert list(generated.unseen(collection, "dev", "train", 2)["doc_id"]) == ["d2"]
    with pytest.raises(ValueError, match="expected queries of 'train' whose relevant passages 'train' does not have"):
        generated.unseen(collection, "train", "train")


def test_expanded_appends_to_what_the_split_searches(collection):
    written = {"d1": ["w1", "w2"], "d2": ["x1", "x2"], "d3": ["y1", "y2"]}
    larger = generated.expanded(collection, "dev", written, 1)
    assert dict(larger.passages("dev")) == {
        "d1": "glacier ice w1", "d2": "the northern king x1", "d3": "river city y1"
    }  # fmt: skip
    assert larger.queries("dev").equals(collection.queries("dev")) and larger.splits == ("dev",)
    assert dict(generated.expanded(collection, "dev", {}, 0).passages()) == dict(collection.passages("dev"))
    with pytest.raises(ValueError, match="expected 3 queries written for passage 'd1', found 2"):
        generated.expanded(collection, "dev", written, 3)


def test_bm25_finds_by_a_word_that_only_a_written_query_has(collection, tmp_path):
    """`monarch` stands in no passage; the second query written for d2 has it."""
    written = {"d1": ["ice", "ice"], "d2": ["who ruled", "who was the monarch"], "d3": ["what city", "where"]}
    qrels = collection.qrels("dev").query("relevance == 2 or query_id == 'q1'")
    with pytest.warns(UserWarning, match="BM25 finds no passage"):
        table = generated.recall_by_count(collection, "dev", written, [2, 0, 1], qrels, [1], 1, tmp_path)
    assert dict(zip(table["count"], table["mean"])) == {0: 0.5, 1: 0.5, 2: 1} and set(table["measure"]) == {"R@1"}
    with pytest.raises(ValueError, match="counts: expected 0 among them, to compare with, found 1, 2"):
        generated.recall_by_count(collection, "dev", written, [1, 2], qrels)


def test_checkpoints_are_those_of_the_lowest_seeds(tmp_path):
    for folder in ("gdmtl/seed2/checkpoint", "gdmtl/seed1/checkpoint", "gdmtl_s/seed0/checkpoint", "bert/seed0/checkpoint"):
        (tmp_path / folder).mkdir(parents=True)
    results = Results(tmp_path)
    both = {"gdmtl": tmp_path / "gdmtl/seed1/checkpoint", "gdmtl_s": tmp_path / "gdmtl_s/seed0/checkpoint"}
    assert generated.checkpoints(results, None, "gdmtl") == both
    assert list(generated.checkpoints(results, ["gdmtl_s"], "gdmtl")) == ["gdmtl_s", "gdmtl"]
    with pytest.raises(FileNotFoundError, match=r"^GDMTL\+ has no checkpoint in .*; train gdmtl_plus with notebook 03$"):
        generated.checkpoints(results, None, "gdmtl+")
    with pytest.raises(ValueError, match="^systems: BERT does not write queries, as these do: gdmtl, gdmtl_plus, gdmtl_s"):
        generated.checkpoints(results, ["bert"], "gdmtl")


def test_nothing_is_written_for_more_passages_than_are_wanted():
    collection = load_collection("sample")
    every = dict(collection.passages("dev"))
    assert generated.searched_passages(collection, "dev", len(every)) == every
    assert generated.searched_passages(collection, "dev", len(every) - 1) == {}
