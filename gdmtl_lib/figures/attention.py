"""What a model attends to, drawn: one head close up, all of them at a glance, and how attention divides between the
parts of a sequence. Weights and their layout in, a matplotlib Figure out.

In every heat map a row looks and a column is looked at, and one colour scale goes for all. The colours of the
mechanisms and the places of the tokens are those of `mask_plots`.

l layers, h heads, r rows, c columns.
"""

from collections.abc import Mapping
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from gdmtl_lib.inside.attention import NONE, Layout
from .masks import (
    INK,
    KIND_COLOURS,
    KIND_LABELS,
    PALETTE,
    empty_figure,
    name_grid,
    name_tokens,
    placed_figure,
    places,
    sentence,
    token_image,
)
from gdmtl_lib.systems import TASK_LABELS
from .results import STYLE, TASK_COLOURS

# A square root, so that small weights show.
HEAT = dict(cmap="magma_r", norm=PowerNorm(0.5, 0, 1))
_TICKS = [0, 0.05, 0.2, 0.5, 1]


def attention_map(weights: np.ndarray, layout: Layout, step: int = -1, title: str = "") -> Figure:
    """What one head attends to: the weights as a heat map, and the row of a generation step as bars.

    weights: float [r, c], rows that add up to 1. step: an index into `layout.steps`. Grey cells are those the
    mask forbids.
    """
    row = layout.steps[step] if layout.steps else 0
    with plt.rc_context(STYLE):
        figure = placed_figure(12.2, 5.9, title)
        axis = figure.add_axes((0.085, 0.06, 0.385, 0.74))
        axis.set_facecolor("#d9d9d9")
        image = token_image(axis, np.ma.masked_where(layout.kinds == NONE, weights), layout, **HEAT)
        name_grid(axis, layout, row)
        bar = figure.colorbar(image, cax=figure.add_axes((0.478, 0.06, 0.008, 0.74)), ticks=_TICKS)
        bar.ax.tick_params(labelsize=7, length=2)
        bar.outline.set_visible(False)
        axis = figure.add_axes((0.56, 0.23, 0.43, 0.57))
        edges = places(layout.column_segments)
        colours = PALETTE[layout.kinds[row]]
        axis.bar(edges[:-1], weights[row], color=colours, width=0.9 * np.diff(edges), align="edge")
        axis.set(xlim=(0, edges[-1]), ylim=(0, None), ylabel="attention", xticks=[])
        axis.set_title(sentence(layout, step), fontsize=10)
        name_tokens(axis, "below", layout.columns, edges)
        kinds = [kind for kind in KIND_LABELS if (layout.kinds[row] == kind).any()]
        handles = [Patch(color=KIND_COLOURS[kind], label=KIND_LABELS[kind]) for kind in kinds]
        axis.legend(handles=handles, loc="upper right", fontsize=8)
    return figure


def attention_overview(weights: np.ndarray, layout: Layout, title: str = "") -> Figure:
    """Every head of every layer at a glance, small heat maps on one scale. weights: float [l, h, r, c].

    More than 48 tokens are gathered in bins, each showing the largest weight in it: patterns stay, names go.
    """
    layers, heads = weights.shape[:2]
    forbidden = layout.kinds == NONE
    weights = _bins(np.where(forbidden, -1.0, weights))
    rows, columns = weights.shape[2:]
    gap = max(1, rows // 16)
    tiled = np.full((layers * (rows + gap) - gap, heads * (columns + gap) - gap), np.nan)
    allowed = np.zeros_like(tiled)
    for layer, head in product(range(layers), range(heads)):
        y, x = layer * (rows + gap), head * (columns + gap)
        tiled[y : y + rows, x : x + columns] = weights[layer, head]
        allowed[y : y + rows, x : x + columns] = 1
    with plt.rc_context(STYLE):
        figure = empty_figure((10, 8.6 * tiled.shape[0] / tiled.shape[1] + 0.8))
        axis = figure.add_subplot()
        axis.imshow(np.where(allowed == 1, 0.85, np.nan), cmap="gray", vmin=0, vmax=1, interpolation="none")
        image = axis.imshow(np.ma.masked_where(~(tiled >= 0), tiled), interpolation="none", **HEAT)
        centres = (np.arange(heads) * (columns + gap) + columns / 2 - 0.5, range(1, heads + 1))
        axis.set_xticks(*centres)
        axis.set_yticks(np.arange(layers) * (rows + gap) + rows / 2 - 0.5, range(1, layers + 1))
        axis.set(xlabel="head", ylabel="layer")
        axis.tick_params(length=0)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axis, shrink=0.6, pad=0.01, label="attention", ticks=_TICKS)
        bar.outline.set_visible(False)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure


def block_shares(
    shares: Mapping[str, pd.DataFrame], before: Mapping[str, pd.DataFrame] | None = None, title: str = ""
) -> Figure:
    """How much of its attention each part of a sequence spends on each part, layer by layer, a line of panels
    a task.

    shares: task -> what `attention_maps.mean_block_shares` gives. before: the same for the model as it was
    before training. A dot is a head, a line the mean of a layer's heads; dashed: spread evenly over all
    tokens allowed.
    """
    with plt.rc_context(STYLE):
        figure = empty_figure((11, 2.5 * len(shares) + 0.9))
        axes = figure.subplots(len(shares), 4, sharex=True, sharey=True, squeeze=False)
        for line, (task, frame) in zip(axes, shares.items()):
            blocks = frame.groupby(["rows", "columns"], sort=False)
            for axis, ((rows, columns), block) in zip(line, blocks):
                if before is not None:
                    earlier = before[task].set_index(["rows", "columns"]).loc[(rows, columns)]
                    means = earlier.groupby("layer")["share"].mean()
                    axis.plot(means.index, means, color="#999999", linewidth=1.4, marker="o", markersize=3)
                colour = TASK_COLOURS[task]
                axis.scatter(block["layer"], block["share"], s=9, color=colour, alpha=0.35, linewidth=0)
                means = block.groupby("layer")["share"].mean()
                axis.plot(means.index, means, color=colour, linewidth=2)
                axis.axhline(block["uniform"].mean(), color=INK, linewidth=0.9, linestyle="--")
                axis.set_title(f"{rows} \u2192 {columns}", fontsize=10)
                axis.set(ylim=(-0.03, 1.03), xticks=means.index)
            line[0].set_ylabel(TASK_LABELS[task] + "\nshare of attention")
            line[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        for axis in axes[-1]:
            axis.set_xlabel("layer")
        handles = [
            Line2D([], [], color=INK, linewidth=2, label="mean of the heads"),
            Line2D([], [], color=INK, alpha=0.4, marker="o", markersize=4, linewidth=0, label="one head"),
            Line2D([], [], color=INK, linewidth=0.9, linestyle="--", label="even attention"),
        ]
        if before is not None:
            handles.append(Line2D([], [], color="#999999", marker="o", markersize=3, label="before training"))
        figure.legend(handles=handles, loc="outside lower left", ncols=4)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure


def _bins(weights: np.ndarray, most: int = 48) -> np.ndarray:
    """The largest weight of every bin: float [l, h, r, c] -> at most [l, h, most, most]."""
    for axis in (2, 3):
        starts = np.unique(np.linspace(0, weights.shape[axis], most, endpoint=False).astype(int))
        weights = np.maximum.reduceat(weights, starts, axis=axis)
    return weights
