"""Linear layers together with what follows them, on a CPU and without gradients; the scores stay the same.

oneDNN, which torch ships, adds the bias and activates each block of the result while it is in the cache: the wide layer
with its GELU takes two thirds of the time. Weights laid out once as the processor multiplies them save another eighth.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from threading import RLock
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import GELUActivation

from .devices import multiplies_with_onednn
from .reference import is_fast

# Where transformers' layers keep the wide linear layer, and the activation that follows it.
WIDE_LAYERS = (("dense", "intermediate_act_fn"), ("fc1", "activation_fn"))
TURN = RLock()  # parts of a model are replaced while it computes: threads take turns
LAID_OUT_FROM = 4096  # tokens; to lay a weight out takes as long as it saves on half of them


@contextmanager
def fused_layers(model: nn.Module, tokens: int = 0) -> Iterator[None]:
    """While the block runs, under `torch.inference_mode()`, the model's linear layers and the GELU after the wide ones
    are computed at once, where oneDNN multiplies. tokens: about how many will go through the layers,
    which decides whether weights, which nothing may change in the block, are laid out first."""
    with ExitStack() as stack:
        for module in model.modules():
            for linear, activation in WIDE_LAYERS:
                gelu, wide = getattr(module, activation, None), getattr(module, linear, None)
                # By the error function, as oneDNN's is, and not one of its approximations.
                is_gelu = isinstance(gelu, GELUActivation) and gelu.act is F.gelu
                if is_gelu and type(wide) is nn.Linear and _by_onednn(wide.weight):
                    stack.enter_context(replaced(module, activation, nn.Identity()))
                    stack.enter_context(replaced(wide, "forward", linear_layer(wide.weight, wide.bias, tokens, "gelu")))
            if type(module) is nn.Linear and "forward" not in vars(module) and _by_onednn(module.weight):
                stack.enter_context(replaced(module, "forward", linear_layer(module.weight, module.bias, tokens)))
        yield


def linear_layer(
    weight: Tensor, bias: Tensor | None, tokens: int = 0, activation: str = "none"
) -> Callable[[Tensor], Tensor]:
    """A linear layer and what follows it, as `fused_layers` computes them, float [..., d] -> [..., o]. weight: float
    [o, d]; bias: float [o]. activation: `none`, or `gelu` where oneDNN multiplies."""
    if not _by_onednn(weight):
        return partial(F.linear, weight=weight, bias=bias)
    if tokens >= LAID_OUT_FROM:
        weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    return partial(_linear, weight, bias, activation)


def _by_onednn(weight: Tensor) -> bool:
    """Whether oneDNN multiplies by such a weight here: fp32 where it was measured to be faster, fp16 and bf16, which torch
    leaves to it, on some processors alone."""
    kind = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(weight.dtype)
    if kind is None:
        return weight.dtype == torch.float32 and multiplies_with_onednn(weight.device)
    there = weight.device.type == "cpu" and getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported")()
    return there and is_fast("products")


def _linear(weight: Tensor, bias: Tensor | None, activation: str, states: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, activation, [], "none")


def in_turn(function: Callable) -> Callable:
    """Decorates a function that computes with a model: it waits for other threads that do."""

    @wraps(function)
    def alone(*arguments, **named):
        with TURN:
            return function(*arguments, **named)

    return alone


@contextmanager
def replaced(module: nn.Module | ModuleType, name: str, value: object) -> Iterator[None]:
    """While the block runs, an attribute of one module is another: its `forward`, or a part of it. Other threads that compute
    with a model wait meanwhile."""
    with TURN:
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
