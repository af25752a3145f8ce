"""Re-ranking: candidates in, run out (Section 5.2: the generative heads rest).

Passages and queries are tokenized once a run; pairs are sorted by length and packed up to a budget of tokens, so
nothing is padded. A pair's score depends on nothing but the pair.
"""

import copy
import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from gdmtl_lib.backbones.devices import DTYPES, fast_products, pick_device, pick_precision
from gdmtl_lib.backbones.linear import fused_layers
from gdmtl_lib.packing import BATCH_TOKENS, by_budget, pack
from gdmtl_lib.data.files import hold_lock
from .resume import PartialScores
from gdmtl_lib.data.trec import frame_hash, with_scores, validate_run, whole_queries, write_ordered

CHUNK_PAIRS = 4096
CACHED_TOKENS = 1 << 25  # at 4 bytes each


def rerank(
    model,
    collection,
    candidates: pd.DataFrame,
    output: str | os.PathLike | None = None,
    batch_tokens: int | None = None,
    precision: str = "fp32",
    device: str = "auto",
    progress: bool = True,
    score: str = "rank",
    weight: float | None = None,
    states=None,
    processes: int = 1,
) -> pd.DataFrame:
    """Score every candidate with the model and order each query's candidates by it.

    Passages that the first stage missed stay missed: nothing is added to the candidates.

    model: from `build_model`, `load_model` or trained. collection: looks up texts by id.
    candidates: query_id, doc_id (and whatever else).
    output: also write the run there as a TREC file, and resume a call that was interrupted from the file beside it
        (`<output>.partial`), if model and candidates are the same. Of several processes it is a folder
        (`<output>.processes`), and their number has to be the same too.
    batch_tokens: tokens of one pass; only speed and memory depend on it.
    precision: `fp32`; `bf16` or `fp16` for the backbone (the heads always compute in fp32); `auto`: bf16 where the
        hardware is fast at it. device: as in TrainingSettings.
    score: `rank`, the ranking head's; `likelihood`, log P(query | passage); `joint`, both, the likelihood with `weight`
        (see `likelihood`). Only `rank` resumes and takes `processes`.
    states: of the likelihood: a folder that keeps the passages' states for later runs, or `StoredStates` with a limit.
    processes: so many of this machine share the candidates, on a GPU each where there are some; on a CPU they share
        its cores. The collection has to be one that `load_collection` finds by its name.

    Returns a run: query_id, doc_id, score, rank. Raises ValueError for candidates that are no run (missing columns,
    duplicates, no row), for unknown ids and for an unknown score; RuntimeError, naming it, where another process is
    writing this output, and, with the end of what it printed, where one of several processes fails.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, found {processes}")
    if processes > 1 and score != "rank":
        raise ValueError(f"several processes share the score 'rank' alone, but score is {score!r}: leave processes out")
    if score != "rank" or weight is not None or states is not None:
        from .likelihood import rerank_by  # which computes with what stands here

        return rerank_by(score, weight, states, model, collection, candidates, output, batch_tokens=batch_tokens,
                         precision=precision, device=device, progress=progress)  # fmt: skip
    candidates = candidates.assign(score=0.0) if "score" not in candidates else candidates
    validate_run(candidates)
    output = None if output is None else Path(output)
    # Two processes would mix their scores in one partial file.
    lock = output and hold_lock(output.with_name(f".{output.name}.lock"), f"{output} is being written already")
    with lock or nullcontext():
        return _rerank(model, collection, candidates, output, batch_tokens, precision, device, progress, processes)


def _rerank(
    model, collection, candidates, output, batch_tokens, precision, device, progress, processes
) -> pd.DataFrame:
    torch_device = pick_device(device)
    precision = pick_precision(precision, torch_device)
    budget = batch_tokens or BATCH_TOKENS[torch_device.type]
    is_shared = processes > 1 and len(candidates) > CHUNK_PAIRS  # or there is but one chunk
    key = {}
    if output is not None or is_shared:
        key = {
            "model": fingerprint_of(model),
            "candidates": frame_hash(candidates[["query_id", "doc_id"]]),
            "texts": collection.fingerprint(),
            "precision": precision,
            "chunk_pairs": CHUNK_PAIRS,
        }
    bar = tqdm(total=len(candidates), desc=f"re-ranking with {model.system.name}", disable=not progress)
    with bar:
        if is_shared:
            from .processes import score_in_processes  # which computes with what stands here

            scores = score_in_processes(
                model, collection, candidates, processes, output and _shared(output), key, budget, torch_device,
                bar.update,
            )
        else:
            partial = output and PartialScores(_partial(output), key)
            scores = score_candidates(
                model, collection, candidates, CHUNK_PAIRS, budget, precision, torch_device, bar.update, partial
            )
    run = with_scores(candidates, scores)
    if output is not None:
        write_ordered(run, output, tag=model.system.name)
        _partial(output).unlink(missing_ok=True)
        shutil.rmtree(_shared(output), ignore_errors=True)
    return run


def _partial(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def _shared(output: Path) -> Path:
    return output.with_name(f"{output.name}.processes")


def score_candidates(
    model, collection, candidates: pd.DataFrame, chunk_pairs: int, batch_tokens: int, precision: str,
    device: torch.device, on_progress: Callable[[int], object], partial: PartialScores | None = None,
) -> np.ndarray:
    """Scores of all candidates, float32, in the order given: whole queries, about `chunk_pairs` pairs at a time.

    partial: takes the scores of every chunk, and gives those that it has.
    """
    scores = np.empty(len(candidates), dtype=np.float32)
    was_on = next(model.parameters()).device
    model.eval().to(device)
    try:
        scorer = in_precision(model, precision)
        tokens = _Tokens(model.input_builder())
        for number, rows in enumerate(whole_queries(candidates["query_id"], chunk_pairs)):
            if partial and number in partial.chunks:
                scores[rows] = partial.chunks[number]
                on_progress(len(rows))
                continue
            chunk = candidates.iloc[rows]
            query_ids, doc_ids = chunk["query_id"].unique(), chunk["doc_id"].unique()
            query_of = dict(zip(query_ids, collection.query_texts(query_ids)))
            text_of = dict(zip(doc_ids, collection.text(doc_ids)))
            pairs = [(query_of[q], text_of[d]) for q, d in zip(chunk["query_id"], chunk["doc_id"])]
            scores[rows] = score_pairs(scorer, pairs, batch_tokens, on_progress, tokens)
            if partial:
                partial.append(number, scores[rows])
    finally:
        model.to(was_on)
    return scores


def rerank_texts(model, query: str, passages: Iterable[str]) -> np.ndarray:
    """Scores of some passages for a query, float32, in the order given; the higher, the more relevant."""
    pairs = [(query, passage) for passage in passages]
    device = next(model.parameters()).device
    return score_pairs(model.eval(), pairs, BATCH_TOKENS[device.type])


def in_precision(model, precision: str):
    """The model itself for `fp32`; else a copy with the backbone's weights in bf16 or fp16 and its heads in fp32:
    scores are compared with one another, and in bf16 many would tie that do not."""
    if precision == "fp32":
        return model
    pooler = getattr(model.base_model, "pooler", None)  # BERT's belongs to its ranking head
    of_heads = {id(parameter) for parameter in pooler.parameters()} if pooler is not None else set()
    # And no buffer: rotary positions would lose their digits.
    weights = {
        id(parameter): torch.nn.Parameter(parameter.data.to(DTYPES[precision]), parameter.requires_grad)
        for parameter in model.base_model.parameters() if id(parameter) not in of_heads
    }  # fmt: skip
    # In their place, instead of copying them first; a tokenizer, copied word by word, takes as long as the weights.
    rounded = copy.deepcopy(model, weights | {id(model.tokenizer): model.tokenizer})
    if pooler is not None:
        rounded.base_model.pooler.register_forward_pre_hook(lambda _, states: states[0].float())
    return rounded


@torch.inference_mode()
def score_pairs(
    model, pairs: list[tuple[str, str]], batch_tokens: int, on_progress=None, tokens: "_Tokens | None" = None
) -> np.ndarray:
    """Scores of (query, passage) pairs, float32, in the order given.

    batch_tokens: tokens of one packed pass. on_progress: called with the number of pairs after every pass.
    tokens: of the texts that earlier calls have met.
    """
    tokens = tokens or _Tokens(model.input_builder())
    query_tokens, passage_tokens = tokens.of([query for query, _ in pairs], [passage for _, passage in pairs])
    sequences = [tokens.builder.rank(passage_tokens[passage], query_tokens[query]) for query, passage in pairs]
    lengths = np.array([len(s.input_ids) + len(s.decoder_ids) for s in sequences])
    by_length = np.argsort(-lengths, kind="stable")
    device = next(model.parameters()).device
    scores, passes = np.empty(len(pairs), dtype=np.float32), []
    with fast_products(device), fused_layers(model, int(lengths.sum())):
        for batch in by_budget(by_length, lengths, batch_tokens):
            output = model(pack([sequences[i] for i in batch]).to(device))
            passes.append((batch, output.scores.float()))
            if on_progress:
                on_progress(len(batch))
    # Fetched last: a GPU computes one pass while the next one is packed.
    for batch, found in passes:
        scores[batch] = found.cpu().numpy()
    return scores


class _Tokens:
    """The token ids of texts, each tokenized when it is first met; the passages that were met first are forgotten when
    more than CACHED_TOKENS are kept."""

    def __init__(self, builder):
        self.builder = builder
        self._passages, self._size = {}, 0

    def of(self, queries: Iterable[str], passages: Iterable[str]) -> tuple[dict, dict]:
        """Token ids by text: of the queries, a run's being together, and of the passages."""
        queries, passages = list(dict.fromkeys(queries)), list(dict.fromkeys(passages))
        new = [passage for passage in passages if passage not in self._passages]
        for passage, ids in zip(new, self.builder.passage_tokens(new)):
            self._passages[passage] = array("i", ids[: self.builder.max_length])  # no input holds more
            self._size += len(self._passages[passage])
        found = {passage: self._passages[passage].tolist() for passage in passages}
        while self._size > CACHED_TOKENS:
            self._size -= len(self._passages.pop(next(iter(self._passages))))
        return dict(zip(queries, self.builder.tokens(queries))), found


def fingerprint_of(model) -> str:
    """SHA-256 of a model's weights and of what else decides its scores."""

    def hashed(parameter: torch.Tensor) -> str:
        return hashlib.sha256(parameter.detach().float().cpu().contiguous().numpy()).hexdigest()

    names, parameters = zip(*model.named_parameters())
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # of a model of BERT's size it takes a noticeable time
        weights = dict(zip(names, pool.map(hashed, parameters)))
    return hashlib.sha256(json.dumps([model.config.gdmtl, weights], sort_keys=True).encode()).hexdigest()
