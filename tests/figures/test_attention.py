"""The figures of attention: what is in them, read back from the artists."""

import numpy as np
import pandas as pd
import pytest

from gdmtl_lib.figures import attention as attention_plots
from gdmtl_lib.inside.attention import BIDIRECTIONAL, CAUSAL, CROSS, NONE, Layout


def mixed(source: int, target: int) -> Layout:
    """Mixed attention over s1 ... and t1 ...."""
    place = np.arange(source + target)
    written = place >= source
    kinds = np.select(
        [~written[:, None] & ~written, written[:, None] & ~written, written & (place <= place[:, None])],
        [BIDIRECTIONAL, CROSS, CAUSAL],
        NONE,
    ).astype(np.int8)
    tokens = [f"s{i + 1}" for i in range(source)] + [f"t{i + 1}" for i in range(target)]
    segments, steps = written.astype(int), list(range(source - 1, source + target))
    return Layout(kinds, tokens, tokens, segments, segments, steps, [*tokens[source:], "[SEP]"])


def test_attention_is_a_heat_map_with_the_forbidden_left_out():
    layout = mixed(2, 2)
    figure = attention_plots.attention_map(layout.kinds.astype(bool) / layout.kinds.astype(bool).sum(1, keepdims=True), layout, step=1)
    heat, _, bars = figure.axes
    shown = heat.images[0].get_array()
    assert (shown.mask == (layout.kinds == NONE)).all()
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert [text.get_text() for text in bars.get_legend().get_texts()] == ["cross", "causal"]


def test_overview_has_every_head_in_its_place():
    layout = mixed(3, 2)
    weights = np.zeros((2, 3, 5, 5))
    weights[1, 2, 4, 0] = 1
    axis = attention_plots.attention_overview(weights, layout).axes[0]
    tiled = axis.images[1].get_array()
    assert tiled.shape == (2 * 5 + 1, 3 * 5 + 2)
    assert np.argwhere(tiled == 1).tolist() == [[6 + 4, 12 + 0]]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "2", "3"]


def test_overview_of_many_tokens_keeps_the_largest_weights():
    layout = mixed(90, 10)
    weights = np.zeros((1, 1, 100, 100))
    weights[0, 0, 57, 31] = 0.8
    tiled = attention_plots.attention_overview(weights, layout).axes[0].images[1].get_array()
    assert tiled.shape == (48, 48) and tiled.max() == 0.8


def test_block_shares_are_drawn_task_by_task():
    blocks = [
        ("source", "source", 1.0),
        ("source", "target", 0.0),
        ("target", "source", 0.7),
        ("target", "target", 0.3),
    ]
    frame = pd.DataFrame(
        [(layer, head, rows, columns, share, 0.5)
         for rows, columns, share in blocks for layer in (1, 2) for head in (1, 2)],
        columns=["layer", "head", "rows", "columns", "share", "uniform"],
    )  # fmt: skip
    figure = attention_plots.block_shares(
        {"query_generation": frame}, {"query_generation": frame.assign(share=0.25)}
    )
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "source \u2192 source", "source \u2192 target", "target \u2192 source", "target \u2192 target",
    ]  # fmt: skip
    before, means, uniform = figure.axes[2].lines
    assert list(before.get_ydata()) == [0.25, 0.25]
    assert list(means.get_ydata()) == pytest.approx([0.7, 0.7])
    assert list(uniform.get_ydata()) == [0.5, 0.5]
    assert len(figure.axes[2].collections[0].get_offsets()) == 4
    alone = attention_plots.block_shares({"query_generation": frame})
    assert "before training" not in [text.get_text() for text in alone.legends[0].get_texts()]
