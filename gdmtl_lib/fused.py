"""Linear layers together with what follows them, on a CPU and without gradients.

torch copies the bias into every row of the result, adds the product to it, and goes over all of it again for GELU. oneDNN,
which torch ships and its compiler calls in this way, adds and activates each block of the result while it is in the
cache: the wide layer with its GELU takes two thirds of the time. The scores stay the same.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import GELUActivation

from .devices import multiplies_with_onednn

# Where transformers' layers keep the wide linear layer, and the activation that follows it.
WIDE_LAYERS = (("dense", "intermediate_act_fn"), ("fc1", "activation_fn"))


@contextmanager
def fused_layers(model: nn.Module) -> Iterator[None]:
    """While the block runs, the model's linear layers and the GELU after the wide ones are computed at once.

    Nothing changes where `fast_products` changes nothing, and on devices other than the CPU. In the block no gradients
    are computed: run it under `torch.inference_mode()`.
    """
    device = next(model.parameters()).device
    with ExitStack() as stack:
        if multiplies_with_onednn(device):
            for module in model.modules():
                for linear, activation in WIDE_LAYERS:
                    if _is_gelu(getattr(module, activation, None)) and type(getattr(module, linear, None)) is nn.Linear:
                        stack.enter_context(replaced(module, activation, nn.Identity()))
                        wide = getattr(module, linear)
                        stack.enter_context(replaced(wide, "forward", partial(_linear, wide, "gelu")))
                if type(module) is nn.Linear and "forward" not in vars(module):
                    stack.enter_context(replaced(module, "forward", partial(_linear, module, "none")))
        yield


def _linear(layer: nn.Linear, activation: str, states: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(states, layer.weight, layer.bias, activation, [], "none")


def _is_gelu(activation: object) -> bool:
    """GELU by the error function, which is what oneDNN's `gelu` is; not one of its approximations."""
    return isinstance(activation, GELUActivation) and activation.act is F.gelu


@contextmanager
def replaced(module: nn.Module, name: str, value: object) -> Iterator[None]:
    """While the block runs, an attribute of one module is another: its `forward`, or a part of it."""
    before = vars(module).get(name, getattr(module, name))
    own = name in vars(module) or name in module._modules
    setattr(module, name, value)
    try:
        yield
    finally:
        if own:
            setattr(module, name, before)
        else:
            delattr(module, name)
