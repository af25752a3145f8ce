"""Attention over spans on a GPU: one call of flash attention for all bidirectional spans, and one for all causal ones.

Span by span a GPU would start a kernel a sequence and layer, and wait for its own orders most of the time. The kernel for
sequences of various lengths takes them as they are packed, one behind the other, forms no mask and no weights, and
aligns causal attention at the bottom right: a target's last token attends to the whole source and target.

h heads, t packed tokens, u tokens that are attended to, d head dimension.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gdmtl_lib.masks import Spans

from .reference import is_fast


@dataclass(frozen=True)
class Call:
    """Spans that one call computes.

    rows, columns: int64, the packed tokens that attend and those attended to, span after span; None: all as they stand.
    row_starts, column_starts: int32 [n + 1], where each span begins among them. longest: of rows and of columns.
    """

    causal: bool
    rows: Tensor | None
    columns: Tensor | None
    row_starts: Tensor
    column_starts: Tensor
    longest: tuple[int, int]


def calls_of(spans: Spans, tokens: int, keys: int, device: torch.device) -> tuple[list[Call], Tensor | None]:
    """The calls that spans come to, which all layers share, and where each packed token's row stands among the results of
    all calls, int64 [t]; None: as it is. tokens, keys: t and u."""
    key = (tokens, keys, device)
    if key not in spans.memo:
        spans.memo[key] = _calls(spans.table, tokens, keys, device)
    return spans.memo[key]


def _calls(table: np.ndarray, tokens: int, keys: int, device: torch.device) -> tuple[list[Call], Tensor | None]:
    calls, order = [], []
    for causal in (False, True):
        start, end, key_start, key_end, _ = table[table[:, 4] == causal].T
        if not len(start):
            continue
        order.append(_places(start, end))
        row_starts, column_starts = (np.cumsum([0, *lengths]) for lengths in (end - start, key_end - key_start))
        calls.append(Call(
            causal,
            _chosen(order[-1], tokens, device),
            _chosen(_places(key_start, key_end), keys, device),
            *(torch.from_numpy(starts.astype(np.int32)).to(device) for starts in (row_starts, column_starts)),
            (int((end - start).max()), int((key_end - key_start).max())),
        ))  # fmt: skip
    order = np.concatenate(order)
    return calls, None if _all_in_order(order, tokens) else torch.from_numpy(order.argsort()).to(device)


def _places(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """start[0], start[0] + 1, ..., end[0] - 1, start[1], ..."""
    lengths = end - start
    return np.arange(lengths.sum()) + np.repeat(start - np.cumsum(lengths) + lengths, lengths)


def _chosen(places: np.ndarray, size: int, device: torch.device) -> Tensor | None:
    return None if _all_in_order(places, size) else torch.from_numpy(places).to(device)


def _all_in_order(places: np.ndarray, size: int) -> bool:
    return np.array_equal(places, np.arange(size))


def suits(query: Tensor) -> bool:
    """Whether the kernel computes these: in half precision, on a GPU of NVIDIA's Ampere generation or a later one."""
    return (
        is_fast("flash") and query.device.type == "cuda" and torch.version.cuda is not None
        and query.dtype in (torch.float16, torch.bfloat16) and query.shape[0] == 1
        and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )  # fmt: skip


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, spans: Spans, dropout: float, scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    """query: float [1, h, t, d]; key, value: [1, h, u, d]. Other arguments as in `packed_attention`, whose result this
    is: float [1, t, h, d]."""
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    calls, order = calls_of(spans, len(query), len(key), query.device)
    near = -1 if sliding_window is None else sliding_window - 1
    parts = [
        flash_attention(
            *(part if chosen is None else part.index_select(0, chosen)
              for part, chosen in ((query, call.rows), (key, call.columns), (value, call.columns))),
            call, dropout, scaling, near,
        )
        for call in calls
    ]  # fmt: skip
    output = parts[0] if len(parts) == 1 else torch.cat(parts)
    return (output if order is None else output.index_select(0, order))[None]


def flash_attention(
    query: Tensor, key: Tensor, value: Tensor, call: Call, dropout: float, scaling: float | None, near: int
) -> Tensor:
    """The kernel. torch's own function for it, `torch.nn.attention.varlen.varlen_attn`, has no dropout.

    query: [rows, h, d], key, value: [columns, h, d]; near: how far apart attending tokens may be, -1: as they like.
    """
    return torch.ops.aten._flash_attention_forward(
        query, key, value, call.row_starts, call.column_starts, *call.longest, dropout, call.causal,
        return_debug_mask=False, scale=scaling, window_size_left=near, window_size_right=0 if call.causal else near,
    )[0]  # fmt: skip
