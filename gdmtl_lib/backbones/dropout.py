"""Dropout on a CPU: torch draws one number after the other there, which takes a tenth of a small encoder's step."""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from .linear import replaced
from .reference import is_fast

_of_torch = F.dropout


def not_dropped(shape: tuple[int, ...], dropout: float) -> Tensor:
    """Which of so many stay, bool, on a CPU: each with the probability 1 - dropout, to 2^-17. Four are drawn at once."""
    if not 0.01 <= dropout <= 0.99:  # a share that sixteen bits do not tell well
        return torch.empty(shape, dtype=torch.bool).bernoulli_(1 - dropout)
    count = math.prod(shape)
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    return (draws[:count] >= round(dropout * 2**16) - 2**15).view(shape)


def fast_dropout(device: torch.device) -> AbstractContextManager[None]:
    """While the block runs, `torch.nn.functional.dropout`, which transformers' layers call, draws as `not_dropped`."""
    return replaced(F, "dropout", _dropout) if device.type == "cpu" and is_fast("dropout") else nullcontext()


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or inplace or not 0 < p < 1 or input.device.type != "cpu":
        return _of_torch(input, p, training, inplace)
    return input * not_dropped(input.shape, p).to(input.dtype).div_(1 - p)
