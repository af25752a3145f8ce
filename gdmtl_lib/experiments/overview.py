"""What a collection holds, as tables: sizes, lengths, grades, categories, sessions, and what BM25 finds of it."""

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pandas as pd

from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.splits import nested_sample

LARGE = 200_000  # passages; to read more of them takes minutes, and gigabytes of memory
SAMPLED = 10_000

# Section 5.1: the shares of MS MARCO's dev queries by the kind of answer that is asked for, per cent (Table 5).
PAPER_CATEGORY_SHARES = {"DESCRIPTION": 53.12, "NUMERIC": 26.12, "ENTITY": 8.81, "LOCATION": 6.17, "PERSON": 5.78}


def levels_by_split(splits: Sequence[str], relevance_levels: Sequence[int]) -> dict[str, int]:
    """The lowest relevant grade by split. Raises ValueError unless there is one for each."""
    if len(splits) != len(relevance_levels):
        expected = f"relevance_levels: expected one for each of splits ({', '.join(splits)})"
        raise ValueError(f"{expected}, found {len(relevance_levels)}")
    return dict(zip(splits, relevance_levels))


def split_sizes(collection: Collection, relevance_levels: Mapping[str, int]) -> pd.DataFrame:
    """One row a split: how many queries, judgments and passages (that the split searches) there are. relevance_levels:
    the splits to describe, with the lowest grade that counts as relevant."""
    rows = {}
    for split, level in relevance_levels.items():
        queries, qrels = collection.queries(split), collection.qrels(split)
        rows[split] = {
            "queries": len(queries),
            "words a query": round(queries["text"].str.split().str.len().mean(), 1),
            "passages": collection.passage_count(split),
            "judged a query": round(len(qrels) / len(queries), 2),
            "relevant a query": round((qrels["relevance"] >= level).sum() / len(queries), 2),
            "grades": ", ".join(map(str, sorted(qrels["relevance"].unique()))),
            "answers": len(_answers(collection, split)),
            "categories": queries["category"].nunique() if "category" in queries else 0,
            "sessions": queries["session"].nunique() if "session" in queries else 0,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("split")


def text_lengths(collection: Collection, splits: Sequence[str]) -> dict[str, np.ndarray]:
    """How many words each passage, query and answer of some splits has, int [n] by kind that is there.

    Of more than `LARGE` passages none is read but judged ones, `SAMPLED` of them by a hash of their ids; the kind is
    then `judged passages (sample)`.
    """
    large = max(collection.passage_count(split) for split in splits) > LARGE
    judged = dict.fromkeys(doc_id for split in splits for doc_id in collection.qrels(split)["doc_id"])
    texts = {
        "passages": [] if large else dict(chain(*map(collection.passages, splits))).values(),
        "judged passages (sample)": collection.text(nested_sample(judged, SAMPLED)) if large else [],
        "queries": [text for split in splits for text in collection.queries(split)["text"]],
        "answers": [text for split in splits for text in _answers(collection, split)],
    }
    return {kind: np.array([len(text.split()) for text in found]) for kind, found in texts.items() if found}


def category_shares(collection: Collection, splits: Sequence[str]) -> pd.DataFrame:
    """Share of the queries of each category, per cent: a row a category, the largest first, a column for each split
    that has categories."""
    queries = {split: collection.queries(split) for split in splits}
    shares = {split: 100 * of["category"].value_counts(normalize=True) for split, of in queries.items() if "category" in of}
    table = pd.DataFrame(shares).fillna(0.0)
    return table.loc[table.mean(axis=1).sort_values(ascending=False, kind="stable").index].rename_axis("category")


def grade_counts(collection: Collection, splits: Sequence[str]) -> pd.DataFrame:
    """How many judgments of each grade a query has, on average: a row a split, a column a grade."""
    counts = {split: collection.qrels(split)["relevance"].value_counts() / len(collection.queries(split)) for split in splits}
    return pd.DataFrame(counts).fillna(0.0).sort_index().T.rename_axis("split")


def example_queries(collection: Collection, split: str, candidates: pd.DataFrame, relevance_level: int = 1) -> pd.DataFrame:
    """Three queries with what answers them and what BM25 prefers: `query, relevant, rank, first other`; rank "-" where
    it missed the relevant passage. They are taken evenly from those with a relevant passage and another candidate."""
    qrels = collection.qrels(split)
    relevant = qrels[qrels["relevance"] >= relevance_level]
    best = relevant.sort_values("relevance", ascending=False, kind="stable").drop_duplicates("query_id")
    judged = set(zip(relevant["query_id"], relevant["doc_id"], strict=True))
    is_other = [pair not in judged for pair in zip(candidates["query_id"], candidates["doc_id"], strict=True)]
    other = candidates[is_other].drop_duplicates("query_id")[["query_id", "doc_id"]]
    ranks = candidates[["query_id", "doc_id", "rank"]]
    table = best.merge(ranks, "left", ["query_id", "doc_id"]).merge(other, "inner", "query_id", suffixes=("", "_other"))
    # In the order of the queries, the same every time.
    order = {query_id: place for place, query_id in enumerate(collection.queries(split)["query_id"])}
    table = table.sort_values("query_id", key=lambda ids: ids.map(order), ignore_index=True)
    table = table.iloc[np.linspace(0, len(table) - 1, min(3, len(table)), dtype=int)]
    return pd.DataFrame({
        "query": collection.query_texts(table["query_id"]),
        "relevant": collection.text(table["doc_id"]),
        "rank": ["-" if np.isnan(rank) else str(int(rank)) for rank in table["rank"]],
        "first other": collection.text(table["doc_id_other"]),
    })  # fmt: skip


def some_queries(collection: Collection, split: str, most: int | None) -> tuple[Collection, str]:
    """The collection with so many of a split's queries, by a hash of their ids, and how the split is then called; all
    of them where there are no more. Raises ValueError for a sample of less than two."""
    queries = len(collection.queries(split))
    if most is not None and most < 2:
        raise ValueError(f"most_queries: expected at least 2, found {most}: name more, or None for all {queries:,}")
    if most is None or queries <= most:
        return collection, split
    return collection.sampled({split: most}), f"{split} ({most:,} of {queries:,} queries)"


def recall_by_depth(run: pd.DataFrame, qrels: pd.DataFrame, depth: int, relevance_level: int = 1) -> np.ndarray:
    """Share of a query's relevant passages among its first k candidates, mean over the queries that have any, which no
    re-ranker of k candidates can exceed: float [depth], k from 1."""
    relevant = qrels.loc[qrels["relevance"] >= relevance_level, ["query_id", "doc_id"]]
    if relevant.empty:
        raise ValueError(
            f"qrels: expected a judgment of relevance {relevance_level} or more, found {qrels['relevance'].max()} at "
            "most; lower relevance_level"
        )
    # ir-measures has R@k, one by one: of half a million queries a hundred of them would take an hour.
    weight = 1 / relevant.groupby("query_id")["doc_id"].transform("size")
    found = relevant.assign(weight=weight).merge(run[["query_id", "doc_id", "rank"]], on=["query_id", "doc_id"])
    found = found[found["rank"] <= depth]
    gains = np.bincount(found["rank"] - 1, weights=found["weight"], minlength=depth)
    return np.cumsum(gains) / relevant["query_id"].nunique()


def _answers(collection: Collection, split: str) -> list[str]:
    try:
        return collection.answers(split)["text"].tolist()
    except ValueError:  # a split without answers
        return []
