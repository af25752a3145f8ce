"""What a computation costs, counted: floating-point operations do not depend on the machine, nor on who else uses it."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from gdmtl_lib.backbones import devices


def count_flops(model, compute: Callable[[], Any]) -> tuple[Any, int]:
    """Run `compute()`, which calls the model, and count the operations of its matrix products, attention included.

    Returns what it returned and the count (a multiplication and an addition are two).
    """
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = devices.FAST_PRODUCTS
    try:
        devices.FAST_PRODUCTS = False  # the counter does not know what `fused` calls
        # The counter follows gradients into modules, and inference mode has none.
        for parameter in learned:
            parameter.requires_grad_(False)
        with FlopCounterMode(display=False, custom_mapping=attention) as counter:
            result = compute()
    finally:
        devices.FAST_PRODUCTS = before
        for parameter in learned:
            parameter.requires_grad_(True)
    return result, counter.get_total_flops()


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_, **__) -> int:
    """The counter knows the attention of GPUs, not the CPU's."""
    return sdpa_flop_count(query, key, value)
