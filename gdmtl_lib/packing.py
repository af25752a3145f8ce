"""From sequences to the tensors of one forward pass.

A batch of sequences is *packed*: all real tokens in one row, nothing padded. `PaddedBatch` holds the same sequences the
ordinary way, one row each; it is the reference of the parity tests.

b batch, s sequence, t packed tokens, n predicted tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gdmtl_lib.backbones.attention import Span, spans_at
from gdmtl_lib.backbones.flash import Spans
from .inputs import TokenSequence
from .masks import causal_mask, cross_attention_mask, mixed_attention_mask

BATCH_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 65536}
"""Tokens of one pass without gradients, by device: more do not make it faster."""


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


@dataclass
class PackedBatch:
    """Sequences packed into one row of real tokens.

    input_ids, segment_ids, position_ids: int64 [1, t]; spans: who attends to whom.
    decoder_ids, decoder_position_ids: int64 [1, t'], decoder_spans, cross_spans: the same for a decoder, or None.
    score_at: int64 [b'], where the scores of the ranking sequences are read, in the order they were given.
    predict_at, targets: per generative task int64 [n]; lengths: per task int64, the tokens of each target.
    read_at: int64 [r], all these positions of an encoder, rising; read_spans: who those tokens attend to.
    All positions count packed tokens of the encoder, or of the decoder where there is one.
    """

    input_ids: Tensor
    segment_ids: Tensor
    position_ids: Tensor
    spans: list[Span]
    score_at: Tensor
    predict_at: dict[str, Tensor]
    targets: dict[str, Tensor]
    lengths: dict[str, Tensor]
    decoder_ids: Tensor | None = None
    decoder_position_ids: Tensor | None = None
    decoder_spans: list[Span] | None = None
    cross_spans: list[Span] | None = None
    read_at: Tensor | None = None
    read_spans: list[Span] | None = None

    def to(self, device) -> "PackedBatch":
        return type(self)(**{name: _move(value, device) for name, value in vars(self).items()})


@dataclass
class PaddedBatch:
    """The same sequences, one padded row each, with literal masks: the reference.

    input_ids, segment_ids: int64 [b, s]; mask: bool [b, 1, s, s]. decoder_ids: int64 [b, t], decoder_mask: bool
    [b, 1, t, t], cross_mask: bool [b, 1, t, s], or None. score_at, predict_at: positions in the flattened rows.
    """

    input_ids: Tensor
    segment_ids: Tensor
    mask: Tensor
    score_at: Tensor
    predict_at: dict[str, Tensor]
    targets: dict[str, Tensor]
    lengths: dict[str, Tensor]
    decoder_ids: Tensor | None = None
    decoder_mask: Tensor | None = None
    cross_mask: Tensor | None = None

    to = PackedBatch.to


def pack(sequences: list[TokenSequence]) -> PackedBatch:
    """One row of all real tokens. The order of the sequences is kept."""
    starts = _starts(len(sequence.input_ids) for sequence in sequences)
    spans = Spans()
    for sequence, start in zip(sequences, starts):
        source_end, end = start + sequence.source_length, start + len(sequence.input_ids)
        spans.append(Span(start, source_end, start, source_end, causal=False))
        if end > source_end:
            spans.append(Span(source_end, end, start, end, causal=True))
    batch = dict(
        input_ids=_row(id for sequence in sequences for id in sequence.input_ids),
        segment_ids=_row(id for sequence in sequences for id in sequence.segment_ids),
        position_ids=_row(i for sequence in sequences for i in range(len(sequence.input_ids))),
        spans=spans,
    )
    reading = starts
    if any(sequence.decoder_ids for sequence in sequences):
        reading = _starts(len(sequence.decoder_ids) for sequence in sequences)
        ends = [start + len(sequence.decoder_ids) for sequence, start in zip(sequences, reading)]
        batch |= dict(
            decoder_ids=_row(id for sequence in sequences for id in sequence.decoder_ids),
            decoder_position_ids=_row(i for sequence in sequences for i in range(len(sequence.decoder_ids))),
            decoder_spans=Spans(Span(start, end, start, end, causal=True) for start, end in zip(reading, ends)),
            cross_spans=Spans(
                Span(start, end, source, source + len(sequence.input_ids), causal=False)
                for sequence, start, end, source in zip(sequences, reading, ends, starts)
            ),
        )
    heads = _heads(sequences, reading)
    if reading is starts:
        read = sorted({position for part in (heads["score_at"], *heads["predict_at"].values()) for position in part.tolist()})
        batch |= dict(read_at=torch.tensor(read, dtype=torch.long), read_spans=spans_at(spans, read))
    return PackedBatch(**batch, **heads)


def pad(sequences: list[TokenSequence], pad_id: int) -> PaddedBatch:
    """One padded row a sequence, with the masks of Figures 1 and 2 written out."""
    input_ids, padding_mask = _pad([sequence.input_ids for sequence in sequences], pad_id)
    segment_ids, _ = _pad([sequence.segment_ids for sequence in sequences], 0)
    # A sequence without a target of its own, such as a ranking pass, is bidirectional throughout.
    target_from = torch.tensor([[sequence.source_length] for sequence in sequences])
    is_target = (torch.arange(input_ids.shape[1])[None, :] >= target_from).long()
    mask = mixed_attention_mask(is_target, padding_mask)[:, None]
    decoder = {}
    reading = [row * input_ids.shape[1] for row in range(len(sequences))]
    if any(sequence.decoder_ids for sequence in sequences):
        decoder_ids, decoder_padding_mask = _pad([sequence.decoder_ids for sequence in sequences], pad_id)
        reading = [row * decoder_ids.shape[1] for row in range(len(sequences))]
        decoder = dict(
            decoder_ids=decoder_ids,
            decoder_mask=causal_mask(decoder_padding_mask)[:, None],
            cross_mask=cross_attention_mask(decoder_padding_mask, padding_mask)[:, None],
        )
    return PaddedBatch(input_ids, segment_ids, mask, **decoder, **_heads(sequences, reading))


def _heads(sequences: list[TokenSequence], starts: list[int]) -> dict:
    """Where the heads read, given where each sequence starts among the flattened states."""
    score_at, predict_at, targets, lengths = [], {}, {}, {}
    for sequence, start in zip(sequences, starts):
        if sequence.task == "rank":
            score_at.append(start + sequence.score_at)
            continue
        first = start + sequence.predict_from
        predict_at.setdefault(sequence.task, []).extend(range(first, first + len(sequence.targets)))
        targets.setdefault(sequence.task, []).extend(sequence.targets)
        lengths.setdefault(sequence.task, []).append(len(sequence.targets))
    tensors = [{task: torch.tensor(values) for task, values in part.items()} for part in (predict_at, targets, lengths)]
    return dict(
        score_at=torch.tensor(score_at, dtype=torch.long), predict_at=tensors[0], targets=tensors[1], lengths=tensors[2]
    )


def _starts(lengths: Iterable[int]) -> list[int]:
    starts, position = [], 0
    for length in lengths:
        starts.append(position)
        position += length
    return starts


def _row(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.long)[None]


def _pad(rows: list[list[int]], value: int) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), value)
    for row, values in zip(ids, rows):
        row[: len(values)] = torch.tensor(values, dtype=torch.long)
    return ids, torch.arange(ids.shape[1])[None, :] < lengths[:, None]


def _move(value, device):
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _move(item, device) for name, item in value.items()}
    return value
