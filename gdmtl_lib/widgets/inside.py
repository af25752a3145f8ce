"""What changes inside a model, to play with: heads and attributions under controls."""

from collections.abc import Mapping, Sequence
from functools import cache

import pandas as pd

from gdmtl_lib import figures as plots
from gdmtl_lib.inside.attention import attention_weights, build_sequence, destinations
from gdmtl_lib.inside.attribution import integrated_gradients
from gdmtl_lib.systems import LABELS
from .explorer import Explorer, choice


def explore_heads(
    networks: Mapping[str, object], pairs: Sequence[tuple[str, str]], layer: int = 1, head: int = 1
) -> Explorer:
    """What the query's tokens attend to: choose pair, layer and head; a strip a system. networks: models by system, of
    one size. pairs: (passage, query)."""
    first = next(iter(networks.values()))

    @cache
    def weights(pair):
        sequence = build_sequence(first, "rank", *pairs[pair - 1])
        found = {name: attention_weights(model, sequence)["encoder"].numpy() for name, model in networks.items()}
        rows = [row for row, kind in enumerate(destinations(first, sequence)) if kind == 1]
        return found, first.tokenizer.convert_ids_to_tokens(sequence.input_ids), rows

    def draw(pair, layer, head):
        found, tokens, rows = weights(pair)
        title = f"“{pairs[pair - 1][1]}”: what do the query's tokens attend to?"
        return plots.heads_on_a_pair(found, [(layer, head)], tokens, rows, title=title)

    layers, heads = first.config.num_hidden_layers, first.config.num_attention_heads
    return Explorer(draw, {"pair": (1, len(pairs), 1), "layer": (1, layers, layer), "head": (1, heads, head)})


def explore_attributions(
    networks: Mapping[str, object], pairs: Sequence[tuple[str, str, str]], steps: int = 32
) -> Explorer:
    """Tokens coloured by attribution: choose a pair and how many steps the integral is summed over. pairs: (passage,
    query, what is said of it)."""

    @cache
    def found(pair, steps):
        passage, query, _ = pairs[pair - 1]
        return {name: integrated_gradients(model, passage, query, steps) for name, model in networks.items()}

    def draw(pair, steps):
        return plots.attributions(found(pair, steps), title=pairs[pair - 1][2])

    some = choice("steps", sorted({8, 16, 32, 64, 128, steps}), steps)
    return Explorer(draw, {"pair": (1, len(pairs), 1), "steps": some})


def describe_pair(row, query: str, before: str, after: str) -> str:
    """A title for a pair of `attribution.disagreements`: who ranks the relevant passage where, and for what query."""
    ranks = (f"{'unranked' if pd.isna(rank) else f'rank {rank:.0f}'} with {LABELS[name]}"
             for rank, name in ((row.before, before), (row.after, after)))  # fmt: skip
    return f"“{query}”: relevant passage, {', '.join(ranks)}"
