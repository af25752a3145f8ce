"""How good a run is: the paper's six measures for every judged query, with the residual of RBP.

ir-measures computes the measures. What stands here is what it leaves to the caller: one order for ties, every
judged query in the result, and residuals (Tables 3, 6, 8 and 10).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import ir_measures
import numpy as np
import pandas as pd

from gdmtl_lib.data.files import read_table, write_lines
from gdmtl_lib.data.trec import canonical_order, of_judged_queries, validate_qrels

# In ir-measures' notation; what counts as relevant (`rel`) comes from `relevance_level`.
PAPER_MEASURES = ("RR@10", "RR@100", "nDCG@10", "nDCG@20", "RBP(p=0.5)", "RBP(p=0.8)")
# The same six as the paper's tables write them.
PAPER_NAMES = dict(
    zip(PAPER_MEASURES, ("MRR@10", "MRR@100", "NDCG@10", "NDCG@20", "RBP0.5", "RBP0.8"), strict=True)
)
# cwl_eval, which computes RBP, looks at this many ranks; beyond them 0.97^1000 = 6e-14 of the weight is left.
_CWL_RANKS, _CWL_LARGEST_P = 1000, 0.97
# ir-measures copies a run several times over: in parts of so many queries the copies stay small.
_QUERIES_AT_A_TIME = 500


def evaluate(
    run: pd.DataFrame,
    qrels: pd.DataFrame,
    measures: Sequence[str] = PAPER_MEASURES,
    relevance_level: int = 1,
) -> pd.DataFrame:
    """Measure a run, query by query.

    A judged query that the run misses has value 0, and RBP residual 1. Queries of the run without judgments
    are left out. Ties are broken as `canonical_order` does, the same way for every measure.

    Args:
        run: `query_id` str, `doc_id` str, `score` number; `rank` is not looked at, the scores make it.
        qrels: `query_id` str, `doc_id` str, `relevance` integer; a negative grade counts as 0.
        measures: in ir-measures' notation, for example `"RR@10"`; the name stands in the result as given.
        relevance_level: the lowest grade that counts as relevant in measures that know only relevant and not
            (RR, RBP), unless the measure names its own `rel`. nDCG uses the grades as gains.

    Returns:
        `query_id` str, `measure` str, `value` float64, `residual` float64: for each query of `qrels`, in its
        order, one row a measure. The residual is RBP's, NaN for the others.

    Raises:
        ValueError: as `validate_run` and `validate_qrels`, an unknown measure, or a run without any judged
            query.
    """
    validate_qrels(qrels)
    parsed = _parse(measures, relevance_level)
    run = of_judged_queries(canonical_order(run), qrels)
    # cwl_eval makes negative grades 0 itself; pytrec_eval can crash on them.
    judgments = _by_query(qrels, qrels["relevance"].clip(lower=0))
    # With ranks for scores, whole numbers that float32 holds, no tool has a tie left to break.
    rankings = _by_query(run, -run["rank"].astype(float))
    query_ids = list(judgments)
    values = {}
    for start in range(0, len(query_ids), _QUERIES_AT_A_TIME):
        part = query_ids[start : start + _QUERIES_AT_A_TIME]
        for found in ir_measures.iter_calc(
            list(parsed.values()),
            {query: judgments[query] for query in part},
            {query: rankings[query] for query in part if query in rankings},
        ):
            values[found.query_id, found.measure] = found.value
    rows = [
        (query, name, values[query, measure], _residual(measure, rankings.get(query, {}), judgments[query]))
        for query in query_ids
        for name, measure in parsed.items()
    ]
    return pd.DataFrame(rows, columns=["query_id", "measure", "value", "residual"])


def summarize(values: pd.DataFrame) -> pd.DataFrame:
    """Average per-query values: one line of Table 3.

    Args:
        values: what `evaluate` returns.

    Returns:
        `measure` str, `mean` float64, `residual` float64 (NaN but for RBP), `queries` int64, `text` str (as
        `format_value` prints it), one row a measure in the order of `values`.
    """
    by_measure = values.groupby("measure", sort=False)
    table = by_measure.agg(mean=("value", "mean"), residual=("residual", "mean"), queries=("value", "size"))
    table["text"] = [format_value(*row) for row in zip(table["mean"], table["residual"], strict=True)]
    return table.reset_index()


def format_value(value: float, residual: float = float("nan")) -> str:
    """A value as the paper prints it: `0.384`, or with a residual `0.177 +0.823`."""
    return f"{value:.3f}" if np.isnan(residual) else f"{value:.3f} +{residual:.3f}"


def effectiveness_table(values_by_system: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Table 3's form: a row a system, a column a measure under the paper's name, RBP with its residual.

    values_by_system: what `evaluate` returns, by the label to print; all with the same measures.
    """
    rows = {
        label: summarize(values).set_index("measure")["text"].rename(PAPER_NAMES)
        for label, values in values_by_system.items()
    }
    return pd.DataFrame(rows).T.rename_axis("system")


def write_values(values: pd.DataFrame, path: str | os.PathLike) -> None:
    """Write per-query values as CSV, exactly; a file that was there stays whole until the new one is."""
    write_lines(path, [values.to_csv(index=False)])


def read_values(path: str | os.PathLike) -> pd.DataFrame:
    """Read per-query values that `write_values` wrote; query ids stay strings whatever they look like.

    Raises FileNotFoundError for a missing file, ValueError, naming the line, for one that is no such table.
    """
    columns = ["query_id", "measure", "value", "residual"]
    values = read_table(path, text=columns[:2], columns=columns, remedy="measure anew")
    return values.astype({"value": float, "residual": float})


def _parse(measures: Sequence[str], relevance_level: int) -> dict[str, ir_measures.Measure]:
    if not isinstance(relevance_level, int) or relevance_level < 1:
        raise ValueError(f"relevance_level: expected an integer of at least 1, found {relevance_level!r}")
    if isinstance(measures, str) or not measures:
        raise ValueError(f"measures: expected a list of names such as {PAPER_MEASURES}, found {measures!r}")
    parsed = {}
    for name in measures:
        try:
            measure = ir_measures.parse_measure(name)
            if "rel" in measure.SUPPORTED_PARAMS and "rel" not in measure.params:
                measure = measure(rel=relevance_level)
            supported = ir_measures.DefaultPipeline.supports(measure)
        except (NameError, ValueError, TypeError, AssertionError) as error:
            raise ValueError(f"measures: expected ir-measures' notation, found {name!r} ({error})") from None
        if not supported:
            raise ValueError(f"measures: ir-measures cannot compute {name!r}; take one like {PAPER_MEASURES}")
        if measure in parsed.values():
            raise ValueError(f"measures: expected each measure once, found {name!r} a second time")
        if measure.NAME == "RBP" and measure["p"] > _CWL_LARGEST_P:
            raise ValueError(
                f"measures: expected p of at most {_CWL_LARGEST_P} in RBP, found {name!r}, which reaches "
                f"beyond the {_CWL_RANKS} ranks that cwl_eval looks at"
            )
        parsed[name] = measure
    return parsed


def _by_query(frame: pd.DataFrame, values: pd.Series) -> dict[str, dict[str, float]]:
    by_query: dict[str, dict[str, float]] = {}
    rows = zip(frame["query_id"].tolist(), frame["doc_id"].tolist(), values.tolist(), strict=True)
    for query, doc, value in rows:
        by_query.setdefault(query, {})[doc] = value
    return by_query


def _residual(measure: ir_measures.Measure, ranking: Iterable[str], judged: dict[str, int]) -> float:
    """What RBP would gain if all unjudged passages, in the list and after its end, were relevant.

    The sum of (1 - p) p^(i - 1) over the unjudged ranks i of n, plus p^n. `ranking`: best passage first.
    """
    if measure.NAME != "RBP":
        return float("nan")
    p = measure["p"]
    unjudged = np.array([doc not in judged for doc in ranking], dtype=bool)
    return float((1 - p) * np.sum(p ** np.flatnonzero(unjudged)) + p ** len(unjudged))
