"""Which of two systems is better, on what, and whether the queries suffice to say so.

Per-query values are frames `query_id, measure, value` as `evaluate` returns them. Systems are compared query by query,
so they have to be measured on the same queries. Marks are the paper's: ▲ ▼ for better and worse at p < 0.01, △ ▽ at
p < 0.05.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations
from operator import attrgetter

import numpy as np
import pandas as pd
from pandas.api.types import is_hashable
from scipy import stats

from gdmtl_lib.data.files import kind_of
from gdmtl_lib.data.rounding import TOLERANCE, difference, equal
from gdmtl_lib.data.trec import canonical_order, of_judged_queries, require_columns, validate_qrels, validate_run
from gdmtl_lib.settings import check_count, is_number
from gdmtl_lib.systems import SYSTEMS, unknown_name

ALPHA, STRONG_ALPHA = 0.05, 0.01  # levels of the marks △ ▽ and ▲ ▼; intervals cover 1 - ALPHA
POWER = 0.8  # with which a difference is to be found
TIE = 0.1  # a change of at most this share of the baseline's value is a tie (Tables 4 and 7)
# The per-query differences in RR@10 of two systems trained once each spread by so much: 0.24 and 0.28 in Section 6.4,
# 0.16 to 0.19 on SQuAD's sentences. Those of means over seeds spread less, as the root of their number says.
SPREAD = 0.24
MISSED = "missed by the first stage"


def compare(
    values_by_system: dict[str, pd.DataFrame], baseline: str, measures: Sequence[str] | None = None
) -> pd.DataFrame:
    """Test every system against a baseline: the marks of Tables 3, 6, 8 and 10, the intervals of Section 6.4.

    Paired two-sided t-tests, Holm-Bonferroni corrected. The paper does not name its family. Its two corrected p in
    Section 6.4 are ten and nine times what their intervals imply: this fits one measure and all pairs of Table 10's six
    systems, and is why the tests of one measure are corrected together here.

    values_by_system: a system's name to its `query_id, measure, value`. measures: in which order; all that the baseline
    has when None.

    Returns a row for each measure and system, the baseline too: `measure`, `system`, `mean`, `difference` (to the
    baseline), `low` and `high` (its interval, uncorrected), `p`, `p_corrected`, `mark`. The last five are NaN and empty
    for the baseline and where there is a single query. Equal systems have p = 1.

        mine, theirs = gdmtl.evaluate("a.run", "qrels.txt"), gdmtl.evaluate("b.run", "qrels.txt")
        gdmtl.compare({"mine": mine, "theirs": theirs}, baseline="theirs")

    Raises ValueError for an unknown baseline or measure, systems measured on different queries, and a value that is
    missing or stands twice.
    """
    _check(values_by_system, baseline)
    measures = values_by_system[baseline]["measure"].unique() if measures is None else measures
    table = _tests(values_by_system, measures, [(baseline, system) for system in values_by_system])
    return with_marks(table.drop(columns="baseline"), table["measure"])


def judgment_holes(
    values_by_system: dict[str, pd.DataFrame], runs_by_system: Mapping[str, Sequence[pd.DataFrame]], qrels: pd.DataFrame,
    baseline: str, p: float = 0.5,
) -> pd.DataFrame:
    """What unjudged passages could make of each system's gain in RBP (Moffat and Zobel, 2008): `least` if those are relevant
    that the baseline ranks higher, `most` if those that the system does. No judgment of what they list can move it further.

    values_by_system: as `evaluate` returns them, with `RBP(p=...)`. runs_by_system: the runs behind them, one a seed.
    Returns the rows of `compare`, but the baseline's, with `least` and `most`. Raises as `compare`, and ValueError for a
    system without a run.
    """
    for system in values_by_system:
        if isinstance(runs := runs_by_system.get(system, ()), pd.DataFrame) or not len(runs):
            raise ValueError(f"runs_by_system: expected a list of one run or more of {system!r}, found {kind_of(runs)}")
    rows = compare(values_by_system, baseline, [f"RBP(p={p})"]).query("system != @baseline").reset_index(drop=True)
    judged = pd.MultiIndex.from_frame(qrels.loc[qrels["relevance"] >= 0, ["query_id", "doc_id"]])
    weights, deepest = {}, -64 / np.log2(p)  # below which p^rank < 2^-64 is no weight
    for system, runs in runs_by_system.items():
        run = pd.concat([of_judged_queries(canonical_order(run).query(f"rank <= {deepest}"), qrels) for run in runs])
        run = run.assign(weight=(1 - p) * p ** (run["rank"] - 1.0) / len(runs)).set_index(["query_id", "doc_id"])
        weights[system] = run.loc[~run.index.isin(judged), "weight"].groupby(level=[0, 1]).sum()
    weights = pd.DataFrame(weights).fillna(0.0)
    moved = weights.sub(weights[baseline], axis=0) / qrels["query_id"].nunique()
    ends = {"least": moved.clip(upper=0).sum(), "most": moved.clip(lower=0).sum()}
    return rows.assign(**{name: rows["difference"] + rows["system"].map(end) for name, end in ends.items()})


def compare_pairs(values_by_system: dict[str, pd.DataFrame], measures: Sequence[str]) -> pd.DataFrame:
    """Test every system against every earlier one, as `compare` does (Section 6.4). Returns a row for each measure and
    pair: `measure`, `baseline`, `system`, then as `compare`. Raises as `compare`, and for fewer than two systems."""
    if len(values_by_system) < 2:
        raise ValueError(f"expected two systems or more, found {', '.join(values_by_system) or 'none'}")
    table = _tests(values_by_system, measures, list(combinations(values_by_system, 2)))
    return with_marks(table, table["measure"])


def by_category(
    values_by_system: dict[str, pd.DataFrame], categories: pd.DataFrame, baseline: str, measure: str = "RR@10"
) -> pd.DataFrame:
    """Test every system against a baseline within each category of queries, Holm-Bonferroni over all of them (Table 5).

    categories: `query_id` str, `category` str, one for each measured query. The others, and raises: as `compare`.

    Returns a row for each category, the largest first, and system: `category`, `queries` (how many), `share` (of all
    measured queries, 0 to 1), then as `compare` from `system` on.
    """
    _check(values_by_system, baseline)
    values = _aligned(values_by_system, measure)
    if not {"query_id", "category"} <= (columns := set(getattr(categories, "columns", ()))):
        of_queries = "; runs take a file of them as `categories`, a collection has categories.<split>.tsv" * ("text" in columns)
        found = kind_of(categories).removeprefix("a frame with ")
        raise ValueError(f"categories: expected query_id, category, found {found}{of_queries}")
    category_of = categories.dropna(subset="category").set_index("query_id")["category"]
    if twice := set(category_of.index[category_of.index.duplicated()]):
        raise ValueError(f"categories: expected one category for a query, found two for {_some(twice)}")
    if without := set(values.index) - set(category_of.index):
        raise ValueError(f"categories: expected one for each measured query, found none for {_some(without)}")
    category_of = category_of.loc[values.index]
    parts = dict(iter(values.groupby(category_of, observed=True)))
    rows = [
        {"category": category, "queries": queries, "share": queries / len(values), "system": system,
         **_difference(parts[category], system, baseline)}
        for category, queries in category_of.value_counts().items() if queries  # a Categorical has levels that no query is of
        for system in values_by_system
    ]  # fmt: skip
    return with_marks(pd.DataFrame(rows))


def _tests(
    values_by_system: dict[str, pd.DataFrame], measures: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> pd.DataFrame:
    """Uncorrected tests of pairs of a baseline and a system, measure by measure."""
    measures = list(measures) if isinstance(measures, Iterable) and not isinstance(measures, str) else measures
    are_names = isinstance(measures, list) and all(isinstance(measure, str) for measure in measures)
    # One that stood twice would be corrected as two tests.
    if not are_names or not measures or len(set(measures)) < len(measures):
        raise ValueError(f"measures: expected a list of names, each once, found {measures!r}")
    return pd.DataFrame(
        [
            {"measure": measure, "baseline": baseline, "system": system, **_difference(values, system, baseline)}
            for measure in measures
            for values in [_aligned(values_by_system, measure)]
            for baseline, system in pairs
        ]
    )


WinTieLoss = namedtuple("WinTieLoss", "win tie loss")
"""How many queries a system improves, leaves as they are, and hurts."""


def win_tie_loss(values_a: pd.DataFrame, values_b: pd.DataFrame, measure: str, tolerance: float = TIE) -> WinTieLoss:
    """Count the queries on which b is better than the baseline a, about the same, and worse (Tables 4 and 7): the same
    is a change of at most `tolerance` times the value of a. values_a, values_b: `query_id, measure, value`. measure:
    the paper takes RR@10 for MS MARCO and nDCG@10 for CAsT.

    Raises ValueError for a negative tolerance, an unknown measure, or systems measured on different queries.
    """
    if not is_number(tolerance) or tolerance < 0:
        raise ValueError(f"tolerance: expected a share of at least 0, found {tolerance!r}")
    values = _aligned({"baseline": values_a, "system": values_b}, measure)
    change = difference(values["system"], values["baseline"])
    tie = is_tie(change, values["baseline"], tolerance)
    return WinTieLoss(int((~tie & (change > 0)).sum()), int(tie.sum()), int((~tie & (change < 0)).sum()))


def is_tie(change: Sequence[float], baseline: Sequence[float], tolerance: float) -> np.ndarray:
    """Which changes are at most `tolerance` times the baseline's value: bool. A change of exactly that (rank 9 to 10 is
    exactly 10% of RR) is one, whatever floats make of it."""
    return np.abs(change) <= (tolerance + TOLERANCE) * np.abs(baseline)


def win_tie_loss_table(values_by_system: dict[str, pd.DataFrame], measure: str, tolerance: float = TIE) -> pd.DataFrame:
    """`win_tie_loss` of every system and every earlier one (Tables 4 and 7): `baseline, system, win, tie, loss`."""
    rows = [
        (a, b, *win_tie_loss(values_by_system[a], values_by_system[b], measure, tolerance))
        for a, b in combinations(values_by_system, 2)
    ]
    return pd.DataFrame(rows, columns=["baseline", "system", "win", "tie", "loss"])


def query_deltas(values_a: pd.DataFrame, values_b: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The difference b makes to the baseline a on each query, the largest gain first, equal ones by query_id (Figure
    6): `query_id` str, and float64 `baseline`, `system`, `difference`. Args, raises: as `win_tie_loss`."""
    values = _aligned({"baseline": values_a, "system": values_b}, measure).reset_index()
    values["difference"] = difference(values["system"], values["baseline"])
    place = values["difference"].round(12)  # differences that are equal but for rounding stand by query_id
    order = np.lexsort((np.unique(values["query_id"].to_numpy(dtype=object), return_inverse=True)[1], -place))
    return values.iloc[order].reset_index(drop=True)


def smallest_detectable_difference(std: float, queries: int) -> float:
    """The true difference that a paired two-sided t-test on so many queries, not corrected, would find with probability
    `POWER`: below it a missing mark says that queries are too few, not that nothing differs.

    std: of the per-query differences, `query_deltas(...)["difference"].std()`.
    Raises ValueError where std is negative or not finite, or there are fewer than 2 queries.
    """
    if not 0 <= std < np.inf:
        raise ValueError(f"std: expected a standard deviation, found {std!r}")
    if queries < 2:
        raise ValueError(f"queries: expected at least 2, found {queries!r}; a t-test needs a spread")
    return std * _detectable_effect(int(queries))


@cache
def _detectable_effect(queries: int) -> float:
    """The same of differences that spread by 1: slow, and one number for all of many categories of one size."""
    from statsmodels.stats.power import TTestPower  # slow to import, and only this needs it

    # statsmodels gives a number, or for many queries an array of one
    return np.asarray(TTestPower().solve_power(nobs=queries, alpha=ALPHA, power=POWER)).item()


def detectable_difference(queries: int, seeds: int = 1, std: float = SPREAD) -> float:
    """The same in MRR@10 for so many queries and seeds, for before a sweep starts. std: of the per-query differences
    between two systems of one seed. Raises ValueError as the function before, and for no seeds."""
    if seeds < 1:
        raise ValueError(f"seeds: expected at least 1, found {seeds!r}")
    return smallest_detectable_difference(std / seeds**0.5, queries)


def twins(values_by_seed: Mapping[str, Mapping[int, pd.DataFrame]], measure: str = "RR@10") -> pd.DataFrame:
    """What generating brings the ranking: every multi-task system against its single-task twin, seed against seed.

    values_by_seed: `query_id, measure, value` by system name and seed; systems without a twin are left out.

    Returns a row for each pair: `system`, `twin`, `seeds` (how many they share), `mean`, `difference` (of the means
    over seeds), `low` and `high` (its interval over queries), `p`, `p_corrected` and `mark` (Holm over the pairs), and
    `by_seed`, the list of the seeds' differences. Raises ValueError as `compare`.
    """
    rows = []
    for system, twin in ((system, twin_of(system)) for system in values_by_seed):
        seeds = sorted(set(values_by_seed[system]) & set(values_by_seed.get(twin, ())))
        if not seeds:
            continue
        of = {(name, k): f"{name}, seed {k}" for k in seeds for name in (twin, system)}
        values = _aligned({column: values_by_seed[name][k] for (name, k), column in of.items()}, measure)
        means = {name: sum(values[of[name, k]] for k in seeds) / len(seeds) for name in (twin, system)}
        tested = _difference(means, system, twin)
        by_seed = [float(difference(values[of[system, k]], values[of[twin, k]]).mean()) for k in seeds]
        rows.append({"system": system, "twin": twin, "seeds": len(seeds), **tested, "by_seed": by_seed})
    columns = ["system", "twin", "seeds", "mean", "difference", "low", "high", "p", "by_seed"]
    return with_marks(pd.DataFrame(rows, columns=columns))


def twin_of(system: str) -> str | None:
    """The system that differs from a multi-task one in learning to rank alone; None where there is none."""
    if system not in SYSTEMS or not SYSTEMS[system].generative_tasks:
        return None
    like = ("rank",), *attrgetter("backbone", "rank_layout", "rank_loss")(SYSTEMS[system])
    what = attrgetter("tasks", "backbone", "rank_layout", "rank_loss")
    return next((name for name, other in SYSTEMS.items() if what(other) == like), None)


def holm(p: Sequence[float]) -> np.ndarray:
    """The p-values of one family corrected by Holm-Bonferroni, float64 [m]. NaN, what was not tested, stays and does
    not count."""
    # Not statsmodels' multipletests, the oracle in the tests: it collects garbage at every call, 0.4 s in a notebook.
    p = np.asarray(p, dtype=np.float64)
    corrected = p.copy()
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return corrected


def with_marks(table: pd.DataFrame, families: pd.Series | None = None) -> pd.DataFrame:
    """A table of tests, `difference` and `p`, with `p_corrected` and `mark` as its last columns. families: rows of
    equal value are corrected together; all of them when None."""
    p = table["p"]
    corrected = pd.Series(holm(p), p.index) if families is None else p.groupby(families).transform(holm)
    signs = np.where(table["difference"] > 0, "▲△", "▼▽")
    marks = [strong if p < STRONG_ALPHA else weak if p < ALPHA else "" for p, (strong, weak) in zip(corrected, signs)]
    return table.assign(p_corrected=corrected, mark=marks)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float, float]:
    """The mean of some numbers, its interval, and p of a t-test against 0: float64 each. One number has neither
    interval nor p: NaN. Numbers that are equal but for rounding leave no doubt: p is 1 where they are 0, else 0."""
    values = np.asarray(values, dtype=np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, np.nan, np.nan, np.nan
    if equal(values, values[0]).all():
        return mean, mean, mean, float(equal(mean, 0))
    test = stats.ttest_1samp(values, 0)
    return mean, *map(float, test.confidence_interval(1 - ALPHA)), float(test.pvalue)


def _difference(values: Mapping[str, pd.Series], system: str, baseline: str) -> dict[str, float]:
    """Mean, difference, interval and p of one paired t-test. What rounding made is no difference."""
    tested = mean_interval(difference(values[system], values[baseline]))
    tested = tested if system != baseline else (0.0, np.nan, np.nan, np.nan)
    return {"mean": values[system].mean(), **dict(zip(("difference", "low", "high", "p"), tested))}


def _aligned(values_by_system: dict[str, pd.DataFrame], measure: str) -> pd.DataFrame:
    """One measure's values, a column for each system, rows by query in the first system's order."""
    if not isinstance(measure, str):
        raise ValueError(f"measure: expected a name, found {kind_of(measure)}")
    columns = {}
    for system, values in values_by_system.items():
        require_columns(system, values, ("query_id", "measure", "value"))
        column = values[values["measure"] == measure].set_index("query_id")["value"]
        if column.empty:
            known = values["measure"].unique()
            raise ValueError(f"{system}: {unknown_name('measure', measure, known, 'there are values of')}")
        if twice := set(column.index[column.index.duplicated()]):
            raise ValueError(f"{system}: expected one {measure} for a query, found two for {_some(twice)}")
        numbers = pd.to_numeric(column, errors="coerce").astype(float)
        if unknown := column[~np.isfinite(numbers)].to_dict():
            found = next(iter(unknown.values()))
            found = "NaN" if pd.isna(found) else repr(found)
            raise ValueError(f"{system}: expected a number as {measure}, found {found} for {_some(set(unknown))}")
        columns[system] = numbers
    first, *others = columns
    for other in others:
        ids, others_ids = set(columns[first].index), set(columns[other].index)
        extra = {first: ids - others_ids, other: others_ids - ids}
        if differing := " and ".join(f"only {name} has {_some(found)}" for name, found in extra.items() if found):
            raise ValueError(
                f"{measure}: expected {first} and {other} to be measured on the same queries, found that {differing}; "
                "evaluate both with the same qrels"
            )
    return pd.DataFrame(columns).loc[columns[first].index]


def _check(values_by_system: dict[str, pd.DataFrame], baseline: str) -> None:
    if not isinstance(values_by_system, Mapping):
        raise ValueError(f"values_by_system: expected a dict of names to values, found {kind_of(values_by_system)}")
    if not is_hashable(baseline) or baseline not in values_by_system:
        raise ValueError(f"baseline: expected one of {', '.join(map(str, values_by_system))}, found {kind_of(baseline)}")
    for system, values in values_by_system.items():
        require_columns(system, values, ("query_id", "measure", "value"))


def _some(query_ids: set[str]) -> str:
    """How many queries and the first three of them, for a message."""
    names = sorted(map(str, query_ids))
    noun = "query" if len(names) == 1 else "queries"
    return f"{len(names)} {noun} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


# --- what two runs put where, and what scores tell apart (Figures 5 and 8, Table 9)


def rank_shifts(
    run_a: pd.DataFrame, run_b: pd.DataFrame, qrels: pd.DataFrame, depth: int = 10, relevance_level: int = 1
) -> pd.DataFrame:
    """How many more relevant passages b puts at each rank than the baseline a (Figure 5). Every one counts once for
    each run: at its rank, below the last of them, or as missed by the first stage.

    run_a, run_b: `query_id, doc_id, score`. depth: the last rank with a bar of its own.

    Returns `rank` str ("1" to depth, then "below rank <depth>" and `MISSED`), `baseline`, `system` and `change` int64.
    Raises ValueError as `validate_run` and `validate_qrels`, for a depth below 1, for judgments without a relevant
    passage, and for a run without any judged query.
    """
    check_count("depth", depth)
    relevant = _relevant(qrels, relevance_level)
    table = pd.DataFrame({"rank": [*map(str, range(1, depth + 1)), f"below rank {depth}", MISSED]})
    for name, run in (("baseline", run_a), ("system", run_b)):
        run = of_judged_queries(canonical_order(run), qrels)
        ranks = relevant.merge(run, "left", ["query_id", "doc_id"])["rank"]
        bars = ranks.clip(upper=depth + 1).fillna(depth + 2).astype(int)
        table[name] = np.bincount(bars - 1, minlength=depth + 2)
    return table.assign(change=table["system"] - table["baseline"])


def area_under_roc(run: pd.DataFrame, qrels: pd.DataFrame, relevance_level: int = 1) -> float:
    """How well scores alone tell relevant passages from the others, all judged queries together (for Figure 8): the
    probability that a relevant passage scores above another one, a tie counting half. Passages without a judgment count
    as not relevant.

    Raises ValueError as `validate_run` and `validate_qrels`, and where judged queries' lists have none of one kind.
    """
    validate_run(run)
    relevant = _relevant(qrels, relevance_level).assign(relevant=True)
    run = of_judged_queries(run, qrels).merge(relevant, "left", ["query_id", "doc_id"])
    is_relevant = run["relevant"].notna().to_numpy()
    if is_relevant.all() or not is_relevant.any():
        raise ValueError(
            "run: expected relevant and other passages of judged queries, "
            f"found {is_relevant.sum()} relevant and {(~is_relevant).sum()} others"
        )
    from sklearn.metrics import roc_auc_score  # slow to import, and only needed here

    return float(roc_auc_score(is_relevant, run["score"].to_numpy(dtype=np.float32)))


def shared_information_needs(
    train_qrels: pd.DataFrame, test_qrels: pd.DataFrame, levels: tuple[int, int] = (1, 1)
) -> pd.DataFrame:
    """Test and training queries with a relevant passage in common (Table 9): `test_query_id`, `train_query_id`,
    `doc_id`, in the order of `test_qrels`. levels: the lowest relevant grade in training and in test judgments. Raises
    ValueError as `validate_qrels`, and for judgments without a relevant passage."""
    train = _relevant(train_qrels, levels[0]).rename(columns={"query_id": "train_query_id"})
    test = _relevant(test_qrels, levels[1]).rename(columns={"query_id": "test_query_id"})
    shared = test.merge(train, "inner", "doc_id")
    others = shared["test_query_id"] != shared["train_query_id"]
    return shared.loc[others, ["test_query_id", "train_query_id", "doc_id"]].reset_index(drop=True)


def _relevant(qrels: pd.DataFrame, relevance_level: int) -> pd.DataFrame:
    check_count("relevance_level", relevance_level)
    validate_qrels(qrels)
    relevant = qrels.loc[qrels["relevance"] >= relevance_level, ["query_id", "doc_id"]].reset_index(drop=True)
    if relevant.empty:
        raise ValueError(
            f"qrels: expected a judgment of relevance {relevance_level} or more, "
            f"found {qrels['relevance'].max()} at most; lower relevance_level"
        )
    return relevant
