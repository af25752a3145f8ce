"""What two runs put where, and what scores tell apart: Figures 5 and 8, Table 9."""

import numpy as np
import pandas as pd

from gdmtl_lib.data.trec import canonical_order, of_judged_queries, validate_qrels, validate_run

MISSED = "missed by the first stage"


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
    if depth < 1:
        raise ValueError(f"depth: expected at least 1, found {depth!r}")
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
    if relevance_level < 1:
        raise ValueError(f"relevance_level: expected an integer of at least 1, found {relevance_level!r}")
    validate_qrels(qrels)
    relevant = qrels.loc[qrels["relevance"] >= relevance_level, ["query_id", "doc_id"]]
    if relevant.empty:
        raise ValueError(
            f"qrels: expected a judgment of relevance {relevance_level} or more, "
            f"found {qrels['relevance'].max()} at most; lower relevance_level"
        )
    return relevant
