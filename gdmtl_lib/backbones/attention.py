"""Attention over a packed batch: every real token of every sequence in one row, nothing padded.

Who attends to whom is a list of spans. A bidirectional sequence is one span; mixed attention is two, of which the
second, "the target attends to the source and, causally, to itself", is causal attention aligned at the bottom right:

              source  target
    source  [ 1 1 1 | . . . ]   Span(rows=source, columns=source, causal=False)
    target  [ 1 1 1 | 1 . . ]   Span(rows=target, columns=source and target, causal=True)
            [ 1 1 1 | 1 1 . ]
            [ 1 1 1 | 1 1 1 ]

h heads, t packed tokens, d head dimension.
"""

from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from .dropout_attention import dropout_attention
from .flash import Spans, suits, varlen_attention

PACKED = "gdmtl_packed"
STACK_SPANS = True
"""Whether spans of one shape are multiplied at once, on a CPU without gradients; False: one by one, the reference."""
FEW_ROWS = 32
"""Up to so many rows attend to a longer text by plain products, on a CPU without gradients; 0: never, the reference."""
DROPOUT_ATTENTION = True
"""Whether weights are dropped by `dropout_attention` on a CPU, which needs half the memory; False: by torch's own."""


@dataclass(frozen=True)
class Span:
    """The tokens [start, end) attend to the tokens [key_start, key_end); causal: each up to and including itself,
    the last one to all. The spans of a batch stand in order and cover every row once."""

    start: int
    end: int
    key_start: int
    key_end: int
    causal: bool


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | list[Span] | None = None,
    spans: list[Span] | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cache=None,
    **_,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention, span by span; registered with transformers under the name `PACKED`.

    query, key, value: float [b, h, t, d], b = 1 when packed. spans: the spans, given as such or in the place of the
    mask. Without spans this is ordinary attention under attention_mask (bool [b, 1, t, t'], True = may attend).
    sliding_window: tokens of a span that are so far apart, or farther, do not attend to each other (ModernBERT's local
    layers; a mask says that itself). cache: `KeyValues` of `source_states`, or what has its `update`.
    Returns float [b, t, h, d] and None (the weights are never formed).

    Raises ValueError without either: nobody is to attend to padding or to the future because a mask went missing.
    """
    if isinstance(attention_mask, list):
        spans, attention_mask = attention_mask, None
    if cache is not None:
        key, value = cache.update(key, value)
    if spans is None:
        if attention_mask is None:
            raise ValueError(
                "packed attention needs spans or a bool mask [b, 1, t, t'], and found neither: call the model with a "
                "batch from gdmtl_lib.packing.pack or pad, or give the backbone the whole mask"
            )
        if query.shape[2] <= FEW_ROWS and query.shape[2] < key.shape[2] and _computes_alone(query, dropout):
            return _few_rows(query, key, value, attention_mask, scaling), None
        output = F.scaled_dot_product_attention(query, key, value, attention_mask, dropout, scale=scaling)
        return output.transpose(1, 2).contiguous(), None
    if suits(query):
        spans = spans if isinstance(spans, Spans) else Spans(spans)
        return varlen_attention(query, key, value, spans, dropout, scaling, sliding_window), None
    if STACK_SPANS and _computes_alone(query, dropout):
        return _stacked_attention(query, key, value, spans, scaling, sliding_window), None
    rows = query.split([span.end - span.start for span in spans], dim=2)
    keys, values = _columns(key, spans), _columns(value, spans)
    masks = (_may_attend(span, sliding_window, query.device) for span in spans)
    attend = F.scaled_dot_product_attention
    if DROPOUT_ATTENTION and dropout and query.device.type == "cpu":
        attend = dropout_attention
    outputs = [
        attend(row, key, value, mask, dropout, scale=scaling)
        for row, key, value, mask in zip(rows, keys, values, masks)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def spans_at(spans: list[Span], rows: list[int]) -> Spans:
    """The spans of some rows alone, which then stand one after the other.

    rows: rising. A causal span of which only some rows are taken becomes a span a row.
    """
    chosen, rows, at = Spans(), iter(rows), 0
    row = next(rows, None)
    for span in spans:
        first = at
        seen = []  # what each taken row of this span may attend to
        while row is not None and row < span.end:
            seen.append(span.key_end - (span.end - 1 - row) if span.causal else span.key_end)
            row, at = next(rows, None), at + 1
        if not span.causal or at - first == span.end - span.start:
            chosen += [Span(first, at, span.key_start, span.key_end, span.causal)] if seen else []
        else:
            chosen += [Span(first + i, first + i + 1, span.key_start, end, False) for i, end in enumerate(seen)]
    return chosen


def _computes_alone(query: Tensor, dropout: float) -> bool:
    """Whether nothing but the result is wanted, on a CPU."""
    return query.device.type == "cpu" and not torch.is_grad_enabled() and not dropout


def _few_rows(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """A few tokens of a target over a whole source: a CPU's fused kernel, which spares the memory of many rows, takes
    twice the time of plain products. Arguments and result as in `packed_attention`."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = torch.matmul(query * scaling, key.transpose(-1, -2))
    weights.masked_fill_(~mask, torch.finfo(weights.dtype).min)  # finite: a row of padding may attend to nothing at all
    weights = weights.softmax(-1, dtype=torch.float32).to(value.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous()


def _stacked_attention(
    query: Tensor, key: Tensor, value: Tensor, spans: list[Span], scaling: float | None, sliding_window: int | None
) -> Tensor:
    """The same, for neighbouring spans of one shape at once: sequences sorted by length have many of them.

    A CPU's fused kernel does the small products of a span in smaller pieces still; a few large batches of products
    take half its time. Arguments and result as in `packed_attention`.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    outputs = []
    for (rows, _, _), group in groupby(spans, key=_shape):
        group = list(group)
        n = len(group)
        first, last = group[0].start, group[-1].end
        q = query[0, :, first:last].unflatten(1, (n, rows)).transpose(0, 1)  # [n, h, r, d]
        k = torch.stack([key[0, :, span.key_start : span.key_end] for span in group])
        v = torch.stack([value[0, :, span.key_start : span.key_end] for span in group])
        weights = torch.matmul(q * scaling, k.transpose(-1, -2))
        mask = _may_attend(group[0], sliding_window, query.device)
        if mask is not None:
            weights.masked_fill_(~mask, -torch.inf)
        weights = weights.softmax(-1, dtype=torch.float32).to(v.dtype)
        outputs.append(torch.matmul(weights, v).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None]


def _shape(span: Span) -> tuple[int, int, bool]:
    return span.end - span.start, span.key_end - span.key_start, span.causal


def _columns(states: Tensor, spans: list[Span]) -> list[Tensor]:
    """What each span attends to. Cut once at every boundary and joined again where a span covers several pieces:
    the gradient of a slice is as large as the whole row, so slices would cost the square of the batch."""
    cuts = sorted({0, states.shape[2], *(span.key_start for span in spans), *(span.key_end for span in spans)})
    pieces = states.split([end - start for start, end in zip(cuts, cuts[1:])], dim=2)
    at = {cut: number for number, cut in enumerate(cuts)}
    chosen = [pieces[at[span.key_start] : at[span.key_end]] for span in spans]
    # A sequence may have no source: its first span is empty and attends to nothing.
    return [piece[0] if len(piece) == 1 else torch.cat(piece or [states[:, :, :0]], dim=2) for piece in chosen]


def _may_attend(span: Span, sliding_window: int | None, device) -> Tensor | None:
    """Which columns of a span its rows attend to, bool [rows, columns], aligned at the bottom right; None for all."""
    rows, columns = span.end - span.start, span.key_end - span.key_start
    if sliding_window is not None and columns <= sliding_window:
        sliding_window = None
    if not span.causal and sliding_window is None:
        return None
    mask = torch.ones(rows, columns, dtype=torch.bool, device=device)
    diagonal = columns - rows
    if span.causal:
        mask = mask.tril(diagonal)
    if sliding_window is not None:
        mask = mask.tril(diagonal + sliding_window - 1).triu(diagonal - sliding_window + 1)
    return mask


AttentionInterface.register(PACKED, packed_attention)
