"""The GPU's kernel for sequences of various lengths: what it is asked to compute, and on a GPU what it computes.

Without a GPU the kernel is replaced by what its documentation says of it, and torch itself checks shapes and gradients
of the real call on tensors without content.
"""

import random
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.backbones.conftest import random_batch
from tests.conftest import random_sequences

import gdmtl_lib as gdmtl
from gdmtl_lib.backbones import attention, flash as varlen_attention
from gdmtl_lib.backbones.attention import packed_attention
from gdmtl_lib.packing import pack
from gdmtl_lib.joint import JointLoss
from gdmtl_lib.backbones.flash import plan_of, suits
from gdmtl_lib.backbones.reference import reference
from gdmtl_lib.masks import Span, Spans, fewest_spans, mixed_spans, spans_at

MODULE = SimpleNamespace(is_causal=False)


def documented(query, key, value, call, dropout, scaling, near):
    """Sequence by sequence; the last row and the last column of each are the same place."""
    assert dropout == 0 and call.row_starts.dtype == call.column_starts.dtype == torch.int32
    rows = list(zip(call.row_starts.tolist(), call.row_starts.tolist()[1:]))
    columns = list(zip(call.column_starts.tolist(), call.column_starts.tolist()[1:]))
    assert rows[-1][1] == len(query) and columns[-1][1] == len(key) == len(value)
    assert call.longest == (max(b - a for a, b in rows), max(b - a for a, b in columns))
    output = torch.empty_like(query)
    for (first, end), (start, stop) in zip(rows, columns, strict=True):
        weights = torch.einsum("rhd,chd->hrc", query[first:end], key[start:stop]) * scaling
        ahead = torch.arange(stop - start)[None] - torch.arange(end - first)[:, None] - (stop - start - end + first)
        if call.causal:
            weights = weights.masked_fill(ahead > 0, -torch.inf)
        if near >= 0:
            weights = weights.masked_fill(ahead.abs() > near, -torch.inf)
        output[first:end] = torch.einsum("hrc,chd->rhd", weights.softmax(-1), value[start:stop])
    return output


@pytest.fixture
def kernel(monkeypatch):
    """The kernel's documented self in its place; the calls that were made of it."""
    calls = []
    monkeypatch.setattr(attention, "suits", lambda query: True)
    monkeypatch.setattr(
        varlen_attention, "flash_attention", lambda *given: [calls.append(given[3]), documented(*given)][1]
    )
    return calls


def span_by_span(monkeypatch, *given, **named):
    with monkeypatch.context() as patch:
        patch.setattr(attention, "suits", lambda query: False)
        return packed_attention(MODULE, *given, **named)[0]


@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("seed", range(10))
def test_it_is_asked_for_what_the_spans_say(seed, window, kernel, monkeypatch):
    spans, _, qkv = random_batch(seed)
    found, _ = packed_attention(MODULE, *qkv, spans=spans, scaling=0.3, sliding_window=window)
    assert len(kernel) == len({span.causal for span in fewest_spans(spans)})
    expected = span_by_span(monkeypatch, *qkv, spans=spans, scaling=0.3, sliding_window=window)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_also_for_some_rows_and_for_columns_of_another_sequence(seed, kernel, monkeypatch):
    spans, _, (query, key, value) = random_batch(seed)
    rows = sorted(random.Random(seed).sample(range(query.shape[2]), max(1, query.shape[2] // 2)))
    given = (query[:, :, rows], key, value)
    chosen = spans_at(spans, np.array(rows))
    found, _ = packed_attention(MODULE, *given, spans=chosen, scaling=0.3)
    torch.testing.assert_close(found, span_by_span(monkeypatch, *given, spans=chosen, scaling=0.3), rtol=1e-5, atol=1e-6)
    crossed = Spans([Span(0, 1, 2, 5, False), Span(1, 4, 0, 2, False)])
    given = (torch.randn(1, 2, 4, 8), *torch.randn(2, 1, 2, 5, 8))
    found, _ = packed_attention(MODULE, *given, spans=crossed, scaling=0.3)
    torch.testing.assert_close(found, span_by_span(monkeypatch, *given, spans=crossed, scaling=0.3), rtol=1e-5, atol=1e-6)


def test_what_stands_in_order_is_not_copied_and_all_layers_share_the_calls(kernel):
    spans = Spans([Span(0, 3, 0, 3, False), Span(3, 8, 3, 8, False)])
    qkv = torch.randn(3, 1, 2, 8, 8)
    for _ in range(3):
        packed_attention(MODULE, *qkv, spans=spans, scaling=0.3)
    assert kernel[0].rows == kernel[0].columns == slice(0, 8) and kernel[0].row_starts.tolist() == [0, 3, 8]
    assert kernel[0] is kernel[1] is kernel[2]
    assert plan_of(spans, 8, 8, qkv.device).order is None


def generations_last():
    """Two ranking sequences, then two of a source and a target."""
    return mixed_spans(np.array([4, 3, 6, 5]), np.array([4, 3, 4, 3]))


def test_no_queries_keys_and_values_are_gathered_where_generations_stand_last(kernel, monkeypatch):
    """One call over all tokens, cut where a target begins; one for the rows of targets, over a slice of keys."""
    given, original = [], varlen_attention.flash_attention
    monkeypatch.setattr(varlen_attention, "flash_attention", lambda *g: [given.append(g), original(*g)][1])
    query, key, value = torch.randn(3, 1, 2, 18, 8)
    packed_attention(MODULE, query, key, value, spans=generations_last(), scaling=0.3)
    (q, k, v, free, *_), (rows, few_k, few_v, causal, *_) = given
    assert free.row_starts.tolist() == free.column_starts.tolist() == [0, 4, 7, 11, 13, 16, 18]
    assert causal.row_starts.tolist() == [0, 2, 4] and causal.column_starts.tolist() == [0, 6, 11]
    assert causal.rows.tolist() == [11, 12, 16, 17] and causal.columns == slice(7, 18)
    for part, whole in ((q, query), (k, key), (v, value), (few_k, key), (few_v, value)):
        assert part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    assert len(rows) == 4


def test_nor_in_the_last_layer(kernel):
    """Read: the first tokens of the ranking sequences, a source's last token with its target's."""
    spans = spans_at(generations_last(), np.array([0, 4, 10, 11, 12, 15, 16, 17]))
    assert len(spans) == 6
    packed_attention(MODULE, *(torch.randn(1, 2, length, 8) for length in (8, 18, 18)), spans=spans, scaling=0.3)
    assert [(call.causal, call.rows, call.columns) for call in kernel] == [
        (False, slice(0, 2), slice(0, 7)), (True, slice(2, 8), slice(7, 18))
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_gradients_are_those_of_the_spans(seed, kernel, monkeypatch):
    """Rows that are computed twice count once."""
    spans, _, qkv = random_batch(seed)
    found, expected = qkv.clone().requires_grad_(), qkv.clone().requires_grad_()
    packed_attention(MODULE, *found, spans=spans, scaling=0.3)[0].square().sum().backward()
    span_by_span(monkeypatch, *expected, spans=spans, scaling=0.3).square().sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gdmtl_plus", "gdmtl_c"])
def test_a_models_losses_and_gradients_are_those_of_the_spans(name, toys, kernel, monkeypatch):
    model = toys[name].eval()
    joint, batch = JointLoss(model, gdmtl.TrainingSettings(loss_weighting=0.1)), pack(random_sequences(model, random.Random(0)))

    def step():
        joint.zero_grad()
        loss = joint.loss(batch)
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in joint.named_parameters() if p.grad is not None}

    loss, ours = step()
    assert kernel
    monkeypatch.setattr(attention, "suits", lambda query: False)
    expected, theirs = step()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    largest = max(gradient.norm() for gradient in theirs.values())
    assert all((ours[name] - theirs[name]).norm() <= 1e-5 * largest for name in theirs)


def test_torch_takes_the_real_call_and_gives_its_gradients():
    """On the meta device, which has shapes and nothing else: with dropout, a window and different numbers of tokens."""
    spans = Spans([Span(0, 3, 0, 3, False), Span(3, 5, 0, 5, True), Span(5, 6, 5, 9, False)])
    query = torch.empty(1, 4, 6, 32, device="meta", dtype=torch.bfloat16, requires_grad=True)
    key, value = (torch.empty(1, 4, 9, 32, device="meta", dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    output = varlen_attention.varlen_attention(query, key, value, spans, 0.1, 0.3, 4)
    assert output.shape == (1, 6, 4, 32) and output.dtype == torch.bfloat16
    output.sum().backward()
    assert query.grad.shape == query.shape and key.grad.shape == value.grad.shape == key.shape


def test_without_a_gpu_and_in_single_precision_the_spans_are_computed_one_by_one():
    assert not suits(torch.empty(1, 4, 6, 32, dtype=torch.bfloat16))
    assert not suits(torch.empty(1, 4, 6, 32, device="meta"))


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("seed", range(5))
def test_on_a_gpu_the_kernel_is_as_documented(seed, window):
    spans, _, qkv = random_batch(seed)
    qkv = qkv.to("cuda", torch.bfloat16).requires_grad_()
    assert suits(qkv[0])
    results = []
    for switched in (nullcontext(), reference("flash")):
        with switched:
            output, _ = packed_attention(MODULE, *qkv, spans=spans, scaling=0.3, sliding_window=window)
        [gradient] = torch.autograd.grad(output.float().square().sum(), qkv)
        results.append((output, gradient))
    for found, expected in zip(*results):
        torch.testing.assert_close(found.float(), expected.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
def test_on_a_gpu_dropout_drops_and_keeps_the_mean():
    spans = Spans([Span(0, 64, 0, 64, False)])
    query, key = torch.zeros(2, 1, 4, 64, 32, device="cuda", dtype=torch.bfloat16)
    value = torch.ones_like(key)
    torch.manual_seed(0)
    outputs = torch.cat([packed_attention(MODULE, query, key, value, spans=spans, dropout=0.5)[0] for _ in range(50)])
    assert outputs.float().std() > 0.05 and abs(outputs.float().mean() - 1) < 0.02
