"""Attention over a packed batch against loops and against ordinary attention under literal masks."""

import math
import random
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tests.backbones.conftest import random_batch
from transformers import AttentionInterface

from gdmtl_lib.backbones import attention
from gdmtl_lib.backbones.attention import PACKED, packed_attention
from gdmtl_lib.backbones.reference import reference
from gdmtl_lib.masks import Span, Spans
from gdmtl_lib.pretrained import build_model

MODULE = SimpleNamespace(is_causal=False)


def slow_attention(query, key, value, mask, scaling):
    """Softmax over the allowed columns, one row and one head at a time."""
    output = torch.zeros_like(query)
    for head in range(query.shape[1]):
        for row in range(query.shape[2]):
            columns = mask[row].nonzero().flatten().tolist()
            products = [float(query[0, head, row] @ key[0, head, column]) for column in columns]
            weights = [math.exp(scaling * product) for product in products]
            for weight, column in zip(weights, columns, strict=True):
                output[0, head, row] += weight / sum(weights) * value[0, head, column]
    return output.transpose(1, 2)


@pytest.mark.parametrize("seed", range(5))
def test_spans_give_what_a_loop_over_the_mask_gives(seed):
    spans, mask, (query, key, value) = random_batch(seed)
    output, weights = packed_attention(MODULE, query, key, value, spans=spans, scaling=0.3)
    assert weights is None
    assert output.shape == (1, query.shape[2], 3, 8)
    torch.testing.assert_close(output, slow_attention(query, key, value, mask, 0.3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_spans_give_what_ordinary_attention_gives_with_the_mask(seed):
    """Output and gradients; the scale is 1 / sqrt(d) unless given."""
    spans, mask, qkv = random_batch(seed)
    found, expected = qkv.clone().requires_grad_(), qkv.clone().requires_grad_()
    output, _ = packed_attention(MODULE, *found, spans=spans)
    reference = F.scaled_dot_product_attention(*expected, mask).transpose(1, 2)
    torch.testing.assert_close(output, reference, rtol=1e-5, atol=1e-6)
    output.square().sum().backward()
    reference.square().sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5)


def test_cross_attention_spans_have_more_columns_than_rows_or_fewer():
    """Decoder rows 0-2 read source columns 0-4, row 3 reads columns 5-6."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 2, 4, 8, generator=generator)
    key, value = torch.randn(2, 1, 2, 7, 8, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0]] * 3 + [[0, 0, 0, 0, 0, 1, 1]]).bool()
    spans = Spans([Span(0, 3, 0, 5, causal=False), Span(3, 4, 5, 7, causal=False)])
    output, _ = packed_attention(MODULE, query, key, value, spans=spans)
    torch.testing.assert_close(output, slow_attention(query, key, value, mask, 8**-0.5), rtol=1e-5, atol=1e-6)


def stacked_and_one_by_one(qkv, spans, **options):
    with torch.inference_mode():
        stacked = packed_attention(MODULE, *qkv, spans=spans, **options)[0]
        with reference("stacked spans"):
            return stacked, packed_attention(MODULE, *qkv, spans=spans, **options)[0]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_stacked_spans_give_what_one_by_one_gives(seed, dtype, tolerance):
    spans, _, qkv = random_batch(seed)
    pair = stacked_and_one_by_one(qkv.to(dtype), spans, scaling=0.4)
    torch.testing.assert_close(*pair, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("causal", [False, True])
def test_spans_of_one_shape_are_stacked_also_where_their_columns_lie_apart(causal, monkeypatch):
    """Rows 3 and 3, then 2; the columns overlap, and the second span's stand before the first's."""
    query = torch.randn(1, 2, 8, 4, generator=torch.Generator().manual_seed(0))
    key, value = torch.randn(2, 1, 2, 9, 4, generator=torch.Generator().manual_seed(1))
    spans = Spans([Span(0, 3, 4, 9, causal), Span(3, 6, 1, 6, causal), Span(6, 8, 0, 4, causal)])
    products, original = [], torch.matmul
    monkeypatch.setattr(torch, "matmul", lambda left, right: [products.append(len(left)), original(left, right)][1])
    pair = stacked_and_one_by_one((query, key, value), spans)
    assert products == [2, 2, 1, 1]
    torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", [1, 2, 4, 50])
@pytest.mark.parametrize("seed", range(4))
def test_a_window_leaves_what_is_near(seed, window):
    """Stacked, one by one, and ordinary attention under the mask without what is `window` tokens away or farther."""
    spans, mask, qkv = random_batch(seed)
    places = torch.arange(len(mask))
    mask &= (places[:, None] - places).abs() < window
    expected = F.scaled_dot_product_attention(*qkv, mask).transpose(1, 2)
    for output in stacked_and_one_by_one(qkv, spans, sliding_window=window):
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)


def test_spans_may_stand_in_the_place_of_the_mask():
    """Encoder-decoder layers hand on one argument for each attention."""
    spans, _, qkv = random_batch(0)
    found, _ = packed_attention(MODULE, *qkv, spans)
    assert torch.equal(found, packed_attention(MODULE, *qkv, spans=spans)[0])


def test_without_spans_it_is_ordinary_attention_under_the_mask():
    _, mask, qkv = random_batch(1)
    output, weights = packed_attention(MODULE, *qkv, mask[None, None], scaling=0.5, some_other_keyword=1)
    assert weights is None
    assert torch.equal(output, F.scaled_dot_product_attention(*qkv, mask, scale=0.5).transpose(1, 2))


@pytest.mark.parametrize("seed", range(5))
def test_other_sequences_and_later_targets_leave_the_bits_alone(seed):
    spans, mask, (query, key, value) = random_batch(seed)
    before, _ = packed_attention(MODULE, query, key, value, spans=spans)
    changed = random.Random(seed).randrange(mask.shape[1])
    key[:, :, changed] += 1
    value[:, :, changed] += 1
    after, _ = packed_attention(MODULE, query, key, value, spans=spans)
    for row in range(mask.shape[0]):
        assert torch.equal(before[0, row], after[0, row]) == (not mask[row, changed])


@pytest.mark.parametrize(
    "given", [{"spans": Spans([Span(0, 4, 0, 4, False)])}, {"attention_mask": torch.ones(4, 4).bool()}]
)
def test_dropout_drops_attention_weights(given):
    """Of values of 1, an output is the sum of the weights that stay, doubled: 1 on average only."""
    query, key = torch.randn(2, 1, 64, 4, 8, generator=torch.Generator().manual_seed(0))
    value = torch.ones(1, 64, 4, 8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped, _ = packed_attention(MODULE, query, key, value, dropout=0.5, **given)
    plain, _ = packed_attention(MODULE, query, key, value, **given)
    torch.testing.assert_close(plain, torch.ones_like(plain))
    assert dropped[..., 0].std() > 0.3
    assert abs(dropped.mean() - 1) < 0.15


def test_transformers_knows_it_by_name():
    assert AttentionInterface()[PACKED] is packed_attention


def test_a_missing_mask_is_refused_instead_of_attending_to_everything():
    _, _, qkv = random_batch(0)
    message = (
        "packed attention needs spans or a bool mask [b, 1, t, t'], and found neither: call the model with a "
        "batch from gdmtl_lib.packing.pack or pad, or give the backbone the whole mask"
    )
    with pytest.raises(ValueError) as error:
        packed_attention(MODULE, *qkv)
    assert str(error.value) == message


@pytest.mark.parametrize("name", ["bert", "bart_s"])
def test_a_backbone_called_by_itself_does_not_forget_its_mask(name, toy_bert_folder, toy_bart_folder):
    """transformers makes no mask for an attention it does not know: padding and the future would be read."""
    model = build_model(name, checkpoint=toy_bert_folder if name == "bert" else toy_bart_folder)
    backbone = model.bert if name == "bert" else model.model
    ids = torch.tensor([[2, 10, 11, 3]])
    with pytest.raises(ValueError, match="packed attention needs spans or a bool mask"):
        backbone(ids)


@pytest.mark.parametrize("scaling", [None, 0.7])
def test_few_rows_attend_as_many_do(scaling, monkeypatch):
    """Plain products of a target's few tokens are what the fused kernel gives, whatever the padding."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 2, 5, 8, generator=generator)
    key, value = torch.randn(2, 3, 2, 40, 8, generator=generator)
    mask = torch.ones(3, 1, 5, 40, dtype=torch.bool).tril(35)
    mask[1, :, :, 7:30] = False
    mask[2, :, 4] = False  # a row of padding: what it gives is nobody's, but it must be a number
    with torch.inference_mode():
        found, _ = packed_attention(MODULE, query, key, value, mask, scaling=scaling)
        monkeypatch.setattr(attention, "attention_weights", None)
        with reference("few rows"):
            expected, _ = packed_attention(MODULE, query, key, value, mask, scaling=scaling)
    assert found.isfinite().all()
    torch.testing.assert_close(found[:, :4], expected[:, :4], atol=1e-6, rtol=1e-6)
