import pytest
import torch

from gdmtl_lib.experiments.flops import count_flops


class Layer(torch.nn.Linear):
    """7 rows from 3 to 5 numbers, then attention of one head of 5 among them."""

    def run(self):
        with torch.inference_mode():
            states = self(torch.ones(7, 3))[None, None]
            mask = torch.ones(1, 1, 7, 7, dtype=torch.bool)
            return torch.nn.functional.scaled_dot_product_attention(states, states, states, mask)


def test_products_and_attention_are_counted():
    """2 * 7 * 3 * 5 of the layer; 2 * 7 * 7 * 5 for the attention's weights and as much for its values."""
    layer = Layer(3, 5)
    result, flops = count_flops(layer, layer.run)
    assert result.shape == (1, 1, 7, 5) and flops == 210 + 2 * 490
    assert all(parameter.requires_grad for parameter in layer.parameters())


def test_parameters_learn_on_after_an_error():
    layer = Layer(3, 5)
    layer.bias.requires_grad_(False)
    with pytest.raises(ZeroDivisionError):
        count_flops(layer, lambda: 1 / 0)
    assert layer.weight.requires_grad and not layer.bias.requires_grad
