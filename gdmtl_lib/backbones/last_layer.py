"""The last layer of an encoder, computed only where its states are read.

A score is read at one token of a sequence, a prediction at the tokens of the target: of all others the last layer owes
the rest their keys and values alone. The result is the same, and of six layers a seventh of the work is saved.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from gdmtl_lib.masks import Spans

from .attention import packed_attention
from .linear import replaced


@contextmanager
def last_layer_at(layers: nn.ModuleList, rows: Tensor, spans: Spans) -> Iterator[None]:
    """While the block runs, the last of these layers (BERT's, or like them) returns the states of some tokens alone,
    rows, int64 [r], rising. spans: what they attend to, as `masks.spans_at` gives it."""
    last = layers[-1]
    with replaced(last, "forward", partial(_forward, last, rows, spans)):
        yield


def _forward(layer: nn.Module, rows: Tensor, read_spans: Spans, states: Tensor, *_, **__) -> Tensor:
    """A layer of BERT: float [1, t, d] -> [1, r, d]."""
    attention, read = layer.attention, states.index_select(1, rows)
    size = attention.self.attention_head_size
    query, key, value = (
        project(tokens).unflatten(-1, (-1, size)).transpose(1, 2)
        for project, tokens in (
            (attention.self.query, read), (attention.self.key, states), (attention.self.value, states)
        )
    )  # fmt: skip
    dropout = attention.self.dropout.p if layer.training else 0.0
    context, _ = packed_attention(
        attention.self, query, key, value, spans=read_spans, dropout=dropout, scaling=attention.self.scaling
    )
    attended = attention.output(context.flatten(2), read)
    return layer.output(layer.intermediate(attended), attended)
