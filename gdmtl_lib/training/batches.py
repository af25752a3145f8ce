"""What an optimiser step learns from: instances (a query, a relevant passage, and less relevant ones of the first
stage), as packed sequences. All that is drawn is a pure function of the seed, the epoch and the query.
"""

from array import array
from collections import namedtuple
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd

from gdmtl_lib.backbones.devices import pick_device
from gdmtl_lib.data.candidates import Candidates
from gdmtl_lib.data.splits import nested_share, stable_hash
from gdmtl_lib.data.trec import validate_run
from gdmtl_lib.inputs import TokenSequence
from gdmtl_lib.packing import PackedBatch, pack
from gdmtl_lib.settings import TrainingSettings
from gdmtl_lib.systems import GENERATIVE_TASKS


KEPT_TOKENS = 1 << 25  # at 4 bytes each


Instance = namedtuple("Instance", "query_id positive negatives source")
"""One training instance: the ids of a query, of a relevant passage and, a tuple, of less relevant ones; and of the passage
that the query is written from."""


class TrainingInstances:
    """The (query, relevant passage) pairs to learn from, with the candidates their negatives are drawn from; queries
    without a relevant passage are left out.

    qrels: query_id, doc_id, relevance; graded judgments pair each relevant passage with lower ones (Eq. 3).
    candidates: a first-stage run over the training queries, or its compact form. The rest as in TrainingSettings:
    fraction is its train_fraction, level its train_relevance_level, source_level its generation_level.

    Raises ValueError for candidates that are no run (see `validate_run`), where no query of theirs has a relevant
    passage, or where a query's candidates hold nothing less relevant than its relevant passage.
    """

    def __init__(
        self, qrels: pd.DataFrame, candidates: pd.DataFrame | Candidates, negatives: int = 1, seed: int = 0,
        fraction: float = 1.0, level: int = 1, source_level: int | None = None,
    ):
        self.candidates = candidates = compact(candidates)
        self.number_of_negatives, self.seed = negatives, seed
        self.order = lru_cache(maxsize=1)(self._order)  # asked for at every step of an epoch
        known = set(candidates.query_ids)
        relevant = qrels[qrels["relevance"] >= level]
        query_ids = nested_share([q for q in relevant["query_id"].unique().tolist() if q in known], fraction)
        if not query_ids:
            raise ValueError(
                "no query to train on: none of the candidates' queries has a passage judged relevant"
                f"{f' (of grade {level} or more)' if level > 1 else ''}; are these the candidates of the training split?"
            )
        kept = set(query_ids)
        judged = qrels[[query_id in kept for query_id in qrels["query_id"].tolist()]].sort_values("query_id", kind="stable")
        # Grades by passages' numbers, those of a query together. A grade a candidate would take gigabytes.
        self._judged = np.stack([candidates.numbers_of(judged["doc_id"]), judged["relevance"].to_numpy(dtype=np.int64)])
        ids, firsts = np.unique(judged["query_id"].to_numpy(dtype=object), return_index=True)
        self._judged_rows = dict(zip(ids.tolist(), map(slice, firsts.tolist(), [*firsts[1:].tolist(), len(judged)])))
        relevant = judged[judged["relevance"] >= level].sort_values(["query_id", "doc_id"])
        columns = (relevant[name].tolist() for name in ("query_id", "doc_id", "relevance"))
        self.pairs = list(zip(*columns, strict=True))
        sources = judged[judged["relevance"] >= (source_level or np.inf)].sort_values(["query_id", "doc_id"])
        self._sources = sources.groupby("query_id")["doc_id"].agg(list).to_dict()
        for query_id, doc_id, grade in self.pairs:
            if not len(self._lower(query_id, grade)):
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
        lower = self._lower(query_id, grade)
        drawn = np.random.default_rng(stable_hash(self.seed, epoch, query_id, positive)).choice(
            lower, self.number_of_negatives, replace=len(lower) < self.number_of_negatives
        )
        names = tuple(name.decode() for name in self.candidates.names[drawn].tolist())
        sources = self._sources.get(query_id, [positive])
        return Instance(query_id, positive, names, sources[stable_hash(self.seed, epoch, query_id, positive, "source") % len(sources)])

    def _lower(self, query_id: str, grade: int) -> np.ndarray:
        """The numbers of a query's candidates of a lower grade, best first; 0 is that of what nobody judged."""
        numbers = self.candidates.numbers[self.candidates.rows(query_id)]
        judged, grades = self._judged[:, self._judged_rows[query_id]]
        return numbers[~np.isin(numbers, judged[grades >= grade])]


def compact(candidates: pd.DataFrame | Candidates) -> Candidates:
    """Candidates as numbers, whichever form they are given in. Raises ValueError for a frame that is no run."""
    if isinstance(candidates, Candidates):
        return candidates
    validate_run(candidates if "score" in candidates else candidates.assign(score=0.0))
    return Candidates.of_frame(candidates)


class Batches:
    """The batches of a training. candidates: in canonical order, which decides what is drawn.

    Raises ValueError as `TrainingInstances`, and where a system learns to write answers and the collection has none.
    """

    def __init__(self, model, collection, candidates: pd.DataFrame | Candidates, settings: TrainingSettings):
        self.collection, self.settings, self.system = collection, settings, model.system
        self.lengths = {"max_length": settings.max_length, "target_length": settings.target_length}
        self.builder = model.input_builder(**self.lengths, generation_mask=settings.generation_mask)
        numbers = compact(candidates)
        self.qrels = collection.qrels_of(numbers.query_ids)
        levels = settings.train_relevance_level, settings.generation_level
        drawn = (settings.negatives, settings.seed, settings.train_fraction, *levels)
        self.instances = TrainingInstances(self.qrels, numbers, *drawn)
        self._token_ids: dict[tuple[str, str], array] = {}
        self._tokens_kept = 0
        self._teacher = self._scores(candidates) if settings.rank_loss_of(model.system) == "margin_mse" else {}
        self.steps_per_epoch = -(-len(self.instances) // settings.batch_size)
        self.answers = self._answers() if self.system.needs_answers else {}
        self._answered = [pair[:2] for pair in self.instances.pairs if pair[0] in self.answers]

    def _scores(self, candidates: pd.DataFrame | Candidates) -> dict[tuple[str, str], float]:
        if isinstance(candidates, Candidates):
            learns = f"{self.system.name} learns a teacher's margins (margin_mse)"
            raise ValueError(f"{learns}: give the candidates as a frame with its scores")
        scored = candidates if "score" in candidates else candidates.assign(score=np.nan)
        scores = dict(zip(zip(scored["query_id"], scored["doc_id"]), scored["score"].astype(float), strict=True))
        missing = [pair[:2] for pair in self.instances.pairs if not np.isfinite(scores.get(pair[:2], np.nan))]
        if missing:
            raise ValueError(
                f"{self.system.name} learns a teacher's margins (margin_mse), but the candidates have no score for "
                f"{len(missing)} relevant passages, query {missing[0][0]!r} and {missing[0][1]!r} first: add these to the "
                f"candidates, and let the teacher score all of them with rerank"
            )
        return scores

    def _answers(self) -> dict[str, str]:
        frame = self.collection.answers_of([query_id for query_id, _, _ in self.instances.pairs])
        if frame.empty:
            raise ValueError(
                f"{self.system.name} learns to generate answers, but collection {self.collection.name!r} has "
                f"none for the training queries: add answers.<split>.tsv, or train gdmtl"
            )
        return dict(zip(frame["query_id"], frame["text"]))

    def chosen(self, step: int) -> tuple[int, np.ndarray]:
        """The epoch of a step, and the instances of its global batch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * self.settings.batch_size
        return epoch, self.instances.order(epoch)[first : first + self.settings.batch_size]

    def parts(self, step: int, process: int = 0, processes: int = 1) -> list[tuple[float, PackedBatch]]:
        """A process's parts of a step's batch, each with its weight: 0 for an empty one, computed on something."""
        epoch, chosen = self.chosen(step)
        each = self.settings.gradient_accumulation
        mine = np.array_split(chosen, processes * each)[process * each :][:each]
        return [(float(len(part) > 0), self.packed(epoch, part if len(part) else chosen[:1])) for part in mine]

    def packed(self, epoch: int, indices, tasks: tuple[str, ...] | None = None) -> PackedBatch:
        """Some instances of an epoch, packed. tasks: those that are learned, or some of them."""
        sequences = self.sequences(epoch, indices, tasks)
        if pick_device(self.settings.device).type == "cuda":
            # The keys of all targets are one slice then (see `flash`). On a CPU the order decides what dropout draws.
            sequences.sort(key=lambda sequence: sequence.task != "rank")
        return pack(sequences)

    def sequences(self, epoch: int, indices, tasks: tuple[str, ...] | None = None) -> list[TokenSequence]:
        """Of each instance its relevant passage, its negatives, and what is to be generated."""
        tasks = tasks or self.settings.tasks_of(self.system)
        generative = [task for task in tasks if task != "rank"]
        instances = [self.instances.instance(epoch, int(index)) for index in indices]
        queries = self._tokens("query", [each.query_id for each in instances])
        doc_ids = [doc_id for each in instances for doc_id in (each.positive, *each.negatives, each.source)]
        passages = iter(self._tokens("passage", doc_ids))
        sequences = []
        for instance, query in zip(instances, queries):
            group, source = [next(passages) for _ in range(1 + self.settings.negatives)], next(passages)
            if "rank" in tasks:
                sequences += [
                    replace(self.builder.rank(passage, query), teacher=self._teacher.get((instance.query_id, doc_id)))
                    for passage, doc_id in zip(group, (instance.positive, *instance.negatives))
                ]
            sequences += [self._generation(task, epoch, instance, group[0], source, query) for task in generative]
        return sequences

    def _generation(self, task: str, epoch: int, instance: Instance, passage, source, query) -> TokenSequence:
        """What one generative task makes of an instance: the query of its source, or the answer of its relevant passage. A
        query without an answer lends its place to another example, as the authors do it."""
        if GENERATIVE_TASKS[task].target == "query":
            return self.builder.generation(task, source, query, query)
        query_id = instance.query_id
        if query_id not in self.answers:
            query_id, doc_id = borrowed(self._answered, self.settings.seed, epoch, query_id)
            [query], [passage] = self._tokens("query", [query_id]), self._tokens("passage", [doc_id])
        [answer] = self._tokens("answer", [query_id])
        return self.builder.generation(task, passage, query, answer)

    def _tokens(self, kind: str, ids: list[str]) -> list[list[int]]:
        """Token ids of passages, queries, or queries' answers. They are kept, since every epoch meets them again."""
        new = [each for each in dict.fromkeys(ids) if (kind, each) not in self._token_ids]
        found = {}
        if new and kind == "passage":
            # Of a passage no input holds more than that.
            tokens = self.builder.passage_tokens(self.collection.text(new))
            found = {each: list(part[: self.settings.max_length]) for each, part in zip(new, tokens)}
        elif new:
            texts = [self.answers[each] for each in new] if kind == "answer" else self.collection.query_texts(new)
            found = dict(zip(new, self.builder.tokens(texts)))
        wanted = [found[each] if each in found else self._token_ids[kind, each].tolist() for each in ids]
        for each, tokens in found.items():
            if self._tokens_kept < KEPT_TOKENS:
                self._token_ids[kind, each] = array("i", tokens)
                self._tokens_kept += len(tokens)
        return wanted

    def target_tokens(self, task: str) -> np.ndarray:
        """Every token that a generative task is to write in an epoch, int64."""
        query_ids = dict.fromkeys(query_id for query_id, _, _ in self.instances.pairs)
        is_answer = GENERATIVE_TASKS[task].target == "answer"
        texts = self.answers.values() if is_answer else self.collection.query_texts(query_ids)
        targets = [tokens[: self.settings.target_length - 1] for tokens in self.builder.tokens(texts)]
        return np.array([token for tokens in targets for token in (*tokens, self.builder.end)])


def borrowed(examples: list, seed: int, epoch: int, query_id: str):
    """The example that stands in for a query without one of its own, drawn by seed, epoch and query."""
    return examples[stable_hash(seed, epoch, query_id, "borrowed") % len(examples)]


def describe_instance(model, collection, candidates: pd.DataFrame | Candidates, settings: TrainingSettings) -> pd.DataFrame:
    """The first training instance as a system reads it, a row a sequence: task, encoder and decoder (the tokens),
    source (how many tokens attend to each other freely), predicts."""
    decode, sequences = model.tokenizer.decode, Batches(model, collection, candidates, settings).sequences(0, [0])
    rows = [
        (each.task, decode(each.input_ids), decode(each.decoder_ids), each.source_length, decode(each.targets))
        for each in sequences
    ]
    return pd.DataFrame(rows, columns=["task", "encoder", "decoder", "source", "to predict"])
