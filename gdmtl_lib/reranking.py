"""Re-ranking: candidates in, run out (Section 5.2: the generative heads rest).

Passages and queries are tokenized once a run; pairs are sorted by length and packed up to a budget of tokens, so
nothing is padded. A pair's score depends on nothing but the pair.
"""

import copy
import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from .devices import DTYPES, fast_products, pick_device, pick_precision
from .fused import fused_layers
from .inputs import pack
from .locking import held
from .runs import canonical_order, frame_hash, validate_run, write_run

CHUNK_PAIRS = 4096
CACHED_TOKENS = 1 << 25  # at 4 bytes each
BATCH_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 65536}


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
) -> pd.DataFrame:
    """Score every candidate with the model and order each query's candidates by it.

    Passages that the first stage missed stay missed: nothing is added to the candidates.

    model: from `build_model`, `load_model` or trained. collection: looks up texts by id.
    candidates: query_id, doc_id (and whatever else).
    output: also write the run there as a TREC file, and resume a call that was interrupted from the file beside it
        (`<output>.partial`), if model and candidates are the same.
    batch_tokens: tokens of one pass; only speed and memory depend on it.
    precision: `fp32`; `bf16` or `fp16` for the backbone (the heads always compute in fp32); `auto`: bf16 where the
        hardware is fast at it. device: as in TrainingSettings.
    score: `rank`, the ranking head's; `likelihood`, log P(query | passage); `joint`, both, the likelihood with `weight`
        (see `likelihood`). Only `rank` resumes.
    states: of the likelihood: a folder that keeps the passages' states for later runs, or `StoredStates` with a limit.

    Returns a run: query_id, doc_id, score, rank. Raises ValueError for candidates that are no run (missing columns,
    duplicates, no row), for unknown ids and for an unknown score; RuntimeError, naming it, where another process is
    writing this output.
    """
    if score != "rank" or weight is not None or states is not None:
        from .likelihood import rerank_by  # which computes with what stands here

        return rerank_by(score, weight, states, model, collection, candidates, output, batch_tokens=batch_tokens,
                         precision=precision, device=device, progress=progress)  # fmt: skip
    candidates = candidates.assign(score=0.0) if "score" not in candidates else candidates
    validate_run(candidates)
    output = None if output is None else Path(output)
    # Two processes would mix their scores in one partial file.
    lock = output and held(output.with_name(f".{output.name}.lock"), f"{output} is being written already")
    with lock or nullcontext():
        return _rerank(model, collection, candidates, output, batch_tokens, precision, device, progress)


def _rerank(model, collection, candidates, output, batch_tokens, precision, device, progress) -> pd.DataFrame:
    torch_device = pick_device(device)
    precision = pick_precision(precision, torch_device)
    budget = batch_tokens or BATCH_TOKENS[torch_device.type]
    partial = None
    if output is not None:
        key = {
            "model": fingerprint_of(model),
            "candidates": frame_hash(candidates[["query_id", "doc_id"]]),
            "texts": collection.fingerprint(),
            "precision": precision,
            "chunk_pairs": CHUNK_PAIRS,
        }
        partial = _Partial(output.with_name(f"{output.name}.partial"), key)
    done = partial.chunks if partial else {}
    parts = []
    bar = tqdm(total=len(candidates), desc=f"re-ranking with {model.system.name}", disable=not progress)
    was_on = next(model.parameters()).device
    model.eval().to(torch_device)
    try:
        scorer = in_precision(model, precision)
        tokens = _Tokens(model.input_builder())
        for number, chunk in enumerate(_chunks(candidates)):
            if number in done:
                scores = np.array(done[number], dtype=np.float32)
                bar.update(len(chunk))
            else:
                queries = collection.query_texts(chunk["query_id"].unique())
                query_of = dict(zip(chunk["query_id"].unique(), queries))
                doc_ids = chunk["doc_id"].unique()
                text_of = dict(zip(doc_ids, collection.text(doc_ids)))
                pairs = [(query_of[q], text_of[d]) for q, d in zip(chunk["query_id"], chunk["doc_id"])]
                scores = score_pairs(scorer, pairs, budget, bar.update, tokens)
                if partial:
                    partial.append(number, scores)
            parts.append(chunk[["query_id", "doc_id"]].assign(score=scores))
    finally:
        bar.close()
        model.to(was_on)
    run = canonical_order(pd.concat(parts, ignore_index=True))
    if partial:
        write_run(run, output, tag=model.system.name)
        partial.remove()
    return run


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
    scores = np.empty(len(pairs), dtype=np.float32)
    with fast_products(device), fused_layers(model):
        for batch in by_budget(by_length, lengths, batch_tokens):
            output = model(pack([sequences[i] for i in batch]).to(device))
            scores[batch] = output.scores.float().cpu().numpy()
            if on_progress:
                on_progress(len(batch))
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


def by_budget(order: Sequence[int], lengths: Sequence[int], budget: int) -> Iterator[Sequence[int]]:
    """Cut an order of sequences into passes of at most `budget` tokens, or of one sequence that is longer."""
    start, total = 0, 0
    for position, index in enumerate(order):
        if total and total + lengths[index] > budget:
            yield order[start:position]
            start, total = position, 0
        total += lengths[index]
    if total:
        yield order[start:]


def _chunks(candidates: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Whole queries, about CHUNK_PAIRS pairs at a time."""
    groups, pairs = [], 0
    for _, group in candidates.groupby("query_id", sort=False):
        groups.append(group)
        pairs += len(group)
        if pairs >= CHUNK_PAIRS:
            yield pd.concat(groups)
            groups, pairs = [], 0
    if groups:
        yield pd.concat(groups)


def fingerprint_of(model) -> str:
    """SHA-256 of a model's weights and of what else decides its scores."""
    digest = hashlib.sha256(json.dumps(model.config.gdmtl, sort_keys=True).encode())
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()


class _Partial:
    """The scores of the chunks that an interrupted call has finished: a line of JSON each, with its own hash.

    The first line says of what; a file of another model, or of other candidates, is written anew.
    """

    def __init__(self, file: Path, key: dict):
        self.file, self.chunks = file, {}
        self.good = [_checked(key)]
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        if lines[:1] == self.good:
            for line in lines[1:]:
                text, _, _ = line.partition(b"\t")
                try:
                    number, scores = json.loads(text)
                except (ValueError, TypeError):
                    break
                if line != _checked([number, scores]):
                    break  # cut off by the interruption, or damaged
                self.chunks[number] = scores
                self.good.append(line)

    def append(self, number: int, scores: np.ndarray) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as file:
            if self.good:  # the first time: nothing but what was good stays in the file
                file.truncate(0)
                file.writelines(self.good)
                self.good = []
            file.write(_checked([number, scores.tolist()]))
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)


def _checked(content) -> bytes:
    """A line of JSON that ends with its own hash."""
    text = json.dumps(content)
    return f"{text}\t{hashlib.sha256(text.encode()).hexdigest()[:16]}\n".encode()
