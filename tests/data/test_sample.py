"""The embedded collection keeps what was promised of it: size, variety, categories, sessions, and room above BM25."""

import re
from collections import Counter
from importlib.resources import files

import pandas as pd
import pytest

import gdmtl_lib as gdmtl
from gdmtl_lib.data.collection import describe, load_collection
from gdmtl_lib.evaluation.comparison import shared_information_needs

SPLITS = ("train", "dev", "cast")
# The shares of MS MARCO's queries (Table 5), in percent.
CATEGORIES = {"DESCRIPTION": 53, "NUMERIC": 26, "ENTITY": 9, "LOCATION": 6, "PERSON": 6}


@pytest.fixture(scope="module")
def sample():
    return load_collection("sample")


@pytest.fixture(scope="module")
def candidates(sample, tmp_path_factory):
    return gdmtl.bm25_candidates(sample, "dev", depth=20, index_dir=tmp_path_factory.mktemp("indexes"))


def words(text):
    return re.findall(r"\w+", text.lower())


def test_counts(sample):
    assert set(sample.splits) == set(SPLITS)
    assert len(list(sample.doc_ids())) >= 480
    assert len(sample.queries("train")) >= 320
    assert len(sample.queries("dev")) >= 160


def test_passages_have_35_to_110_words(sample):
    lengths = {doc_id: len(text.split()) for doc_id, text in sample.passages()}
    assert {doc_id: length for doc_id, length in lengths.items() if not 35 <= length <= 110} == {}


def test_each_topic_has_six_passages_or_more(sample):
    """A passage's id is its topic and its number."""
    topics = Counter(doc_id.rsplit("-", 1)[0] for doc_id in sample.doc_ids())
    assert len(topics) >= 80
    assert {topic: number for topic, number in topics.items() if number < 6} == {}
    assert set(sample.doc_ids()) == {f"{topic}-{i + 1}" for topic, number in topics.items() for i in range(number)}


def test_no_two_passages_share_a_run_of_eight_words(sample):
    home, shared = {}, []
    for doc_id, text in sample.passages():
        tokens = words(text)
        for start in range(len(tokens) - 7):
            run = tuple(tokens[start : start + 8])
            if home.setdefault(run, doc_id) != doc_id:
                shared.append((home[run], doc_id, " ".join(run)))
    assert shared == []


def test_no_opening_is_worn_out(sample):
    """Of 500 passages at most 6% begin with one word, six with two words, and three with three."""
    texts = [words(text) for _, text in sample.passages()]
    for length, most in ((1, 0.06 * len(texts)), (2, 6), (3, 3)):
        openings = Counter(" ".join(text[:length]) for text in texts)
        assert {opening: number for opening, number in openings.items() if number > most} == {}


def test_no_two_queries_are_the_same(sample):
    queries = Counter(" ".join(words(text)) for split in SPLITS for text in sample.queries(split)["text"])
    assert [query for query, number in queries.items() if number > 1] == []


def test_texts_are_clean(sample):
    """One paragraph of printable characters, no space too many."""
    texts = [text for _, text in sample.passages()]
    for split in SPLITS:
        texts += list(sample.queries(split)["text"])
    for split in ("train", "dev"):
        texts += list(sample.answers(split)["text"])
    assert [text for text in texts if text != " ".join(text.split()) or not text.isprintable()] == []


@pytest.mark.parametrize("split", ["train", "dev"])
def test_judgments_are_binary_and_95_percent_have_one(sample, split):
    qrels = sample.qrels(split)
    assert set(qrels["relevance"]) == {1}
    relevant = qrels.groupby("query_id").size()
    assert set(relevant.index) == set(sample.queries(split)["query_id"])
    assert (relevant == 1).mean() >= 0.95


def test_train_and_dev_ask_for_different_passages(sample):
    asked = [set(sample.qrels(split)["doc_id"]) for split in ("train", "dev")]
    assert asked[0] & asked[1] == set()


@pytest.mark.parametrize("split", ["train", "dev"])
def test_every_query_has_an_answer_of_one_sentence(sample, split):
    answers = sample.answers(split)
    assert list(answers["query_id"]) == list(sample.queries(split)["query_id"])
    # A dot within a sentence follows an initial, an abbreviation or a number.
    sentence = re.compile(r"[^.!?](?:[^.!?]|(?<=\b[A-Z])\.|(?<=\bSt)\.|(?<=\bDr)\.|\.(?=\d))*[.]")
    assert [text for text in answers["text"] if not sentence.fullmatch(text)] == []
    assert answers["text"].str.split().str.len().between(4, 40).all()
    texts = dict(sample.passages())
    assert [text for text in answers["text"] if any(text in passage for passage in texts.values())] == []


@pytest.mark.parametrize("split", ["train", "dev"])
def test_categories_have_the_papers_shares(sample, split):
    shares = 100 * sample.queries(split)["category"].value_counts(normalize=True)
    assert set(shares.index) == set(CATEGORIES)
    assert {name: share for name, share in shares.items() if abs(share - CATEGORIES[name]) > 5} == {}


def test_sessions_of_turns_with_graded_judgments(sample):
    queries, qrels = sample.queries("cast"), sample.qrels("cast")
    turns = queries.groupby("session").size()
    assert len(turns) == 20
    assert turns.min() >= 6
    judged = qrels.groupby("query_id").size()
    assert set(judged.index) == set(queries["query_id"])
    assert judged.min() >= 8
    assert set(qrels["relevance"]) == {0, 1, 2, 3, 4}
    assert qrels.groupby("query_id")["relevance"].max().min() >= 2


def test_turns_share_relevant_passages_with_training_queries(sample):
    """As in Table 9, at the paper's relevance level 2: between a third of the turns and all but a quarter."""
    train, cast = sample.qrels("train"), sample.qrels("cast")
    relevant = cast[(cast["relevance"] >= 2) & cast["doc_id"].isin(train["doc_id"])]
    share = relevant["query_id"].nunique() / len(sample.queries("cast"))
    assert 1 / 3 < share < 3 / 4
    needs = shared_information_needs(train, cast, levels=(1, 2))
    assert set(needs["test_query_id"]) == set(relevant["query_id"])


def test_bm25_leaves_room(sample, candidates):
    values = gdmtl.evaluate(candidates, sample.qrels("dev"), ["RR@10"])
    assert len(values) == len(sample.queries("dev"))
    assert 0.45 <= values["value"].mean() <= 0.75


def test_near_misses_share_the_queries_words(sample, candidates):
    """Most queries find other passages of their own topic among the first twenty: a re-ranker has work to do."""
    relevant = dict(zip(sample.qrels("dev")["query_id"], sample.qrels("dev")["doc_id"], strict=True))
    found = zip(candidates["query_id"], candidates["doc_id"], strict=True)
    misses = Counter(
        query_id
        for query_id, doc_id in found
        if doc_id != relevant[query_id] and doc_id.rsplit("-", 1)[0] == relevant[query_id].rsplit("-", 1)[0]
    )
    assert len(misses) > 0.85 * len(relevant)


def test_a_description_of_what_is_at_hand(sample, candidates):
    """Counted pair by pair."""
    qrels = sample.qrels("dev")
    pairs = set(zip(candidates["query_id"], candidates["doc_id"], strict=True))
    recall = sum(pair in pairs for pair in zip(qrels["query_id"], qrels["doc_id"], strict=True)) / len(qrels)
    nothing_found = pd.DataFrame([("fake", "fake", 1.0)], columns=["query_id", "doc_id", "score"])
    table = describe(sample, {"dev": candidates, "cast": nothing_found})
    relevant = int((sample.qrels("cast")["relevance"] > 0).sum())
    assert table.loc["dev"].to_dict() == {
        "queries": len(sample.queries("dev")), "relevant": len(qrels), "candidates": len(candidates),
        "recall": round(recall, 3),
    }  # fmt: skip
    turns = len(sample.queries("cast"))
    assert table.loc["cast"].to_dict() == {"queries": turns, "relevant": relevant, "candidates": 1, "recall": 0.0}
    assert [str(kind) for kind in table.dtypes] == ["int64", "int64", "int64", "float64"]


def test_it_is_in_the_public_domain():
    readme = (files("gdmtl_lib.data") / "sample" / "README.md").read_text()
    assert "dedicated to the public domain (CC0 1.0)" in readme
