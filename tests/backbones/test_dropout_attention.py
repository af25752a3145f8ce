"""Attention with dropout that keeps little: the same values and gradients as the plain formula, and less memory."""

import pytest
import torch
from torch.autograd import gradcheck

from gdmtl_lib.backbones.attention import dropout_attention

MASKS = {"bidirectional": None, "causal": torch.ones(3, 5, dtype=torch.bool).tril(2)}


def inputs_of(seed=0, heads=2, rows=3, columns=5, size=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((1, heads, rows, size), (1, heads, columns, size), (1, heads, columns, size))
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def plain(query, key, value, mask, dropout, seed):
    """The formula, step by step, with the same draws."""
    weights = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        weights = weights.masked_fill(~mask, -torch.inf)
    weights = weights.softmax(-1)
    torch.manual_seed(seed)
    kept = torch.empty(weights.shape, dtype=torch.bool).bernoulli_(1 - dropout)
    return torch.where(kept, weights / (1 - dropout), 0.0) @ value


def lean(query, key, value, mask, dropout, seed):
    torch.manual_seed(seed)
    return dropout_attention(query, key, value, mask, dropout)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_values_and_gradients_are_those_of_the_formula(mask, dropout, seed):
    inputs, weights = inputs_of(seed), torch.randn(1, 2, 3, 4, dtype=torch.float64)
    outputs, gradients = [], []
    for function in (plain, lean):
        outputs.append(function(*inputs, MASKS[mask], dropout, seed))
        gradients.append(torch.autograd.grad((outputs[-1] * weights).sum(), inputs))
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mask", MASKS)
def test_gradients_are_those_of_small_steps(mask):
    assert gradcheck(lambda *inputs: lean(*inputs, MASKS[mask], 0.3, 0), inputs_of())


def test_in_bf16_it_rounds_and_no_more():
    exact = [tensor.detach().requires_grad_() for tensor in inputs_of(size=16, columns=40, rows=40)]
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    found, expected = lean(*rounded, None, 0.1, 0), lean(*exact, None, 0.1, 0)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.05)
    gradients = [torch.autograd.grad(output.double().square().sum(), each) for output, each in ((found, rounded), (expected, exact))]
    for one, other in zip(*gradients):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one.double(), other, rtol=0.1, atol=0.1)


def test_an_empty_span_attends_to_nothing():
    query, key, value = inputs_of(rows=0, columns=0)
    assert dropout_attention(query, key, value, None, 0.1).shape == (1, 2, 0, 4)


def test_it_keeps_a_byte_a_weight():
    """torch keeps three floats of each: what the backward pass is given tells."""
    kept = []
    inputs = inputs_of(heads=4, rows=64, columns=64, size=8, dtype=torch.float32)

    def keep(tensor):
        if all(tensor.data_ptr() != each.data_ptr() for each in inputs):
            kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        dropout_attention(*inputs, None, 0.1)
        lean_bytes = sum(kept)
        kept.clear()
        torch.nn.functional.scaled_dot_product_attention(*inputs, None, 0.1)
    assert lean_bytes == 4 * 64 * 64
    assert sum(kept) > 10 * lean_bytes
