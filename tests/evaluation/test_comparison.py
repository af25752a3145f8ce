import re
import time
from fractions import Fraction
from itertools import product
from math import ceil, floor

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from gdmtl_lib.evaluation.comparison import (
    WinTieLoss,
    area_under_roc,
    by_category,
    compare,
    compare_pairs,
    detectable_difference,
    holm,
    judgment_holes,
    mean_interval,
    query_deltas,
    rank_shifts,
    shared_information_needs,
    smallest_detectable_difference,
    twin_of,
    twins,
    win_tie_loss,
    win_tie_loss_table,
    with_marks,
)
from gdmtl_lib.evaluation.measures import evaluate


def values_frame(measure: str = "RR@10", **values: float) -> pd.DataFrame:
    rows = [(query, measure, value) for query, value in values.items()]
    return pd.DataFrame(rows, columns=["query_id", "measure", "value"])


def numbered(values, measure: str = "RR@10") -> pd.DataFrame:
    return values_frame(measure, **{f"q{i}": value for i, value in enumerate(values)})


def run_frame(**rankings: str) -> pd.DataFrame:
    rows = [(query, doc, -float(i)) for query, docs in rankings.items() for i, doc in enumerate(docs)]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score"])


def qrels_frame(**grades: dict[str, int]) -> pd.DataFrame:
    rows = [(query, doc, grade) for query, docs in grades.items() for doc, grade in docs.items()]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "relevance"])


def stretched(mean: float, error: float, n: int) -> np.ndarray:
    """n numbers with this mean and this standard error of the mean."""
    noise = stats.norm.ppf((np.arange(n) + 0.5) / n)
    return mean + (noise - noise.mean()) / noise.std(ddof=1) * error * np.sqrt(n)


# --- compare


def test_compare_worked_by_hand():
    """Differences .1, .2, .3, .4: mean .25, standard deviation sqrt(.05 / 3), error half of that, t = 3.8730.

    t with 3 degrees of freedom: 97.5% point 3.182446, so the interval is .25 -+ .205426; p = .0305.
    """
    table = compare({"bert": numbered([0.1, 0.2, 0.3, 0.4]), "gdmtl": numbered([0.2, 0.4, 0.6, 0.8])}, "bert")
    assert table.columns.tolist() == [
        "measure", "system", "mean", "difference", "low", "high", "p", "p_corrected", "mark",
    ]  # fmt: skip
    bert, gdmtl = table.itertuples(index=False)
    assert bert[:4] == ("RR@10", "bert", pytest.approx(0.25), 0.0)
    assert np.isnan(bert[4:8]).all() and bert.mark == ""
    assert gdmtl[:4] == ("RR@10", "gdmtl", pytest.approx(0.5), pytest.approx(0.25))
    assert (gdmtl.low, gdmtl.high) == pytest.approx((0.25 - 0.205426, 0.25 + 0.205426), abs=1e-6)
    assert gdmtl.p == gdmtl.p_corrected == pytest.approx(0.030466, abs=1e-6)
    assert gdmtl.mark == "△"


def test_compare_equals_scipy_and_statsmodels():
    rng = np.random.default_rng(0)
    names, measures = ["base", "a", "b", "c"], ["RR@10", "nDCG@10"]
    for n in (2, 5, 40, 173):
        raw = {name: {m: rng.random(n) + 0.1 * i for m in measures} for i, name in enumerate(names)}
        frames = {
            name: pd.concat([numbered(raw[name][m], m) for m in measures]).sample(frac=1, random_state=i)
            for i, name in enumerate(names)
        }
        table = compare(frames, "base", measures).set_index(["measure", "system"])
        for m in measures:
            for name in names[1:]:
                row, difference = table.loc[m, name], raw[name][m] - raw["base"][m]
                assert row["mean"] == pytest.approx(raw[name][m].mean(), rel=1e-12)
                test = stats.ttest_rel(raw[name][m], raw["base"][m])
                assert row["p"] == pytest.approx(test.pvalue, rel=1e-12)
                interval = DescrStatsW(difference).tconfint_mean(0.05)
                assert (row["low"], row["high"]) == pytest.approx(interval, rel=1e-12, abs=1e-12)
        tested = table.dropna(subset="p")
        together = with_marks(tested.reset_index()).set_index(["measure", "system"])
        families = [(tested.xs(m, drop_level=False), tested) for m in measures] + [(tested, together)]
        for rows, table in families:
            expected = multipletests(rows["p"], method="holm")[1]
            assert table.loc[rows.index, "p_corrected"].to_numpy() == pytest.approx(expected, rel=1e-12)


def test_marks_stand_for_the_corrected_p_and_its_direction():
    """One system, so nothing to correct; p is set by the standard error at 6,980 queries."""
    n, base = 6980, np.zeros(6980)
    for t, expected in ((2.7, "▲"), (2.2, "△"), (1.5, ""), (-1.5, ""), (-2.2, "▽"), (-2.7, "▼")):
        table = compare({"bert": numbered(base), "gdmtl": numbered(stretched(t * 0.001, 0.001, n))}, "bert")
        assert table["mark"].tolist() == ["", expected], t


def test_correction_takes_a_mark_away():
    """p = .04 alone is below .05, with a second test of p = 1 it is .08."""
    n = 100
    t = stats.t.isf(0.02, n - 1)
    systems = {"bert": numbered(np.zeros(n)), "gdmtl": numbered(stretched(t, 1, n))}
    assert compare(systems, "bert")["mark"].tolist() == ["", "△"]
    table = compare(systems | {"same": numbered(np.zeros(n))}, "bert")
    assert table["p_corrected"].tolist() == pytest.approx([np.nan, 0.08, 1.0], nan_ok=True)
    assert table["mark"].tolist() == ["", "", ""]


def test_a_family_is_a_measure():
    """p = .04 for each of two measures: alone .04, together .08."""
    n = 100
    better = stretched(stats.t.isf(0.02, n - 1), 1, n)
    systems = {
        name: pd.concat([numbered(values, "RR@10"), numbered(values, "nDCG@10")])
        for name, values in (("bert", np.zeros(n)), ("gdmtl", better))
    }
    alone = compare(systems, "bert").dropna(subset="p")
    assert alone["p_corrected"].tolist() == pytest.approx([0.04, 0.04])
    assert with_marks(alone)["p_corrected"].tolist() == pytest.approx([0.08, 0.08])


def test_systems_that_never_differ_have_p_one():
    same = numbered([0.1, 0.7, 0.3])
    row = compare({"bert": same, "copy": same}, "bert").iloc[1]
    assert row[["difference", "low", "high", "p", "p_corrected", "mark"]].tolist() == [0, 0, 0, 1, 1, ""]


@pytest.mark.parametrize("queries", [2, 12, 12_000])
def test_what_rounding_made_is_no_difference(queries):
    """BM25's values as means over five seeds, added in another order: equal but for the last bits of some."""
    values = np.random.default_rng(queries).random(queries)
    other = (values * 0.1 + values * 0.2 + values * 0.7) / 1.0000000000000002
    assert (values != other).any() and np.abs(values - other).max() < 1e-15
    row = compare({"bm25": numbered(values), "again": numbered(other)}, "bm25").iloc[1]
    assert row[["difference", "low", "high", "p", "p_corrected", "mark"]].tolist() == [0, 0, 0, 1, 1, ""]
    assert win_tie_loss(numbered(values), numbered(other), "RR@10", tolerance=0) == (0, queries, 0)
    deltas = query_deltas(numbered(values), numbered(other), "RR@10")
    assert not deltas["difference"].any() and deltas["query_id"].tolist() == sorted(deltas["query_id"])


def test_a_constant_difference_but_for_rounding_leaves_no_doubt():
    values = np.arange(1, 9) / 10
    row = compare({"bert": numbered(values), "gdmtl": numbered(values + 0.1)}, "bert").iloc[1]
    assert (row["p"], row["mark"]) == (0, "▲") and row["low"] == row["high"] == pytest.approx(0.1)


def test_the_same_difference_everywhere_leaves_no_doubt():
    row = compare({"bert": numbered([0.25, 0.5]), "gdmtl": numbered([0.5, 0.75])}, "bert").iloc[1]
    assert row[["difference", "low", "high", "p", "mark"]].tolist() == [0.25, 0.25, 0.25, 0, "▲"]


def test_a_single_query_is_not_tested():
    row = compare({"bert": numbered([0.2]), "gdmtl": numbered([0.5])}, "bert").iloc[1]
    assert row["difference"] == pytest.approx(0.3)
    assert row[["low", "high", "p", "p_corrected"]].isna().all() and row["mark"] == ""


@pytest.mark.parametrize(
    ("low", "high", "p_corrected", "tests"), [(0.0038, 0.0171, 0.0205, 10), (0.0029, 0.0141, 0.0260, 9)]
)
def test_section_6_4_fits_all_pairs_of_six_systems(low, high, p_corrected, tests):
    """The printed intervals give p, up to their rounding; only ten and nine times p fit the corrected p.

    So it is with the sixth and seventh smallest of fifteen: all pairs of Table 10's six systems, one measure.
    """
    base, half = numbered(np.zeros(6980)), 0.00005
    ratios = []
    for left, right in product((low - half, low + half), (high - half, high + half)):
        error = (right - left) / 2 / stats.t.isf(0.025, 6979)
        other = numbered(stretched((left + right) / 2, error, 6980))
        row = compare({"gdmtl_s": base, "other": other}, "gdmtl_s").iloc[1]
        assert (row["low"], row["high"]) == pytest.approx((left, right), abs=1e-12)
        ratios.append(p_corrected / row["p"])
    assert ceil(min(ratios)) == floor(max(ratios)) == tests


BERT = numbered([0.1, 0.2])


@pytest.mark.parametrize(
    ("systems", "arguments", "message"),
    [
        ({"bert": BERT}, {"baseline": "mono"}, "baseline: expected one of bert, found 'mono'"),
        ({"bert": BERT, 2: BERT}, {"baseline": ["bert"]}, "baseline: expected one of bert, 2, found ['bert']"),
        ({"bert": BERT}, {"baseline": BERT}, "baseline: expected one of bert, found a frame with query_id, measure, value"),
        ({"bert": BERT}, {"measures": 5}, "measures: expected a list of names, each once, found 5"),
        ({"bert": BERT}, {"measures": [["RR@10"]]}, "measures: expected a list of names, each once, found [['RR@10']]"),
        ({"bert": BERT}, {"measures": ["RR@5"]}, "bert: unknown measure 'RR@5' (did you mean 'RR@10'?): there are values of RR@10"),
        ({"bert": BERT}, {"measures": []}, "measures: expected a list of names, each once, found []"),
        ({"bert": BERT}, {"measures": "RR@10"}, "measures: expected a list of names, each once, found 'RR@10'"),
        (
            {"bert": BERT, "gdmtl": BERT.drop(columns="measure")},
            {},
            "gdmtl: expected the columns query_id, measure, value, found query_id, value; add measure",
        ),
        (
            {"bert": BERT, "gdmtl": pd.concat([BERT, BERT])},
            {},
            "gdmtl: expected one RR@10 for a query, found two for 2 queries (q0, q1)",
        ),
        (
            {"bert": BERT, "gdmtl": numbered([0.1, np.nan])},
            {},
            "gdmtl: expected a number as RR@10, found NaN for 1 query (q1)",
        ),
        (
            {"bert": numbered([0.1] * 6), "gdmtl": values_frame(q0=1, q9=1)},
            {},
            "RR@10: expected bert and gdmtl to be measured on the same queries, found that only bert has "
            "5 queries (q1, q2, q3, ...) and only gdmtl has 1 query (q9); evaluate both with the same qrels",
        ),
        (
            {"bert": BERT, "gdmtl": values_frame(q0=1)},
            {},
            "RR@10: expected bert and gdmtl to be measured on the same queries, found that only bert has "
            "1 query (q1); evaluate both with the same qrels",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(systems, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        compare(systems, **{"baseline": "bert"} | arguments)


def test_pairs_are_corrected_within_a_measure():
    """Every pair is what `compare` says of it alone; Holm over the three pairs of each measure."""
    generator = np.random.default_rng(4)
    systems = {}
    for number, name in enumerate("abc"):
        frames = [numbered(generator.random(30) + 0.1 * number, measure) for measure in ("RR@10", "nDCG@10")]
        systems[name] = pd.concat(frames, ignore_index=True)
    table = compare_pairs(systems, ["RR@10", "nDCG@10"])
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    assert list(zip(table["measure"], table["baseline"], table["system"])) == [
        (measure, *pair) for measure in ("RR@10", "nDCG@10") for pair in pairs
    ]
    columns = ["mean", "difference", "low", "high", "p"]
    for row in table.itertuples():
        two = {name: systems[name] for name in (row.baseline, row.system)}
        alone = compare(two, row.baseline, [row.measure]).set_index("system").loc[row.system]
        assert table.loc[row.Index, columns].tolist() == alone[columns].tolist()
    for _, rows in table.groupby("measure"):
        expected = multipletests(rows["p"], method="holm")[1]
        assert rows["p_corrected"].to_numpy() == pytest.approx(expected, abs=1e-15)
        assert [bool(mark) for mark in rows["mark"]] == list(expected < 0.05)
    assert table["mark"].isin(["▲", "△"]).any() and (table["mark"] == "").any()


def test_pairs_need_the_same_queries():
    with pytest.raises(ValueError, match="expected a and b to be measured on the same queries"):
        compare_pairs({"a": values_frame(q1=0.5), "b": values_frame(q2=0.5)}, ["RR@10"])
    for measures in ([], "RR@10", None):
        with pytest.raises(ValueError, match=f"^measures: expected a list of names, each once, found {re.escape(repr(measures))}$"):
            compare_pairs({"a": BERT, "b": BERT}, measures)


def test_holm_worked_by_hand():
    """Sorted .01 .02 .03 .5: times 4, 3, 2, 1 gives .04 .06 .06 .5; a NaN is no test."""
    corrected = holm([0.03, 0.5, np.nan, 0.01, 0.02])
    assert corrected == pytest.approx([0.06, 0.5, np.nan, 0.04, 0.06], nan_ok=True)
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]).tolist() == []


# --- by category


def test_categories_have_shares_and_tests_of_their_own():
    n = 100
    t = stats.t.isf(0.005, n - 1)  # p = .01 alone
    systems = {
        "bert": numbered(np.zeros(150)),
        "gdmtl": numbered([*np.zeros(50), *stretched(t, 1, n)]),
    }
    categories = pd.DataFrame({
        "query_id": [f"q{i}" for i in range(150)] + ["elsewhere"],
        "text": "?",
        "category": ["person"] * 50 + ["numeric"] * 100 + ["entity"],
    })
    table = by_category(systems, categories, "bert")
    assert table[["category", "queries", "share", "system", "mark"]].values.tolist() == [
        ["numeric", 100, pytest.approx(2 / 3), "bert", ""],
        ["numeric", 100, pytest.approx(2 / 3), "gdmtl", "△"],
        ["person", 50, pytest.approx(1 / 3), "bert", ""],
        ["person", 50, pytest.approx(1 / 3), "gdmtl", ""],
    ]
    # The two categories are one family: .01 is doubled.
    assert table["p_corrected"].tolist() == pytest.approx([np.nan, 0.02, np.nan, 1.0], nan_ok=True)
    assert table["mean"].tolist() == pytest.approx([0, t, 0, 0])


def test_levels_of_a_categorical_that_no_query_has_are_left_out():
    systems = {"bert": numbered([0.1, 0.2, 0.3]), "gdmtl": numbered([0.4, 0.1, 0.5])}
    categories = pd.DataFrame({"query_id": ["q0", "q1", "q2"], "category": ["person", "person", "entity"]})
    levels = pd.Categorical(categories["category"], ["place", "person", "entity"])
    expected = by_category(systems, categories, "bert")
    pd.testing.assert_frame_equal(by_category(systems, categories.assign(category=levels), "bert"), expected)
    assert expected["category"].tolist() == ["person"] * 2 + ["entity"] * 2


def test_many_categories_take_little_longer_than_few():
    rng = np.random.default_rng(0)
    systems = {name: numbered(rng.random(6000)) for name in ("bert", "gdmtl")}
    categories = pd.DataFrame({"query_id": systems["bert"]["query_id"], "category": np.arange(6000) // 10})
    start = time.thread_time()
    table = by_category(systems, categories, "bert")
    assert time.thread_time() - start < 6 and len(table) == 1200  # 12 seconds and more, where each filtered all values


def test_a_category_of_one_query_is_not_tested():
    systems = {"bert": numbered([0, 0.5, 0]), "gdmtl": numbered([1, 1, 1])}
    categories = pd.DataFrame({"query_id": ["q0", "q1", "q2"], "category": ["person", "person", "entity"]})
    table = by_category(systems, categories, "bert")
    assert table["p"].isna().tolist() == [True, False, True, True]
    assert table["p_corrected"][1] == table["p"][1]


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (None, "categories: expected query_id, category, found None"),
        ({"query_id": ["q0", "q1"]}, "categories: expected query_id, category, found query_id"),
        ({"query_id": ["q0", "q1"], "text": "a"}, "categories: expected query_id, category, found query_id, text; runs take a "
         "file of them as `categories`, a collection has categories.<split>.tsv"),
        (
            {"query_id": ["q0", "q1"], "category": ["person", None]},
            "categories: expected one for each measured query, found none for 1 query (q1)",
        ),
        (
            {"query_id": ["q0", "q1", "q1"], "category": ["person", "person", "entity"]},
            "categories: expected one category for a query, found two for 1 query (q1)",
        ),
    ],
)
def test_unusable_categories_are_refused(categories, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        by_category({"bert": BERT}, categories and pd.DataFrame(categories), "bert")
    with pytest.raises(ValueError, match=r"^measure: expected a name, found \['RR@10'\]$"):
        by_category({"bert": BERT}, pd.DataFrame(categories), "bert", ["RR@10"])


# --- win, tie, loss


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (1 / 9, 1 / 10, WinTieLoss(0, 1, 0)),  # exactly 10%
        (1 / 8, 1 / 9, WinTieLoss(0, 0, 1)),  # 11%
        (1 / 10, 1 / 9, WinTieLoss(1, 0, 0)),  # the share is the baseline's: 11%
        (0.5, 0.55, WinTieLoss(0, 1, 0)),
        (0.5, 0.55001, WinTieLoss(1, 0, 0)),
        (0.5, 0.44999, WinTieLoss(0, 0, 1)),
        (0.0, 1e-12, WinTieLoss(1, 0, 0)),
        (0.0, 0.0, WinTieLoss(0, 1, 0)),
        (1e-12, 0.0, WinTieLoss(0, 0, 1)),
    ],
)
def test_a_tie_is_a_change_of_at_most_a_tenth(a, b, expected):
    assert win_tie_loss(numbered([a]), numbered([b]), "RR@10") == expected


def test_ties_of_reciprocal_ranks_equal_exact_fractions():
    ranks = [None, *range(1, 101)]
    exact = {rank: Fraction(1, rank) if rank else Fraction(0) for rank in ranks}
    pairs = [(a, b) for a in ranks for b in ranks]
    tie = [abs(exact[b] - exact[a]) <= exact[a] / 10 for a, b in pairs]
    win = [exact[b] > exact[a] and not same for (a, b), same in zip(pairs, tie, strict=True)]
    found = win_tie_loss(
        numbered([float(exact[a]) for a, _ in pairs]), numbered([float(exact[b]) for _, b in pairs]), "RR@10"
    )
    assert found == (sum(win), sum(tie), len(pairs) - sum(win) - sum(tie))


def test_the_tolerance_is_a_parameter():
    a, b = numbered([0.5, 0.5, 0.5]), numbered([0.5, 0.51, 0.2])
    assert win_tie_loss(a, b, "RR@10", tolerance=0) == (1, 1, 1)
    assert win_tie_loss(a, b, "RR@10", tolerance=0.6) == (0, 3, 0)
    with pytest.raises(ValueError, match=r"^tolerance: expected a share of at least 0, found -0.1$"):
        win_tie_loss(a, b, "RR@10", tolerance=-0.1)


def test_every_system_meets_every_earlier_one():
    systems = {"mono": numbered([0.5, 0.5]), "bert": numbered([1, 0.5]), "gdmtl": numbered([1, 0.1])}
    assert win_tie_loss_table(systems, "RR@10").values.tolist() == [
        ["mono", "bert", 1, 1, 0],
        ["mono", "gdmtl", 1, 0, 1],
        ["bert", "gdmtl", 0, 1, 1],
    ]


@pytest.mark.parametrize(
    ("counts", "queries"),
    [
        # Table 4, MS MARCO dev
        ((1735, 3775, 1470), 6980),
        ((1755, 3805, 1420), 6980),
        ((1827, 3764, 1389), 6980),
        ((1375, 4333, 1272), 6980),
        ((1445, 4281, 1254), 6980),
        ((1317, 4459, 1204), 6980),
        # Table 7, CAsT
        ((87, 39, 47), 173),
        ((93, 41, 39), 173),
        ((65, 59, 49), 173),
    ],
)
def test_the_papers_counts_come_out_of_so_many_queries(counts, queries):
    """Win, tie and loss of Tables 4 and 7 leave no query out; made into values, they are counted again."""
    win, tie, loss = counts
    b = numbered([1.0] * win + [0.5] * tie + [0.1] * loss)
    assert len(b) == queries
    assert win_tie_loss(numbered([0.5] * queries), b, "RR@10") == counts


# --- differences by query


def test_query_deltas_stand_from_gain_to_loss():
    a = values_frame("nDCG@10", q1=0.5, q2=0.5, q3=0.5, q10=0.5)
    b = values_frame("nDCG@10", q10=0.75, q3=1.0, q2=0.75, q1=0.25)
    expected = pd.DataFrame({
        "query_id": ["q3", "q10", "q2", "q1"],
        "baseline": [0.5] * 4,
        "system": [1.0, 0.75, 0.75, 0.25],
        "difference": [0.5, 0.25, 0.25, -0.25],
    })
    pd.testing.assert_frame_equal(query_deltas(a, b, "nDCG@10"), expected)


# --- rank shifts


def test_rank_shifts_count_every_relevant_passage_once():
    """q1: x moves from 2 to 1, y from 1 to 3, below depth. q2: b misses z of rank 2. q3: b has no list."""
    qrels = qrels_frame(q1={"x": 1, "y": 2, "n": 0}, q2={"z": 1}, q3={"x": 1}, q4={"never": 1})
    run_a = run_frame(q1="yxn", q2="nz", q3="x", unjudged="x")
    run_b = run_frame(q1="xny", q2="mz")
    expected = pd.DataFrame({
        "rank": ["1", "2", "below rank 2", "missed by the first stage"],
        "baseline": [2, 2, 0, 1],
        "system": [1, 1, 1, 2],
        "change": [-1, -1, 1, 1],
    })
    pd.testing.assert_frame_equal(rank_shifts(run_a, run_b, qrels, depth=2), expected)
    assert rank_shifts(run_a, run_b, qrels, depth=2, relevance_level=2)["change"].tolist() == [-1, 0, 1, 0]


def test_rank_shifts_sum_to_zero_and_equal_a_slow_count():
    rng = np.random.default_rng(0)
    docs = list("abcdefghij")
    for _ in range(20):
        queries = [f"q{i}" for i in range(12)]
        rankings = [{q: rng.permutation(docs)[: rng.integers(1, 11)] for q in queries} for _ in range(2)]
        qrels = qrels_frame(**{q: {doc: int(rng.integers(0, 3)) for doc in docs[:6]} for q in queries})
        depth = int(rng.integers(1, 12))
        table = rank_shifts(*(run_frame(**ranking) for ranking in rankings), qrels, depth)
        assert table["change"].sum() == 0
        relevant = qrels.loc[qrels["relevance"] >= 1, ["query_id", "doc_id"]].values.tolist()
        for name, ranking in zip(("baseline", "system"), rankings, strict=True):
            counts = [
                sum(ranking[query][rank - 1 : rank].tolist() == [doc] for query, doc in relevant)
                for rank in range(1, depth + 1)
            ]
            below = sum(doc in ranking[query][depth:] for query, doc in relevant)
            assert table[name].tolist() == [*counts, below, len(relevant) - sum(counts) - below]


def test_unusable_rank_shifts_are_refused():
    run, qrels = run_frame(q="a"), qrels_frame(q={"a": 1})
    with pytest.raises(ValueError, match=r"^depth must be at least 1, found 0$"):
        rank_shifts(run, run, qrels, depth=0)
    with pytest.raises(ValueError, match="expected queries with judgments in the run, found none"):
        rank_shifts(run, run_frame(other="a"), qrels)
    with pytest.raises(ValueError, match=r"^relevance_level must be at least 1, found 0$"):
        rank_shifts(run, run, qrels, relevance_level=0)
    message = "qrels: expected a judgment of relevance 2 or more, found 1 at most; lower relevance_level"
    with pytest.raises(ValueError, match=f"^{message}$"):
        rank_shifts(run, run, qrels, relevance_level=2)


# --- scores, shared needs, power


def test_area_under_roc_equals_scikit_learn():
    rng = np.random.default_rng(0)
    run = pd.DataFrame({
        "query_id": [f"q{i % 5}" for i in range(200)],
        "doc_id": [f"d{i}" for i in range(200)],
        "score": rng.integers(0, 30, 200).astype(float),
    })
    judged = run[run["query_id"] != "q4"]
    qrels = judged.assign(relevance=rng.integers(-1, 3, len(judged)))[["query_id", "doc_id", "relevance"]]
    expected = roc_auc_score(qrels["relevance"] >= 2, judged["score"])
    assert area_under_roc(run, qrels, relevance_level=2) == pytest.approx(expected, rel=1e-12)


def test_area_under_roc_worked_by_hand():
    """Relevant 3 and 1 against 2 and, unjudged, 1: above both, below one and equal to one: (2 + .5) / 4."""
    run = pd.DataFrame({"query_id": "q", "doc_id": list("abcd"), "score": [3.0, 1.0, 2.0, 1.0]})
    assert area_under_roc(run, qrels_frame(q={"a": 1, "b": 1, "c": 0})) == 0.625
    with pytest.raises(ValueError, match="of judged queries, found 0 relevant and 4 others$"):
        area_under_roc(run, qrels_frame(q={"missed": 1}))


def test_shared_needs_are_pairs_of_queries_with_a_relevant_passage_in_common():
    """The first two pairs of Table 9, and what does not count at the test set's level of 2."""
    train = qrels_frame(**{"556252": {"883439": 1}, "564795": {"97921": 1}, "1": {"97921": 0, "5": 1}})
    test = qrels_frame(**{"69_6": {"97921": 2, "5": 1}, "67_8": {"883439": 4, "8": 3}})
    assert shared_information_needs(train, test, levels=(1, 2)).values.tolist() == [
        ["69_6", "564795", "97921"],
        ["67_8", "556252", "883439"],
    ]
    assert shared_information_needs(train, test).values.tolist() == [
        ["69_6", "564795", "97921"],
        ["69_6", "1", "5"],
        ["67_8", "556252", "883439"],
    ]


def test_nothing_shared_is_an_empty_table():
    shared = shared_information_needs(qrels_frame(a={"d": 1}), qrels_frame(b={"e": 1}))
    assert shared.columns.tolist() == ["test_query_id", "train_query_id", "doc_id"] and shared.empty


@pytest.mark.parametrize("queries", [2, 10, 173, 6980])
def test_the_detectable_difference_is_found_with_the_power_asked_for(queries):
    """Power from scipy's noncentral t: the chance that |t| passes the critical value."""
    difference = smallest_detectable_difference(0.3, queries)
    critical, shift = stats.t.isf(0.025, queries - 1), difference / 0.3 * np.sqrt(queries)
    power = stats.nct.sf(critical, queries - 1, shift) + stats.nct.cdf(-critical, queries - 1, shift)
    assert power == pytest.approx(0.8, abs=1e-5)


def test_the_detectable_difference_of_many_queries_is_the_normal_approximation():
    """(1.959964 + .841621) std / sqrt(n) for n = 6,980 and std .3: .01006."""
    assert smallest_detectable_difference(0.3, 6980) == pytest.approx(0.01006, abs=1e-5)
    assert smallest_detectable_difference(0.0, 6980) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 10), "std: expected a standard deviation, found -1"),
        ((float("nan"), 10), "std: expected a standard deviation, found nan"),
        ((1, 1), "queries: expected at least 2, found 1; a t-test needs a spread"),
    ],
)
def test_unusable_power_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        smallest_detectable_difference(*arguments)


def test_a_single_seed_shows_what_the_papers_interval_does():
    """Section 6.4, GDMTL_C against GDMTL_S: .0029 to .0141 over 6,980 queries; four times in five 2.80 errors are found."""
    error = (0.0141 - 0.0029) / 2 / stats.t.isf(0.025, 6979)
    assert detectable_difference(6980) == pytest.approx(2.8016 * error, rel=0.01)
    assert detectable_difference(6980, seeds=4) == pytest.approx(detectable_difference(6980) / 2)
    assert detectable_difference(100, std=0.1) == pytest.approx(smallest_detectable_difference(0.1, 100))


def test_a_difference_is_found_as_often_as_promised():
    """Simulated: a true difference of that size, three seeds, 400 queries."""
    generator, queries, seeds, std = np.random.default_rng(0), 400, 3, 0.3
    true = detectable_difference(queries, seeds, std)
    drawn = (true + generator.normal(0, std, (seeds, queries)).mean(0) for _ in range(400))
    assert sum(mean_interval(each)[3] < 0.05 for each in drawn) / 400 == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("arguments", [{"seeds": 0}, {"queries": 1}])
def test_unusable_budgets_are_refused(arguments):
    with pytest.raises(ValueError, match="^(seeds|queries): expected"):
        detectable_difference(**{"queries": 10} | arguments)


def test_judgment_holes_are_the_ends_of_all_judgments_to_come():
    """Of all 2^5 ways to judge what nobody has, the worst and the best for the system; two seeds count half each."""
    qrels = qrels_frame(q0={"a": 1, "b": 0}, q1={"c": 1, "z": -1})
    runs = {"bert": [run_frame(q0="bax", q1="cyz")], "gdmtl": [run_frame(q0="uab", q1="zyc"), run_frame(q0="xab", q1="cyz")]}

    def means(qrels):
        return {
            name: pd.concat([evaluate(run, qrels, ["RBP(p=0.5)"]) for run in of_seeds])
            .groupby(["query_id", "measure"], as_index=False)["value"].mean()
            for name, of_seeds in runs.items()
        }  # fmt: skip

    [row] = judgment_holes(means(qrels), runs, qrels, "bert").itertuples()
    unjudged = [("q0", "x"), ("q0", "u"), ("q1", "y"), ("q1", "z")]
    found = []
    for grades in product((0, 1), repeat=len(unjudged)):
        more = pd.DataFrame([(*pair, grade) for pair, grade in zip(unjudged, grades)], columns=qrels.columns)
        values = means(pd.concat([qrels[qrels["relevance"] >= 0], more]))
        found.append(values["gdmtl"]["value"].mean() - values["bert"]["value"].mean())
    assert [row.least, row.most] == pytest.approx([min(found), max(found)])


@pytest.mark.parametrize("runs", [{"bert": 1}, {"gdmtl": 1}, {"bert": 1, "gdmtl": 0}, {"bert": 1, "gdmtl": None}])
def test_judgment_holes_take_a_run_of_every_system(runs):
    run, qrels = run_frame(q="ab"), qrels_frame(q={"a": 1})
    values = dict.fromkeys(("bert", "gdmtl"), evaluate(run, qrels, ["RBP(p=0.5)"]))
    given = {name: run if count is None else [run] * count for name, count in runs.items()}
    lacking = next(name for name in ("bert", "gdmtl") if runs.get(name) != 1)
    with pytest.raises(ValueError, match=f"runs_by_system: expected a list of one run or more of '{lacking}', found "):
        judgment_holes(values, given, qrels, "bert")


def test_judgment_holes_reach_as_deep_as_the_weights_of_ranks():
    """Two hundred passages that the other list does not have, and nobody has judged: all of their weight is open."""
    qrels = qrels_frame(q0={"a": 1})
    runs = {name: run_frame(q0=["a", *(f"{name}{i}" for i in range(200))]) for name in ("bert", "gdmtl")}
    for p in (0.5, 0.95):
        values = {name: evaluate(run, qrels, [f"RBP(p={p})"]) for name, run in runs.items()}
        [row] = judgment_holes(values, {name: [run] for name, run in runs.items()}, qrels, "bert", p).itertuples()
        assert [row.least, row.most] == pytest.approx([p**201 - p, p - p**201])


def test_twins_are_compared_seed_by_seed():
    rng = np.random.default_rng(1)
    frames = {name: {seed: numbered(rng.random(40)) for seed in seeds} for name, seeds in
              {"bm25": [0], "bert": [0, 1, 2], "gdmtl": [0, 2, 5], "gdmtl_s": [0], "mine": [0]}.items()}  # fmt: skip
    [row] = twins(frames).itertuples()
    assert (row.system, row.twin, row.seeds) == ("gdmtl", "bert", 2)
    each = {name: [frames[name][seed]["value"].to_numpy() for seed in (0, 2)] for name in ("bert", "gdmtl")}
    assert row.by_seed == pytest.approx([(b - a).mean() for a, b in zip(each["bert"], each["gdmtl"])])
    means = {name: numbered(np.mean(values, axis=0)) for name, values in each.items()}
    tested = compare(means, "bert").iloc[1]
    assert [row.difference, row.low, row.high, row.p] == pytest.approx(tested[["difference", "low", "high", "p"]].tolist())
    with pytest.raises(ValueError, match=r"expected bert, seed 0 and bert, seed 2 to be measured on the same queries, .*\(q40\)"):
        twins({name: of | {2: numbered(rng.random(41))} for name, of in frames.items()})
    assert twins({"bert": frames["bert"]}).empty
    assert [twin_of(name) for name in ("gdmtl", "gdmtl_plus", "gdmtl_s", "gdmtl_c", "bert", "bm25", "mine")] == [
        "bert", "bert", "bart_s", "bart_c", None, None, None,
    ]  # fmt: skip
