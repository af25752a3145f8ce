"""Folds: sessions stay whole, a query has no say in its own epoch, and the parts make the whole again."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdmtl_lib.data.collection import Collection, load_collection
from gdmtl_lib.data.splits import (
    Rotation, Split, cross_validated_epochs, cross_validated_run, cross_validation, join_parts, kfold, session_folds
)  # fmt: skip
from gdmtl_lib.data.trec import canonical_order
from gdmtl_lib.evaluation.measures import evaluate
from gdmtl_lib.training.batches import TrainingInstances

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


def test_kfold_deals_every_query_once_by_seed_and_ids_alone():
    query_ids = [f"q{number}" for number in range(23)]
    folds = kfold(query_ids, 5, seed=3)
    assert sorted(len(fold) for fold in folds) == [4, 4, 5, 5, 5]
    assert sorted(sum(folds, [])) == sorted(query_ids)
    assert kfold(reversed(query_ids), 5, seed=3) == folds != kfold(query_ids, 5, seed=4)


@given(
    st.lists(st.integers(0, 30), min_size=5, max_size=120).filter(lambda sessions: len(set(sessions)) >= 7),
    st.integers(3, 7),
)
def test_a_session_is_never_split(sessions, folds):
    """In every rotation the three parts share no session; over all of them each turn is tested once and validates once."""
    session_of = {f"{session}_{turn}": str(session) for turn, session in enumerate(sessions)}
    rotations = session_folds(session_of, folds)
    assert len(rotations) == folds
    for rotation in rotations:
        parts = [{session_of[query_id] for query_id in part} for part in (rotation.train, rotation.validate, rotation.test)]
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts)) == len(set(sessions))
        assert sorted(rotation.train + rotation.validate + rotation.test) == sorted(session_of)
    for part in ("test", "validate"):
        assert sorted(sum((getattr(rotation, part) for rotation in rotations), ())) == sorted(session_of)


def test_three_folds_train_one_validates_one_tests():
    rotations = session_folds({f"{session}_1": str(session) for session in range(5)})
    assert [tuple(map(len, (r.train, r.validate, r.test))) for r in rotations] == [(3, 1, 1)] * 5
    assert [r.validate for r in rotations] == [r.test for r in rotations[1:] + rotations[:1]]
    reordered = session_folds({f"{session}_1": str(session) for session in reversed(range(5))})
    assert reordered == rotations and isinstance(rotations[0], Rotation)


def test_folds_of_nothing_are_refused():
    sessions = {"1_1": "1", "2_1": "2", "2_2": "2"}
    for call, message in (
        (lambda: kfold(["a", "b"], 5), "expected at least as many queries as folds, found 2 for 5 folds"),
        (lambda: kfold(["a", "b"], 1), "expected 2 folds or more, found 1"),
        (lambda: kfold(["a", "b", "a"], 2),
         "expected each query once, found one that stands twice: give the ids of a split's queries"),
        (lambda: session_folds(sessions, 3), "expected at least as many sessions as folds, found 2 for 3 folds"),
        (lambda: session_folds(sessions, 2), "expected 3 folds or more, for training, validation and test, found 2"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == message


# --- the epoch ----------------------------------------------------------------------------------------------


def measured(**by_query: str) -> pd.DataFrame:
    """measured(a="0 1"): query a is worth 0 after epoch 0 and 1 after epoch 1."""
    return pd.DataFrame(
        [(epoch, query_id, float(value)) for query_id, row in by_query.items() for epoch, value in enumerate(row.split())],
        columns=["epoch", "query_id", "value"],
    )  # fmt: skip


VALUES = measured(a="0 1 .5", b="0 0 .5", c=".8 0 .6", d=".5 .5 .5")


def test_the_epoch_of_a_fold_is_the_best_of_the_others():
    """Folds {a, b} and {c, d}. On c and d the means after the three epochs are .65, .25, .55: epoch 0, with which a and
    b are worth 0. On a and b they are 0, .5, .5: epoch 1, the earlier of equals, with which c is worth 0 and d .5."""
    chosen = cross_validated_epochs(VALUES, [["b", "a"], ["c", "d"]])
    assert list(chosen.itertuples(index=False, name=None)) == [
        (0, "b", 0, 0.0), (0, "a", 0, 0.0), (1, "c", 1, 0.0), (1, "d", 1, 0.5),
    ]  # fmt: skip


def test_a_query_has_no_say_in_its_own_epoch():
    folds = [["a"], ["b"], ["c", "d"]]
    before = cross_validated_epochs(VALUES, folds)
    after = cross_validated_epochs(pd.concat([VALUES[VALUES["query_id"] != "a"], measured(a="9 0 0")]), folds)
    assert before["epoch"][0] == after["epoch"][0]
    assert list(after["epoch"])[1:] != list(before["epoch"])[1:]  # in that of the others it has


@pytest.mark.parametrize(
    ("values", "folds", "message"),
    [
        (VALUES, [["a", "b", "c", "d"]], "expected 2 folds or more, found 1"),
        (VALUES, [["a", "b"], ["c"]], "expected the 4 measured queries in the folds, each once, found 3 (3 of them "
         "different): deal the folds from these queries"),
        (VALUES, [["a", "b"], ["c", "d", "a"]], "expected the 4 measured queries in the folds, each once, found 5 (4 of "
         "them different): deal the folds from these queries"),
        (VALUES[1:], [["a", "b"], ["c", "d"]],
         "values: query 'a' has none after epoch 0: measure every epoch on all queries"),
        (pd.concat([VALUES, VALUES[:1]]), [["a", "b"], ["c", "d"]],
         "values: expected one a query and epoch, found two; give those of one measure"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_the_folds_are_refused(values, folds, message):
    with pytest.raises(ValueError) as caught:
        cross_validated_epochs(values, folds)
    assert str(caught.value) == message


def test_cross_validation_of_a_training_beside_what_it_keeps(tmp_path):
    """Four queries, so four folds of one. Means of all after the three epochs: .325, .375, .525, so epoch 2 is kept. By
    the sums of the other three: without a 1.3, .5, 1.6; without b 1.3, 1.5, 1.6; without d .8, 1, 1.6: epoch 2 each
    time; without c .5, 1.5, 1.5: epoch 1, the earlier of equals, with which c is worth 0 in place of .6. So the mean is
    (.5 + .5 + 0 + .5) / 4 = .375, and .525 with the epoch that is kept."""
    path = tmp_path / "validation_queries.csv"
    VALUES.replace({"query_id": {"a": "007", "b": "NA"}}).assign(step=0).to_csv(path, index=False)
    table = cross_validation(path)
    assert list(table.index) == [0, 1, 2, 3, "all"] and list(table["queries"]) == [1, 1, 1, 1, 4]
    assert sorted(table["epoch"][:4]) == [1, 2, 2, 2] and table["epoch"]["all"] == 2
    assert table.loc[table["epoch"] == 1, ["cross-validated", "kept"]].to_numpy().tolist() == [[0.0, 0.6]]
    assert table.loc["all", ["cross-validated", "kept"]].tolist() == pytest.approx([0.375, 0.525])
    assert cross_validation(path, folds=2)["queries"].tolist() == [2, 2, 4]
    VALUES[VALUES["query_id"] == "a"].to_csv(path, index=False)
    with pytest.raises(ValueError, match="^expected 2 folds or more, found 1$"):
        cross_validation(path)


def test_parts_are_joined_and_a_query_that_stands_in_two_is_refused():
    one = pd.DataFrame({"query_id": ["a", "a"], "doc_id": ["x", "y"]})
    two = pd.DataFrame({"query_id": ["b"], "doc_id": ["x"]})
    assert join_parts([one, two]).to_numpy().tolist() == [["a", "x"], ["a", "y"], ["b", "x"]]
    with pytest.raises(ValueError) as caught:
        join_parts([one, two, one])
    assert str(caught.value) == (
        "part 2: query 'a' (1 in all) stands in an earlier one too: join the test queries of the rotations of one "
        "cross-validation"
    )


# --- as a collection ----------------------------------------------------------------------------------------


@pytest.fixture
def talks():
    ids = [f"{session}_{turn}" for session in range(31, 38) for turn in (1, 2)]
    queries = pd.DataFrame({"query_id": ids, "text": ids, "session": [query_id[:2] for query_id in ids]})
    qrels = pd.DataFrame({"query_id": ids, "doc_id": "d1", "relevance": 2})
    other = queries.assign(query_id="x" + queries["query_id"]).drop(columns="session")
    return Collection("talks", {"d1": "ice", "d2": "wind"}, {"all": Split(queries, qrels), "other": Split(other)})


def test_the_rotations_of_a_collection_are_splits(talks):
    folds = talks.by_session("all")
    assert len(folds.splits) == 15 and folds.splits[:4] == ("train0", "validate0", "test0", "train1")
    assert folds.name == "folds:all:talks"
    tests = [folds.queries(f"test{number}") for number in range(5)]
    assert sorted(pd.concat(tests)["query_id"]) == sorted(talks.queries("all")["query_id"])
    parts = [set(folds.queries(f"{part}0")["session"]) for part in ("train", "validate", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 7
    assert set(folds.qrels("test3")["query_id"]) == set(folds.queries("test3")["query_id"])
    assert folds.text(["d2"]) == ["wind"] and folds.query_texts(["31_1", "37_2"]) == ["31_1", "37_2"]
    assert len(folds.qrels_of(["31_1", "34_2"])) == 2
    assert folds.fingerprint() == talks.fingerprint()
    assert folds.passages_fingerprint("test0") == talks.passages_fingerprint("all")
    with pytest.raises(ValueError, match="^collection 'talks' has no sessions for the split 'other' to make folds of$"):
        talks.by_session("other")


def test_the_samples_own_sessions_by_name():
    """As a config names it, and as the processes of a training find it again."""
    folds = load_collection("folds:cast:sample")
    whole = load_collection("sample").queries("cast")
    assert load_collection(folds.name).splits == folds.splits
    tested = pd.concat([folds.queries(f"test{number}") for number in range(5)])
    assert sorted(tested["query_id"]) == sorted(whole["query_id"])
    for sample in (load_collection("sample?cast=60").by_session("cast"), folds.sampled({"test0": 3, "train1": 5})):
        again = load_collection(sample.name)
        assert (again.name, again.splits) == (sample.name, sample.splits)
        for split in again.splits:
            pd.testing.assert_frame_equal(again.queries(split), sample.queries(split))
    with pytest.raises(ValueError, match="^collection 'sample' has no split 'past': its splits are "):
        load_collection("folds:cast:sample?past=60")
    for name in ("folds:cast", "folds:cast:", "folds:"):
        with pytest.raises(ValueError, match=f"^expected folds:<split>:<collection>, found '{name}'$"):
            load_collection(name)


def test_candidates_decide_which_queries_of_a_split_are_trained_on(talks):
    """A rotation's training queries are trained on by giving their candidates alone: no other query's are touched."""
    rows = [(query_id, doc, 1.0) for query_id in talks.queries("all")["query_id"] for doc in ("d1", "d2")]
    candidates = pd.DataFrame(rows, columns=["query_id", "doc_id", "score"])
    train = session_folds(dict(talks.queries("all")[["query_id", "session"]].to_numpy()))[0].train
    instances = TrainingInstances(talks.qrels("all"), candidates[candidates["query_id"].isin(train)])
    assert sorted(query_id for query_id, _, _ in instances.pairs) == sorted(train)
    assert 0 < len(train) < 14


def test_folds_of_the_real_cast_sessions():
    """20 sessions, four a fold; about a fifth of the 173 judged turns each."""
    path = DATA / "cast2019" / "2019qrels.txt.gz"
    if not path.exists():
        pytest.skip(f"no {path}")
    from gdmtl_lib.data.msmarco import sessions_of
    from gdmtl_lib.data.trec import read_qrels

    query_ids = read_qrels(path)["query_id"].unique().tolist()
    rotations = session_folds(dict(zip(query_ids, sessions_of(query_ids), strict=True)))
    assert len({query_id.partition("_")[0] for query_id in query_ids}) == 20
    assert sum(len(rotation.test) for rotation in rotations) == 173
    assert all(30 <= len(rotation.test) <= 40 for rotation in rotations)


@pytest.mark.parametrize("seed", range(5))
def test_the_joined_run_equals_a_slow_loop(seed):
    """Random runs of four epochs; each query's list from the epoch that is best on the folds without it, by a loop over
    queries that knows nothing of frames."""
    generator = np.random.default_rng(seed)
    query_ids, docs = [f"q{number}" for number in range(23)], [f"d{number}" for number in range(8)]
    qrels = pd.DataFrame([(query, generator.choice(docs), 1) for query in query_ids], columns=["query_id", "doc_id", "relevance"])
    rows = [(query, doc) for query in query_ids for doc in docs]
    runs = {
        epoch: canonical_order(pd.DataFrame(rows, columns=["query_id", "doc_id"]).assign(score=generator.random(len(rows))))
        for epoch in range(4)
    }
    values = {epoch: evaluate(run, qrels, ["RR@10"]).set_index("query_id")["value"].to_dict() for epoch, run in runs.items()}
    folds = kfold(query_ids, 5, seed)
    long = pd.DataFrame([(e, q, v) for e, of in values.items() for q, v in of.items()], columns=["epoch", "query_id", "value"])
    chosen = cross_validated_epochs(long.sample(frac=1, random_state=seed), folds)
    joined = cross_validated_run(chosen, runs.__getitem__)
    for fold in folds:
        others = [query for query in query_ids if query not in fold]
        best = max(range(4), key=lambda epoch: (round(sum(values[epoch][query] for query in others) / len(others), 12), -epoch))
        for query in fold:
            expected, found = (run[run["query_id"] == query] for run in (runs[best], joined))
            assert found[["doc_id", "score", "rank"]].values.tolist() == expected[["doc_id", "score", "rank"]].values.tolist()
    assert len(joined) == len(rows)
    means = evaluate(joined, qrels, ["RR@10"])["value"].mean(), chosen["value"].mean()
    assert means[0] == pytest.approx(means[1], abs=1e-12)


def test_of_equal_epochs_the_earlier_one_wins_everywhere(tmp_path):
    """A hundred pairs of epochs with the same values in another order: equal means, but for the last bits of some."""
    for seed in range(100):
        values = np.random.default_rng(seed).integers(0, 11, 30) / 10
        queries = [f"q{number}" for number in range(30)]
        table = pd.DataFrame({"epoch": np.repeat([0, 1], 30), "query_id": queries * 2})
        table["value"] = [*values, *np.random.default_rng(seed + 1).permutation(values)]
        path = tmp_path / f"{seed}.csv"
        table.to_csv(path, index=False)
        assert cross_validation(path).loc["all", "epoch"] == 0
