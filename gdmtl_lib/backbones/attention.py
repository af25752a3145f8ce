"""Attention over a packed batch: every real token of every sequence in one row, nothing padded. Who attends to whom is what
`masks.Spans` says; here it is only computed, by whichever way is fast.

h heads, t packed tokens, d head dimension; of one span r rows, c columns.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from gdmtl_lib.masks import Spans, span_mask

from .dropout import not_dropped
from .flash import suits, varlen_attention
from .linear import replaced
from .reference import is_fast

PACKED = "gdmtl_packed"
STEP_OF_SHAPES = 32  # rows and columns of padded spans are multiples of it
WEIGHTS_AT_ONCE = 2**17  # of a head: more would not stay in a cache
HIDDEN = -1e30  # finite: a row of padding may attend to nothing at all
FEW_ROWS = 32  # up to so many rows attend to a longer text by plain products, on a CPU without gradients


def packed_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | Spans | None = None,
    spans: Spans | None = None, dropout: float = 0.0, scaling: float | None = None, sliding_window: int | None = None,
    cache=None, **_,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention, span by span; registered with transformers under the name `PACKED`.

    query, key, value: float [b, h, t, d], b = 1 when packed. spans: given as such or in the place of the mask. Without
    spans this is ordinary attention under attention_mask (bool [b, 1, t, t'], True = may attend). sliding_window:
    tokens of a span that are so far apart, or farther, do not attend to each other (ModernBERT's local layers; a mask
    says that itself). cache: `KVCache` of `inference.prefix_cache`, or what has its `update`.
    Returns float [b, t, h, d] and None (the weights are never formed). Raises ValueError without spans and mask.
    """
    if isinstance(attention_mask, Spans):
        spans, attention_mask = attention_mask, None
    if cache is not None:
        key, value = cache.update(key, value)
    if spans is None:
        if attention_mask is None:
            raise ValueError(
                "packed attention needs spans or a bool mask [b, 1, t, t'], and found neither: call the model with a "
                "batch from gdmtl_lib.packing.pack or pad, or give the backbone the whole mask"
            )
        few = query.shape[2] <= FEW_ROWS and query.shape[2] < key.shape[2] and is_fast("few rows")
        if few and _computes_alone(query, dropout):
            # A CPU's fused kernel, which spares the memory of many rows, takes twice the time of plain products.
            weights = attention_weights(query, key, attention_mask, scaling).to(value.dtype)
            return torch.matmul(weights, value).transpose(1, 2).contiguous(), None
        output = F.scaled_dot_product_attention(query, key, value, attention_mask, dropout, scale=scaling)
        return output.transpose(1, 2).contiguous(), None
    if suits(query):
        return varlen_attention(query, key, value, spans, dropout, scaling, sliding_window), None
    if is_fast("stacked spans") and _computes_alone(query, dropout):
        return _stacked_attention(query, key, value, spans, scaling, sliding_window), None
    if (dropout or torch.is_grad_enabled()) and query.device.type == "cpu" and is_fast("padded spans"):
        return _padded_attention(query, key, value, spans, dropout, scaling, sliding_window), None
    rows = query.split([span.end - span.start for span in spans], dim=2)
    masks = (span_mask(span, sliding_window, query.device) for span in spans)
    each = zip(rows, _columns(key, spans), _columns(value, spans), masks)
    outputs = [F.scaled_dot_product_attention(*given, dropout, scale=scaling) for given in each]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _computes_alone(query: Tensor, dropout: float) -> bool:
    """Whether nothing but the result is wanted, on a CPU."""
    return query.device.type == "cpu" and not torch.is_grad_enabled() and not dropout


def _stacked_attention(
    query: Tensor, key: Tensor, value: Tensor, spans: Spans, scaling: float | None, sliding_window: int | None
) -> Tensor:
    """The same, for neighbouring spans of one shape at once: a few large batches of products take half the time of a CPU's
    fused kernel on the small products of each span. Arguments and result as in `packed_attention`."""
    outputs = []
    shape_of = lambda span: (span.end - span.start, span.key_end - span.key_start, span.causal)  # noqa: E731
    for (rows, *_), group in groupby(spans, shape_of):
        group = list(group)
        shape = (len(group), rows)
        q = query[0, :, group[0].start : group[-1].end].unflatten(1, shape).transpose(0, 1)  # [n, h, r, d]
        k = torch.stack([key[0, :, span.key_start : span.key_end] for span in group])
        v = torch.stack([value[0, :, span.key_start : span.key_end] for span in group])
        weights = attention_weights(q, k, span_mask(group[0], sliding_window, query.device), scaling).to(v.dtype)
        outputs.append(torch.matmul(weights, v).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None]


def _columns(states: Tensor, spans: Spans) -> list[Tensor]:
    """What each span attends to. Cut once at every boundary and joined again where a span covers several pieces:
    the gradient of a slice is as large as the whole row, so slices would cost the square of the batch."""
    cuts = sorted({0, states.shape[2], *(span.key_start for span in spans), *(span.key_end for span in spans)})
    pieces = states.split([end - start for start, end in zip(cuts, cuts[1:])], dim=2)
    at = {cut: number for number, cut in enumerate(cuts)}
    chosen = [pieces[at[span.key_start] : at[span.key_end]] for span in spans]
    # A sequence may have no source: its first span is empty and attends to nothing.
    return [piece[0] if len(piece) == 1 else torch.cat(piece or [states[:, :, :0]], dim=2) for piece in chosen]


AttentionInterface.register(PACKED, packed_attention)


# --- a CPU's training: few products of few shapes, and dropout whose backward pass needs little memory


@dataclass(frozen=True)
class Stack:
    """Spans of about one shape, padded to one. rows, columns: int64 [n, r] and [n, c], which tokens attend and which are
    attended to; t and u, as many as there are, where there is none. mask: float [n, 1, r, c], 0, and HIDDEN where a row may
    not attend."""

    rows: Tensor
    columns: Tensor
    mask: Tensor


def stacks_of(spans: Spans, tokens: int, keys: int, window: int | None) -> tuple[list[Stack], Tensor]:
    """The stacks that spans come to, which all layers share, and where each row stands among theirs, int64 [t]. tokens,
    keys: t and u."""
    key = ("stacks", tokens, keys, window)
    if key not in spans.memo:
        table = spans.table[spans.table[:, 1] > spans.table[:, 0]]
        shapes = -(-(table[:, [1, 3]] - table[:, [0, 2]]) // STEP_OF_SHAPES) * STEP_OF_SHAPES
        stacks = []
        for shape in np.unique(shapes, axis=0):
            group = table[(shapes == shape).all(axis=1)]
            stacks += (
                _stack(part, shape, tokens, keys, window)
                for part in np.array_split(group, -(-len(group) * shape.prod() // WEIGHTS_AT_ONCE)) if len(part)
            )  # fmt: skip
        places = torch.cat([stack.rows.flatten() for stack in stacks])
        order = torch.empty(tokens + 1, dtype=torch.int64).index_copy_(0, places, torch.arange(len(places)))
        spans.memo[key] = stacks, order[:tokens]
    return spans.memo[key]


def _stack(table: np.ndarray, shape: np.ndarray, tokens: int, keys: int, window: int | None) -> Stack:
    start, end, first, last, causal = table.T[:, :, None]
    rows, columns = start + np.arange(shape[0]), first + np.arange(shape[1])
    sees = last - causal * (end - 1 - rows)  # the end of what a row attends to
    mask = columns[:, None, :] < np.minimum(sees, last)[:, :, None]
    if window is not None:  # a row stands where it stands in a causal span
        mask &= np.abs(columns[:, None, :] - (last - end + rows)[:, :, None]) < window
    places = np.where(rows < end, rows, tokens), np.where(columns < last, columns, keys)
    return Stack(*map(torch.from_numpy, (*places, np.where(mask[:, None], 0, np.float32(HIDDEN)))))


def _padded_attention(
    query: Tensor, key: Tensor, value: Tensor, spans: Spans, dropout: float, scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    """Arguments and result as in `packed_attention`. A library makes a program for every shape that it multiplies, which
    on matrix units (AMX) takes longer than to multiply: so there are few shapes."""
    heads, size = query.shape[1], query.shape[3]
    stacks, order = stacks_of(spans, query.shape[2], key.shape[2], sliding_window)
    query, key, value = (F.pad(part[0].transpose(0, 1).flatten(1), (0, 0, 0, 1)) for part in (query, key, value))
    outputs = []
    for stack in stacks:
        of_stack = (
            states.index_select(0, places.flatten()).view(*places.shape, heads, size).transpose(1, 2).contiguous()
            for states, places in ((query, stack.rows), (key, stack.columns), (value, stack.columns))
        )
        attended = dropout_attention(*of_stack, stack.mask, dropout, scaling)
        outputs.append(attended.transpose(1, 2).flatten(2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, order).unflatten(-1, (heads, size))[None]


def dropout_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scale: float | None = None
) -> Tensor:
    """Scaled dot-product attention, its weights dropped with a probability; differentiable once. What is kept is whether
    a weight was dropped; the weights are computed again.

    query: float [..., h, r, d]; key, value: float [..., h, c, d]; mask: bool, True = may attend, or float, added to the
    products, of any shape that broadcasts to [..., h, r, c]; or None. dropout: in [0, 1). scale: of the products; 1 / sqrt(d)
    unless given. Returns float [..., h, r, d].
    """
    return _DropoutAttention.apply(query, key, value, mask, dropout, scale)


class _DropoutAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, mask, dropout, scale):
        ctx.dropout, ctx.scale = dropout, scale
        weights = attention_weights(query, key, mask, scale)
        kept = not_dropped(weights.shape, dropout) if dropout else None
        weights = weights if kept is None else weights.mul_(kept)
        output = torch.matmul(weights.to(value.dtype), value / (1 - dropout))
        ctx.save_for_backward(query, key, value, mask, kept, output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        query, key, value, mask, kept, output = ctx.saved_tensors
        weights = attention_weights(query, key, mask, ctx.scale)
        gradient = gradient.contiguous()
        stay = gradient / (1 - ctx.dropout)
        attended, of_weights = weights, torch.matmul(stay, value.transpose(-1, -2)).to(weights.dtype)
        if kept is not None:
            kept = kept.to(weights.dtype)
            attended, of_weights = weights * kept, of_weights.mul_(kept)
        of_value = torch.matmul(attended.to(gradient.dtype).transpose(-1, -2), stay)
        # Softmax: what a row's weights gain together, none of them keeps.
        together = (gradient.to(weights.dtype) * output.to(weights.dtype)).sum(-1, keepdim=True)
        products = weights.mul_(of_weights.sub_(together)).to(query.dtype)
        scale = _scale(query, ctx.scale)
        of_query = torch.matmul(products, key * scale)
        return of_query, torch.matmul(products.transpose(-1, -2), query * scale), of_value, None, None, None


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Who attends how much to whom, float32 [..., h, r, c] (float64 of such). Arguments as of `dropout_attention`."""
    products = torch.matmul(query * _scale(query, scale), key.transpose(-1, -2))
    hidden = max(HIDDEN, torch.finfo(products.dtype).min)
    if mask is not None and mask.dtype == torch.bool:
        products.masked_fill_(~mask, hidden)
    elif mask is not None:
        products.add_(mask.clamp(min=hidden).to(products.dtype))
    return products.softmax(-1, dtype=torch.promote_types(products.dtype, torch.float32))


def _scale(query: Tensor, scale: float | None) -> float:
    return query.shape[-1] ** -0.5 if scale is None else scale


# --- the last layer, computed where its states are read: of all other tokens it owes the rest their keys and values alone


@contextmanager
def last_layer_at(layers: nn.ModuleList, rows: Tensor, spans: Spans) -> Iterator[None]:
    """While the block runs, the last of these layers (BERT's, or like them) returns the states of some tokens alone,
    rows, int64 [r], rising. spans: what they attend to, as `masks.spans_at` gives it."""
    last = layers[-1]
    with replaced(last, "forward", partial(_forward, last, rows, spans)):
        yield


def _forward(layer: nn.Module, rows: Tensor, read_spans: Spans, states: Tensor, *_, **__) -> Tensor:
    """A layer of BERT: float [1, t, d] -> [1, r, d]."""
    attention, read = layer.attention, states.index_select(1, rows)
    size = attention.self.attention_head_size
    query, key, value = (
        project(tokens).unflatten(-1, (-1, size)).transpose(1, 2)
        for project, tokens in (
            (attention.self.query, read), (attention.self.key, states), (attention.self.value, states)
        )
    )  # fmt: skip
    dropout = attention.self.dropout.p if layer.training else 0.0
    context, _ = packed_attention(
        attention.self, query, key, value, spans=read_spans, dropout=dropout, scaling=attention.self.scaling
    )
    attended = attention.output(context.flatten(2), read)
    return layer.output(layer.intermediate(attended), attended)
