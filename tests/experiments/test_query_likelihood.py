import pandas as pd
import pytest

from gdmtl_lib.experiments import query_likelihood as study
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.splits import Split
from gdmtl_lib.pretrained import build_model
from gdmtl_lib.data.trec import canonical_order


def run_of(scores):
    """A run of queries q0 to q7, each with candidates a, b, c that have the same three scores."""
    rows = [(f"q{i}", doc, score) for i in range(8) for doc, score in zip("abc", scores)]
    return canonical_order(pd.DataFrame(rows, columns=["query_id", "doc_id", "score"]))


QRELS = pd.DataFrame({"query_id": [f"q{i}" for i in range(8)], "doc_id": "b", "relevance": 1})
RUNS = {
    study.BM25: run_of([3.0, 2.0, 1.0]), study.LIKELIHOOD: run_of([1.0, 3.0, 2.0]), study.RANKING: run_of([3.0, 1.0, 2.0])
}  # fmt: skip


def test_halves_are_apart_and_the_same_every_time():
    queries = [f"q{i}" for i in range(9)]
    one, other = study.halves(queries)
    assert len(one) == 4 and sorted(one + other) == queries and (one, other) == study.halves(queries)
    with pytest.raises(ValueError, match="expected at least two queries to divide, found 1"):
        study.halves(["q1"])


def test_the_weight_comes_from_queries_that_are_not_measured():
    """Of the queries to choose on the likelihood is right, of the others the ranking head: with the weight chosen
    well the joint score is wrong there, as it has to be when it has not seen them."""
    choose_on, measure_on = study.halves(QRELS["query_id"])
    qrels = QRELS.assign(doc_id=["b" if query in choose_on else "a" for query in QRELS["query_id"]])
    ways, weight = study.ways_to_rank(RUNS, qrels, [2], "RR@10")
    assert weight > 0
    assert all(set(run["query_id"]) == set(measure_on) for run in ways.values())
    table = study.effectiveness_of(ways, qrels, "RR@10").set_index("system")
    assert list(table.index) == ["BM25", "likelihood", "ranking head", "joint", "cascade, best 2"]
    assert table["mean"]["ranking head"] == 1.0 and table["mean"]["joint"] < 1.0
    # Of b and c, the likeliest two, the ranking head puts c first; a stays third.
    assert table["mean"]["cascade, best 2"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["gdmtl", "gdmtl_s"])
def test_costs_add_up(toy_bert_folder, name):
    """Two queries of the same three passages: the likelihood computes three sources and not six, the ranking head
    reads six pairs; a cascade over all of them costs both."""
    passages = {"a": "blue glacier ice " * 9, "b": "the king of the north " * 9, "c": "river water " * 9}
    queries = pd.DataFrame({"query_id": ["q0", "q1"], "text": ["why is ice blue", "who was king"]})
    collection = Collection("toy", passages, {"dev": Split(queries)})
    candidates = RUNS[study.BM25].query("query_id in ['q0', 'q1']")
    table = study.costs(build_model(name, checkpoint=toy_bert_folder), collection, candidates, [1, 3]).set_index("way")
    assert table.loc["BM25"].tolist() == [0, 0]
    cost = table["gflop"]
    assert 0 < table["stored"]["likelihood"] < cost["likelihood"] < cost["ranking head"] == table["stored"]["ranking head"]
    assert cost["joint"] == cost["cascade, best 3"] == pytest.approx(cost["likelihood"] + cost["ranking head"])
    assert cost["likelihood"] < cost["cascade, best 1"] < cost["cascade, best 3"]
    encoding = cost - table["stored"]
    assert encoding["joint"] == pytest.approx(encoding["likelihood"]) and encoding["ranking head"] == 0


NAMES = [study.BM25, study.LIKELIHOOD, study.RANKING, study.JOINT, "cascade, best 2", "cascade, best 5"]
EFFECT = pd.DataFrame({
    "measure": "RR@10", "system": NAMES, "mean": [0.5, 0.6, 0.8, 0.9, 0.75, 0.795],
    "difference": [-0.3, -0.2, 0.0, 0.1, -0.05, -0.005], "low": [-0.4, -0.3, None, 0.01, -0.2, -0.015],
    "high": [-0.2, -0.1, None, 0.2, 0.1, -0.001],
}).astype({"low": float, "high": float})  # fmt: skip
COSTS = pd.DataFrame({"way": NAMES, "gflop": [0, 5.0, 10, 15, 6, 8], "stored": [0, 1.0, 10, 11, 2, 4]})


def test_verdicts_and_advice_follow_from_the_intervals():
    """A cascade over two may lose .2: nobody can tell, and it is not advised; one over five loses less than .02, for 80%
    of the cost, with stored states for 40%."""
    table = study.with_verdicts(EFFECT, COSTS, 0.02)
    assert list(table["verdict"]) == ["worse", "worse", "-", "better", "cannot tell", "as good"]
    assert study.advice(table, 0.02, 85) == [
        "Highest mean: joint, 0.900, at 15.0 GFLOP a query.",
        "With nothing stored, the cheapest way that loses less than 0.02: cascade, best 5, 0.795 against 0.800 (difference "
        "from -0.015 to -0.001, 95%), at 80% of the ranking head's cost.",
        "With the passages' states stored, the cheapest way that loses less than 0.02: cascade, best 5, 0.795 against 0.800 "
        "(difference from -0.015 to -0.001, 95%), at 40% of the ranking head's cost.",
        "Shown to be worse than the ranking head: BM25; likelihood.",
    ]


def test_where_queries_are_too_few_no_way_is_advised():
    few = study.with_verdicts(EFFECT, COSTS, 0.01)
    assert list(few["verdict"])[-2:] == ["cannot tell", "worse"]
    assert study.advice(few, 0.01, 85)[1:3] == [
        f"With {when}, no cheaper way is sure to lose less than 0.01: 85 queries cannot tell for cascade, best 2."
        for when in ("nothing stored", "the passages' states stored")
    ]
    shown = study.with_verdicts(EFFECT[:3], COSTS[:3], 0.01)
    assert "no cheaper way is sure to lose less than 0.01: all are shown to lose more." in study.advice(shown, 0.01, 85)[1]
    little = study.with_verdicts(EFFECT[:3].assign(high=[-0.001, -0.1, None]), COSTS[:3], 0.01)
    assert "all are shown to lose something, whether less 85 queries cannot tell." in study.advice(little, 0.01, 85)[1]


def test_a_likelihood_is_kept_and_used_again(toy_bert_folder, tmp_path, monkeypatch):
    passages = {"a": "blue glacier ice", "b": "the king of the north", "c": "river water"}
    queries = pd.DataFrame({"query_id": ["q0", "q1"], "text": ["why is ice blue", "who was king"]})
    collection = Collection("toy", passages, {"dev": Split(queries)})
    candidates = RUNS[study.BM25].query("query_id in ['q0', 'q1']")
    model = build_model("gdmtl", checkpoint=toy_bert_folder)
    model.save_pretrained(tmp_path / "checkpoint")
    calls, compute = [], study.query_likelihood
    monkeypatch.setattr(study, "query_likelihood", lambda *given, **named: calls.append(1) or compute(*given, **named))

    def run(candidates=candidates):
        return study.likelihood_run(tmp_path, model, collection, candidates, "dev", "fp32")

    (first, was_there), (again, is_there) = run(), run()
    assert (was_there, is_there, len(calls)) == (False, True, 1)
    pd.testing.assert_frame_equal(first, again)
    path = tmp_path / "likelihood.dev.trec.gz"
    path.write_bytes(path.read_bytes()[:-5])
    pd.testing.assert_frame_equal(run()[0], first)
    assert run(candidates[1:])[1] is False and len(calls) == 3
