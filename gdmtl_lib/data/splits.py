"""Splits: one split's frames, a sample of its queries, and folds of them (Section 5.2).

A sample is drawn by a hash of the queries' ids: the same one on any machine, a smaller one inside a larger one. Folds
choose an epoch by cross-validation (MS MARCO), or keep sessions whole (CAsT).
"""

import hashlib
import os
import re
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial

import numpy as np
import pandas as pd

from .files import read_table
from .rounding import first_best
from .trec import canonical_order

_PARTS = ("queries", "qrels", "answers", "candidates")
_Part = pd.DataFrame | Callable[[], pd.DataFrame | None] | None


class Split:
    """One split's frames: `queries`, `qrels`, `answers`, `candidates` (columns as in `Collection`), None for what it
    does not have; given as such, or as functions that are called when they are first asked for.

    doc_ids: the passages that the split searches; None for all of the collection's.
    advice: by part, the end of the sentence that says that it is not there.
    """

    def __init__(
        self, queries: _Part, qrels: _Part = None, answers: _Part = None, candidates: _Part = None,
        doc_ids: tuple[str, ...] | None = None, advice: Mapping[str, str] | None = None,
    ):
        self._parts = dict(zip(_PARTS, (queries, qrels, answers, candidates), strict=True))
        self.doc_ids, self.advice = doc_ids, advice or {}

    def __getattr__(self, part: str) -> pd.DataFrame | None:
        if part not in _PARTS:
            raise AttributeError(part)
        if callable(self._parts[part]):
            self._parts[part] = self._parts[part]()
        return self._parts[part]

    @property
    def is_read(self) -> bool:
        """Whether its queries are there already."""
        return not callable(self._parts["queries"])

    def of_queries(self, chosen: Iterable[str] | Callable[[pd.DataFrame], Iterable[str]]) -> "Split":
        """The split of some of its queries alone. chosen: their ids, or what gives them from the split's queries."""

        @cache
        def query_ids() -> frozenset[str]:
            return frozenset(chosen(self.queries) if callable(chosen) else chosen)

        def read(part: str) -> pd.DataFrame | None:
            frame = getattr(self, part)
            return None if frame is None else frame[frame["query_id"].isin(query_ids())].reset_index(drop=True)

        return Split(*(partial(read, part) for part in _PARTS), doc_ids=self.doc_ids, advice=self.advice)


def stable_hash(*parts) -> int:
    """A number of 64 bits that is a function of the parts alone; numpy's texts and numbers are as Python's."""
    parts = tuple(part.item() if isinstance(part, np.generic) else part for part in parts)
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest())


def nested_sample(query_ids: Iterable[str], size: int) -> list[str]:
    """So many of the queries (all, if there are fewer), in their order: a query that is among 25 of them is among 50
    (Section 6.3, Figure 7)."""
    query_ids = list(query_ids)
    kept = set(sorted(query_ids, key=lambda query_id: stable_hash("sample", query_id))[:size])
    return [query_id for query_id in query_ids if query_id in kept]


def nested_share(query_ids: Iterable[str], fraction: float) -> list[str]:
    """The share `fraction` of the queries, at least one, nested as `nested_sample`."""
    query_ids = list(query_ids)
    return nested_sample(query_ids, max(1, round(fraction * len(query_ids))))


def split_name(name: str) -> tuple[str, dict[str, int]]:
    """`squad:qa.json` and `{"test": 1000, "dev": 200}` of `squad:qa.json?test=1000&dev=200`. Raises ValueError for a
    sample of no queries and for a split named twice."""
    match = re.fullmatch(r"(.+)\?([\w.-]+=\d+(?:&[\w.-]+=\d+)*)", name)
    if match is None:
        return name, {}
    pairs = [part.split("=") for part in match[2].split("&")]
    sizes = {split: int(size) for split, size in pairs}
    if len(sizes) < len(pairs) or min(sizes.values()) < 1:
        raise ValueError(f"collection {name!r}: after the ? expected each split once, with at least one query")
    return match[1], sizes


def kfold(query_ids: Iterable[str], folds: int = 5, seed: int = 0) -> list[list[str]]:
    """Queries dealt into folds of equal size, give or take one, by the seed and the ids, whatever their order. Raises
    ValueError for fewer than two folds, for fewer queries than folds, and for an id that stands twice."""
    query_ids = sorted(query_ids)
    _check(folds, len(query_ids), "queries")
    if len(set(query_ids)) < len(query_ids):
        raise ValueError("expected each query once, found one that stands twice: give the ids of a split's queries")
    from sklearn.model_selection import KFold  # slow to import, and a collection is often opened without

    dealt = KFold(folds, shuffle=True, random_state=seed).split(query_ids)
    return [[query_ids[place] for place in places] for _, places in dealt]


Rotation = namedtuple("Rotation", "train validate test")
"""One turn of a cross-validation: the ids of the queries to train on, to validate on and to test on."""


def session_folds(sessions: Mapping[str, str], folds: int = 5) -> list[Rotation]:
    """Turns dealt into folds by session (GroupKFold); in rotation i fold i tests, the next one validates, and the
    others (three of five) train. sessions: of each turn, by query_id. Raises ValueError for fewer than three folds or
    sessions than folds."""
    if folds < 3:
        raise ValueError(f"expected 3 folds or more, for training, validation and test, found {folds}")
    query_ids = sorted(sessions)
    groups = [sessions[query_id] for query_id in query_ids]
    _check(folds, len(set(groups)), "sessions")
    from sklearn.model_selection import GroupKFold

    dealt = [tuple(query_ids[i] for i in places) for _, places in GroupKFold(folds).split(query_ids, groups=groups)]
    turns = [dealt[number:] + dealt[:number] for number in range(folds)]
    return [Rotation(tuple(sorted(sum(rest, ()))), validate, test) for test, validate, *rest in turns]


def cross_validated_epochs(values: pd.DataFrame, folds: Sequence[Sequence[str]]) -> pd.DataFrame:
    """The epoch that each fold's queries are measured with: the best on all the other folds, the earlier of equals. So
    a query has no say in the epoch that it is measured with (Section 5.2).

    values: `epoch` int, `query_id` str, `value` float: every query after every epoch. folds: as from `kfold`.
    Returns a row a query, in the order of the folds: `fold` (from 0), `query_id`, `epoch`, `value`. Raises ValueError
    for fewer than two folds, and for a query that was not measured after an epoch or stands in no fold or in two.
    """
    if len(folds) < 2:
        raise ValueError(f"expected 2 folds or more, found {len(folds)}")
    if values.duplicated(["epoch", "query_id"]).any():
        raise ValueError("values: expected one a query and epoch, found two; give those of one measure")
    by_epoch = values.pivot(index="epoch", columns="query_id", values="value").sort_index()
    dealt = [query_id for fold in folds for query_id in fold]
    if sorted(dealt) != sorted(by_epoch.columns):
        raise ValueError(
            f"expected the {by_epoch.shape[1]} measured queries in the folds, each once, found {len(dealt)} "
            f"({len(set(dealt))} of them different): deal the folds from these queries"
        )
    if by_epoch.isna().any(axis=None):
        epoch, query_id = by_epoch.stack(future_stack=True).isna().idxmax()
        raise ValueError(f"values: query {query_id!r} has none after epoch {epoch}: measure every epoch on all queries")
    rows = []
    for number, fold in enumerate(folds):
        others = by_epoch.drop(columns=list(fold)).mean(axis=1)
        epoch = others.index[first_best(others)]
        rows += [(number, query_id, epoch, by_epoch.at[epoch, query_id]) for query_id in fold]
    return pd.DataFrame(rows, columns=["fold", "query_id", "epoch", "value"])


def cross_validation(table: str | os.PathLike, folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """What cross-validation says of a training that was validated after every epoch (Section 5.2, MS MARCO). Only the
    choice of the epoch is cross-validated: what a training keeps are the weights after the best epoch on all queries.

    table: `validation_queries.csv` of a training's folder. folds: how many; one a query where there are fewer.

    Returns by `fold` (from 0, and `all`): `queries`, `epoch` (from 0; for all the one that is kept), `cross-validated`,
    the mean after the fold's own epoch, and `kept`, that after the epoch that is kept. Raises ValueError for fewer than
    two queries, and as `cross_validated_epochs`.
    """
    values = read_table(table, text=["query_id"])
    queries = values["query_id"].unique()
    chosen = cross_validated_epochs(values, kfold(queries, min(folds, len(queries)), seed))
    means = values.groupby("epoch")["value"].mean()
    kept = int(means.index[first_best(means)])
    after_kept = values[values["epoch"] == kept].set_index("query_id")["value"]
    chosen["kept"] = after_kept.loc[chosen["query_id"]].to_numpy()
    rows = {
        fold: [len(part), int(part["epoch"].iloc[0]), part["value"].mean(), part["kept"].mean()]
        for fold, part in [*chosen.groupby("fold"), ("all", chosen.assign(epoch=kept))]
    }
    columns = ["queries", "epoch", "cross-validated", "kept"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("fold")


def cross_validated_run(chosen: pd.DataFrame, run_of: Callable[[int], pd.DataFrame]) -> pd.DataFrame:
    """The run that cross-validation measures, each query's list from the epoch that was chosen for its fold. chosen:
    what `cross_validated_epochs` returns. run_of: the run of an epoch. Scores compare within a query only."""
    parts = (run_of(epoch).merge(ids, on="query_id") for epoch, ids in chosen.groupby("epoch")["query_id"])
    return canonical_order(join_parts(parts))


def join_parts(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The runs, or the per-query values, of the rotations' test queries as one. Raises ValueError for a query that
    stands in two parts."""
    parts = list(parts)
    seen: set[str] = set()
    for number, part in enumerate(parts):
        here = set(part["query_id"])
        if again := seen & here:
            raise ValueError(
                f"part {number}: query {min(again)!r} ({len(again)} in all) stands in an earlier one too: "
                "join the test queries of the rotations of one cross-validation"
            )
        seen |= here
    return pd.concat(parts, ignore_index=True)


def _check(folds: int, found: int, what: str) -> None:
    if folds < 2:
        raise ValueError(f"expected 2 folds or more, found {folds}")
    if found < folds:
        raise ValueError(f"expected at least as many {what} as folds, found {found} for {folds} folds")
