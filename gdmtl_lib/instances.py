"""Training instances: a query, a relevant passage, and others from the first stage that are less relevant.

Everything drawn here is a pure function of the seed, the epoch and the query, so that a run that was interrupted
needs no random state to go on, and any machine draws the same.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from .runs import validate_run
from .sampling import hashed, nested_share
from .systems import GENERATIVE_TASKS


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
        relevant = qrels[qrels["relevance"] > 0]
        known = set(candidates["query_id"].unique())
        query_ids = nested_share([q for q in relevant["query_id"].unique() if q in known], fraction)
        if not query_ids:
            raise ValueError(
                "no query to train on: none of the candidates' queries has a passage judged relevant; "
                "are these the candidates of the training split?"
            )
        kept = set(query_ids)
        grades = {
            (row.query_id, row.doc_id): row.relevance for row in qrels[qrels["query_id"].isin(kept)].itertuples()
        }
        self._pool = {
            query_id: (docs := group.to_numpy(), np.array([grades.get((query_id, doc), 0) for doc in docs]))
            for query_id, group in candidates[candidates["query_id"].isin(kept)].groupby("query_id")["doc_id"]
        }
        relevant = relevant[relevant["query_id"].isin(kept)].sort_values(["query_id", "doc_id"])
        self.pairs = [(row.query_id, row.doc_id, row.relevance) for row in relevant.itertuples()]
        for query_id, doc_id, grade in self.pairs:
            if not (self._pool[query_id][1] < grade).any():
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
        docs, grades = self._pool[query_id]
        lower = docs[grades < grade]
        drawn = np.random.default_rng(hashed(self.seed, epoch, query_id, positive)).choice(
            lower, self.number_of_negatives, replace=len(lower) < self.number_of_negatives
        )
        return Instance(query_id, positive, tuple(drawn))


def borrowed(candidates: list, seed: int, epoch: int, query_id: str):
    """The example that stands in for a query without one of its own, drawn by seed, epoch and query."""
    return candidates[hashed(seed, epoch, query_id, "borrowed") % len(candidates)]


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
