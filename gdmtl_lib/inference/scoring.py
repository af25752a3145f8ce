"""Pairs of a query and a passage in, the ranking head's scores out (Section 5.2: the generative heads rest).

Passages and queries are tokenized once a run; pairs are sorted by length and packed up to a budget of tokens, so
nothing is padded. A pair's score depends on nothing but the pair.
"""

import copy
import ctypes
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from gdmtl_lib.backbones.devices import DTYPES, fast_products
from gdmtl_lib.backbones.linear import TURN, fused_layers, in_turn
from gdmtl_lib.backbones.reference import is_fast
from gdmtl_lib.data.provenance import differences
from gdmtl_lib.data.trec import whole_queries
from gdmtl_lib.packing import BATCH_TOKENS, PackedBatch, by_budget, filled_on, pack, pack_pairs

CACHED_TOKENS = 1 << 25  # at 4 bytes each


def score_candidates(
    model, collection, candidates: pd.DataFrame, chunk_pairs: int, batch_tokens: int, precision: str,
    device: torch.device, on_progress: Callable[[int], object], partial: "PartialScores | None" = None,
) -> np.ndarray:
    """Scores of all candidates, float32, in the order given: whole queries, about `chunk_pairs` pairs at a time.
    partial: takes the scores of every chunk, and gives those that it has."""
    scores = np.empty(len(candidates), dtype=np.float32)
    with scorer_on(model, device, precision) as scorer:
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
            with suppress(AttributeError, OSError, TypeError):  # glibc alone keeps the holes between what stays
                ctypes.CDLL(None).malloc_trim(0)
    return scores


@contextmanager
def scorer_on(model, device: torch.device, precision: str) -> Iterator:
    """A model on a device, as `in_precision` gives it; the model goes back to where it was after the block, for which other
    threads wait."""
    with TURN:
        was_on = next(model.parameters()).device
        model.eval().to(device)
        try:
            yield in_precision(model, precision)
        finally:
            model.to(was_on)


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


@in_turn
@torch.inference_mode()
def score_pairs(
    model, pairs: list[tuple[str, str]], batch_tokens: int | None = None, on_progress=None,
    tokens: "_Tokens | None" = None,
) -> np.ndarray:
    """Scores of (query, passage) pairs, float32, in the order given.

    batch_tokens: of one packed pass. on_progress: called with the number of pairs after every pass. tokens: of the
    texts that earlier calls have met.
    """
    if not pairs:
        return np.empty(0, dtype=np.float32)
    tokens = tokens or _Tokens(model.input_builder())
    lengths, pack_some = _packer(tokens, pairs)
    by_length = np.argsort(-lengths, kind="stable")
    device = next(model.parameters()).device
    batch_tokens = batch_tokens or BATCH_TOKENS[device.type]
    scores, passes = np.empty(len(pairs), dtype=np.float32), []
    with fast_products(device), fused_layers(model, int(lengths.sum())):
        for batch in by_budget(by_length, lengths, batch_tokens):
            output = model(filled_on(pack_some(batch), device))
            passes.append((batch, output.scores.float()))
            if on_progress:
                on_progress(len(batch))
    # Fetched last: a GPU computes one pass while the next one is packed.
    for batch, found in passes:
        scores[batch] = found.cpu().numpy()
    return scores


def _packer(tokens: "_Tokens", pairs: list[tuple[str, str]]) -> tuple[np.ndarray, Callable[[np.ndarray], PackedBatch]]:
    """The lengths of the sequences of some pairs, int64, and what packs those of some numbers."""
    builder = tokens.builder
    query_tokens, passage_tokens = tokens.of([query for query, _ in pairs], [passage for _, passage in pairs])
    if builder.system.rank_layout != "concatenated" or builder.system.backbone != "encoder" or not is_fast("pairs"):
        sequences = [builder.rank(passage_tokens[passage].tolist(), query_tokens[query]) for query, passage in pairs]
        lengths = np.array([len(each.input_ids) + len(each.decoder_ids) for each in sequences])
        return lengths, lambda batch: pack([sequences[i] for i in batch])
    frames = {query: builder.rank([], ids) for query, ids in query_tokens.items()}  # a pair without its passage
    head, frame = 1 + len(builder.prefix_ids["rank"]), next(iter(frames.values()))
    start = np.array(frame.input_ids[:head], dtype=np.int32)
    lefts = {passage: np.concatenate([start, ids]) for passage, ids in passage_tokens.items()}
    rights = {query: np.array(each.input_ids[head:], dtype=np.int32) for query, each in frames.items()}
    left = [lefts[passage][: builder.max_length - len(rights[query])] for query, passage in pairs]
    right = [rights[query] for query, _ in pairs]
    lengths = np.fromiter(map(len, left), np.int64) + np.fromiter(map(len, right), np.int64)
    between = frame.segment_ids.count(0) - head
    return lengths, lambda batch: pack_pairs([left[i] for i in batch], [right[i] for i in batch], between)


class _Tokens:
    """The token ids of texts, each tokenized when it is first met; the passages that were met first are forgotten when
    more than CACHED_TOKENS are kept."""

    def __init__(self, builder):
        self.builder = builder
        self._passages, self._size = {}, 0

    def of(self, queries: Iterable[str], passages: Iterable[str]) -> tuple[dict[str, list[int]], dict[str, np.ndarray]]:
        """Token ids by text: of the queries, a run's being together, and of the passages, int32."""
        queries, passages = list(dict.fromkeys(queries)), list(dict.fromkeys(passages))
        new = [passage for passage in passages if passage not in self._passages]
        for passage, ids in zip(new, self.builder.passage_tokens(new)):
            self._passages[passage] = np.array(ids[: self.builder.max_length], dtype=np.int32)  # no input holds more
            self._size += len(self._passages[passage])
        found = {passage: self._passages[passage] for passage in passages}
        while self._size > CACHED_TOKENS:
            self._size -= len(self._passages.pop(next(iter(self._passages))))
        return dict(zip(queries, self.builder.tokens(queries))), found


class PartialScores:
    """The scores of the chunks that are finished: a line of JSON each, with its own hash.

    record: what they depend on (`provenance.made_from`), the file's first line, versions and all: scores of one run
        are not rounded in two ways. A file of another one is written anew, and a warning says what differed.

    chunks: float32 scores by the chunk's number, those that the file holds.
    """

    def __init__(self, file: Path, record: Mapping):
        self.file, self.chunks = file, {}
        self._head, self._good = _checked(record), 0  # bytes
        if not file.exists():
            return
        with file.open("rb") as lines:
            if (first := next(lines, b"")) != self._head:
                if isinstance(there := _content(first), dict):
                    what = "; ".join(differences(there, record, with_versions=True))
                    warnings.warn(
                        f"{file} holds the scores of another re-ranking and is written anew: {what}", stacklevel=3
                    )
                return
            self._good = len(self._head)
            for line in lines:
                if (content := _content(line)) is None:
                    return
                number, scores = content
                self.chunks[number] = np.array(scores, dtype=np.float32)
                self._good += len(line)

    def append(self, number: int, scores: np.ndarray) -> None:
        """Keep the scores of one more chunk, float32."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as file:
            if self._good is not None:  # the first time: nothing but what was good stays in the file
                file.truncate(self._good)
                if not self._good:
                    file.write(self._head)
                self._good = None
            file.write(_checked([number, scores.tolist()]))
            file.flush()
            os.fsync(file.fileno())


def _checked(content) -> bytes:
    """A line of JSON that ends with its own hash."""
    text = json.dumps(content)
    return f"{text}\t{hashlib.sha256(text.encode()).hexdigest()[:16]}\n".encode()


def _content(line: bytes):
    """What `_checked` made a line of; None for one that is cut off or damaged."""
    try:
        content = json.loads(line.partition(b"\t")[0])
    except ValueError:
        return None
    return content if _checked(content) == line else None
