"""Who attends to whom (Figures 1 and 2, Eq. 1 and 7), as pure functions.

There is one rule, `columns_seen`. The dense masks, which are drawn and proved, and the spans, by which a packed batch is
computed and trained, both come from it: change it, and all of them change.

A dense mask is bool, True = the row's token may attend to the column's token. A padding token attends to nothing and
is attended to by nothing. A padding mask that is not [batch, sequence] is refused with ValueError.
b batch, s (source) sequence, t target sequence; of a packed batch n sequences or spans, r rows.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def columns_seen(place, source):
    """Eq. 7 and Figure 2b: how many of the first tokens of its sequence a token attends to.

    A source token attends to the whole source, and to nothing else. A target token attends to the source and to the
    target tokens up to and including itself. (The limits printed in Eq. 7 stop one token short; the figure is right.)
    With no target that is bidirectional, with no source causal attention (Eq. 1).

    place: of the token in its sequence, from 0. source: of how many tokens, the first, the source consists. Integers,
    tensors or arrays alike. Returns the same kind.

        d1  1 1 1 . . .    3
        d2  1 1 1 . . .    3
        d3  1 1 1 . . .    3
        q1  1 1 1 1 . .    4
        q2  1 1 1 1 1 .    5
        q3  1 1 1 1 1 1    6
    """
    is_source = place < source
    return is_source * source + (place >= source) * (place + 1)


# --- dense masks


def bidirectional_mask(padding_mask: Tensor) -> Tensor:
    """Every token attends to every token (Figure 1a): an encoder's mask, and that of the ranking pass.

    padding_mask: bool [b, s], True = real token. Returns bool [b, s, s].

        1 1 1 .
        1 1 1 .
        1 1 1 .
        . . . .    (the fourth token is padding)
    """
    padding_mask = _real(padding_mask)
    return mixed_attention_mask(torch.zeros_like(padding_mask, dtype=torch.long), padding_mask)


def causal_mask(padding_mask: Tensor) -> Tensor:
    """A token attends to itself and to what stands before it (Figure 1b, Eq. 1): a decoder's mask.

    padding_mask: bool [b, t], True = real token. Returns bool [b, t, t].

        1 . .
        1 1 .
        1 1 1
    """
    padding_mask = _real(padding_mask)
    return mixed_attention_mask(torch.ones_like(padding_mask, dtype=torch.long), padding_mask)


def cross_attention_mask(target_padding_mask: Tensor, source_padding_mask: Tensor) -> Tensor:
    """Every target token attends to every source token (Figure 1c).

    target_padding_mask: bool [b, t]; source_padding_mask: bool [b, s]. Returns bool [b, t, s].

        1 1 1 .
        1 1 1 .    (two target tokens; the fourth source token is padding)
    """
    return _real(target_padding_mask)[:, :, None] & _real(source_padding_mask)[:, None, :]


def mixed_attention_mask(segment_ids: Tensor, padding_mask: Tensor) -> Tensor:
    """Mixed attention (Figure 2b, Eq. 7): an encoder that generates. See `columns_seen` for the rule and a drawing.

    segment_ids: integer [b, s], 0 = source, 1 = target; padding_mask: bool [b, s], True = real token.
    Returns bool [b, s, s].
    """
    if segment_ids.shape != padding_mask.shape or segment_ids.dim() != 2:
        raise ValueError(
            "segment_ids and padding_mask must both be [batch, sequence]: "
            f"found {tuple(segment_ids.shape)} and {tuple(padding_mask.shape)}"
        )
    padding_mask = _real(padding_mask)
    source, target = (segment_ids == 0) & padding_mask, (segment_ids == 1) & padding_mask
    if (others := segment_ids[padding_mask & ~source & ~target]).numel():
        raise ValueError(f"segment_ids must be 0 (source) or 1 (target) of real tokens: found {others[0].item()}")
    sources = source.sum(1, keepdim=True)
    # The places of the source come first, wherever its tokens stand.
    place = torch.where(target, sources + target.cumsum(1), source.cumsum(1)) - 1
    seen = columns_seen(place, sources)
    return (place[:, None, :] < seen[:, :, None]) & cross_attention_mask(source | target, source | target)


def _real(padding_mask: Tensor) -> Tensor:
    """A padding mask as bool: tokenizers give theirs as 0 and 1."""
    if padding_mask.dim() != 2:
        raise ValueError(f"a padding mask must be [batch, sequence]: found shape {tuple(padding_mask.shape)}")
    is_real = padding_mask.bool()
    # Some are numbers to be added to scores, 0 for a real token.
    if others := padding_mask[padding_mask != is_real].tolist():
        raise ValueError(f"a padding mask must hold 1 for real tokens and 0 for others: found {others[0]}")
    return is_real


# --- spans


class Span(NamedTuple):
    """The tokens [start, end) attend to the tokens [key_start, key_end); causal: each up to and including itself,
    the last one to all. A bidirectional sequence is one span; mixed attention is two:

                  source  target
        source  [ 1 1 1 | . . . ]   rows: source, columns: source
        target  [ 1 1 1 | 1 . . ]   rows: target, columns: source and target, causal
                [ 1 1 1 | 1 1 . ]
                [ 1 1 1 | 1 1 1 ]
    """

    start: int
    end: int
    key_start: int
    key_end: int
    causal: bool


class Spans:
    """Who attends to whom among packed tokens: spans in order, which cover every row once.

    spans: a `Span` each, or int64 [n, 5]. table: all of them as such an array. memo: what is derived from them once for
    all layers of a model.
    """

    def __init__(self, spans: Iterable[Span] | np.ndarray):
        spans = spans if isinstance(spans, np.ndarray) else list(spans)
        self.table = np.asarray(spans, dtype=np.int64).reshape(-1, 5)
        self.memo: dict = {}

    @classmethod
    def of_rows(cls, group: np.ndarray, first: np.ndarray, end: np.ndarray) -> "Spans":
        """The spans of rows of which each attends to the columns from `first` to `end`, int64 [r].

        group: int64 [r]; neighbouring rows of two groups are never of one span, those of one group have one `first`. A row
        belongs to the span of the row before it where it attends to as much (bidirectional), or to one column more than
        each row before attended to than the one before that (causal).
        """
        begins = np.append(0, 1 + np.flatnonzero(group[1:] != group[:-1]))
        more = np.append(0, end[1:] - end[:-1])  # columns than the row before attends to
        more[begins] = end[begins] - first[begins]
        is_jump = (more < 0) | (more > 1)
        is_jump[begins] = True
        goes_on = ~is_jump
        goes_on[1:] &= is_jump[:-1] | (more[1:] == more[:-1])
        starts = np.flatnonzero(~goes_on)
        ends = np.append(starts[1:], len(group))
        return cls(np.stack([starts, ends, first[starts], end[ends - 1], more[ends - 1] == 1], axis=1))

    @cached_property
    def _listed(self) -> list[Span]:
        return [Span(*span[:4], bool(span[4])) for span in self.table.tolist()]

    def __iter__(self) -> Iterator[Span]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self.table)


def mixed_spans(lengths: np.ndarray, sources: np.ndarray) -> Spans:
    """Mixed attention of packed sequences. lengths, sources: int64 [n], the tokens of each and how many are its source."""
    ends = np.cumsum(lengths)
    sequence, first, end, source = (np.repeat(of, lengths) for of in (np.arange(len(ends)), ends - lengths, ends, sources))
    seen = columns_seen(np.arange(len(sequence)) - first, source)
    return Spans.of_rows(sequence, first, np.minimum(first + seen, end))


def cross_spans(lengths: np.ndarray, sources: np.ndarray) -> Spans:
    """Every token of the n-th of some packed sequences attends to every token of the n-th of others. lengths, sources:
    int64 [n], the tokens of each."""
    ends, source_ends = np.cumsum(lengths), np.cumsum(sources)
    table = [ends - lengths, ends, source_ends - sources, source_ends, np.zeros_like(ends)]
    return Spans(np.stack(table, axis=1))


def spans_at(spans: Spans, rows: np.ndarray) -> Spans:
    """The spans of some rows alone, int64 [r], rising, which then stand one after the other."""
    return Spans.of_rows(*_columns_of(spans, rows))


def fewest_spans(spans: Spans) -> Spans:
    """The same with fewer spans: a source's last row, where it is alone, goes with the target's, as one causal span."""
    start, end, first, last, causal = table = spans.table.T.copy()
    rows = end - start
    # A row alone, and a span whose first row attends to one column more.
    joins = (rows[:-1] == 1) & (first[1:] == first[:-1]) & (last[1:] - rows[1:] == last[:-1]) & ((causal == 1) | (rows == 1))[1:]
    joins[1:] &= ~joins[:-1]
    start[1:][joins] -= 1
    causal[1:][joins] = 1
    return Spans(table.T[np.append(~joins, True)])


def _columns_of(spans: Spans, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The span of each row, and the first column and the end of what the row attends to: int64 [r]."""
    place = np.searchsorted(spans.table[:, 1], rows, side="right")
    _, end, first, last, causal = spans.table[place].T
    return place, first, last - causal * (end - 1 - rows)


def span_mask(span: Span, window: int | None = None, device: torch.device | None = None) -> Tensor | None:
    """The dense mask of a span, bool [rows, columns]: aligned at the bottom right; None where all attend to all.

    window: tokens that are so far apart, or farther, do not attend to each other.
    """
    rows, columns = span.end - span.start, span.key_end - span.key_start
    if window is not None and columns <= window:
        window = None
    if not span.causal and window is None:
        return None
    mask = torch.ones(rows, columns, dtype=torch.bool, device=device)
    diagonal = columns - rows
    if span.causal:
        mask = mask.tril(diagonal)
    if window is not None:
        mask = mask.tril(diagonal + window - 1).triu(diagonal - window + 1)
    return mask
