"""The figures of what training changes in attention: by layer, by head, and the heads that changed most on a pair."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from gdmtl_lib.inside.attention_changes import DESTINATIONS
from .results import STYLE, SYSTEM_COLOURS, new_figure, suptitle
from gdmtl_lib.systems import LABELS

# Inches: what a token takes, what its name takes at least, and the widest figure, which fits beside a file browser.
TOKEN, NAME, WIDEST = 0.115, 0.09, 9.6


def query_attention(
    tables: Mapping[str, pd.DataFrame], title: str = "Where do the query's tokens look?"
) -> Figure:
    """The share of the query's attention that goes to each destination, and its entropy, layer by layer: a line is
    the mean of a layer's heads, a dot one head.

    tables: what `attention_changes.query_attention` returns, by system.
    """
    with plt.rc_context(STYLE):
        panels = [*DESTINATIONS, "entropy"]
        figure, axes = new_figure(1, len(panels), figsize=(2.3 * len(panels), 2.9), sharex=True, sharey=True)
        shift = np.linspace(-0.12, 0.12, len(tables)) if len(tables) > 1 else [0.0]
        for axis, panel in zip(axes, panels):
            for (system, table), aside in zip(tables.items(), shift):
                colour = SYSTEM_COLOURS[system]
                axis.scatter(table["layer"] + aside, table[panel], s=8, color=colour, alpha=0.35, linewidth=0)
                means = table.groupby("layer")[panel].mean()
                axis.plot(means.index, means, color=colour, linewidth=1.8, label=LABELS[system])
            axis.set(title=panel if panel == "entropy" else f"to {panel}", xlabel="layer", xticks=means.index)
        axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes[0].set(ylim=(-0.03, 1.03), ylabel="share of attention")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(tables))
        suptitle(figure, title)
    return figure


def head_changes(table: pd.DataFrame, title: str = "Which heads look elsewhere?") -> Figure:
    """How much of its attention each head has moved to another destination, a cell a head.

    table: what `attention_changes.head_changes` returns.
    """
    with plt.rc_context(STYLE):
        grid = table.pivot(index="layer", columns="head", values="moved")
        figure, axis = new_figure(figsize=(1.6 + 0.46 * grid.shape[1], 1.5 + 0.4 * grid.shape[0]))
        most = max(float(grid.max().max()), 0.01)
        digits = 0 if most >= 0.1 else 1
        image = axis.imshow(grid, cmap="Blues", vmin=0, vmax=most, aspect="auto")
        for (row, column), moved in np.ndenumerate(grid.to_numpy()):
            dark = moved > 0.6 * most
            axis.text(column, row, f"{100 * moved:.{digits}f}", ha="center", va="center", fontsize=8,
                      color="white" if dark else "black")  # fmt: skip
        axis.set_xticks(range(grid.shape[1]), grid.columns)
        axis.set_yticks(range(grid.shape[0]), grid.index)
        axis.set(xlabel="head", ylabel="layer")
        axis.grid(visible=False)
        axis.tick_params(length=0)
        bar = figure.colorbar(image, ax=axis, format=PercentFormatter(1, decimals=digits), label="attention moved")
        bar.outline.set_visible(False)
        suptitle(figure, title)
    return figure


def heads_on_a_pair(
    weights: Mapping[str, np.ndarray], heads: Sequence[tuple[int, int]], tokens: Sequence[str], rows: Sequence[int],
    title: str = "The heads that changed most",
) -> Figure:
    """What some tokens attend to in chosen heads: for each head a strip a system, all on one colour scale, a square
    root so that small weights show. Of a long sequence the tokens are named that are looked at most.

    weights: float [l, h, s, s] of one sequence, by system. heads: (layer, head), from 1. tokens: of the sequence.
    rows: which tokens' attention is drawn; a row looks, a column is looked at. A line stands before the first of them.
    """
    with plt.rc_context(STYLE):
        strips = [(layer, head, system) for layer, head in heads for system in weights]
        width = min(max(6.0, TOKEN * len(tokens) + 1.6), WIDEST)
        size = (width, (0.3 + 0.125 * len(rows)) * len(strips) + 1.2)
        figure, axes = new_figure(len(strips), 1, figsize=size, sharex=True, squeeze=False)
        drawn = [weights[system][layer - 1, head - 1][list(rows)] for layer, head, system in strips]
        for axis, each, (layer, head, system) in zip(axes[:, 0], drawn, strips):
            image = axis.imshow(each, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), aspect="auto")
            axis.axvline(rows[0] - 0.5, color="#555555", linewidth=0.7)
            axis.set_title(f"layer {layer}, head {head}: {LABELS[system]}", fontsize=9, color=SYSTEM_COLOURS[system])
            axis.set_yticks(range(len(rows)), [tokens[row] for row in rows], fontsize=7)
            axis.grid(visible=False)
            axis.tick_params(length=0)
        named = _named(np.concatenate(drawn).max(axis=0), apart=NAME * len(tokens) / (width - 1.6))
        axes[-1, 0].set_xticks(named, [tokens[column] for column in named], rotation=90, fontsize=6)
        ticks = dict(ticks=[0, 0.05, 0.2, 0.5, 1], format=PercentFormatter(1, decimals=0))
        bar = figure.colorbar(image, ax=axes, shrink=0.5, pad=0.01, label="attention", **ticks)
        bar.outline.set_visible(False)
        suptitle(figure, title)
    return figure


def _named(peaks: np.ndarray, apart: float) -> list[int]:
    """The columns that are named: all, or those looked at most, where names of neighbours would touch.

    peaks: float [c], the largest weight of each. apart: by how many columns, at least, two names have to differ.
    """
    named: list[int] = []
    for column in np.argsort(-peaks, kind="stable").tolist():
        if all(abs(column - other) >= apart for other in named):
            named.append(column)
    return sorted(named)
