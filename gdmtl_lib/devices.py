"""Where and in which precision to compute."""

import torch

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
