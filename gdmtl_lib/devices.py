"""Where and in which precision to compute."""

import torch


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
    """`auto`: bf16 on a GPU that has it, fp32 elsewhere. Returns `fp32`, `bf16` or `fp16`."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
