import re
import time
import warnings
from math import log2

import ir_measures
import numpy as np
import pandas as pd
import pytest
import pytrec_eval
from cwl.ruler.cwl_ruler import RBPCWLMetric
from cwl.ruler.ranking import Ranking

from gdmtl_lib.data.trec import canonical_order, write_run
from gdmtl_lib.evaluation.measures import PAPER_MEASURES, PAPER_NAMES, WORKING, evaluate, format_value, summarize


def run_frame(**rankings: str) -> pd.DataFrame:
    """Rankings as strings of one-letter passages, best first."""
    rows = [(query, doc, -i) for query, docs in rankings.items() for i, doc in enumerate(docs)]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score"])


def qrels_frame(**grades: dict[str, int]) -> pd.DataFrame:
    rows = [(query, doc, grade) for query, docs in grades.items() for doc, grade in docs.items()]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "relevance"])


def by_measure(values: pd.DataFrame, query: str, column: str = "value") -> dict[str, float]:
    return values[values["query_id"] == query].set_index("measure")[column].to_dict()


def test_measures_and_residuals_worked_by_hand():
    """The list u r n v g: r has grade 1, g grade 3, n grade 0, u and v are not judged.

    RR: r at rank 2, 1/2. nDCG: (1/log2 3 + 3/log2 6) / (3/log2 2 + 1/log2 3).
    RBP p=.5: .5 (.5 + .5^4) = .28125; p=.8: .2 (.8 + .8^4) = .24192.
    Residual, ranks 1, 4 and all after 5: .5 (1 + .5^3) + .5^5 = .59375; .2 (1 + .8^3) + .8^5 = .63008.
    """
    values = evaluate(run_frame(q="urnvg"), qrels_frame(q={"r": 1, "n": 0, "g": 3}))
    ndcg = (1 / log2(3) + 3 / log2(6)) / (3 + 1 / log2(3))
    assert by_measure(values, "q") == pytest.approx({
        "RR@10": 0.5, "RR@100": 0.5, "nDCG@10": ndcg, "nDCG@20": ndcg,
        "RBP(p=0.5)": 0.28125, "RBP(p=0.8)": 0.24192,
    })  # fmt: skip
    assert by_measure(values, "q", "residual") == pytest.approx({
        "RR@10": np.nan, "RR@100": np.nan, "nDCG@10": np.nan, "nDCG@20": np.nan,
        "RBP(p=0.5)": 0.59375, "RBP(p=0.8)": 0.63008,
    }, nan_ok=True)  # fmt: skip


def test_the_relevance_level_moves_rr_and_rbp_and_leaves_ndcg():
    """At level 2 only g, at rank 5, is relevant: RR 1/5, RBP .5 * .5^4; the residual stays."""
    run, qrels = run_frame(q="urnvg"), qrels_frame(q={"r": 1, "n": 0, "g": 3})
    one = by_measure(evaluate(run, qrels), "q")
    two = evaluate(run, qrels, relevance_level=2)
    assert by_measure(two, "q")["RR@10"] == pytest.approx(0.2)
    assert by_measure(two, "q")["RBP(p=0.5)"] == pytest.approx(0.03125)
    assert by_measure(two, "q", "residual")["RBP(p=0.5)"] == pytest.approx(0.59375)
    assert by_measure(two, "q")["nDCG@10"] == one["nDCG@10"]


def test_a_measure_may_name_its_own_level():
    values = evaluate(run_frame(q="rg"), qrels_frame(q={"r": 1, "g": 3}), ["RR(rel=3)@10", "RR@10"])
    assert by_measure(values, "q") == {"RR(rel=3)@10": 0.5, "RR@10": 1.0}


def test_every_judged_query_is_returned_in_the_order_of_the_judgments():
    qrels = qrels_frame(q3={"a": 1}, missing={"a": 1}, nothing={"a": 0}, q1={"a": 1})
    values = evaluate(run_frame(q1="ba", q3="a", nothing="ba", unjudged="a"), qrels, ["RR@10", "RBP(p=0.5)"])
    expected = pd.DataFrame(
        [
            ("q3", "RR@10", 1.0, np.nan),
            ("q3", "RBP(p=0.5)", 0.5, 0.5),
            ("missing", "RR@10", 0.0, np.nan),
            ("missing", "RBP(p=0.5)", 0.0, 1.0),
            ("nothing", "RR@10", 0.0, np.nan),
            ("nothing", "RBP(p=0.5)", 0.0, 0.75),
            ("q1", "RR@10", 0.5, np.nan),
            ("q1", "RBP(p=0.5)", 0.25, 0.75),
        ],
        columns=["query_id", "measure", "value", "residual"],
    )
    pd.testing.assert_frame_equal(values, expected)


def test_equal_scores_are_one_order_for_all_measures():
    """With all scores equal, doc_id descending: z y x; x is relevant, so every measure sees it at rank 3."""
    run = pd.DataFrame({"query_id": "q", "doc_id": list("yxz"), "score": 1.0})
    values = by_measure(evaluate(run, qrels_frame(q={"x": 1})), "q")
    assert values == pytest.approx(
        dict(zip(PAPER_MEASURES, (1 / 3, 1 / 3, 0.5, 0.5, 0.125, 0.2 * 0.64), strict=True))
    )


def fuzzed(rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ties, near-ties, unjudged passages and queries, missing queries, negative grades, shuffled rows."""
    rows, judgments = [], []
    for query in range(8):
        docs = rng.permutation(1500)
        length = int(rng.choice([1, 3, 30, 150, 1200]))
        scores = rng.integers(0, 20, length) + rng.choice([0, 1e-9], length)
        if query != 0:
            rows += [(f"q{query}", f"d{doc}", score) for doc, score in zip(docs, scores, strict=False)]
        judged = rng.choice(docs[: length + 5], min(12, length), replace=False)
        if query != 1:
            judgments += [(f"q{query}", f"d{doc}", int(rng.integers(-2, 5))) for doc in judged]
    run = pd.DataFrame(rows, columns=["query_id", "doc_id", "score"])
    qrels = pd.DataFrame(judgments, columns=["query_id", "doc_id", "relevance"])
    shuffle = {"frac": 1, "random_state": int(rng.integers(1000))}
    return run.sample(**shuffle), qrels.sample(**shuffle)


def trec_eval(judged: dict[str, int], docs: list[str], measure: str, level: int = 1) -> float:
    if not docs:
        return 0.0
    ranking = {doc: float(-i) for i, doc in enumerate(docs)}
    found = pytrec_eval.RelevanceEvaluator({"q": judged}, {measure}, level).evaluate({"q": ranking})
    return found["q"][measure]


def cwl_rbp(judged: dict[str, int], docs: list[str], p: float, level: int) -> tuple[float, float]:
    gains = np.array([float(judged[doc] >= level) if judged.get(doc, -1) >= 0 else np.nan for doc in docs])
    measure = RBPCWLMetric(p)
    measure.residuals = True
    value = measure.measure(Ranking("q", gains, np.ones(len(docs)), max_n=1000))
    return value, measure.residual_expected_utility


def oracle(judged: dict[str, int], docs: list[str], level: int) -> dict[str, tuple[float, float]]:
    """Value and residual of one list, by pytrec_eval and by cwl_eval with its own residuals."""
    given, judged = judged, {doc: max(grade, 0) for doc, grade in judged.items()}  # as evaluate says; pytrec_eval may crash
    return {
        "RR@10": (trec_eval(judged, docs[:10], "recip_rank", level), np.nan),
        "RR@100": (trec_eval(judged, docs[:100], "recip_rank", level), np.nan),
        "nDCG@10": (trec_eval(judged, docs, "ndcg_cut_10"), np.nan),
        "nDCG@20": (trec_eval(judged, docs, "ndcg_cut_20"), np.nan),
        "RBP(p=0.5)": cwl_rbp(given, docs, 0.5, level),
        "RBP(p=0.8)": cwl_rbp(given, docs, 0.8, level),
    }


@pytest.mark.parametrize("level", [1, 2])
def test_measures_equal_pytrec_eval_and_residuals_cwl_eval(level):
    rng = np.random.default_rng(level)
    for _ in range(10):
        run, qrels = fuzzed(rng)
        values, ranked = evaluate(run, qrels, relevance_level=level), canonical_order(run)
        assert values["query_id"].unique().tolist() == qrels["query_id"].unique().tolist()
        for query, judgments in qrels.groupby("query_id"):
            judged = judgments.set_index("doc_id")["relevance"].to_dict()
            docs = ranked.loc[ranked["query_id"] == query, "doc_id"].tolist()
            rows = values[values["query_id"] == query].set_index("measure")[["value", "residual"]]
            expected = oracle(judged, docs, level)
            assert list(rows.index) == list(expected)
            assert rows.to_numpy() == pytest.approx(np.array([*expected.values()]), abs=1e-9, nan_ok=True)


def test_what_samples_judgments_takes_a_negative_grade_for_none_as_trec_eval_does():
    run, qrels = fuzzed(np.random.default_rng(3))
    judged_only = [measure(judged_only=True) for measure in (ir_measures.AP, ir_measures.P @ 3, ir_measures.nDCG @ 5)]
    measures, text = ["Bpref", "infAP", *map(str, judged_only)], {"doc_id": str, "query_id": str}
    values = evaluate(run, qrels, measures).pivot(index="query_id", columns="measure", values="value")
    assert (qrels["relevance"] < 0).any() and not values.equals(
        evaluate(run, qrels.assign(relevance=qrels["relevance"].clip(lower=0)), measures).pivot(
            index="query_id", columns="measure", values="value"))  # fmt: skip
    ranked = canonical_order(run)
    given = {query: dict(zip(of["doc_id"], -of["rank"].astype(float))) for query, of in ranked.astype(text).groupby("query_id")}
    judged = {query: dict(zip(of["doc_id"], of["relevance"].astype(int))) for query, of in qrels.groupby("query_id")}
    for found in ir_measures.iter_calc([ir_measures.Bpref, ir_measures.infAP, *judged_only], judged, given):
        assert values.loc[found.query_id, str(found.measure)] == pytest.approx(found.value, abs=1e-12)


def test_row_order_scale_and_dtype_of_the_scores_change_nothing():
    run, qrels = fuzzed(np.random.default_rng(7))
    expected = evaluate(run, qrels)
    for changed in (
        run.sort_values(["doc_id", "query_id"]),
        run.assign(score=run["score"] * 1024),
        run.assign(score=run["score"].astype(np.float32)),
        run.assign(rank=1),
        run.astype({"query_id": object, "doc_id": object}),
    ):
        pd.testing.assert_frame_equal(evaluate(changed, qrels), expected)


def test_more_queries_than_are_measured_at_a_time():
    queries = [f"q{i}" for i in range(1203)]
    run = run_frame(**{query: "xya"[i % 3 :] for i, query in enumerate(queries)})
    values = evaluate(run, qrels_frame(**{query: {"a": 1} for query in queries}), ["RR@10"])
    assert values["query_id"].tolist() == queries
    assert values["value"].tolist() == [1 / (3 - i % 3) for i in range(1203)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"measures": "RR@10"},
            f"measures: expected a list of names such as {PAPER_MEASURES}, found 'RR@10'",
        ),
        ({"measures": []}, f"measures: expected a list of names such as {PAPER_MEASURES}, found []"),
        (
            {"measures": ["XYZ@10"]},
            "measures: expected ir-measures' notation, found 'XYZ@10' (measure not found: XYZ)",
        ),
        (
            {"measures": ["RBP(q=1)"]},
            "measures: expected ir-measures' notation, found 'RBP(q=1)' (unsupported params found: ['q'])",
        ),
        (
            {"measures": ["RBP@10"]},
            f"measures: ir-measures cannot compute 'RBP@10'; these work: {WORKING}",
        ),
        (
            {"measures": ["RBP", "RBP(p=0.8)"]},
            "measures: expected each measure once, found 'RBP(p=0.8)' a second time (as 'RBP')",
        ),
        ({"measures": ["RBP(p=1)"]}, "measures: expected 0 < p < 1 in RBP, found 'RBP(p=1)'"),
        (
            {"measures": ["map", "RR@10", "mrr", "ndcg_cut_10"]},
            "measures: expected ir-measures' notation, found 'map', 'mrr', 'ndcg_cut_10'; did you mean AP, RR, nDCG@10?",
        ),
        (
            {"measures": ["P_10", "recall@5", "recip_rank"]},
            "measures: expected ir-measures' notation, found 'P_10', 'recall@5', 'recip_rank'; did you mean P@10, R@5, RR?",
        ),
        ({"measures": ["alpha_nDCG@10"]}, f"measures: ir-measures cannot compute 'alpha_nDCG@10'; these work: {WORKING}"),
        (
            {"measures": ["Accuracy"]},
            "measures: Accuracy cannot be computed here (ZeroDivisionError('float division by zero')); these work: "
            f"{WORKING}",
        ),
        ({"relevance_level": 0}, "relevance_level must be at least 1, found 0"),
        ({"relevance_level": 1.5}, "relevance_level must be a whole number, found 1.5"),
    ],
)
def test_unusable_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        evaluate(run_frame(q="a"), qrels_frame(q={"a": 1}), **arguments)


def test_an_accuracy_without_a_relevant_passage_names_the_query():
    run, qrels = run_frame(**{"a-b": "ru", "q-2": "u"}), qrels_frame(**{"a-b": {"r": 1}, "q-2": {"w": 1}})
    with pytest.raises(ValueError, match=r"^measures: Accuracy has no value for 1 of 2 queries \(q-2, say\): .*; these work: RR"):
        evaluate(run, qrels, ["Accuracy"])


@pytest.mark.parametrize(
    ("measure", "values"),
    [
        ("NumRet", [5, 3, 0]), ("NumRet(rel=1)", [2, 0, 0]), ("NumRet(rel=2)", [1, 0, 0]), ("NumRelRet", [2, 0, 0]),
        ("NumRel", [3, 1, 1]), ("NumRel(rel=2)", [2, 0, 1]), ("Judged@5", [3 / 5, 1 / 3, 0]), ("P@5", [2 / 5, 0, 0]),
        ("AP", [(1 / 2 + 2 / 5) / 3, 0, 0]), ("R@2", [1 / 3, 0, 0]), ("Success@1", [0, 0, 0]), ("RR(rel=3)", [1 / 5, 0, 0]),
        ("MRR@10", [1 / 2, 0, 0]), ("Rprec", [1 / 3, 0, 0]), ("SetF", [0.5, 0, 0]),
        # 1/16 at rank 2, and 7/16 at rank 5 for the 15/16 that go on; gdeval prints five decimals.
        ("ERR@10", [0.11328, 0, 0]), ("nDCG(dcg='exp-log2')@5", [0.355476, 0, 0]),
        ("RBP(p=0.99)", [0.01 * (0.99 + 0.99**4), 0, 0]),
    ],
)  # fmt: skip
def test_measures_beyond_the_papers_worked_by_hand(measure, values):
    """u r n v g with r 1, n 0, g 3 and a missed m of 2; a list of which nothing is relevant; no list. Textual ids."""
    run = run_frame(**{"a-b": "urnvg", "q_2": "xyz"})
    qrels = qrels_frame(**{"a-b": {"r": 1, "n": 0, "g": 3, "m": 2}, "q_2": {"x": 0, "w": 1}, "none": {"k": 2}})
    found = evaluate(run, qrels, [measure])
    assert found["value"].tolist() == pytest.approx(values, abs=1e-5 if "ERR" in measure or "exp" in measure else 1e-9)


def test_files_are_measured_like_frames(tmp_path):
    run, qrels = run_frame(q="urnvg"), qrels_frame(q={"r": 1, "n": 0, "g": 3})
    write_run(run, tmp_path / "a.run.gz")
    (tmp_path / "qrels.txt").write_text("q 0 r 1\nq 0 n 0\nq 0 g 3\n")
    pd.testing.assert_frame_equal(evaluate(tmp_path / "a.run.gz", str(tmp_path / "qrels.txt")), evaluate(run, qrels))


def test_many_queries_are_measured_in_a_second():
    """11,877 lists of 20 and the paper's six measures; processor time, the better of two."""
    names = [f"q{number}" for number in range(11_877)]
    docs = [f"d{number}" for number in np.random.default_rng(0).permutation(20 * len(names))]
    run = pd.DataFrame({"query_id": np.repeat(names, 20), "doc_id": docs, "score": np.tile(np.arange(20.0), len(names))})
    qrels = run[7::20][["query_id", "doc_id"]].assign(relevance=1)
    taken = []
    for _ in range(2):
        start = time.process_time()
        assert len(evaluate(run, qrels)) == 6 * len(names)
        taken.append(time.process_time() - start)
    assert min(taken) < 1


def test_a_run_without_a_judged_query_is_refused():
    with pytest.raises(ValueError, match="expected queries with judgments in the run, found none"):
        evaluate(run_frame(q="a"), qrels_frame(other={"a": 1}))


def test_a_bad_run_is_refused():
    with pytest.raises(ValueError, match="^run, row 3: passage 'a' stands a second time for query 'q'"):
        evaluate(run_frame(q="aba"), qrels_frame(q={"a": 1}))


def test_summarize_averages_over_queries():
    qrels = qrels_frame(q1={"a": 1}, q2={"a": 1})
    values = evaluate(run_frame(q1="a", q2="ba"), qrels, ["RR@10", "RBP(p=0.5)"])
    expected = pd.DataFrame({
        "measure": ["RR@10", "RBP(p=0.5)"],
        "mean": [0.75, 0.375],
        "residual": [np.nan, 0.625],
        "queries": [2, 2],
        "text": ["0.750", "0.375 +0.625"],
    })
    pd.testing.assert_frame_equal(summarize(values), expected)


def test_values_print_as_in_the_paper():
    """BERT's RR@10 and RBP p=0.5 in Table 3."""
    assert format_value(0.3841) == "0.384"
    assert format_value(0.1771, 0.8229) == "0.177 +0.823"


def test_paper_names_are_the_papers():
    assert PAPER_NAMES == {
        "RR@10": "MRR@10",
        "RR@100": "MRR@100",
        "nDCG@10": "NDCG@10",
        "nDCG@20": "NDCG@20",
        "RBP(p=0.5)": "RBP0.5",
        "RBP(p=0.8)": "RBP0.8",
    }


def test_queries_that_a_run_lacks_are_counted_in_a_warning():
    """They are 0 in the means, which look like those of a bad system."""
    qrels = pd.DataFrame({"query_id": ["a", "b", "c"], "doc_id": "d", "relevance": 1})
    run = pd.DataFrame({"query_id": ["b", "elsewhere"], "doc_id": "d", "score": 1.0})
    with pytest.warns(UserWarning, match="^the run has no list for 2 of 3 judged queries: they count as 0. Leave their"):
        assert evaluate(run, qrels, ["RR@10"])["value"].tolist() == [0, 1, 0]
    with warnings.catch_warnings(action="error", category=UserWarning):
        evaluate(run.assign(query_id=["b", "a"]), qrels.iloc[:2], ["RR@10"])
