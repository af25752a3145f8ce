"""Where and in which precision to compute."""

import itertools
import json
import math
import os
import platform
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from gdmtl_lib.data.files import cache_folder, write_lines

from .gpus import visible_gpus
from .reference import is_fast

# oneDNN keeps what it has made for a thousand shapes, twice, and each packed row is a new one: gigabytes, and no faster.
# Both are read when it first computes; the layers of one pass need a few.
for _kept in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_kept, "64")
# Large tensors come in large pages: gradients of a vocabulary are zeroed in a third of the time. Read with the first one.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CLEARLY = 1.15  # so many times faster bf16 is chosen: what is measured scatters, and there are casts besides products
PROBE_SECONDS = 0.15
PROBED = (512, 384, 1536)  # rows, inner, columns: the widest product of a small encoder's layer


def pick_device(device: str = "auto") -> torch.device:
    """`auto`: CUDA, else MPS, else the CPU. Raises ValueError for a device that is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name, there in available.items() if there)
        if device == "cpu" and (gpus := visible_gpus()):
            warnings.warn(
                f"torch {torch.__version__} sees none of this machine's GPUs ({', '.join(gpus)}), and the CPU computes: install "
                "torch for CUDA, or set CUDA_VISIBLE_DEVICES to nothing", stacklevel=2,
            )  # fmt: skip
    if not available.get(device, False):
        there = ", ".join(name for name in available if available[name])
        raise ValueError(f"device {device!r} is not available here: use one of auto, {there}")
    return torch.device(device)


def moved(value: object, device: torch.device | str) -> object:
    """A tensor, or a dict of some, on a device; anything else as it is."""
    if isinstance(value, Tensor):
        # From pinned memory, so that the host need not wait for what the card computes.
        if torch.device(device).type == "cuda" and value.device.type == "cpu":
            return value.pin_memory().to(device, non_blocking=True)
        return value.to(device)
    if isinstance(value, dict):
        return {name: moved(item, device) for name, item in value.items()}
    return value


def pick_precision(precision: str, device: torch.device, training: bool = False) -> str:
    """`auto`: bf16 where it is fast (on a CPU as `products_measured` says), fp32 elsewhere. Returns `fp32`, `bf16` or
    `fp16`. Raises ValueError for another precision."""
    if precision in DTYPES:
        return precision
    if precision != "auto":
        raise ValueError(f"precision must be one of auto, {', '.join(DTYPES)}, found {precision!r}")
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    seconds = products_measured()["training" if training else "forward"] if device.type == "cpu" else {}
    in_fp32 = min((seconds[way] for way in ("mkl", "onednn") if way in seconds), default=0)
    return "bf16" if seconds.get("bf16", math.inf) * CLEARLY < in_fp32 else "fp32"


@cache
def products_measured() -> dict[str, dict[str, float]]:
    """Seconds that a layer's product takes on this CPU, `forward` alone and in `training` (with its gradients and casts),
    by the ways there are: fp32 by `mkl`, fp32 by `onednn` where that rounds nothing, `bf16` where the processor has it.

    Measured once and kept in the user's cache folder by the names of processor and torch: every process, and a training
    that is resumed, then computes alike.
    """
    torch.set_num_threads(torch.get_num_threads())  # as measuring does: MKL then shares out work alike in every process
    name = re.sub(r"[^\w.+-]+", "_", f"{_cpu_name() or platform.processor() or platform.machine()}-torch{torch.__version__}")
    path = cache_folder("products") / f"{name}.json"
    try:
        return {kind: dict(json.loads(path.read_text())[kind]) for kind in ("forward", "training")}
    except (OSError, ValueError, KeyError, TypeError):  # not there yet, or spoiled
        measured = _measure()
    with suppress(OSError):  # a home that cannot be written: measured again by the next process
        write_lines(path, [json.dumps(measured)])
    return measured


def _measure() -> dict[str, dict[str, float]]:
    """The best of a few rounds in which the ways take turns, in one thread's own time."""
    # Without instructions for bf16 a CPU computes it many times slower than fp32.
    has = torch.cpu.get_capabilities()
    has_bf16 = any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))
    ways = ["mkl", *(["onednn"] if _onednn_is_exact() else []), *(["bf16"] if has_bf16 else [])]
    rows, inner, columns = PROBED
    states, weight = (torch.ones(size, inner, dtype=torch.float32) for size in (rows, columns))
    seconds = {kind: dict.fromkeys(ways, math.inf) for kind in ("forward", "training")}
    threads, until = torch.get_num_threads(), time.thread_time() + PROBE_SECONDS
    torch.set_num_threads(1)
    try:
        for number in itertools.count():
            for kind, way in itertools.product(seconds, ways):
                taken = _seconds_of(states, weight, way, kind == "training")
                seconds[kind][way] = min(seconds[kind][way], taken)
            if number and time.thread_time() > until:
                return seconds
    finally:
        torch.set_num_threads(threads)


def _seconds_of(states: Tensor, weight: Tensor, way: str, training: bool) -> float:
    dtype = torch.bfloat16 if way == "bf16" else torch.float32
    with torch.inference_mode(not training), torch.set_grad_enabled(training), _products_by_onednn(way == "onednn"):
        states, weight = (part.clone().requires_grad_() if training else part.to(dtype) for part in (states, weight))
        # In training autocast rounds the weights at every step; without gradients they are in bf16 from the start.
        with torch.autocast("cpu", torch.bfloat16, enabled=training and way == "bf16"):
            start = time.thread_time()
            product = F.linear(states, weight)
            if training:
                product.backward(product.detach())
            return time.thread_time() - start


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Multiply fp32 matrices on the CPU with the library that is fast there. On AMD's processors oneDNN is twice as
    fast as MKL, which torch takes. torch hands it fp32 products only by the setting that allows it to round them to
    bf16, so it is used where none is rounded: see `_onednn_is_exact`."""
    with _products_by_onednn(multiplies_with_onednn(device)):
        yield


@contextmanager
def _products_by_onednn(wanted: bool) -> Iterator[None]:
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    if wanted:
        settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def multiplies_with_onednn(device: torch.device) -> bool:
    """Whether `fast_products` hands products on this device to oneDNN: where that was measured to be faster."""
    if not is_fast("products") or device.type != "cpu" or not _onednn_is_exact():
        return False
    seconds = products_measured()["training" if torch.is_grad_enabled() else "forward"]
    return seconds.get("onednn", math.inf) < seconds["mkl"]


def _cpu_name() -> str:
    return torch.cpu.get_capabilities().get("cpu_name", "")


@cache
def _onednn_is_exact() -> bool:
    """Whether oneDNN, allowed to round, does not: only bf16 matrix units (AMX) do. 1 + 2^-12 is no bf16 number."""
    with torch.inference_mode(), _products_by_onednn(True):
        for rows, inner, columns in ((1, 384, 384), (256, 256, 256), (2048, 384, 1536), (2048, 1536, 384)):
            product = torch.full((rows, inner), 1 + 2**-12, dtype=torch.float32) @ torch.eye(inner, columns, dtype=torch.float32)
            kept = min(inner, columns)
            if not (product[:, :kept] == 1 + 2**-12).all() or product[:, kept:].any():
                return False
    return True
