"""Attention with dropout whose backward pass needs little memory.

torch's own, on a CPU, keeps three matrices of floats a layer for the backward pass. Here one bit of knowledge a weight
is kept, whether it was dropped, and the weights are computed again.

h heads, r rows, c columns, d head dimension.
"""

import torch
from torch import Tensor


def dropout_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scale: float | None = None
) -> Tensor:
    """Scaled dot-product attention, its weights dropped with a probability; differentiable once.

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
