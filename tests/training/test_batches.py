"""What is trained on: pairs, negatives and samples, as functions of seed, epoch and query alone."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chisquare

from gdmtl_lib.training.batches import Instance, TrainingInstances, borrowed
from gdmtl_lib.data.splits import nested_sample


def qrels_of(*rows):
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "relevance"])


def candidates_of(**doc_ids: str):
    """candidates_of(q1="a b c"): the list of each query, best first."""
    rows = [
        (query, doc, float(-rank), rank)
        for query, docs in doc_ids.items()
        for rank, doc in enumerate(docs.split(), start=1)
    ]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score", "rank"])


QRELS = qrels_of(
    ("q1", "a", 1), ("q1", "b", 0), ("q2", "m", 2), ("q2", "n", 1), ("q2", "o", 1), ("q2", "p", -2),
    ("q3", "x", 0), ("q4", "elsewhere", 1),
)  # fmt: skip
CANDIDATES = candidates_of(q1="a b c d", q2="m n o p r", q3="x y")
# What seed 5 draws first, and an eighth of q0 to q39: the same on every machine.
DRAWN = [Instance("q1", "a", ("c", "b"), "a"), Instance("q2", "m", ("r", "n"), "m")]
SAMPLE = ["q5", "q22", "q23", "q28", "q34"]


def test_an_instance_is_a_query_with_a_relevant_passage():
    """q3 has nothing relevant, q4 no candidates: neither teaches anything. Relevant means a grade above 0."""
    instances = TrainingInstances(QRELS, CANDIDATES)
    assert instances.pairs == [("q1", "a", 1), ("q2", "m", 2), ("q2", "n", 1), ("q2", "o", 1)]
    assert len(instances) == 4


def test_a_relevant_passage_that_the_first_stage_missed_is_learned_from():
    instances = TrainingInstances(qrels_of(("q", "missed", 1)), candidates_of(q="a b"))
    assert instances.pairs == [("q", "missed", 1)]


@pytest.mark.parametrize("negatives", [1, 2, 7])
def test_negatives_are_candidates_of_a_lower_grade(negatives):
    """A grade that nobody judged is 0. For m (2): n, o, p, r; for n and o (1): p and r; for a: b, c, d."""
    instances, seen = TrainingInstances(QRELS, CANDIDATES, negatives=negatives), {}
    for epoch in range(40):
        for index in range(len(instances)):
            instance = instances.instance(epoch, index)
            assert (instance.query_id, instance.positive) == instances.pairs[index][:2]
            assert len(instance.negatives) == negatives
            seen.setdefault(instance.positive, set()).update(instance.negatives)
    assert seen == {"a": set("bcd"), "m": set("nopr"), "n": set("pr"), "o": set("pr")}


def test_several_negatives_differ_while_there_are_enough():
    instances = TrainingInstances(QRELS, CANDIDATES, negatives=3)
    for epoch in range(40):
        assert sorted(instances.instance(epoch, 0).negatives) == ["b", "c", "d"]  # all three of them
        assert len(set(instances.instance(epoch, 1).negatives)) == 3  # of four
        assert len(instances.instance(epoch, 2).negatives) == 3  # of two: with replacement


def test_negatives_are_a_function_of_seed_epoch_and_query():
    """Whatever was drawn before, and whatever other queries there are, on any machine."""
    instances = TrainingInstances(QRELS, CANDIDATES, negatives=2, seed=5)
    forward = [instances.instance(epoch, index) for epoch in range(6) for index in range(4)]
    fresh = TrainingInstances(QRELS.iloc[::-1], CANDIDATES, negatives=2, seed=5)
    backward = [fresh.instance(epoch, index) for epoch in reversed(range(6)) for index in reversed(range(4))]
    assert forward == backward[::-1]
    alone = TrainingInstances(QRELS, CANDIDATES[CANDIDATES["query_id"] == "q2"], negatives=2, seed=5)
    assert [alone.instance(epoch, 0) for epoch in range(6)] == forward[1::4]
    assert forward[:2] == DRAWN
    assert all(isinstance(doc_id, str) for doc_id in forward[0].negatives)


def test_a_query_is_written_from_passages_of_lower_grades_where_that_is_asked_for():
    """Ranked is m alone; written from m, n and o, 1,000 times each of 3,000, and never from p, which was judged -2. What is
    drawn for the ranking stays."""
    plain, graded = (TrainingInstances(QRELS, CANDIDATES, level=2, source_level=level) for level in (None, 1))
    drawn = [graded.instance(epoch, 0) for epoch in range(3000)]
    assert drawn == [plain.instance(epoch, 0)._replace(source=each.source) for epoch, each in enumerate(drawn)]
    counts = Counter(each.source for each in drawn)
    assert sorted(counts) == ["m", "n", "o"] and chisquare(list(counts.values())).pvalue > 0.01
    assert {plain.instance(epoch, 0).source for epoch in range(50)} == {"m"}


def test_seeds_and_epochs_draw_anew():
    candidates = candidates_of(q=" ".join(f"d{i}" for i in range(100)))
    draws = {
        TrainingInstances(qrels_of(("q", "a", 1)), candidates, seed=seed).instance(epoch, 0).negatives
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(draws) > 15  # of 25 draws from 100, about 22 differ


def test_negatives_are_uniform():
    """4,000 epochs over four candidates of lower grade, 1,000 each expected; the other three never."""
    qrels = qrels_of(("q", "a", 1), ("q", "b", 1), ("q", "c", 2), ("q", "d", 0))
    instances = TrainingInstances(qrels, candidates_of(q="a d b e f c g"))
    counts = Counter(instances.instance(epoch, 0).negatives[0] for epoch in range(4000))
    assert sorted(counts) == ["d", "e", "f", "g"]
    assert chisquare(list(counts.values())).pvalue > 0.01


def test_pairs_of_negatives_are_uniform():
    """Two at a time without replacement: the six pairs of four, 4,000 draws, in either order."""
    instances = TrainingInstances(qrels_of(("q", "a", 1)), candidates_of(q="a b c d e"), negatives=2)
    counts = Counter(instances.instance(epoch, 0).negatives for epoch in range(4000))
    assert len(counts) == 12
    assert chisquare(list(counts.values())).pvalue > 0.01


def test_queries_draw_independently():
    """Two queries with the same list: over 400 epochs the four pairs of draws are equally likely."""
    qrels = qrels_of(("q1", "a", 1), ("q2", "a", 1))
    instances = TrainingInstances(qrels, candidates_of(q1="b c", q2="b c"))
    counts = Counter(
        (instances.instance(epoch, 0).negatives, instances.instance(epoch, 1).negatives)
        for epoch in range(400)
    )
    assert len(counts) == 4
    assert chisquare(list(counts.values())).pvalue > 0.01


def test_an_epochs_order_is_a_permutation_of_its_own():
    queries = [f"q{i}" for i in range(30)]
    qrels = qrels_of(*((query, "a", 1) for query in queries))
    candidates = candidates_of(**dict.fromkeys(queries, "a b"))
    seeds = [TrainingInstances(qrels, candidates, seed=seed) for seed in (0, 1)]
    orders = [instances.order(epoch) for instances in seeds for epoch in (0, 1)]
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    again = TrainingInstances(qrels, candidates, seed=1).order(0)
    assert np.array_equal(again, orders[2])


def test_shares_are_nested():
    """12.5, 25, 50, 75 and 100% of 40 queries (Figure 7)."""
    queries = [f"q{i}" for i in range(40)]
    qrels = qrels_of(*((query, "a", 1) for query in queries))
    candidates = candidates_of(**dict.fromkeys(queries, "a b"))
    samples = [
        [query for query, _, _ in TrainingInstances(qrels, candidates, fraction=fraction).pairs]
        for fraction in (0.01, 0.125, 0.25, 0.5, 0.75, 1.0)
    ]
    assert [len(sample) for sample in samples] == [1, 5, 10, 20, 30, 40]
    assert all(set(smaller) < set(larger) for smaller, larger in zip(samples[:-1], samples[1:], strict=True))
    assert set(samples[1]) == set(SAMPLE)


def test_a_share_of_the_queries_keeps_all_their_pairs():
    queries = [f"q{i}" for i in range(20)]
    qrels = qrels_of(*((query, doc, 1) for query in queries for doc in "ab"))
    candidates = candidates_of(**dict.fromkeys(queries, "a b c d"))
    whole = TrainingInstances(qrels, candidates)
    quarter = TrainingInstances(qrels, candidates, fraction=0.25)
    kept = nested_sample(queries, 5)
    assert [pair[:2] for pair in quarter.pairs] == [(query, doc) for query in sorted(kept) for doc in "ab"]
    # What is drawn for a query does not depend on the sample.
    for index, pair in enumerate(quarter.pairs):
        assert quarter.instance(3, index) == whole.instance(3, whole.pairs.index(pair))


def test_an_example_is_borrowed_by_seed_epoch_and_query():
    """Uniform over 4,000 queries, and the same for the same query."""
    examples = ["a", "b", "c", "d"]
    draws = [borrowed(examples, seed=0, epoch=1, query_id=f"q{i}") for i in range(4000)]
    assert draws == [borrowed(examples, seed=0, epoch=1, query_id=f"q{i}") for i in range(4000)]
    assert chisquare(list(Counter(draws).values())).pvalue > 0.01
    for other in (dict(seed=1, epoch=1), dict(seed=0, epoch=2)):
        assert draws != [borrowed(examples, **other, query_id=f"q{i}") for i in range(4000)]


NOTHING_TO_TRAIN_ON = (
    "no query to train on: none of the candidates' queries has a passage judged relevant; "
    "are these the candidates of the training split?"
)


@pytest.mark.parametrize(
    ("qrels", "candidates", "message"),
    [
        (qrels_of(("q1", "a", 1)), candidates_of(q2="a b"), NOTHING_TO_TRAIN_ON),
        (qrels_of(("q1", "a", 0)), candidates_of(q1="a b"), NOTHING_TO_TRAIN_ON),
        (
            qrels_of(("q1", "a", 1), ("q1", "b", 2)),
            candidates_of(q1="a b"),
            "query 'q1' has no candidate that is less relevant than 'a': "
            "retrieve deeper, or leave the query out of the candidates",
        ),
        (
            qrels_of(("q1", "a", 1)),
            candidates_of(q1="b c b"),
            "run, row 3: passage 'b' stands a second time for query 'q1'; keep one of the two",
        ),
        (
            qrels_of(("q1", "a", 1)),
            candidates_of(q1="b").drop(columns="doc_id"),
            "run: expected the columns query_id, doc_id, score, found query_id, score, rank; add doc_id",
        ),
    ],
)
def test_what_cannot_be_trained_on_says_why(qrels, candidates, message):
    with pytest.raises(ValueError) as error:
        TrainingInstances(qrels, candidates)
    assert str(error.value) == message


def test_candidates_need_no_score():
    bare = TrainingInstances(QRELS, CANDIDATES[["query_id", "doc_id"]])
    assert bare.instance(0, 0) == TrainingInstances(QRELS, CANDIDATES).instance(0, 0)


def test_graded_passages_from_a_level_on():
    """CAsT's: of q2 only m (2) is learned from, against all that are lower, the relevant ones of grade 1 among them."""
    instances = TrainingInstances(QRELS, CANDIDATES, level=2)
    assert instances.pairs == [("q2", "m", 2)]
    assert {instances.instance(epoch, 0).negatives[0] for epoch in range(60)} == set("nopr")
    with pytest.raises(ValueError, match=r"has a passage judged relevant \(of grade 3 or more\); are these the candidates"):
        TrainingInstances(QRELS, CANDIDATES, level=3)
