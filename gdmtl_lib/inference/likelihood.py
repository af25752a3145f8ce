"""Ranking with the language-model head: how likely is the query, given the passage?

The passage's states do not depend on the query, so they are computed once for all queries that it is a candidate of;
a pair then costs as much as the query's few tokens. The ranking head reads passage and query together for every pair.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from gdmtl_lib.backbones.devices import fast_products, pick_device, pick_precision
from gdmtl_lib.evaluation.measures import evaluate
from gdmtl_lib.backbones.linear import fused_layers, in_turn, linear_layer
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.data.rounding import first_best
from gdmtl_lib.data.trec import as_candidates, canonical_order
from gdmtl_lib.inputs import as_texts
from gdmtl_lib.packing import BATCH_TOKENS, by_budget
from gdmtl_lib.pretrained import load_model
from gdmtl_lib.settings import check_count
from gdmtl_lib.systems import GENERATIVE_TASKS

from .generation import check_learns
from .prefix_cache import Continuation, encode_sources
from .scoring import scorer_on
from .stored_states import ModelStates, StoredStates, open_states

REDUCTIONS = ("sum", "mean")
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
LOGIT_ROWS = {"cpu": 128, "mps": 1024, "cuda": 8192}  # tokens whose logits over the vocabulary are there at once
CHUNK_PASSAGES = 1024  # looked up and computed together
# Passes whose passages are at hand together, and read by queries of like length: a CPU's hold too few.
PASSES = {"cpu": 4, "mps": 4, "cuda": 1}


def query_likelihood(
    model, collection, candidates: pd.DataFrame | str | os.PathLike, reduction: str = "sum",
    batch_tokens: int | None = None, precision: str = "fp32", device: str = "auto", progress: bool = True,
    states: str | os.PathLike | StoredStates | None = None,
) -> pd.DataFrame:
    """Score every candidate with log P(query | passage) and order each query's candidates by it.

    reduction: `sum` over the query's tokens and its end, or their `mean`. One query's candidates are ordered alike
    by both; across queries of different lengths only the mean compares.
    states: a folder that keeps the passages' states, in bf16, for later runs of this model, or `StoredStates`. Those
    that are computed here are then rounded as well: no score depends on what was stored.
    Other arguments and returns: as `rerank`. Raises ValueError as `rerank`, for a system that does not learn to write
    queries and for an unknown reduction.
    """
    model, collection, candidates = load_model(model), load_collection(collection), as_candidates(candidates)
    check_learns(model, "query_generation")
    check_count("batch_tokens", batch_tokens, may_lack=True)
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}: expected one of {', '.join(REDUCTIONS)}")
    torch_device = pick_device(device)
    budget, precision = batch_tokens or BATCH_TOKENS[torch_device.type], pick_precision(precision, torch_device)
    query_ids = candidates["query_id"].unique()
    query_of = dict(zip(query_ids, collection.query_texts(query_ids)))
    doc_ids = candidates["doc_id"].unique()
    parts = []
    bar = tqdm(total=len(candidates), desc=f"query likelihood with {model.system.name}", disable=not progress)
    with bar, scorer_on(model, torch_device, precision) as scorer, open_states(states, model, precision) as stored:
        for start in range(0, len(doc_ids), CHUNK_PASSAGES):
            chunk = doc_ids[start : start + CHUNK_PASSAGES]
            text_of = dict(zip(chunk, collection.text(chunk)))
            rows = candidates[candidates["doc_id"].isin(text_of)]
            pairs = [(query_of[query], text_of[doc]) for query, doc in zip(rows["query_id"], rows["doc_id"])]
            totals, counts = log_likelihoods(scorer, pairs, budget, bar.update, stored)
            parts.append(rows[["query_id", "doc_id"]].assign(score=totals if reduction == "sum" else totals / counts))
    return canonical_order(pd.concat(parts, ignore_index=True))


@in_turn
@torch.inference_mode()
def log_likelihoods(
    model, pairs: Sequence[tuple[str, str] | tuple[str, str, str]], batch_tokens: int | None = None,
    on_progress: Callable[[int], object] | None = None, stored: ModelStates | None = None, task: str = "query_generation",
) -> tuple[np.ndarray, np.ndarray]:
    """log P of the query of each (query, passage) pair given the passage, its end included, float32, and the number
    of tokens that is over, int64; in the order given. task: another one than the query's; a pair is then its target, the
    passage, and the query where the task reads it.

    model: as `in_precision` gives it. batch_tokens: source tokens of one pass; its queries attend to at most PASSES
    times as many. on_progress: called with the number of pairs after every pass. stored: where states are kept.
    """
    builder = model.input_builder()
    written = list(dict.fromkeys(target for target, *_ in pairs))
    tokens_of = {text: builder.generation(task, [], [], ids).targets for text, ids in zip(written, builder.tokens(written))}
    pairs_of = defaultdict(list)
    for number, (_, *read) in enumerate(pairs):
        pairs_of[tuple(read)].append(number)
    passages, queries = list(pairs_of), builder.tokens([query for _, *queries in pairs_of for query in queries])
    read = zip_longest(builder.passage_tokens([passage for passage, *_ in pairs_of]), queries, fillvalue=[])
    sources = [builder.generation(task, passage, query, []) for passage, query in read]
    targets = [tokens_of[target] for target, *_ in pairs]
    lengths = [source.source_length for source in sources]
    totals = np.empty(len(pairs), dtype=np.float32)
    device = next(model.parameters()).device
    encode = encode_sources if stored is None else stored.sources
    batch_tokens = batch_tokens or BATCH_TOKENS[device.type]
    together = PASSES[device.type] * batch_tokens
    tokens = sum(map(len, targets)) + (sum(lengths) if stored is None else 0)
    with fast_products(device), fused_layers(model, tokens):
        vocabulary = _vocabulary(model, task, tokens)
        for batch in by_budget(sorted(range(len(sources)), key=lambda i: -lengths[i]), lengths, together):
            passes = by_budget(batch, lengths, batch_tokens)
            encoded = [source for each in passes for source in encode(model, [sources[i] for i in each])]
            continuation = Continuation(model, encoded)
            first = continuation.start()
            rows = [(place, number) for place, i in enumerate(batch) for number in pairs_of[passages[i]]]
            rows.sort(key=lambda row: -len(targets[row[1]]))
            sizes = [lengths[batch[0]] + len(targets[number]) for _, number in rows]
            for part in by_budget(range(len(rows)), sizes, together):
                places, numbers = zip(*(rows[i] for i in part))
                places = torch.tensor(places, device=device)
                totals[list(numbers)] = _log_p(
                    vocabulary, continuation.select(places), first[places], [targets[number] for number in numbers]
                )
                if on_progress:
                    on_progress(len(part))
    return totals, np.array([len(target) for target in targets], dtype=np.int64)


def _vocabulary(model, task: str, tokens: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The language-model head, by far the largest of all products: states, float [n, d], -> logits, float [n, v]."""
    head = model.generation_heads[task]
    embeddings = head.matrix(model.get_input_embeddings().weight)
    product = linear_layer(embeddings, head.bias.to(embeddings.dtype), tokens)
    return lambda states: product(head.transform(states.float()).to(embeddings.dtype)).float()


def _log_p(vocabulary, continuation: Continuation, first: torch.Tensor, targets: list[list[int]]) -> np.ndarray:
    """log P of each row's target; all rows in one pass, logits only where a real token is predicted."""
    longest = max(map(len, targets))
    padded = torch.tensor([target + [-1] * (longest - len(target)) for target in targets], device=first.device)
    states = first[:, None]
    if longest > 1:
        states = torch.cat([states, continuation.advance(padded[:, :-1].clamp(min=0)).to(states.dtype)], dim=1)
    real = padded >= 0
    losses = torch.zeros(padded.shape, device=first.device)
    parts = zip(*(of_all[real].split(LOGIT_ROWS[first.device.type]) for of_all in (states, padded)))
    losses[real] = torch.cat([F.cross_entropy(vocabulary(part), target, reduction="none") for part, target in parts])
    return -losses.sum(dim=1).cpu().numpy()


def perplexity(model, passages: Iterable[str], queries: Iterable[str], device: str = "auto") -> float:
    """exp of the mean negative log P of a token of each passage's query, the end included. model, device: as for `rerank`.
    Raises ValueError for a system that does not learn to write queries, and for texts that are none or no pairs."""
    check_learns(model := load_model(model), "query_generation")
    passages, queries = as_texts(passages, "passage"), as_texts(queries, "query")
    if not len(queries) == len(passages) > 0:
        raise ValueError(f"expected one query a passage: found {len(passages)} passages and {len(queries)} queries")
    with scorer_on(model, pick_device(device), "fp32") as scorer:
        totals, counts = log_likelihoods(scorer, list(zip(queries, passages)))
    return float(np.exp(-totals.sum(dtype=float) / counts.sum()))


def targets_of(collection, qrels: pd.DataFrame, task: str, relevance_level: int = 1) -> pd.DataFrame:
    """What a task is to write of the judged queries, each with its first relevant passage: `query_id`, `doc_id`, `text`.
    Queries without an answer are left out of an answer's. Raises ValueError where nothing is left."""
    relevant = qrels[qrels["relevance"] >= relevance_level].drop_duplicates("query_id")[["query_id", "doc_id"]]
    if relevant.empty:
        raise ValueError(f"no query has a passage of relevance {relevance_level} or more to write it from: lower relevance_level")
    if GENERATIVE_TASKS[task].target == "query":
        return relevant.assign(text=collection.query_texts(relevant["query_id"]))
    answered = relevant.merge(collection.answers_of(relevant["query_id"]), on="query_id")
    if answered.empty:
        raise ValueError(f"collection {collection.name!r} has no answers to the validation's queries: choose by another measure")
    return answered


def likelihoods(
    model, collection, qrels: pd.DataFrame, relevance_level: int = 1, task: str = "query_generation"
) -> pd.DataFrame:
    """How well a model writes the queries of a split, or the answers: `query_id`, `value`, the mean log P of a token of
    each given the query's first relevant passage, the end included. Raises ValueError as `targets_of`."""
    targets = targets_of(collection, qrels, task, relevance_level)
    texts = [targets["text"], collection.text(targets["doc_id"])]
    if "query" in GENERATIVE_TASKS[task].source:
        texts.append(collection.query_texts(targets["query_id"]))
    totals, counts = log_likelihoods(model.eval(), list(zip(*texts, strict=True)), task=task)
    return targets[["query_id"]].assign(value=totals / counts)


def interpolate(ranking: pd.DataFrame, likelihood: pd.DataFrame, weight: float) -> pd.DataFrame:
    """Ranking score + weight * likelihood, both standardised over each query's candidates: a hinge loss fixes no scale
    of its scores, and a long query's likelihoods lie further apart than a short one's.

    ranking, likelihood: runs of the same candidates. Returns a run. Raises ValueError for runs of others.
    """
    both = ranking.merge(likelihood, on=["query_id", "doc_id"], suffixes=("", "_likelihood"), validate="1:1")
    if not len(both) == len(ranking) == len(likelihood):
        raise ValueError(
            f"expected two runs of the same candidates: found {len(ranking)} and {len(likelihood)} rows, "
            f"{len(both)} of them in both"
        )
    parts = []
    for column in ("score", "score_likelihood"):
        by_query = both.groupby("query_id", sort=False)[column]
        spread = by_query.transform(lambda scores: scores.std(ddof=0))  # 0 where all are equal
        parts.append(((both[column] - by_query.transform("mean")) / spread.where(spread > 0)).fillna(0.0))
    scores = (parts[0] + weight * parts[1]).astype(np.float32)
    return canonical_order(both[["query_id", "doc_id"]].assign(score=scores))


def choose_weight(
    ranking: pd.DataFrame, likelihood: pd.DataFrame, qrels: pd.DataFrame, measure: str = "RR@10",
    weights: Sequence[float] = WEIGHTS, relevance_level: int = 1,
) -> float:
    """The weight with the best mean of a measure, the smallest of equals. ranking, likelihood: runs of validation
    queries, other than those that are measured with it; qrels: their judgments. Raises ValueError without weights."""
    if not (weights := sorted(weights)):
        raise ValueError("weights: expected one or more to choose from, found none")
    runs = (interpolate(ranking, likelihood, weight) for weight in weights)
    return weights[first_best(evaluate(run, qrels, [measure], relevance_level)["value"].mean() for run in runs)]


def cascade_run(likelihood: pd.DataFrame, ranking: pd.DataFrame, depth: int) -> pd.DataFrame:
    """Each query's best `depth` by the likelihood, ordered by their ranking scores; below them the others as they were.
    Raises ValueError for a depth that is no whole number of at least 1 and where a ranking score is missing."""
    check_count("depth", depth)
    best = canonical_order(likelihood).query("rank <= @depth")
    scored = best[["query_id", "doc_id"]].merge(ranking[["query_id", "doc_id", "score"]], "left")
    if scored["score"].isna().any():
        raise ValueError(
            f"ranking: expected the scores of the best {depth} candidates of every query by likelihood, "
            f"{scored['score'].isna().sum()} are missing; re-rank them first"
        )
    rest = likelihood.merge(best[["query_id", "doc_id"]], how="left", indicator=True).query("_merge == 'left_only'")
    parts = [canonical_order(part) for part in (scored, rest[["query_id", "doc_id", "score"]]) if len(part)]
    ordered = pd.concat(parts)
    # Two kinds of scores do not compare: what is kept is the order.
    places = ordered.groupby("query_id").cumcount()
    return canonical_order(ordered[["query_id", "doc_id"]].assign(score=-places.astype(np.float32)))
