"""A training's layers, compiled: between two products a layer starts a dozen small kernels (bias, GELU, dropout, residual, norm),
which `torch.compile` makes a few of. Attention stays as it is: Python plans it, and it is one kernel already."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import PACKED, packed_attention
from .linear import replaced
from .reference import is_fast


def compiled_layers(model: nn.Module, backend: str | Callable = "inductor") -> Callable[[], AbstractContextManager]:
    """What gives a block in which the layers of a model are compiled, when they are called first, and for batches of any number
    of tokens at once; a minute. backend: of torch.compile. Dropout draws other numbers than layers that are not compiled do."""
    hidden = torch.compiler.disable(packed_attention)
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    compiled = [torch.compile(layer.forward, dynamic=True, backend=backend) for layer in layers]

    @contextmanager
    def block() -> Iterator[None]:
        with ExitStack() as stack:
            if is_fast("compiled"):
                AttentionInterface.register(PACKED, hidden)
                stack.callback(AttentionInterface.register, PACKED, packed_attention)
                for layer, forward in zip(layers, compiled):
                    stack.enter_context(replaced(layer, "forward", forward))
            yield

    return block
