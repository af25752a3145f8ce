"""From sequences to the tensors of one forward pass.

A batch of sequences is *packed*: all real tokens in one row, nothing padded. `PaddedBatch` holds the same sequences the
ordinary way, one row each; it is the reference of the parity tests.

b batch, s sequence, t packed tokens, n predicted tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .backbones.devices import moved
from .backbones.reference import is_fast
from .inputs import TokenSequence
from .masks import Spans, causal_mask, cross_attention_mask, cross_spans, mixed_attention_mask, mixed_spans, spans_at

BATCH_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 65536}
"""Tokens of one pass without gradients, by device: more do not make it faster."""
FILLED_TO = {"cpu": 256}
"""Of what the number of tokens of a pass is a multiple, by device."""


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


@dataclass(kw_only=True)
class Batch:
    """Sequences, packed into one row of real tokens or padded to one row each.

    input_ids, segment_ids: int64 [1, t] or [b, s]; decoder_ids: the same for a decoder, or None.
    score_at: int64 [b'], where the scores of the ranking sequences are read, in the order they were given.
    predict_at, targets: per generative task int64 [n]. teacher: float32 [b'], another ranker's scores, or None.
    All positions count tokens, row after row, of the encoder, or of the decoder where there is one.
    """

    input_ids: Tensor
    segment_ids: Tensor
    decoder_ids: Tensor | None = None
    score_at: Tensor
    predict_at: dict[str, Tensor]
    targets: dict[str, Tensor]
    teacher: Tensor | None = None

    def to(self, device):
        return type(self)(**{name: moved(value, device) for name, value in vars(self).items()})


@dataclass(kw_only=True)
class PackedBatch(Batch):
    """One row of real tokens.

    position_ids: int64 [1, t]; spans: who attends to whom; decoder_position_ids, decoder_spans, cross_spans: the same for
    a decoder, or None. read_at: int64 [r], where anything of an encoder is read, rising; read_spans: who those tokens
    attend to.
    """

    position_ids: Tensor
    spans: Spans
    decoder_position_ids: Tensor | None = None
    decoder_spans: Spans | None = None
    cross_spans: Spans | None = None
    read_at: Tensor | None = None
    read_spans: Spans | None = None


@dataclass(kw_only=True)
class PaddedBatch(Batch):
    """The reference: one padded row a sequence, with literal masks. mask: bool [b, 1, s, s]; decoder_mask: bool
    [b, 1, t, t], cross_mask: bool [b, 1, t, s], or None."""

    mask: Tensor
    decoder_mask: Tensor | None = None
    cross_mask: Tensor | None = None


def pack(sequences: list[TokenSequence]) -> PackedBatch:
    """One row of all real tokens. The order of the sequences is kept."""
    ids, decoder_ids = ([getattr(each, name) for each in sequences] for name in ("input_ids", "decoder_ids"))
    lengths, written = _lengths(ids), _lengths(decoder_ids)
    sources = np.array([sequence.source_length for sequence in sequences])
    segments = np.frombuffer(b"".join(bytes(sequence.segment_ids) for sequence in sequences), dtype=np.uint8)
    batch = dict(
        input_ids=_row(_joined(ids)),
        segment_ids=_row(segments.astype(np.int64)),
        position_ids=_row(_counted(lengths)),
        spans=mixed_spans(lengths, sources),
    )
    if written.any():
        heads = _heads(sequences, np.cumsum(written) - written)
        batch |= dict(
            decoder_ids=_row(_joined(decoder_ids)),
            decoder_position_ids=_row(_counted(written)),
            decoder_spans=mixed_spans(written, np.zeros_like(written)),
            cross_spans=cross_spans(written, lengths),
        )
    else:
        heads = _heads(sequences, np.cumsum(lengths) - lengths)
        read = np.unique(np.concatenate([heads["score_at"], *heads["predict_at"].values()]))
        batch |= dict(read_at=torch.from_numpy(read), read_spans=spans_at(batch["spans"], read))
    return PackedBatch(**batch, **heads)


def pack_pairs(lefts: list[np.ndarray], rights: list[np.ndarray], between: int) -> PackedBatch:
    """`pack` for an encoder's ranking sequences, each given as two pieces of token ids, int32: what stands before the
    separator, and from there on. between: tokens of the separator, which are of the first segment. Nothing goes through
    Python's lists: it takes a tenth of the time."""
    first, second = _lengths(lefts), _lengths(rights)
    lengths = first + second
    starts = np.cumsum(lengths) - lengths
    pieces = [piece for pair in zip(lefts, rights) for piece in pair]
    of_segment = np.stack([first + between, second - between], axis=1).reshape(-1)
    spans = mixed_spans(lengths, lengths)
    return PackedBatch(
        input_ids=_row(np.concatenate(pieces).astype(np.int64)),
        segment_ids=_row(np.repeat(np.arange(2 * len(lefts)) % 2, of_segment)),
        position_ids=_row(_counted(lengths)),
        spans=spans, score_at=torch.from_numpy(starts), predict_at={}, targets={},
        read_at=torch.from_numpy(starts), read_spans=spans_at(spans, starts),
    )  # fmt: skip


def filled_on(batch: PackedBatch, device: torch.device) -> PackedBatch:
    """The batch on a device, filled up where that has few shapes to compute fast."""
    multiple = FILLED_TO.get(device.type) if is_fast("filled") else None
    return (filled(batch, multiple) if multiple else batch).to(device)


def filled(batch: PackedBatch, multiple: int) -> PackedBatch:
    """The batch, with tokens after the others that nothing attends to and nobody reads, up to a multiple: on a CPU's matrix
    units (AMX) to prepare a product of a new number of tokens takes longer than the product."""
    ids, positions, spans, more = _filled(batch.input_ids, batch.position_ids, batch.spans, multiple)
    fresh = dict(input_ids=ids, position_ids=positions, spans=spans, segment_ids=F.pad(batch.segment_ids, (0, more)))
    if batch.decoder_ids is not None:
        written = batch.decoder_ids.shape[1]
        ids, positions, spans, more = _filled(batch.decoder_ids, batch.decoder_position_ids, batch.decoder_spans, multiple)
        cross = [(written, written + more, 0, 1, False)] if more else []
        fresh |= dict(decoder_ids=ids, decoder_position_ids=positions, decoder_spans=spans, cross_spans=_with(batch.cross_spans, cross))
    return replace(batch, **fresh)


def _filled(ids: Tensor, positions: Tensor, spans: Spans, multiple: int) -> tuple[Tensor, Tensor, Spans, int]:
    tokens, more = ids.shape[1], -ids.shape[1] % multiple
    alone = [(tokens, tokens + more, tokens, tokens + more, False)] if more else []
    return F.pad(ids, (0, more)), F.pad(positions, (0, more)), _with(spans, alone), more


def _with(spans: Spans, more: list[tuple]) -> Spans:
    return Spans(np.concatenate([spans.table, more])) if more else spans


def pad(sequences: list[TokenSequence], pad_id: int) -> PaddedBatch:
    """One padded row a sequence, with the masks of Figures 1 and 2 written out."""
    input_ids, padding_mask = _pad([sequence.input_ids for sequence in sequences], pad_id)
    segment_ids, _ = _pad([sequence.segment_ids for sequence in sequences], 0)
    # A sequence without a target of its own, such as a ranking pass, is bidirectional throughout.
    target_from = torch.tensor([[sequence.source_length] for sequence in sequences])
    is_target = (torch.arange(input_ids.shape[1])[None, :] >= target_from).long()
    mask = mixed_attention_mask(is_target, padding_mask)[:, None]
    decoder, width = {}, input_ids.shape[1]
    if any(sequence.decoder_ids for sequence in sequences):
        decoder_ids, decoder_padding_mask = _pad([sequence.decoder_ids for sequence in sequences], pad_id)
        width = decoder_ids.shape[1]
        decoder = dict(
            decoder_ids=decoder_ids,
            decoder_mask=causal_mask(decoder_padding_mask)[:, None],
            cross_mask=cross_attention_mask(decoder_padding_mask, padding_mask)[:, None],
        )
    heads = _heads(sequences, width * np.arange(len(sequences)))
    return PaddedBatch(input_ids=input_ids, segment_ids=segment_ids, mask=mask, **decoder, **heads)


def _heads(sequences: list[TokenSequence], starts: np.ndarray) -> dict:
    """Where the heads read, given where each sequence starts among the flattened states."""
    numbers = {}  # of the sequences of each task
    for number, sequence in enumerate(sequences):
        numbers.setdefault(sequence.task, []).append(number)
    ranked = numbers.pop("rank", [])
    predict_at, targets = {}, {}
    for task, of_task in numbers.items():
        lengths = _lengths(sequences[number].targets for number in of_task)
        first = starts[of_task] + [sequences[number].predict_from for number in of_task]
        predict_at[task] = torch.from_numpy(np.repeat(first, lengths) + _counted(lengths))
        targets[task] = torch.from_numpy(_joined(sequences[number].targets for number in of_task))
    score_at = starts[ranked] + np.array([sequences[number].score_at for number in ranked], dtype=np.int64)
    teacher = [sequences[number].teacher for number in ranked]
    return dict(
        score_at=torch.from_numpy(score_at), predict_at=predict_at, targets=targets,
        teacher=None if None in teacher else torch.tensor(teacher, dtype=torch.float32),
    )  # fmt: skip


def _lengths(rows: Iterable[list[int]]) -> np.ndarray:
    return np.fromiter(map(len, rows), dtype=np.int64)


def _joined(rows: Iterable[list[int]]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), dtype=np.int64)


def _counted(lengths: np.ndarray) -> np.ndarray:
    """The places of tokens in their sequences: 0, 1, 2, 0, 1 for lengths 3 and 2."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _row(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)[None]


def _pad(rows: list[list[int]], value: int) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), value)
    for row, values in zip(ids, rows):
        row[: len(values)] = torch.tensor(values, dtype=torch.long)
    return ids, torch.arange(ids.shape[1])[None, :] < lengths[:, None]
