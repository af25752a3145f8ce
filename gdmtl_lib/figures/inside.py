"""What happens inside a model, drawn: what its heads attend to and what training changes in it, the gradients that it
learns by, and the tokens that it rests a score on. Weights and their layout in, a matplotlib Figure out.

In every heat map of attention a row looks and a column is looked at, and one colour scale goes for all. The colours of
the mechanisms and the places of the tokens are those of `masks`.

l layers, h heads, r rows, c columns.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gdmtl_lib.inside.attention import DESTINATIONS, NONE, Layout
from gdmtl_lib.inside.attribution import Attribution
from gdmtl_lib.systems import LABELS, TASK_LABELS
from .masks import INK, KIND_COLOURS, KIND_LABELS, PALETTE, Grid, Picture, name_tokens, sentence
from .style import SYSTEM_COLOURS, TASK_COLOURS, bare, colour_bar, drawn, legend_below, new_figure, signed, styled

# A square root, so that small weights show.
ROOT, _TICKS = PowerNorm(0.5, 0, 1), [0, 0.05, 0.2, 0.5, 1]
HEAT = dict(cmap="magma_r", norm=ROOT)
_ABSENT, _EARLIER = "#d9d9d9", "#999999"
# Inches: what a token takes, what its name takes at least, and the widest figure, which fits beside a file browser.
TOKEN, NAME, WIDEST = 0.115, 0.09, 9.6
DIVERGING = "RdBu"  # red below 0, blue above
LINE = 70  # characters of a line of tokens


class AttentionPicture(Picture):
    """What one head attends to: the weights as a heat map, and the row of a generation step as bars. Grey cells are
    those that the mask forbids. `show(step, weights=...)` takes float [r, c], rows that add up to 1."""

    @styled
    def __init__(self, layout: Layout, title: str = ""):
        super().__init__(layout, title)
        self.heat = Grid(self.figure.add_axes((0.085, 0.06, 0.385, 0.74), facecolor=_ABSENT), layout)
        scale = self.heat.image(np.full(layout.kinds.shape, np.nan), **HEAT)
        bar = colour_bar(self.figure, scale, "", cax=self.figure.add_axes((0.478, 0.06, 0.008, 0.74)), ticks=_TICKS)
        bar.tick_params(labelsize=7, length=2)
        if (layout.kinds == NONE).any():
            grey = Patch(color=_ABSENT, label="grey: may not attend")
            self.figure.legend(handles=[grey], loc="lower right", fontsize=8)
        self.bars = self.figure.add_axes((0.56, 0.23, 0.43, 0.57))
        self.bars.set(xlim=(0, self.heat.across[-1]), ylabel="attention", xticks=[])
        name_tokens(self.bars, "below", layout.columns, self.heat.across)
        self.redrawn = [self.bars.yaxis]

    def moving(self, row: int | None, step: int | None, weights: np.ndarray) -> Iterator[Artist]:
        row, layout = row or 0, self.layout
        yield self.heat.image(np.ma.masked_where(layout.kinds == NONE, weights), **HEAT)
        yield from self.heat.lines()
        yield from self.heat.frame(row)
        edges, height = self.heat.across, weights[row]
        left, right = edges[:-1], edges[:-1] + 0.9 * np.diff(edges)
        corners = [(left, 0 * height), (left, height), (right, height), (right, 0 * height)]
        colours = PALETTE[layout.kinds[row]]
        yield self.bars.add_collection(PolyCollection(np.array(corners).transpose(2, 0, 1), facecolors=colours))
        self.bars.set_ylim(0, 1.15 * max(float(height.max()), 1e-9))  # room for the legend
        words = dict(transform=self.bars.transAxes, fontsize=10, va="bottom")
        yield self.bars.text(0, 1.02, sentence(layout, step or 0), **words)
        kinds = [kind for kind in KIND_LABELS if (layout.kinds[row] == kind).any()]
        handles = [Patch(color=KIND_COLOURS[kind], label=KIND_LABELS[kind]) for kind in kinds]
        yield self.bars.legend(handles=handles, loc="upper right", fontsize=8, ncols=3, handlelength=1)


def attention_map(weights: np.ndarray, layout: Layout, step: int = -1, title: str = "") -> Figure:
    """`AttentionPicture` at one step, an index into `layout.steps`. weights: float [r, c]."""
    return AttentionPicture(layout, title).show(step, weights=weights).figure


@drawn()
def attention_overview(weights: np.ndarray, layout: Layout) -> Figure:
    """Every head of every layer at a glance, small heat maps on one scale. weights: float [l, h, r, c]. More than 48 tokens
    are gathered in bins, each showing the largest weight in it: patterns stay, names go."""
    weights = np.where(layout.kinds == NONE, -1.0, weights)
    for axis in (2, 3):
        starts = np.unique(np.linspace(0, weights.shape[axis], 48, endpoint=False).astype(int))
        weights = np.maximum.reduceat(weights, starts, axis=axis)
    layers, heads, rows, columns = weights.shape
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
    return figure


@drawn()
def block_shares(shares: Mapping[str, pd.DataFrame], before: Mapping[str, pd.DataFrame] | None = None) -> Figure:
    """How much of its attention each part of a sequence spends on each part, layer by layer, a line of panels a task.
    A dot is a head, a line the mean of a layer's heads; dashed: spread evenly over all tokens allowed. Where the mask
    leaves no choice (a source attends to itself alone) the panel says so, in grey. shares: task -> what
    `attention.mean_block_shares` gives. before: the same for the model before training."""
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
    return figure


@drawn("Where do the query's tokens look?")
def query_attention(tables: Mapping[str, pd.DataFrame]) -> Figure:
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
    return figure


@drawn("Which heads look elsewhere?")
def head_changes(table: pd.DataFrame) -> Figure:
    """How much of its attention each head has moved to another destination, a cell a head. table: what
    `attention.head_changes` returns."""
    grid = table.pivot(index="layer", columns="head", values="moved")
    figure, axis = new_figure(figsize=(1.6 + 0.46 * grid.shape[1], 1.5 + 0.4 * grid.shape[0]))
    most = max(float(grid.max().max()), 0.01)
    digits = 0 if most >= 0.1 else 1
    bar = dict(format=PercentFormatter(1, decimals=digits), label="attention moved")
    style = dict(cmap="Blues", vmin=0, vmax=most, cbar_kws=bar, annot_kws=dict(fontsize=8))
    sns.heatmap(grid, annot=100 * grid, fmt=f".{digits}f", ax=axis, **style)
    axis.tick_params(length=0, rotation=0)
    return figure


@drawn("The heads that changed most")
def heads_on_a_pair(
    weights: Mapping[str, np.ndarray], heads: Sequence[tuple[int, int]], tokens: Sequence[str], rows: Sequence[int]
) -> Figure:
    """What some tokens attend to in chosen heads: for each head a strip a system, all on one colour scale, with a line
    before the first of the tokens. Of a long sequence the tokens are named that are looked at most.

    weights: float [l, h, s, s] of one sequence, by system. heads: (layer, head), from 1. rows: whose attention is drawn.
    """
    strips = [(layer, head, system) for layer, head in heads for system in weights]
    width = min(max(6.0, TOKEN * len(tokens) + 1.6), WIDEST)
    size = (width, (0.3 + 0.125 * len(rows)) * len(strips) + 1.2)
    figure, axes = new_figure(len(strips), 1, figsize=size, sharex=True, squeeze=False)
    looks = [weights[system][layer - 1, head - 1][list(rows)] for layer, head, system in strips]
    for axis, each, (layer, head, system) in zip(axes[:, 0], looks, strips):
        image = axis.imshow(each, cmap="Blues", norm=ROOT, aspect="auto")
        axis.axvline(rows[0] - 0.5, color="#555555", linewidth=0.7)
        axis.set_title(f"layer {layer}, head {head}: {LABELS[system]}", fontsize=9, color=SYSTEM_COLOURS[system])
        axis.set_yticks(range(len(rows)), [tokens[row] for row in rows], fontsize=7)
        bare(axis)
    named, apart = [], NAME * len(tokens) / (width - 1.6)  # names of neighbours would touch
    for column in np.argsort(-np.concatenate(looks).max(axis=0), kind="stable").tolist():
        if all(abs(column - other) >= apart for other in named):
            named.append(column)
    named.sort()
    axes[-1, 0].set_xticks(named, [tokens[column] for column in named], rotation=90, fontsize=6)
    ticks = dict(ticks=_TICKS, format=PercentFormatter(1, decimals=0))
    colour_bar(figure, image, "attention", ax=axes, shrink=0.5, pad=0.01, **ticks)
    return figure


@drawn("Do the tasks help or fight each other?")
def gradient_cosines(table: pd.DataFrame, column: str = "step") -> Figure:
    """The cosine between the ranking gradient and each generative task's, a row a layer, the first at the bottom;
    a panel a task. Blue: the tasks pull the same way; red: against each other; grey: one had no gradient. table: `task,
    layer, cosine` and the column that goes across; cosines of one cell are averaged."""
    tasks = list(table["task"].unique())
    across, down = list(table[column].unique()), list(table["layer"].unique())[::-1]
    size = (max(5.2, 1.9 + len(tasks) * max(2.9, 0.5 * len(across) + 0.8)), 1.7 + 0.34 * len(down))
    figure, axes = new_figure(1, len(tasks), figsize=size, squeeze=False, sharey=True)
    scale = max(0.1, float(table["cosine"].abs().max()))
    for axis, task in zip(axes[0], tasks):
        rows = table[table["task"] == task]
        grid = rows.pivot_table(index="layer", columns=column, values="cosine", dropna=False, sort=False)
        grid = grid.reindex(index=down, columns=across)
        style = dict(cmap=DIVERGING, vmin=-scale, vmax=scale, annot_kws=dict(fontsize=8))
        # Adding 0 after rounding makes a plain zero of a negative one.
        said = (grid.round(2) + 0.0).map(signed, digits=2) if len(across) <= 12 else False
        sns.heatmap(grid, annot=said, fmt="", cbar=False, ax=axis, **style)
        axis.set(xlabel="training step" if column == "step" else "", ylabel="", title=f"ranking and {TASK_LABELS[task]}")
        axis.set_facecolor(_ABSENT)
        axis.tick_params(length=0, rotation=0)
    colour_bar(figure, axis.collections[0], "cosine of the gradients", ax=axes[0])
    return figure


@drawn("Which tokens does the score rest on?")
def attributions(found: Mapping[str, Attribution]) -> Figure:
    """A pair's tokens as each system sees them, side by side: blue raised the score, red lowered it, on a colour scale
    of each system's own (a hinge fixes no scale of scores). The query begins below the line. found: what
    `attribution.integrated_gradients` returns for one pair, by system."""
    laid = {system: _lines(each) for system, each in found.items()}
    lines = max(max(line for line, *_ in placed) for placed in laid.values()) + 1
    size = (5.4 * len(found), 1.5 + 0.235 * lines)
    figure, axes = new_figure(1, len(found), figsize=size, squeeze=False)
    for axis, (system, each) in zip(axes[0], found.items()):
        strongest = max(float(np.abs(each.values).max()), 1e-9)
        norm, last = Normalize(-strongest, strongest), 0
        for (line, start, text), value, segment in zip(laid[system], each.values, each.segments):
            colour = colormaps[DIVERGING](norm(value))
            axis.text(start, line, text, fontsize=8.5, family="DejaVu Sans Mono", va="center",
                      color="white" if abs(value) > 0.65 * strongest else "black",
                      bbox=dict(facecolor=colour, edgecolor="none", pad=1.1))  # fmt: skip
            last = line if segment == 0 else last
        axis.axhline(last + 0.5, color="#555555", linewidth=0.7)
        axis.set(xlim=(-0.3, LINE), ylim=(lines - 0.4, -0.7), xticks=[], yticks=[])
        bare(axis)
        axis.set_title(LABELS[system], color=SYSTEM_COLOURS[system], fontsize=10)
        gained = f"score {signed(each.score)}, {each.reference} {signed(each.baseline)}"
        gained += f"; the tokens miss the difference by {signed(each.error)}"
        below = dict(xycoords="axes fraction", textcoords="offset points", va="top")
        axis.annotate(gained, (0, 0), (0, -4), fontsize=8, **below)
        scale = dict(orientation="horizontal", shrink=0.6, aspect=36, ticks=MaxNLocator(5))
        bar = colour_bar(figure, ScalarMappable(norm, DIVERGING), "added to the score", ax=axis, **scale)
        bar.tick_params(labelsize=8, length=2)
        for text in (bar.xaxis.label, bar.xaxis.get_offset_text()):
            text.set_fontsize(8)
    return figure


def _lines(each: Attribution) -> list[tuple[int, float, str]]:
    """Where every token stands: its line, where it begins in it, and its text. The query begins a line of its own, and
    the pieces of a word stay side by side."""
    placed, line, column = [], 0, 0.0
    for number, token in enumerate(each.tokens):
        text, goes_on = token.removeprefix("##"), token.startswith("##")
        column -= 0.9 if goes_on and column else 0
        new_segment = number > 0 and each.segments[number] != each.segments[number - 1]
        if column and (column + len(text) > LINE - 1 or new_segment):
            line, column = line + 1, 0.0
        placed.append((line, column, text))
        column += len(text) + 1.0
    return placed


def _heads_and_mean(axis: Axes, table: pd.DataFrame, column: str, colour: str, **style) -> None:
    """Layer by layer: a dot a head, and a line through the means of the layers' heads."""
    axis.scatter(table["layer"], table[column], s=9, color=colour, alpha=0.35, linewidth=0)
    means = table.groupby("layer")[column].mean()
    axis.plot(means.index, means, color=colour, linewidth=2, **style)
