"""How good a run is: the paper's six measures for every judged query, with the residual of RBP.

One order for ties, every judged query in the result, and residuals (Tables 3, 6, 8 and 10). The paper's measures are
computed here for all queries at once, equal to trec_eval's and cwl_eval's; ir-measures computes all others.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import ir_measures
import numpy as np
import pandas as pd

from gdmtl_lib.data.files import read_table, write_lines
from gdmtl_lib.data.trec import as_run, of_judged_queries, read_qrels, validate_qrels
from gdmtl_lib.settings import check_count, is_number, is_whole

# In ir-measures' notation; what counts as relevant (`rel`) comes from `relevance_level`.
PAPER_MEASURES = ("RR@10", "RR@100", "nDCG@10", "nDCG@20", "RBP(p=0.5)", "RBP(p=0.8)")
# The same six as the paper's tables write them.
PAPER_NAMES = dict(zip(PAPER_MEASURES, ("MRR@10", "MRR@100", "NDCG@10", "NDCG@20", "RBP0.5", "RBP0.8"), strict=True))
WORKING = (
    "RR, nDCG, AP, P@k, R@k, Success@k, RBP, Rprec, Bpref, ERR@k (grades up to 4), Judged@k, NumRet, NumRel, with "
    "(rel=2) where it applies"
)
# ir-measures copies a run several times over: in parts of so many queries the copies stay small.
_QUERIES_AT_A_TIME = 500


def evaluate(
    run: pd.DataFrame | str | os.PathLike, qrels: pd.DataFrame | str | os.PathLike,
    measures: Sequence[str] = PAPER_MEASURES, relevance_level: int = 1,
) -> pd.DataFrame:
    """Measure a run, query by query: each one's list in canonical order. A judged query that the run misses has value
    0, and RBP residual 1 (a warning says of how many); queries without judgments are left out.

    run: `query_id` str, `doc_id` str, `score` number, or the path of a TREC run file.
    qrels: `query_id` str, `doc_id` str, `relevance` integer, or a path. A negative grade counts as 0, and in RBP's residual,
        Bpref, infAP and with `judged_only` as not judged, as in trec_eval.
    measures: in ir-measures' notation, for example `"RR@10"`; the name stands in the result as given.
    relevance_level: the lowest grade that counts as relevant in measures that know only relevant and not (RR, RBP),
        unless the measure names its own `rel`. nDCG uses the grades as gains.

        values = gdmtl.evaluate("a.run", "qrels.txt", ["RR@10", "nDCG@10"])

    Returns `query_id` str, `measure` str, `value` float64, `residual` float64: for each query of `qrels`, in its order,
    one row a measure. The residual is RBP's, NaN for the others: what RBP would gain if all unjudged passages, in the
    list and after its end, were relevant. Raises ValueError as `validate_run` and `validate_qrels`, for an unknown
    measure or one that has no value for some query, and for a run without any judged query.
    """
    qrels = read_qrels(qrels) if isinstance(qrels, (str, os.PathLike)) else qrels
    validate_qrels(qrels)
    parsed = parse_measures(measures, relevance_level)
    run = of_judged_queries(as_run(run), qrels)
    as_given = qrels[["query_id", "doc_id"]].assign(grade=qrels["relevance"].astype(np.int64)).reset_index(drop=True)
    qrels = as_given.assign(grade=as_given["grade"].clip(lower=0))
    lists = _Lists(run, qrels)
    if missing := len(lists.query_ids) - run["query_id"].nunique():
        what = f"the run has no list for {missing:,} of {len(lists.query_ids):,} judged queries: they count as 0"
        warnings.warn(f"{what}. Leave their judgments out if they were not to be ranked", stacklevel=2)
    others = [measure for measure in parsed.values() if _own(measure) is None]
    sampled = [measure for measure in others if measure.NAME in ("Bpref", "infAP") or measure.params.get("judged_only")]
    values = _by_ir_measures(sampled, run, as_given, lists.query_ids) if sampled else {}
    if rest := [measure for measure in others if measure not in sampled]:
        values |= _by_ir_measures(rest, run, qrels, lists.query_ids)
    values |= {measure: own(lists, measure) for measure in parsed.values() if (own := _own(measure))}
    none = np.full(len(lists.query_ids), np.nan)
    judged = lists if qrels["grade"].equals(as_given["grade"]) else _Lists(run, as_given)
    residuals = [1 - _rbp(judged, of["p"], 0) if of.NAME == "RBP" else none for of in parsed.values()]
    return pd.DataFrame(
        {
            "query_id": np.repeat(lists.query_ids, len(parsed)),
            "measure": np.tile(list(parsed), len(lists.query_ids)),
            "value": np.column_stack([values[measure] for measure in parsed.values()]).ravel(),
            "residual": np.column_stack(residuals).ravel(),
        }
    )


class _Lists:
    """What all queries' lists hold that was judged: `query` (its number among `query_ids`), `rank` and `grade`, best
    first; and of the judgments `judged_query` and `judged_grade`."""

    def __init__(self, run: pd.DataFrame, qrels: pd.DataFrame):
        self.run, self.query_ids = run, qrels["query_id"].unique()
        near = run[run["doc_id"].isin(qrels["doc_id"])]  # or millions of pairs of strings were to be joined
        found = near[["query_id", "doc_id", "rank"]].merge(qrels, on=["query_id", "doc_id"])
        self.query = self.numbers(found["query_id"])
        self.rank, self.grade = found["rank"].to_numpy(), found["grade"].to_numpy()
        self.judged_query, self.judged_grade = self.numbers(qrels["query_id"]), qrels["grade"].to_numpy()

    def numbers(self, query_ids: pd.Series) -> np.ndarray:
        return pd.Index(self.query_ids).get_indexer(query_ids)

    def total(self, query: np.ndarray, chosen: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """For each query the sum of the weights of chosen rows, or how many there are: float64 [queries]."""
        weights = None if weights is None else weights[chosen]
        return np.bincount(query[chosen], weights, len(self.query_ids)).astype(float)


def _own(measure: ir_measures.Measure) -> Callable[[_Lists, ir_measures.Measure], np.ndarray] | None:
    """How a measure is computed for all queries at once; None for what ir-measures computes."""
    known = {"RR": {"rel", "cutoff"}, "nDCG": {"cutoff"}, "RBP": {"p", "rel"}, "NumRel": {"rel"}, "NumRet": {"rel"}}
    return _OWN[measure.NAME] if measure.NAME in known and set(measure.params) <= known[measure.NAME] else None


def _reciprocal_rank(lists: _Lists, measure: ir_measures.Measure) -> np.ndarray:
    counted = (lists.grade >= measure["rel"]) & (lists.rank <= measure.params.get("cutoff", np.inf))
    first = np.full(len(lists.query_ids), np.inf)
    np.minimum.at(first, lists.query[counted], lists.rank[counted])
    return 1 / first


def _ndcg(lists: _Lists, measure: ir_measures.Measure) -> np.ndarray:
    cutoff = measure.params.get("cutoff", np.inf)
    best_first = np.lexsort((-lists.judged_grade, lists.judged_query))
    query, grade = lists.judged_query[best_first], lists.judged_grade[best_first]
    place = pd.Series(query).groupby(query).cumcount().to_numpy() + 1
    ideal = lists.total(query, place <= cutoff, grade / np.log2(place + 1))
    gained = lists.total(lists.query, lists.rank <= cutoff, lists.grade / np.log2(lists.rank + 1))
    return np.divide(gained, ideal, out=np.zeros_like(ideal), where=ideal > 0)


def _rbp(lists: _Lists, p: float, level: int) -> np.ndarray:
    """(1 - p) sum of p^(i - 1) over the ranks i of passages of this grade or more."""
    return (1 - p) * lists.total(lists.query, lists.grade >= level, p ** (lists.rank - 1.0))


_OWN = {
    "RR": _reciprocal_rank,
    "nDCG": _ndcg,
    "RBP": lambda lists, measure: _rbp(lists, measure["p"], measure["rel"]),
    "NumRel": lambda lists, measure: lists.total(lists.judged_query, lists.judged_grade >= measure["rel"]),
    "NumRet": lambda lists, measure: lists.total(lists.query, lists.grade >= measure["rel"])
    if "rel" in measure.params
    else np.bincount(lists.numbers(lists.run["query_id"]), minlength=len(lists.query_ids)).astype(float),
}


def _by_ir_measures(
    measures: Sequence[ir_measures.Measure], run: pd.DataFrame, qrels: pd.DataFrame, query_ids: np.ndarray
) -> dict[ir_measures.Measure, list[float]]:
    """Each measure's values in the order of the queries."""
    # Queries by number: gdeval, which computes ERR, knows no other names. And with ranks for scores, whole numbers
    # that float32 holds, no tool has a tie left to break.
    numbers = {query_id: str(number) for number, query_id in enumerate(query_ids, 1)}
    judgments, rankings = _by_query(qrels, qrels["grade"], numbers), _by_query(run, -run["rank"].astype(float), numbers)
    names, values = list(judgments), {}
    for start in range(0, len(names), _QUERIES_AT_A_TIME):
        part = names[start : start + _QUERIES_AT_A_TIME]
        lists = {query: rankings[query] for query in part if query in rankings}
        try:
            for found in ir_measures.iter_calc(list(measures), {query: judgments[query] for query in part}, lists):
                values[found.measure, found.query_id] = found.value
        except Exception as error:  # whatever the tool behind a measure raises
            if len(measures) > 1:  # each for itself, which names the one
                each = (_by_ir_measures([measure], run, qrels, query_ids) for measure in measures)
                return {measure: found for one in each for measure, found in one.items()}
            raise ValueError(
                f"measures: {measures[0]} cannot be computed here ({error!r}); these work: {WORKING}"
            ) from error
    for measure in measures:
        if missing := [query_id for query_id, number in numbers.items() if (measure, number) not in values]:
            raise ValueError(
                f"measures: {measure} has no value for {len(missing)} of {len(numbers)} queries ({missing[0]}, say): "
                f"it is not defined where nothing relevant is retrieved; these work: {WORKING}"
            )
    return {measure: [values[measure, number] for number in numbers.values()] for measure in measures}


def summarize(values: pd.DataFrame) -> pd.DataFrame:
    """Per-query values, as `evaluate` returns them, averaged: a row a measure in their order, `measure`, `mean`,
    `residual` (NaN but for RBP), `queries`, and `text` (as `format_value` prints it)."""
    by_measure = values.groupby("measure", sort=False)
    table = by_measure.agg(mean=("value", "mean"), residual=("residual", "mean"), queries=("value", "size"))
    table["text"] = [format_value(*row) for row in zip(table["mean"], table["residual"], strict=True)]
    return table.reset_index()


def format_value(value: float, residual: float = float("nan")) -> str:
    """A value as the paper prints it: `0.384`, or with a residual `0.177 +0.823`."""
    return f"{value:.3f}" if np.isnan(residual) else f"{value:.3f} +{residual:.3f}"


def effectiveness_table(values_by_system: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Table 3's form: a row a system, a column a measure under the paper's name, RBP with its residual.
    values_by_system: what `evaluate` returns, by the label to print; all with the same measures."""
    texts = {label: summarize(values).set_index("measure")["text"] for label, values in values_by_system.items()}
    return pd.DataFrame(texts).rename(PAPER_NAMES).T.rename_axis("system")


def write_values(values: pd.DataFrame, path: str | os.PathLike) -> None:
    """Write per-query values as CSV, exactly."""
    write_lines(path, [values.to_csv(index=False)])


def read_values(path: str | os.PathLike) -> pd.DataFrame:
    """Read what `write_values` wrote. Raises as `read_table`."""
    columns = ["query_id", "measure", "value", "residual"]
    values = read_table(path, text=columns[:2], columns=columns, remedy="measure anew")
    return values.astype({"value": float, "residual": float})


def parse_measures(measures: Sequence[str], relevance_level: int) -> dict[str, ir_measures.Measure]:
    """Measures by their names, in order. Raises ValueError for a name that is none, before anything is computed."""
    check_count("relevance_level", relevance_level)
    is_list = isinstance(measures, Iterable) and not isinstance(measures, str)
    if not is_list or not (measures := list(map(str, measures))):
        raise ValueError(f"measures: expected a list of names such as {PAPER_MEASURES}, found {measures!r}")
    if meant := {name: known for name in measures if (known := _meant(name))}:
        found, known = ", ".join(map(repr, meant)), ", ".join(meant.values())
        raise ValueError(f"measures: expected ir-measures' notation, found {found}; did you mean {known}?")
    parsed = {}
    for name in measures:
        try:
            measure = ir_measures.parse_measure(name)
            if "rel" in measure.SUPPORTED_PARAMS and "rel" not in measure.params and measure.NAME != "NumRet":
                measure = measure(rel=int(relevance_level))
            supported = _own(measure) is not None or ir_measures.DefaultPipeline.supports(measure)
        except (NameError, ValueError, TypeError, AssertionError) as error:
            why = re.sub(r"invalid param (\w+)=<object.*", r"it needs \1", str(error))
            raise ValueError(f"measures: expected ir-measures' notation, found {name!r} ({why})") from None
        if not supported:
            raise ValueError(f"measures: ir-measures cannot compute {name!r}; these work: {WORKING}")
        if again := next((other for other, known in parsed.items() if known == measure), None):
            also = f" (as {again!r})" * (again != name)
            raise ValueError(f"measures: expected each measure once, found {name!r} a second time{also}")
        # What tools make of other ones is not an error: trec_eval, of P@0, ends the process.
        whole = [measure.params.get(key, 1) for key in ("rel", "cutoff")]
        if not all(is_whole(value) and value >= 1 for value in whole):
            raise ValueError(f"measures: expected a cutoff and a rel that are integers of at least 1, found {name!r}")
        p = measure["p"] if measure.NAME == "RBP" else 0.5
        if not is_number(p) or not 0 < p < 1:
            raise ValueError(f"measures: expected 0 < p < 1 in RBP, found {name!r}")
        parsed[name] = measure
    return parsed


def _meant(name: str) -> str | None:
    """What other tools' name of a measure is in ir-measures' notation, `nDCG@10` for `ndcg_cut_10`; None for a name
    that is known, or that no tool has."""
    if own := next((measure for measure, shown in PAPER_NAMES.items() if shown == name and shown.startswith("RBP")), None):
        return own
    known = ir_measures.measures.registry
    match = re.fullmatch(r"([a-z_]*?[a-z])(?:_cut)?(?:([_.@-]?)(\d+))?", str(name), re.IGNORECASE)
    if match is None or match[1] in known and match[2] in (None, "@"):
        return None
    by_name = {other.lower(): measure.NAME for other, measure in known.items()} | {"recip_rank": "RR", "hit": "Success"}
    meant = by_name.get(match[1].lower())
    return meant and meant + (f"@{match[3]}" if match[3] else "")


def _by_query(frame: pd.DataFrame, values: pd.Series, numbers: Mapping[str, str]) -> dict[str, dict[str, float]]:
    by_query: dict[str, dict[str, float]] = {}
    for query, doc, value in zip(frame["query_id"].tolist(), frame["doc_id"].tolist(), values.tolist(), strict=True):
        by_query.setdefault(numbers[query], {})[doc] = value
    return by_query
