"""Attention over spans on a GPU: one call of flash attention for all bidirectional spans, one for all causal ones.

The kernel for sequences of various lengths takes them as they are packed, forms no mask and no weights, and aligns
causal attention at the bottom right.

h heads, t packed tokens, u tokens that are attended to, d head dimension.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gdmtl_lib.masks import Spans, fewest_spans

from .devices import moved
from .reference import is_fast


@dataclass(frozen=True)
class Call:
    """Spans that one call computes.

    rows, columns: the packed tokens that attend and those attended to, span after span: a slice of all, or int64.
    row_starts, column_starts: int32 [n + 1], where each span begins among them. longest: of rows and of columns.
    """

    causal: bool
    rows: slice | Tensor
    columns: slice | Tensor
    row_starts: Tensor
    column_starts: Tensor
    longest: tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """replaces: what the first call gives for all rows is replaced by what the second gives for its own. order: where
    each row stands among the results of both, int64 [t]; None: as it is."""

    calls: list[Call]
    replaces: bool = False
    order: Tensor | None = None


def plan_of(spans: Spans, tokens: int, keys: int, device: torch.device) -> Plan:
    """The calls that spans come to, which all layers share. tokens, keys: t and u."""
    key = (tokens, keys, device)
    if key not in spans.memo:
        spans.memo[key] = _plan(fewest_spans(spans).table, tokens, keys, device)
    return spans.memo[key]


def _plan(table: np.ndarray, tokens: int, keys: int, device: torch.device) -> Plan:
    free, causal = table[table[:, 4] == 0], table[table[:, 4] == 1]
    if len(free) and len(causal) and tokens == keys and (free[:, :2] == free[:, 2:4]).all():
        # To gather the rows and columns of the free spans would copy all queries, keys and values. Rows of causal spans
        # attend here to one another, which is wrong, and are few: they are computed again, and replace these.
        everywhere = np.concatenate([table[:, :2], table[:, :2], table[:, 4:]], axis=1)
        return Plan([_call(False, everywhere, device), _call(True, causal, device)], replaces=True)
    parts = [(kind, part) for kind, part in ((False, free), (True, causal)) if len(part)]
    order = np.concatenate([_places(*part[:, :2].T) for _, part in parts])
    in_order = np.array_equal(order, np.arange(tokens))
    calls = [_call(*part, device) for part in parts]
    return Plan(calls, order=None if in_order else moved(torch.from_numpy(order.argsort()), device))


def _call(causal: bool, table: np.ndarray, device: torch.device) -> Call:
    rows, columns = table[:, :2], table[:, 2:4]
    starts = (np.cumsum(np.diff(part, axis=1), dtype=np.int32) for part in (rows, columns))
    row_starts, column_starts = (moved(torch.from_numpy(np.append(np.int32(0), part)), device) for part in starts)
    longest = tuple(int(np.diff(part, axis=1).max()) for part in (rows, columns))
    return Call(causal, _chosen(rows, device), _chosen(columns, device), row_starts, column_starts, longest)


def _chosen(parts: np.ndarray, device: torch.device) -> slice | Tensor:
    """Tokens from each start to each end, int64 [n, 2]."""
    start, end = parts.T
    if (start[1:] == end[:-1]).all():
        return slice(int(start[0]), int(end[-1]))
    return moved(torch.from_numpy(_places(start, end)), device)


def _places(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """start[0], start[0] + 1, ..., end[0] - 1, start[1], ..."""
    lengths = end - start
    return np.arange(lengths.sum()) + np.repeat(start - np.cumsum(lengths) + lengths, lengths)


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
    plan = plan_of(spans, len(query), len(key), query.device)
    near = -1 if sliding_window is None else sliding_window - 1
    parts = [
        flash_attention(query[call.rows], key[call.columns], value[call.columns], call, dropout, scaling, near)
        for call in plan.calls
    ]
    if plan.replaces:
        rows = plan.calls[1].rows
        rows = torch.arange(rows.start, rows.stop, device=query.device) if isinstance(rows, slice) else rows
        return parts[0].index_copy(0, rows, parts[1])[None]
    output = parts[0] if len(parts) == 1 else torch.cat(parts)
    return (output if plan.order is None else output[plan.order])[None]


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
