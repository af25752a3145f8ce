"""Where and in which precision to compute."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from .reference import is_fast

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(device: str = "auto") -> torch.device:
    """`auto`: CUDA, else MPS, else the CPU. Raises ValueError for a device that is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name, there in available.items() if there)
    if not available.get(device, False):
        there = ", ".join(name for name in available if available[name])
        raise ValueError(f"device {device!r} is not available here: use one of auto, {there}")
    return torch.device(device)


def pick_precision(precision: str, device: torch.device) -> str:
    """`auto`: bf16 where the hardware multiplies it fast, fp32 elsewhere. Returns `fp32`, `bf16` or `fp16`.

    Raises ValueError for another precision."""
    if precision in DTYPES:
        return precision
    if precision != "auto":
        raise ValueError(f"precision must be one of auto, {', '.join(DTYPES)}, found {precision!r}")
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # A CPU without bf16 instructions computes it several times slower than fp32: ask, never assume.
    return "bf16" if device.type == "cpu" and _cpu_multiplies_bf16() else "fp32"


def _cpu_multiplies_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Multiply fp32 matrices on the CPU with the library that is fast there; the products stay fp32.

    torch takes MKL, which on AMD's processors keeps to 256-bit instructions: oneDNN, which torch ships too, is twice as
    fast there, forward and backward. torch hands it fp32 products only by the setting that allows it to round them to
    bf16, so it is used where none is rounded: see `_onednn_is_exact`. Elsewhere nothing is changed.
    """
    if not multiplies_with_onednn(device):
        yield
        return
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def multiplies_with_onednn(device: torch.device) -> bool:
    """Whether `fast_products` hands products on this device to oneDNN."""
    return is_fast("products") and device.type == "cpu" and _cpu_name().startswith("AMD") and _onednn_is_exact()


def _cpu_name() -> str:
    return torch.cpu.get_capabilities().get("cpu_name", "")


@cache
def _onednn_is_exact() -> bool:
    """Whether oneDNN, allowed to round, does not: only bf16 matrix units (AMX) do. 1 + 2^-12 is no bf16 number."""
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        with torch.inference_mode():
            for rows, inner, columns in ((1, 384, 384), (256, 256, 256), (2048, 384, 1536), (2048, 1536, 384)):
                product = torch.full((rows, inner), 1 + 2**-12) @ torch.eye(inner, columns)
                kept = min(inner, columns)
                if not (product[:, :kept] == 1 + 2**-12).all() or product[:, kept:].any():
                    return False
        return True
    finally:
        settings.fp32_precision = before
