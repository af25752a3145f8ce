"""Queries that a system writes for passages: how varied they are, and whether they help BM25 to find the passages
(doc2query: Nogueira, Yang, Lin and Cho, 2019)."""

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pandas as pd
from torchmetrics.functional.text import rouge_score, squad

from gdmtl_lib.data.collection import Collection
from gdmtl_lib.evaluation.comparison import compare
from gdmtl_lib.evaluation.measures import evaluate
from gdmtl_lib.data.bm25 import bm25_candidates
from gdmtl_lib.data.splits import Split
from .results import Results
from gdmtl_lib.systems import LABELS, SYSTEMS, system_name


def checkpoints(results: Results, systems: Sequence[str] | None, needed: str) -> dict[str, Path]:
    """Where the generating systems' checkpoints lie, each of its lowest seed, by name. systems: which ones; all that were
    trained when None. needed: one more, which has to be there."""
    able = [name for name, system in SYSTEMS.items() if system.generative_tasks]
    wanted = [name for name in able if results.seeds(name)] if systems is None else list(systems)
    found = {}
    for name in dict.fromkeys(map(system_name, [*wanted, needed])):
        if name not in able:
            raise ValueError(f"systems: {LABELS[name]} does not write queries, as these do: {', '.join(able)}")
        if not results.seeds(name):
            raise FileNotFoundError(f"{LABELS[name]} has no checkpoint in {results.folder}; train {name} with notebook 03")
        found[name] = results.home(name, results.seeds(name)[0]) / "checkpoint"
    return found


def searched_passages(collection: Collection, split: str, most: int) -> dict[str, str]:
    """The texts of the passages that a split searches, by doc_id; none where there are more than `most`: a system
    writes some hundred queries a second on a GPU and a few on a CPU."""
    found = dict(islice(collection.passages(split), most + 1))
    return found if len(found) <= most else {}


def distinct(texts: Iterable[str], n: int) -> float:
    """The share of different ones among all runs of n words of the texts (distinct-n: Li et al., 2016); 0 where there
    is none. It falls as texts get more, so compare it for equal numbers of texts."""
    if n < 1:
        raise ValueError(f"n must be at least 1, found {n}")
    grams = [gram for text in texts for gram in zip(*(text.lower().split()[start:] for start in range(n)))]
    return len(set(grams)) / len(grams) if grams else 0.0


def diversity(texts_by_writer: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """How varied the texts of each writer are, one text a passage: a row a writer, `words` (mean), `different texts`
    (share), `distinct-1`, `distinct-2`."""
    rows = {
        writer: {
            "words": sum(len(text.split()) for text in texts) / max(len(texts), 1),
            "different texts": len(set(texts)) / max(len(texts), 1),
            "distinct-1": distinct(texts, 1),
            "distinct-2": distinct(texts, 2),
        }
        for writer, texts in texts_by_writer.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("writer")


def agreement(written: Sequence[str], real: Sequence[str]) -> dict[str, float]:
    """How near texts are to the real ones, means from 0 to 1: `exact match` (but for case, punctuation and articles, as
    SQuAD counts: Rajpurkar et al., 2016) and `ROUGE-L` (F of the longest common subsequence of words: Lin, 2004)."""
    pairs = list(zip(written, real, strict=True))
    if not pairs:
        return {"exact match": float("nan"), "ROUGE-L": float("nan")}
    answers = [{"answers": {"text": [text], "answer_start": [0]}, "id": str(n)} for n, (_, text) in enumerate(pairs)]
    matched = squad([{"prediction_text": text, "id": str(n)} for n, (text, _) in enumerate(pairs)], answers)
    overlap = rouge_score(list(written), [[text] for text in real], rouge_keys="rougeL")
    return {"exact match": float(matched["exact_match"]) / 100, "ROUGE-L": float(overlap["rougeL_fmeasure"])}


def unseen(collection: Collection, split: str, train_split: str, relevance_level: int = 1) -> pd.DataFrame:
    """The relevant judgments of a split's queries none of whose relevant passages is relevant to a training query: a
    system has learned to write the training queries from those passages. Returns `query_id, doc_id, relevance`."""
    relevant = collection.qrels(split).query("relevance >= @relevance_level")
    learned = set(collection.qrels(train_split).query("relevance >= @relevance_level")["doc_id"])
    seen = set(relevant.loc[relevant["doc_id"].isin(learned), "query_id"])
    if split == train_split or seen.issuperset(relevant["query_id"]):
        raise ValueError(
            f"expected queries of {split!r} whose relevant passages {train_split!r} does not have, found none: "
            "choose another split"
        )
    return relevant[~relevant["query_id"].isin(seen)].reset_index(drop=True)


def expanded(collection: Collection, split: str, written: Mapping[str, Sequence[str]], count: int) -> Collection:
    """A split of a collection, each of its passages followed by the first `count` queries written for it. written:
    queries by doc_id, at least `count` for each passage that the split searches."""
    texts = {}
    for doc_id, text in collection.passages(split):
        queries = written.get(doc_id, ())
        if len(queries) < count:
            raise ValueError(f"expected {count} queries written for passage {doc_id!r}, found {len(queries)}")
        texts[doc_id] = " ".join([text, *queries[:count]])
    only = Split(collection.queries(split), collection.qrels(split), doc_ids=tuple(texts))
    return Collection(f"{collection.name} with {count} queries a passage", texts, {split: only})


def recall_by_count(
    collection: Collection, split: str, written: Mapping[str, Sequence[str]], counts: Sequence[int], qrels: pd.DataFrame,
    cutoffs: Sequence[int] = (10, 100), relevance_level: int = 1, index_dir: str | os.PathLike | None = None,
) -> pd.DataFrame:
    """BM25's recall with so many written queries appended to each passage, against none appended: what
    `comparison.compare` returns, with the column `count` for the system. counts: 0 among them. written: as for
    `expanded`."""
    if 0 not in counts:
        raise ValueError(f"counts: expected 0 among them, to compare with, found {', '.join(map(str, counts))}")
    measures = [f"R@{cutoff}" for cutoff in cutoffs]
    values = {}
    for count in sorted(set(counts)):
        run = bm25_candidates(expanded(collection, split, written, count), split, max(cutoffs), index_dir=index_dir)
        values[count] = evaluate(run, qrels, measures, relevance_level)
    return compare(values, baseline=0).rename(columns={"system": "count"})
