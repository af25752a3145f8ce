"""Attention over a packed batch: every real token of every sequence in one row, nothing padded. Who attends to whom is what
`masks.Spans` says; here it is only computed, by whichever way is fast.

h heads, t packed tokens, d head dimension; of one span r rows, c columns.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from gdmtl_lib.masks import Spans, span_mask

from .flash import suits, varlen_attention
from .linear import replaced
from .reference import is_fast

PACKED = "gdmtl_packed"
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
    rows = query.split([span.end - span.start for span in spans], dim=2)
    masks = (span_mask(span, sliding_window, query.device) for span in spans)
    saves_memory = dropout and query.device.type == "cpu" and is_fast("dropout")
    attend = dropout_attention if saves_memory else F.scaled_dot_product_attention
    each = zip(rows, _columns(key, spans), _columns(value, spans), masks)
    outputs = [attend(*given, dropout, scale=scaling) for given in each]
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


# --- dropout whose backward pass needs little memory: torch's own, on a CPU, keeps three matrices of floats a layer for it


def dropout_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scale: float | None = None
) -> Tensor:
    """Scaled dot-product attention, its weights dropped with a probability; differentiable once. What is kept is whether
    a weight was dropped; the weights are computed again.

    query: float [..., h, r, d]; key, value: float [..., h, c, d]; mask: bool [r, c], True = may attend, or None.
    dropout: in [0, 1). scale: of the products; 1 / sqrt(d) unless given. Returns float [..., h, r, d].
    """
    return _DropoutAttention.apply(query, key, value, mask, dropout, scale)


class _DropoutAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, mask, dropout, scale):
        ctx.dropout, ctx.scale = dropout, scale
        weights = attention_weights(query, key, mask, scale)
        kept = torch.empty(weights.shape, dtype=torch.bool, device=weights.device).bernoulli_(1 - dropout)
        ctx.save_for_backward(query, key, value, mask, kept)
        return torch.matmul(weights.mul_(kept).div_(1 - dropout).to(value.dtype), value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        query, key, value, mask, kept = ctx.saved_tensors
        weights = attention_weights(query, key, mask, ctx.scale)
        share = kept.to(weights.dtype).div_(1 - ctx.dropout)
        of_value = torch.matmul((weights * share).to(gradient.dtype).transpose(-1, -2), gradient)
        of_weights = torch.matmul(gradient, value.transpose(-1, -2)).to(weights.dtype).mul_(share)
        # Softmax: what a row's weights gain together, none of them keeps.
        products = weights.mul_(of_weights.sub_((of_weights * weights).sum(-1, keepdim=True)))
        products = products.mul_(_scale(query, ctx.scale)).to(query.dtype)
        return torch.matmul(products, key), torch.matmul(products.transpose(-1, -2), query), of_value, None, None, None


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Who attends how much to whom, float32 [..., h, r, c] (float64 of such). Arguments as of `dropout_attention`."""
    products = torch.matmul(query * _scale(query, scale), key.transpose(-1, -2))
    if mask is not None:  # finite: a row of padding may attend to nothing at all
        products.masked_fill_(~mask, torch.finfo(products.dtype).min)
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
