"""Linear layers with what follows them at once: the plain scores, and a model that is as it was afterwards."""

import random

import pytest
import torch
import torch.nn.functional as F
from tests.conftest import ALL_TOYS, random_sequences
from torch import nn

from gdmtl_lib.backbones import linear as fused
from gdmtl_lib.backbones.linear import LAID_OUT_FROM, fused_layers, linear_layer
from gdmtl_lib.backbones.reference import reference
from gdmtl_lib.packing import pack
from gdmtl_lib.inference.scoring import in_precision


@pytest.fixture
def everywhere(monkeypatch):
    """Whatever the processor: oneDNN multiplies on all of them."""
    monkeypatch.setattr(fused, "multiplies_with_onednn", lambda device: device.type == "cpu")


def ranking_batch(model, seed):
    return pack([s for s in random_sequences(model, random.Random(seed)) if s.task == "rank"])


@pytest.mark.parametrize("name", ALL_TOYS)
@pytest.mark.parametrize(("seed", "tokens"), [(0, 0), (1, 0), (2, LAID_OUT_FROM), (3, LAID_OUT_FROM)])
def test_scores_are_those_of_the_layers_one_by_one(toys, name, seed, tokens, everywhere):
    model = toys[name].eval()
    batch = ranking_batch(model, seed)
    with torch.inference_mode():
        expected = model(batch).scores
        with fused_layers(model, tokens):
            found = model(batch).scores
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gdmtl", "bart_c"])
def test_in_fp16_it_is_left_to_torch_where_onednn_has_none(toys, name, everywhere):
    model = toys[name].eval()
    batch, rounded = ranking_batch(model, 0), in_precision(model, "fp16")
    with torch.inference_mode(), fused_layers(rounded, LAID_OUT_FROM):
        torch.testing.assert_close(rounded(batch).scores, model(batch).scores, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["gdmtl", "bart_c"])
def test_in_bf16_it_rounds_no_more_than_the_layers_one_by_one(toys, name, everywhere):
    model = toys[name].eval()
    rounded = in_precision(model, "bf16")
    errors = {True: 0.0, False: 0.0}
    for seed in range(10):
        batch = ranking_batch(model, seed)
        with torch.inference_mode():
            exact = model(batch).scores
            errors[False] += (rounded(batch).scores - exact).abs().mean()
            with fused_layers(rounded, LAID_OUT_FROM * (seed % 2)):
                errors[True] += (rounded(batch).scores - exact).abs().mean()
    assert 0 < errors[True] < 1.3 * errors[False]


@pytest.mark.parametrize("name", ["gdmtl", "bart_c"])
def test_every_linear_layer_is_fused_and_all_is_as_it_was_afterwards(toys, name, everywhere, monkeypatch):
    model, calls = toys[name].eval(), []
    original = fused._linear
    monkeypatch.setattr(fused, "_linear", lambda *given: [calls.append(given[2]), original(*given)][1])
    before = [(module, dict(vars(module)), dict(module._modules)) for module in model.modules()]
    with torch.inference_mode(), pytest.raises(KeyError), fused_layers(model):
        model(ranking_batch(model, 0))
        raise KeyError
    for module, attributes, modules in before:
        assert vars(module).keys() == attributes.keys() and "forward" not in vars(module)
        assert all(module._modules[key] is value for key, value in modules.items())
    layers = model.config.num_hidden_layers * (1 if name == "gdmtl" else 2)
    assert calls.count("gelu") == layers
    assert len(calls) == sum(isinstance(module, nn.Linear) for module in model.modules())


def test_another_activation_is_left_where_it_is(everywhere):
    class Wide(nn.Module):
        def __init__(self, activation):
            super().__init__()
            self.dense, self.intermediate_act_fn = nn.Linear(8, 16), activation

        def forward(self, states):
            return self.intermediate_act_fn(self.dense(states))

    states = torch.randn(3, 8)
    for activation in (nn.ReLU(), nn.GELU(approximate="tanh"), F.silu):
        wide = Wide(activation)
        with torch.inference_mode():
            expected = wide(states)
            with fused_layers(wide):
                torch.testing.assert_close(wide(states), expected, rtol=1e-5, atol=1e-6)


# torch 2.11's oneDNN adds up a laid out fp32 weight in another order, 2.13's in the same.
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 2e-6), (torch.bfloat16, 0)])
def test_a_weight_that_is_laid_out_once_gives_the_same_values(dtype, rounding, everywhere):
    weight, bias, states = (torch.randn(*shape).to(dtype) for shape in ((48, 24), (48,), (2, 5, 24)))
    with torch.inference_mode():
        plain, laid_out = linear_layer(weight, bias), linear_layer(weight, bias, LAID_OUT_FROM)
        assert not plain.args[0].is_mkldnn and laid_out.args[0].is_mkldnn
        torch.testing.assert_close(laid_out(states), plain(states), rtol=rounding, atol=rounding)


def test_where_products_are_left_to_torch_so_are_the_layers(toys):
    with reference(), fused_layers(toys["gdmtl"]):
        assert not any("forward" in vars(module) for module in toys["gdmtl"].modules())
