"""From text to the tensors of one forward pass.

A training instance becomes sequences (ranking positive, ranking negative, query generation, answer generation).
A sequence is plain lists of token ids; a batch of sequences is *packed*: all real tokens in one row, nothing padded.
`PaddedBatch` holds the same sequences the ordinary way, one row each; it is the reference of the parity tests.

b batch, s sequence, t packed tokens, n predicted tokens.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gdmtl_lib.backbones.attention import Span, spans_at
from .masks import causal_mask, cross_attention_mask, mixed_attention_mask
from .settings import GENERATION_MASKS
from .systems import GENERATIVE_TASKS, System, prefixes
from gdmtl_lib.backbones.flash import Spans


@dataclass
class Sequence:
    """One sequence of one task.

    input_ids, segment_ids: the encoder's tokens. source_length: so many of them attend to each other in both
    directions; those that follow are the target of mixed attention.
    decoder_ids: the decoder's tokens; empty for an encoder.
    targets: the tokens to predict; the state at position `predict_from + i` (of the decoder, where there is one)
    predicts `targets[i]`. Empty for ranking, whose score is read at position `score_at`.
    """

    task: str
    input_ids: list[int]
    segment_ids: list[int]
    source_length: int
    decoder_ids: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    predict_from: int = 0
    score_at: int = 0


class InputBuilder:
    """Turns passages, queries and answers into the sequences of a system (Sections 4.2 and 4.3, Tables 1 and 2).

    tokenizer: of the backbone. system: whose layout is built. max_length: the longest source, and the longest
    ranking input of an encoder. target_length: the longest target, its closing token included; the longest decoder
    input of separate ranking. generation_mask: `mixed`, or `mlm` for the ablation in which every target token is
    replaced by [MASK] and predicted in place.
    decoder_start_id: the token an encoder-decoder's decoder starts with.

    Too long an input loses tokens of the passage, never of the query. Only a query longer than half of max_length
    (in separate ranking, longer than the decoder's input) is itself cut to that, with one warning.

    Raises ValueError for an unknown generation_mask and for lengths that leave no room.
    """

    def __init__(
        self,
        tokenizer,
        system: System,
        max_length: int = 256,
        target_length: int = 56,
        generation_mask: str = "mixed",
        decoder_start_id: int | None = None,
    ):
        if generation_mask not in GENERATION_MASKS:
            raise ValueError(f"unknown generation_mask {generation_mask!r}: expected one of {', '.join(GENERATION_MASKS)}")
        if generation_mask == "mlm" and system.backbone != "encoder":
            raise ValueError("generation_mask 'mlm' is an ablation of the encoder systems; a decoder generates causally")
        self.tokenizer, self.system = tokenizer, system
        self.max_length, self.target_length = max_length, target_length
        self.generation_mask, self.decoder_start_id = generation_mask, decoder_start_id
        # `<first> A <between> B <end>` is the family's own way to write a pair: [CLS] A [SEP] B [SEP] for BERT.
        pair = tokenizer("a", "a", return_special_tokens_mask=True)
        special = [token for token, mask in zip(pair["input_ids"], pair["special_tokens_mask"]) if mask]
        self.first, *self.between, self.end = special
        self.prefix_ids = {task: self._encode([prefix])[0] for task, prefix in prefixes().items()}
        # A query may take half; in the other half the passage must get a token.
        least = 2 * (max(map(len, self.prefix_ids.values())) + len(self.between) + 2) + 1
        if max_length < least:
            raise ValueError(f"max_length {max_length} leaves no room for a passage: raise it to {least} or more")
        if target_length < 2:
            raise ValueError(f"target_length {target_length} leaves no room for a token and its end: raise it")
        self._warned = False

    def tokens(self, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of each query or answer, without special tokens."""
        return self._encode(list(texts))

    def passage_tokens(self, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of each passage, without special tokens. A passage follows a prefix and a space, and a
        byte-level tokenizer writes a word after a space with other tokens than the same word at the start."""
        return self._encode([" " + text for text in texts])

    def _encode(self, texts: list[str]) -> list[list[int]]:
        # A passage longer than the model's limit is cut here, later and on purpose; the tokenizer need not warn.
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []

    def rank(self, passage: list[int], query: list[int]) -> Sequence:
        """The ranking sequence. passage: token ids from `passage_tokens`; query: from `tokens`."""
        if self.system.rank_layout == "separate":
            decoder_ids = [self.decoder_start_id, *self._cut_query(query, self.target_length - 1)]
            source = self._source("rank", passage)
            return Sequence(
                "rank", source, [0] * len(source), len(source), decoder_ids, score_at=len(decoder_ids) - 1
            )
        left, right = self._pair("rank", passage, query)
        sequence = Sequence("rank", left + right, [0] * len(left) + [1] * len(right), len(left) + len(right))
        if self.system.backbone == "encoder_decoder":
            # The decoder reads the encoder's own sequence one token later; its last token has seen all others.
            sequence.decoder_ids = [self.decoder_start_id, *sequence.input_ids[:-1]]
            sequence.score_at = len(sequence.decoder_ids) - 1
        return sequence

    def generation(self, task: str, passage: list[int], query: list[int], target: list[int]) -> Sequence:
        """The sequence of a generative task: source -> target (Eq. 4 and 5), learned from the relevant passage.

        task: a name of `GENERATIVE_TASKS`, which says whether the query is part of the source.
        target: token ids from `tokens`, or those of them that are written already.
        """
        if "query" not in GENERATIVE_TASKS[task].source:
            return self._generation(task, self._source(task, passage), target)
        passage_part, query_part = self._pair(task, passage, query)
        return self._generation(task, passage_part + query_part, target)

    def query_generation(self, passage: list[int], query: list[int]) -> Sequence:
        """Passage -> query."""
        return self.generation("query_generation", passage, query, query)

    def answer_generation(self, passage: list[int], query: list[int], answer: list[int]) -> Sequence:
        """Passage and query -> answer; both are source."""
        return self.generation("answer_generation", passage, query, answer)

    def _source(self, task: str, passage: list[int]) -> list[int]:
        room = self.max_length - len(self.prefix_ids[task]) - 2
        return [self.first, *self.prefix_ids[task], *passage[:room], self.end]

    def _pair(self, task: str, passage: list[int], query: list[int]) -> tuple[list[int], list[int]]:
        """Passage and query in one sequence, as the part up to the separator and the part after it."""
        query = self._cut_query(query, self.max_length // 2)
        room = self.max_length - len(query) - len(self.prefix_ids[task]) - len(self.between) - 2
        return [self.first, *self.prefix_ids[task], *passage[:room], *self.between], [*query, self.end]

    def _generation(self, task: str, source: list[int], target: list[int]) -> Sequence:
        target = target[: self.target_length - 1]
        targets = [*target, self.end]
        if self.system.backbone == "encoder_decoder":
            return Sequence(
                task, source, [0] * len(source), len(source), [self.decoder_start_id, *target], targets
            )
        if self.generation_mask == "mlm":
            masked = [self.tokenizer.mask_token_id] * len(targets)
            ids = source + masked
            return Sequence(
                task, ids, [0] * len(source) + [1] * len(masked), len(ids), [], targets, predict_from=len(source)
            )
        # The last source token predicts the first target token, the last target token predicts the end.
        segments = [0] * len(source) + [1] * len(target)
        return Sequence(
            task, source + target, segments, len(source), [], targets, predict_from=len(source) - 1
        )

    def _cut_query(self, query: list[int], limit: int) -> list[int]:
        if len(query) > limit and not self._warned:
            # The same words every time: Python then shows them once, however many builders there are.
            warnings.warn(
                f"a query is longer than {limit} tokens and is cut to that (max_length {self.max_length}, "
                f"target_length {self.target_length}); further long queries are cut without a word",
                stacklevel=2,
            )
            self._warned = True
        return query[:limit]


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


def pack(sequences: list[Sequence]) -> PackedBatch:
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


def pad(sequences: list[Sequence], pad_id: int) -> PaddedBatch:
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


def _heads(sequences: list[Sequence], starts: list[int]) -> dict:
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
