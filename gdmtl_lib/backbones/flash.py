"""Attention over spans on a GPU: one call of flash attention for all bidirectional spans, and one for all causal ones.

Span by span a GPU would start a kernel a sequence and layer, and wait for its own orders most of the time. The kernel for
sequences of various lengths takes them as they are packed, one behind the other, forms no mask and no weights, and
aligns causal attention at the bottom right: a target's last token attends to the whole source and target.

h heads, t packed tokens, u tokens that are attended to, d head dimension.
"""

from dataclasses import dataclass
from itertools import accumulate, chain

import torch
from torch import Tensor

VARLEN = True
"""Whether it is used where it can be; False: span by span, the reference."""


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


class Spans(list):
    """The spans of a batch, with the calls they come to, which all layers share."""

    def calls(self, tokens: int, keys: int, device: torch.device) -> tuple[list[Call], Tensor | None]:
        """The calls, and where each packed token's row stands among the results of all calls, int64 [t]; None: as it is.

        tokens, keys: t and u.
        """
        made = self.__dict__.setdefault("made", {})
        if (tokens, keys, device) not in made:
            made[tokens, keys, device] = self._calls(tokens, keys, device)
        return made[tokens, keys, device]

    def _calls(self, tokens: int, keys: int, device: torch.device) -> tuple[list[Call], Tensor | None]:
        calls, order = [], []
        for causal in (False, True):
            spans = [span for span in self if span.causal == causal and span.end > span.start]
            if not spans:
                continue
            rows = [range(span.start, span.end) for span in spans]
            columns = [range(span.key_start, span.key_end) for span in spans]
            order += chain(*rows)
            calls.append(Call(
                causal, _chosen(rows, tokens, device), _chosen(columns, keys, device), _starts(rows, device),
                _starts(columns, device), (max(map(len, rows)), max(map(len, columns))),
            ))  # fmt: skip
        if order == list(range(tokens)):
            return calls, None
        return calls, torch.tensor(order).argsort().to(device)


def _chosen(ranges: list[range], size: int, device: torch.device) -> Tensor | None:
    places = list(chain(*ranges))
    return None if places == list(range(size)) else torch.tensor(places).to(device)


def _starts(ranges: list[range], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(map(len, ranges))], dtype=torch.int32).to(device)


def suits(query: Tensor) -> bool:
    """Whether the kernel computes these: in half precision, on a GPU of NVIDIA's Ampere generation or a later one."""
    return (
        VARLEN and query.device.type == "cuda" and torch.version.cuda is not None
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
    calls, order = spans.calls(len(query), len(key), query.device)
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
