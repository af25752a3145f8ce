"""Training instances: a query, a relevant passage, and others from the first stage that are less relevant.

Everything drawn here is a pure function of the seed, the epoch and the query, so that a run that was interrupted
needs no random state to go on, and any machine draws the same.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from gdmtl_lib.data.trec import validate_run
from gdmtl_lib.data.splits import stable_hash, nested_share
from gdmtl_lib.systems import GENERATIVE_TASKS


@dataclass(frozen=True)
class Instance:
    """One training instance: the ids of a query, of a relevant passage and of less relevant ones."""

    query_id: str
    positive: str
    negatives: tuple[str, ...]


class TrainingInstances:
    """The (query, relevant passage) pairs to learn from, with the candidates their negatives are drawn from.

    qrels: query_id, doc_id, relevance; graded judgments pair each passage above 0 with lower ones (Eq. 3).
    candidates: a first-stage run over the training queries. negatives, seed: as in TrainingSettings.
    fraction: share of the queries to keep; those of a smaller share are among those of a larger one.

    Queries of the candidates without a relevant passage teach nothing and are left out.

    Raises ValueError for candidates that are no run (see `validate_run`), where no query of theirs has a relevant
    passage, or where a query's candidates hold nothing less relevant than its relevant passage.
    """

    def __init__(
        self, qrels: pd.DataFrame, candidates: pd.DataFrame, negatives: int = 1, seed: int = 0, fraction: float = 1.0
    ):
        # A passage that stands twice in a list would be drawn twice as often.
        validate_run(candidates if "score" in candidates else candidates.assign(score=0.0))
        self.number_of_negatives, self.seed = negatives, seed
        self.order = lru_cache(maxsize=1)(self._order)  # asked for at every step of an epoch
        codes, ids = pd.factorize(candidates["query_id"])
        known = set(ids.tolist())
        relevant = qrels[qrels["relevance"] > 0]
        query_ids = nested_share([q for q in relevant["query_id"].unique().tolist() if q in known], fraction)
        if not query_ids:
            raise ValueError(
                "no query to train on: none of the candidates' queries has a passage judged relevant; "
                "are these the candidates of the training split?"
            )
        kept = set(query_ids)
        is_kept = np.array([query_id in kept for query_id in ids.tolist()])
        # The candidates of a query stand together, in their order: the rows from first to end of these two arrays.
        rows = np.argsort(codes, kind="stable")
        rows = rows[is_kept[codes[rows]]]
        counts = np.bincount(codes)[is_kept]
        ends = np.cumsum(counts)
        firsts = ends - counts
        candidates, ids = candidates.iloc[rows], ids[is_kept].tolist()
        judged = qrels[[query_id in kept for query_id in qrels["query_id"].tolist()]]
        self._docs = candidates["doc_id"].array
        self._grades = _grades(candidates, judged)
        self._rows = dict(zip(ids, zip(firsts.tolist(), ends.tolist()), strict=True))
        lowest = dict(zip(ids, np.minimum.reduceat(self._grades, firsts).tolist(), strict=True))
        relevant = judged[judged["relevance"] > 0].sort_values(["query_id", "doc_id"])
        columns = (relevant[name].tolist() for name in ("query_id", "doc_id", "relevance"))
        self.pairs = list(zip(*columns, strict=True))
        for query_id, doc_id, grade in self.pairs:
            if lowest[query_id] >= grade:
                raise ValueError(
                    f"query {query_id!r} has no candidate that is less relevant than {doc_id!r}: "
                    "retrieve deeper, or leave the query out of the candidates"
                )

    def __len__(self) -> int:
        return len(self.pairs)

    def _order(self, epoch: int) -> np.ndarray:
        """The order of the instances in an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self))

    def instance(self, epoch: int, index: int) -> Instance:
        """One instance, its negatives drawn uniformly from the candidates of lower grade (with replacement only
        where there are too few)."""
        query_id, positive, grade = self.pairs[index]
        first, end = self._rows[query_id]
        lower = np.asarray(self._docs[first:end], dtype=object)[self._grades[first:end] < grade]
        drawn = np.random.default_rng(stable_hash(self.seed, epoch, query_id, positive)).choice(
            lower, self.number_of_negatives, replace=len(lower) < self.number_of_negatives
        )
        return Instance(query_id, positive, tuple(drawn))


def _grades(candidates: pd.DataFrame, judged: pd.DataFrame) -> np.ndarray:
    """The grade of every candidate, 0 where nobody judged it: int64, one a row. By numbers in place of ids, because
    there may be many millions of them."""
    rows = len(candidates)
    queries, _ = pd.factorize(pd.concat([candidates["query_id"], judged["query_id"]], ignore_index=True))
    docs, known = pd.factorize(pd.concat([candidates["doc_id"], judged["doc_id"]], ignore_index=True))
    keys = queries * len(known) + docs
    order = np.argsort(keys[rows:], kind="stable")
    judged_keys, grades = keys[rows:][order], judged["relevance"].to_numpy(dtype=np.int64)[order]
    places = np.minimum(np.searchsorted(judged_keys, keys[:rows]), len(judged_keys) - 1)
    return np.where(judged_keys[places] == keys[:rows], grades[places], 0)


def borrowed(candidates: list, seed: int, epoch: int, query_id: str):
    """The example that stands in for a query without one of its own, drawn by seed, epoch and query."""
    return candidates[stable_hash(seed, epoch, query_id, "borrowed") % len(candidates)]


def describe_instance(model, collection, candidates: pd.DataFrame, settings) -> pd.DataFrame:
    """The first training instance as a system reads it: a row a sequence.

    Columns task, encoder and decoder (the tokens), source (how many tokens attend to each other freely), predicts.
    """
    instances = TrainingInstances(
        collection.qrels_of(candidates["query_id"].unique()), candidates, seed=settings.seed
    )
    instance = instances.instance(0, 0)
    builder = model.input_builder(
        max_length=settings.max_length, target_length=settings.target_length, generation_mask=settings.generation_mask
    )
    [query] = builder.tokens(collection.query_texts([instance.query_id]))
    positive, negative = builder.passage_tokens(collection.text([instance.positive, *instance.negatives]))
    sequences = [builder.rank(positive, query), builder.rank(negative, query)]
    answers = collection.answers_of([instance.query_id])["text"].tolist()
    targets = {"query": [query], "answer": builder.tokens(answers)}
    for task in model.system.generative_tasks:
        written = targets[GENERATIVE_TASKS[task].target]
        sequences += [builder.generation(task, positive, query, target) for target in written]
    return pd.DataFrame(
        {
            "task": sequence.task,
            "encoder": model.tokenizer.decode(sequence.input_ids),
            "decoder": model.tokenizer.decode(sequence.decoder_ids),
            "source": sequence.source_length,
            "predicts": model.tokenizer.decode(sequence.targets),
        }
        for sequence in sequences
    )
