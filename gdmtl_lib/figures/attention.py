"""What a model attends to, drawn: one head close up, all of them at a glance, how attention divides between the parts
of a sequence, and what training changes in it. Weights and their layout in, a matplotlib Figure out.

In every heat map a row looks and a column is looked at, and one colour scale goes for all. The colours of the
mechanisms and the places of the tokens are those of `masks`.

l layers, h heads, r rows, c columns.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from gdmtl_lib.inside.attention import DESTINATIONS, NONE, Layout
from gdmtl_lib.systems import LABELS, TASK_LABELS
from .masks import INK, KIND_COLOURS, KIND_LABELS, PALETTE, Picture, frame_row, name_grid, name_tokens, places
from .masks import segment_lines, sentence, token_image
from .style import SYSTEM_COLOURS, TASK_COLOURS, bare, colour_bar, legend_below, new_figure, styled, suptitle

# A square root, so that small weights show.
ROOT, _TICKS = PowerNorm(0.5, 0, 1), [0, 0.05, 0.2, 0.5, 1]
HEAT = dict(cmap="magma_r", norm=ROOT)
_ABSENT, _EARLIER = "#d9d9d9", "#999999"
# Inches: what a token takes, what its name takes at least, and the widest figure, which fits beside a file browser.
TOKEN, NAME, WIDEST = 0.115, 0.09, 9.6


class AttentionPicture(Picture):
    """What one head attends to: the weights as a heat map, and the row of a generation step as bars. Grey cells are
    those that the mask forbids.

    `show(step, weights=...)` takes float [r, c], rows that add up to 1.
    """

    @styled
    def __init__(self, layout: Layout, title: str = ""):
        super().__init__(layout, title)
        self.heat = self.figure.add_axes((0.085, 0.06, 0.385, 0.74))
        self.heat.set_facecolor(_ABSENT)
        name_grid(self.heat, layout)
        scale = token_image(self.heat, np.full(layout.kinds.shape, np.nan), layout, **HEAT)
        bar = colour_bar(self.figure, scale, "", cax=self.figure.add_axes((0.478, 0.06, 0.008, 0.74)), ticks=_TICKS)
        bar.tick_params(labelsize=7, length=2)
        if (layout.kinds == NONE).any():
            grey = Patch(color=_ABSENT, label="grey: may not attend")
            self.figure.legend(handles=[grey], loc="lower right", fontsize=8)
        self.bars = self.figure.add_axes((0.56, 0.23, 0.43, 0.57))
        self.edges = places(layout.column_segments)
        self.bars.set(xlim=(0, self.edges[-1]), ylabel="attention", xticks=[])
        name_tokens(self.bars, "below", layout.columns, self.edges)
        self.redrawn = [self.bars.yaxis]

    def moving(self, row: int | None, step: int | None, weights: np.ndarray) -> Iterator[Artist]:
        row, layout = row or 0, self.layout
        yield token_image(self.heat, np.ma.masked_where(layout.kinds == NONE, weights), layout, **HEAT)
        yield from segment_lines(self.heat, layout)
        yield from frame_row(self.heat, layout, row)
        left, right, height = self.edges[:-1], self.edges[:-1] + 0.9 * np.diff(self.edges), weights[row]
        corners = [(left, 0 * height), (left, height), (right, height), (right, 0 * height)]
        colours = PALETTE[layout.kinds[row]]
        yield self.bars.add_collection(PolyCollection(np.array(corners).transpose(2, 0, 1), facecolors=colours))
        self.bars.set_ylim(0, 1.05 * max(float(height.max()), 1e-9))
        words = dict(transform=self.bars.transAxes, fontsize=10, va="bottom")
        yield self.bars.text(0, 1.02, sentence(layout, step or 0), **words)
        kinds = [kind for kind in KIND_LABELS if (layout.kinds[row] == kind).any()]
        handles = [Patch(color=KIND_COLOURS[kind], label=KIND_LABELS[kind]) for kind in kinds]
        yield self.bars.legend(handles=handles, loc="upper right", fontsize=8)


def attention_map(weights: np.ndarray, layout: Layout, step: int = -1, title: str = "") -> Figure:
    """`AttentionPicture` at one step, an index into `layout.steps`. weights: float [r, c]."""
    return AttentionPicture(layout, title).show(step, weights=weights).figure


@styled
def attention_overview(weights: np.ndarray, layout: Layout, title: str = "") -> Figure:
    """Every head of every layer at a glance, small heat maps on one scale. weights: float [l, h, r, c].

    More than 48 tokens are gathered in bins, each showing the largest weight in it: patterns stay, names go.
    """
    layers, heads = weights.shape[:2]
    weights = _bins(np.where(layout.kinds == NONE, -1.0, weights))
    rows, columns = weights.shape[2:]
    gap = max(1, rows // 16)
    apart = np.pad(weights, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=np.nan)
    tiled = np.block([list(line) for line in apart])[:-gap, :-gap]
    figure, axis = new_figure(figsize=(10, 8.6 * tiled.shape[0] / tiled.shape[1] + 0.8))
    axis.imshow(np.where(np.isnan(tiled), np.nan, 0.85), cmap="gray", vmin=0, vmax=1, interpolation="none")
    image = axis.imshow(np.ma.masked_where(~(tiled >= 0), tiled), interpolation="none", **HEAT)
    axis.set_xticks(np.arange(heads) * (columns + gap) + columns / 2 - 0.5, range(1, heads + 1))
    axis.set_yticks(np.arange(layers) * (rows + gap) + rows / 2 - 0.5, range(1, layers + 1))
    axis.set(xlabel="head", ylabel="layer")
    bare(axis)
    colour_bar(figure, image, "attention", ax=axis, shrink=0.6, pad=0.01, ticks=_TICKS)
    return suptitle(figure, title)


@styled
def block_shares(
    shares: Mapping[str, pd.DataFrame], before: Mapping[str, pd.DataFrame] | None = None, title: str = ""
) -> Figure:
    """How much of its attention each part of a sequence spends on each part, layer by layer, a line of panels a task.
    A dot is a head, a line the mean of a layer's heads; dashed: spread evenly over all tokens allowed. Where the mask
    leaves no choice (a source attends to itself alone) the panel says so, in grey.

    shares: task -> what `attention.mean_block_shares` gives. before: the same for the model before training.
    """
    size = (11, 2.5 * len(shares) + 0.9)
    figure, axes = new_figure(len(shares), 4, figsize=size, sharex=True, sharey=True, squeeze=False)
    for line, (task, frame) in zip(axes, shares.items()):
        blocks = frame.groupby(["rows", "columns"], sort=False)
        for axis, ((rows, columns), block) in zip(line, blocks):
            axis.set_title(f"{rows} \u2192 {columns}", fontsize=10)
            axis.set(ylim=(-0.03, 1.03), xticks=block["layer"].unique())
            if block["uniform"].isin((0, 1)).all():  # the mask leaves no choice: nothing here is learned
                axis.set_facecolor("#f2f2f2")
                axis.plot(block["layer"], block["share"], color=_EARLIER, linewidth=1)
                where = dict(transform=axis.transAxes, ha="center", va="center", color="#666666", fontsize=9)
                axis.text(0.5, 0.5, f"fixed by the mask: {block['uniform'].iloc[0]:.0%}", **where)
                continue
            if before is not None:
                earlier = before[task].set_index(["rows", "columns"]).loc[(rows, columns)]
                means = earlier.groupby("layer")["share"].mean()
                axis.plot(means.index, means, color=_EARLIER, linewidth=1.4, marker="o", markersize=3)
            _heads_and_mean(axis, block, "share", TASK_COLOURS[task])
            axis.axhline(block["uniform"].mean(), color=INK, linewidth=0.9, linestyle="--")
        line[0].set_ylabel(TASK_LABELS[task] + "\nshare of attention")
        line[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axis in axes[-1]:
        axis.set_xlabel("layer")
    handles = [
        Line2D([], [], color=INK, linewidth=2, label="mean of the heads"),
        Line2D([], [], color=INK, alpha=0.4, marker="o", markersize=4, linewidth=0, label="one head"),
        Line2D([], [], color=INK, linewidth=0.9, linestyle="--", label="even attention"),
        Line2D([], [], color=_EARLIER, marker="o", markersize=3, label="before training"),
    ]
    legend_below(figure, handles[: 3 + (before is not None)])
    return suptitle(figure, title)


@styled
def query_attention(
    tables: Mapping[str, pd.DataFrame], title: str = "Where do the query's tokens look?"
) -> Figure:
    """The share of the query's attention that goes to each destination, and its entropy, layer by layer: a line is
    the mean of a layer's heads, a dot one head. tables: what `attention.query_attention` returns, by system."""
    panels = [*DESTINATIONS, "entropy"]
    figure, axes = new_figure(1, len(panels), figsize=(2.3 * len(panels), 2.9), sharex=True, sharey=True)
    for axis, panel in zip(axes, panels):
        for system, table in tables.items():
            _heads_and_mean(axis, table, panel, SYSTEM_COLOURS[system], label=LABELS[system])
        axis.set(title=f"to {panel}", xlabel="layer", xticks=table["layer"].unique())
    axes[-1].set_title("entropy (100%: even)")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0].set(ylim=(-0.03, 1.03), ylabel="share of attention")
    legend_below(figure)
    return suptitle(figure, title)


@styled
def head_changes(table: pd.DataFrame, title: str = "Which heads look elsewhere?") -> Figure:
    """How much of its attention each head has moved to another destination, a cell a head.

    table: what `attention.head_changes` returns.
    """
    grid = table.pivot(index="layer", columns="head", values="moved")
    figure, axis = new_figure(figsize=(1.6 + 0.46 * grid.shape[1], 1.5 + 0.4 * grid.shape[0]))
    most = max(float(grid.max().max()), 0.01)
    digits = 0 if most >= 0.1 else 1
    bar = dict(format=PercentFormatter(1, decimals=digits), label="attention moved")
    style = dict(cmap="Blues", vmin=0, vmax=most, cbar_kws=bar, annot_kws=dict(fontsize=8))
    sns.heatmap(grid, annot=100 * grid, fmt=f".{digits}f", ax=axis, **style)
    axis.tick_params(length=0, rotation=0)
    return suptitle(figure, title)


@styled
def heads_on_a_pair(
    weights: Mapping[str, np.ndarray], heads: Sequence[tuple[int, int]], tokens: Sequence[str], rows: Sequence[int],
    title: str = "The heads that changed most",
) -> Figure:  # fmt: skip
    """What some tokens attend to in chosen heads: for each head a strip a system, all on one colour scale. Of a long
    sequence the tokens are named that are looked at most.

    weights: float [l, h, s, s] of one sequence, by system. heads: (layer, head), from 1. tokens: of the sequence.
    rows: which tokens' attention is drawn; a row looks, a column is looked at. A line stands before the first of them.
    """
    strips = [(layer, head, system) for layer, head in heads for system in weights]
    width = min(max(6.0, TOKEN * len(tokens) + 1.6), WIDEST)
    size = (width, (0.3 + 0.125 * len(rows)) * len(strips) + 1.2)
    figure, axes = new_figure(len(strips), 1, figsize=size, sharex=True, squeeze=False)
    drawn = [weights[system][layer - 1, head - 1][list(rows)] for layer, head, system in strips]
    for axis, each, (layer, head, system) in zip(axes[:, 0], drawn, strips):
        image = axis.imshow(each, cmap="Blues", norm=ROOT, aspect="auto")
        axis.axvline(rows[0] - 0.5, color="#555555", linewidth=0.7)
        axis.set_title(f"layer {layer}, head {head}: {LABELS[system]}", fontsize=9, color=SYSTEM_COLOURS[system])
        axis.set_yticks(range(len(rows)), [tokens[row] for row in rows], fontsize=7)
        bare(axis)
    named = _named(np.concatenate(drawn).max(axis=0), apart=NAME * len(tokens) / (width - 1.6))
    axes[-1, 0].set_xticks(named, [tokens[column] for column in named], rotation=90, fontsize=6)
    ticks = dict(ticks=_TICKS, format=PercentFormatter(1, decimals=0))
    colour_bar(figure, image, "attention", ax=axes, shrink=0.5, pad=0.01, **ticks)
    return suptitle(figure, title)


def _heads_and_mean(axis: Axes, table: pd.DataFrame, column: str, colour: str, **style) -> None:
    """Layer by layer: a dot a head, and a line through the means of the layers' heads."""
    axis.scatter(table["layer"], table[column], s=9, color=colour, alpha=0.35, linewidth=0)
    means = table.groupby("layer")[column].mean()
    axis.plot(means.index, means, color=colour, linewidth=2, **style)


def _named(peaks: np.ndarray, apart: float) -> list[int]:
    """The columns that are named: all, or those looked at most, where names of neighbours would touch.

    peaks: float [c], the largest weight of each. apart: by how many columns, at least, two names have to differ.
    """
    named: list[int] = []
    for column in np.argsort(-peaks, kind="stable").tolist():
        if all(abs(column - other) >= apart for other in named):
            named.append(column)
    return sorted(named)


def _bins(weights: np.ndarray, most: int = 48) -> np.ndarray:
    """The largest weight of every bin: float [l, h, r, c] -> at most [l, h, most, most]."""
    for axis in (2, 3):
        starts = np.unique(np.linspace(0, weights.shape[axis], most, endpoint=False).astype(int))
        weights = np.maximum.reduceat(weights, starts, axis=axis)
    return weights
