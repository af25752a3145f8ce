import numpy as np
import pandas as pd
import pytest

from gdmtl_lib.experiments import overview
from gdmtl_lib.data.collection import load_collection


@pytest.fixture
def collection(tmp_path):
    """Three passages; two training queries with answers and categories, two graded test queries of one session."""
    files = {
        "passages.tsv": "d1\tone two three\nd2\tone two\nd3\tone\n",
        "queries.train.tsv": "a\twhat is one\nb\twho\n",
        "qrels.train.tsv": "a 0 d1 1\nb 0 d2 1\n",
        "answers.train.tsv": "a\tit is one\n",
        "categories.train.tsv": "a\tDESCRIPTION\nb\tPERSON\n",
        "queries.cast.tsv": "s_1\tturn one\ns_2\tturn two\n",
        "qrels.cast.tsv": "s_1 0 d1 4\ns_1 0 d2 2\ns_1 0 d3 0\ns_2 0 d3 1\n",
        "sessions.cast.tsv": "s_1\ts\ns_2\ts\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return load_collection(tmp_path)


def test_split_sizes(collection):
    table = overview.split_sizes(collection, {"train": 1, "cast": 2})
    assert table.loc["train"].to_dict() == {
        "queries": 2, "words a query": 2.0, "passages": 3, "judged a query": 1.0, "relevant a query": 1.0,
        "grades": "1", "answers": 1, "categories": 2, "sessions": 0,
    }  # fmt: skip
    assert table.loc["cast"].to_dict() == {
        "queries": 2, "words a query": 2.0, "passages": 3, "judged a query": 2.0, "relevant a query": 1.0,
        "grades": "0, 1, 2, 4", "answers": 0, "categories": 0, "sessions": 1,
    }  # fmt: skip


def test_text_lengths_count_a_passage_once(collection):
    lengths = overview.text_lengths(collection, ["train", "cast"])
    assert {kind: sorted(words.tolist()) for kind, words in lengths.items()} == {
        "passages": [1, 2, 3], "queries": [1, 2, 2, 3], "answers": [3],
    }  # fmt: skip
    assert "answers" not in overview.text_lengths(collection, ["cast"])


def test_category_shares(collection):
    table = overview.category_shares(collection, ["train", "cast"])
    assert table.to_dict() == {"train": {"DESCRIPTION": 50.0, "PERSON": 50.0}}
    assert overview.category_shares(collection, ["cast"]).empty


def test_grade_counts(collection):
    table = overview.grade_counts(collection, ["train", "cast"])
    assert table.columns.tolist() == [0, 1, 2, 4]
    assert table.loc["train"].tolist() == [0, 1, 0, 0]
    assert table.loc["cast"].tolist() == [0.5, 0.5, 0.5, 0.5]


def test_example_queries_show_the_best_passage_and_the_first_other(collection):
    rows = [("s_1", "d3", 3.0, 1), ("s_1", "d2", 2.0, 2), ("s_2", "d3", 2.0, 1)]
    candidates = pd.DataFrame(rows, columns=["query_id", "doc_id", "score", "rank"])
    table = overview.example_queries(collection, "cast", candidates, relevance_level=2)
    assert table.to_dict("records") == [
        {"query": "turn one", "relevant": "one two three", "rank": "-", "first other": "one"}
    ]
    candidates.loc[1, "doc_id"] = "d1"
    assert overview.example_queries(collection, "cast", candidates, 2)["rank"].tolist() == ["2"]


def test_recall_by_depth_is_a_mean_over_queries_with_a_relevant_passage():
    """a finds its two at ranks 1 and 3, b nothing of its one, c has nothing to find: (0.5, 0.5, 1) / 2."""
    qrels = pd.DataFrame(
        [("a", "d1", 1), ("a", "d2", 2), ("b", "d9", 1), ("c", "d1", 0)], columns=["query_id", "doc_id", "relevance"]
    )
    run = pd.DataFrame(
        [("a", "d1", 1), ("a", "x", 2), ("a", "d2", 3), ("b", "d1", 1), ("c", "d1", 1)],
        columns=["query_id", "doc_id", "rank"],
    )
    np.testing.assert_allclose(overview.recall_by_depth(run, qrels, 4), [0.25, 0.25, 0.5, 0.5])
    np.testing.assert_allclose(overview.recall_by_depth(run, qrels, 2), [0.25, 0.25])
    np.testing.assert_allclose(overview.recall_by_depth(run, qrels, 3, relevance_level=2), [0, 0, 1])
    with pytest.raises(ValueError, match="expected a judgment of relevance 3 or more, found 2 at most"):
        overview.recall_by_depth(run, qrels, 3, relevance_level=3)


def test_each_split_has_a_lowest_grade():
    assert overview.levels_by_split(["dev", "cast"], [1, 2]) == {"dev": 1, "cast": 2}
    with pytest.raises(ValueError, match=r"^relevance_levels: expected one for each of splits \(dev\), found 2$"):
        overview.levels_by_split(["dev"], [1, 2])


def test_a_curve_of_many_queries_is_drawn_of_a_sample_and_says_so():
    sample = load_collection("sample")
    assert overview.some_queries(sample, "dev", None) == overview.some_queries(sample, "dev", 170) == (sample, "dev")
    few, label = overview.some_queries(sample, "dev", 25)
    assert label == "dev (25 of 170 queries)" and len(few.queries("dev")) == len(few.qrels("dev")) == 25
    with pytest.raises(ValueError, match="most_queries: expected at least 2, found 0: name more, or None for all 170"):
        overview.some_queries(sample, "dev", 0)
