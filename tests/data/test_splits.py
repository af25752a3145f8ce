import numpy as np
import pandas as pd
import pytest

from gdmtl_lib.data.collection import Collection, load_collection
from gdmtl_lib.data.splits import Split, nested_sample, split_name, stable_hash

QUERIES = [f"q{number}" for number in range(200)]


def test_a_smaller_sample_is_part_of_a_larger_one_and_the_order_is_kept():
    samples = [nested_sample(QUERIES, size) for size in (25, 50, 100, 200, 300)]
    assert [len(sample) for sample in samples] == [25, 50, 100, 200, 200]
    for small, large in zip(samples, samples[1:]):
        assert set(small) <= set(large)
        assert [query for query in large if query in small] == small
    assert samples[-1] == QUERIES


def test_a_sample_does_not_depend_on_order_and_is_the_same_on_any_machine():
    assert set(nested_sample(QUERIES[::-1], 3)) == set(nested_sample(QUERIES, 3)) == {"q45", "q114", "q147"}


@pytest.mark.parametrize(
    ("name", "plain", "sizes"),
    [
        ("sample", "sample", {}),
        ("squad:a.json?test=10", "squad:a.json", {"test": 10}),
        ("irds:msmarco-passage?dev-small=500&train=1", "irds:msmarco-passage", {"dev-small": 500, "train": 1}),
        ("a folder?", "a folder?", {}),
        ("what?=3", "what?=3", {}),
        ("what?dev=all", "what?dev=all", {}),
    ],
)
def test_names_that_ask_for_samples(name, plain, sizes):
    assert split_name(name) == (plain, sizes)


@pytest.mark.parametrize("name", ["sample?dev=0", "sample?dev=3&dev=4"])
def test_an_impossible_sample_is_refused(name):
    with pytest.raises(ValueError, match="after the . expected each split once, with at least one query"):
        split_name(name)


def test_a_sampled_collection_keeps_its_passages_and_the_other_splits():
    whole, sampled = load_collection("sample"), load_collection("sample?dev=7")
    assert sampled.name == "sample?dev=7" and sampled.splits == whole.splits
    query_ids = sampled.queries("dev")["query_id"]
    assert list(query_ids) == nested_sample(whole.queries("dev")["query_id"], 7)
    for part in ("qrels", "answers"):
        full = getattr(whole, part)("dev")
        expected = full[full["query_id"].isin(query_ids)].reset_index(drop=True)
        assert getattr(sampled, part)("dev").equals(expected) and len(expected) == 7
    assert sampled.queries("train").equals(whole.queries("train"))
    assert dict(sampled.passages("dev")) == dict(whole.passages("dev"))
    assert sampled.fingerprint() != whole.fingerprint()
    assert sampled.passages_fingerprint("dev") == whole.passages_fingerprint("dev")
    with pytest.raises(ValueError, match="has no query"):
        sampled.query_texts(set(whole.queries("dev")["query_id"]) - set(query_ids))


def test_a_sample_of_a_sample_has_a_name_that_opens_it():
    once = load_collection("sample?dev=7&cast=5").sampled({"dev": 3, "train": 9}).sampled({"dev": 6})
    assert once.name == "sample?dev=3&cast=5&train=9"
    again = load_collection(once)
    for split in once.splits:
        assert again.queries(split).equals(load_collection(once.name).queries(split))
    assert [len(load_collection(once.name).queries(split)) for split in ("dev", "cast", "train")] == [3, 5, 9]


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_sample_of_no_queries_is_refused(size):
    with pytest.raises(ValueError, match="queries of 'dev' must be "):
        load_collection("sample").sampled({"dev": size})


def test_numpys_texts_and_numbers_are_drawn_as_pythons():
    ids = [f"q{i}" for i in range(40)]
    assert nested_sample(np.array(ids), 5) == nested_sample(ids, 5)
    assert stable_hash(np.int64(1), np.str_("a")) == stable_hash(1, "a") != stable_hash(2, "a")


def test_a_sample_of_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="has no split 'test': its splits are cast, dev, train"):
        load_collection("sample?test=3")


def test_splits_are_read_only_when_they_are_needed():
    """And once; the sample is drawn once, too."""
    read = []

    def queries():
        read.append("queries")
        return pd.DataFrame({"query_id": QUERIES, "text": "a"})

    def refuse():
        raise AssertionError("was read")

    whole = Collection("whole", {}, {"dev": Split(queries, candidates=refuse), "test": Split(refuse)})
    sampled = whole.sampled({"dev": 3})
    assert sampled.splits == ("dev", "test") and read == []
    assert list(sampled.queries("dev")["query_id"]) == nested_sample(QUERIES, 3)
    assert sampled._split("dev").qrels is None and read == ["queries"]


def test_samples_are_spread_evenly():
    """Of 10,000 consecutive ids a sample of 1,000 takes about as many from each tenth: 100 ± 5 standard deviations."""
    sample = nested_sample(map(str, range(10_000)), 1000)
    counts = np.bincount([int(query) // 1000 for query in sample], minlength=10)
    assert len(sample) == 1000 and np.abs(counts - 100).max() < 50
