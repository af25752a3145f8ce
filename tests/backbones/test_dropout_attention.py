"""Dropout on a CPU: attention that keeps little has the values and gradients of the plain formula, and less memory; what is
drawn faster is drawn as often."""

import pytest
import torch
import torch.nn.functional as F
from tests.backbones.conftest import random_batch
from torch.autograd import gradcheck

from gdmtl_lib.backbones import attention
from gdmtl_lib.backbones.attention import dropout_attention
from gdmtl_lib.backbones.dropout import fast_dropout, not_dropped
from gdmtl_lib.backbones.reference import reference
from gdmtl_lib.masks import Span, Spans

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
    kept = not_dropped(weights.shape, dropout)
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


def test_it_keeps_a_byte_a_weight_and_its_result():
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
        F.scaled_dot_product_attention(*inputs, None, 0.1)
    assert lean_bytes == 4 * 64 * 64 + 4 * 4 * 64 * 8
    assert sum(kept) > 7 * lean_bytes


# --- spans padded to a few shapes


def padded(qkv, spans, **given):
    options = {"dropout": 0.0, "scaling": None, "sliding_window": None} | given
    return attention._padded_attention(*qkv, spans, *options.values())


@pytest.mark.parametrize("step", [1, 4, 32])
@pytest.mark.parametrize("window", [None, 1, 3, 50])
@pytest.mark.parametrize("seed", range(6))
def test_padded_spans_give_what_ordinary_attention_gives_with_the_mask(seed, window, step, monkeypatch):
    """Outputs and gradients, of all three."""
    monkeypatch.setattr(attention, "STEP_OF_SHAPES", step)
    spans, mask, qkv = random_batch(seed)
    places = torch.arange(len(mask))
    mask &= (places[:, None] - places).abs() < (window or len(mask))
    found, expected = (qkv.double().requires_grad_() for _ in range(2))
    output, plainly = padded(found, spans, sliding_window=window), F.scaled_dot_product_attention(*expected, mask).transpose(1, 2)
    torch.testing.assert_close(output, plainly, rtol=1e-10, atol=1e-10)
    for each in (output, plainly):
        each.square().sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
def test_padded_spans_of_a_decoder_read_columns_that_lie_anywhere_and_more_than_once(causal):
    query = torch.randn(1, 2, 8, 4, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(2, 1, 2, 9, 4, dtype=torch.float64, requires_grad=True)
    spans = Spans([Span(0, 3, 4, 9, causal), Span(3, 6, 1, 6, causal), Span(6, 8, 0, 4, causal)])
    with reference("stacked spans", "padded spans"):
        expected, _ = attention.packed_attention(None, query, *keys, spans=spans)
    found = padded((query, *keys), spans)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(each.square().sum(), (query, keys)) for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_the_products_of_a_batch_have_few_shapes(monkeypatch):
    """Sixteen sequences of 33 to 64 tokens are one batch of products, where there were sixteen."""
    lengths = torch.arange(33, 65, 2).tolist()
    ends = torch.tensor(lengths).cumsum(0).tolist()
    spans = Spans([Span(end - length, end, end - length, end, False) for length, end in zip(lengths, ends)])
    shapes, original = [], torch.matmul
    monkeypatch.setattr(torch, "matmul", lambda left, right: [shapes.append(tuple(left.shape)), original(left, right)][1])
    attention.packed_attention(None, *torch.randn(3, 1, 2, ends[-1], 4), spans=spans, dropout=0.1)
    assert shapes == [(16, 2, 64, 4), (16, 2, 64, 64)]


def test_no_token_reaches_another_sequence_through_padding():
    spans, mask, qkv = random_batch(3)
    qkv = qkv.requires_grad_()
    output = padded(qkv, spans)
    for row in range(len(mask)):
        [gradient] = torch.autograd.grad(output[0, row].sum(), qkv, retain_graph=True)
        assert not gradient[1:, :, :, ~mask[row]].any()
        assert not gradient[0, :, :, torch.arange(len(mask)) != row].any()


# --- what is drawn


@pytest.mark.parametrize("dropout", [0.0, 1e-9, 0.1, 0.25, 0.5, 0.9, 1 - 1e-9])
def test_as_many_are_dropped_as_asked_for(dropout):
    """Of 400,000, within five standard errors; neighbours and the numbers drawn together know nothing of each other."""
    torch.manual_seed(0)
    kept = not_dropped((400, 1000), dropout).double()
    assert kept.shape == (400, 1000)
    assert abs(kept.mean() - (1 - dropout)) < 5 * (dropout * (1 - dropout) / kept.numel()) ** 0.5 + 2**-17
    if 0.1 <= dropout <= 0.9:
        flat = kept.flatten()
        for apart in (1, 2, 3, 4, 1000):
            together = torch.corrcoef(torch.stack([flat[:-apart], flat[apart:]]))[0, 1]
            assert abs(together) < 5 / kept.numel() ** 0.5


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 4)])
def test_any_shape(shape):
    assert not_dropped(shape, 0.5).shape == shape


def test_dropout_of_modules_and_functions_is_drawn_so_while_the_block_runs():
    """The same seed gives the same; the mean stays; gradients pass where a value stayed; torch's own otherwise."""
    states, original = torch.ones(50, 400, requires_grad=True), F.dropout
    with fast_dropout(torch.device("cpu")):
        torch.manual_seed(1)
        output = torch.nn.Dropout(0.2)(states)
        torch.manual_seed(1)
        assert torch.equal(output, F.dropout(states, p=0.2, training=True))
        assert torch.equal(F.dropout(states, 0.2, False), states) and not F.dropout(states, 1.0).any()
        assert F.dropout(torch.ones(3, device="meta"), 0.2).device.type == "meta"
    torch.manual_seed(1)
    assert torch.equal(output, not_dropped(states.shape, 0.2) * 1.25)
    [gradient] = torch.autograd.grad(output.sum(), states)
    assert torch.equal(gradient, output)
    assert F.dropout is original
    with reference("dropout"), fast_dropout(torch.device("cpu")):
        assert F.dropout is original
    with fast_dropout(torch.device("meta")):
        assert F.dropout is original
