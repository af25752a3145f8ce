"""The figures of what a model learns by and what it rests a score on: gradients of two tasks, tokens' attributions."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gdmtl_lib.inside.attribution import Attribution
from gdmtl_lib.systems import LABELS, TASK_LABELS
from .style import SYSTEM_COLOURS, bare, colour_bar, new_figure, signed, styled, suptitle

DIVERGING = "RdBu"  # red below 0, blue above
LINE = 70  # characters of a line of tokens
_ABSENT = "#d9d9d9"


@styled
def gradient_cosines(
    table: pd.DataFrame, column: str = "step", title: str = "Do the tasks help or fight each other?"
) -> Figure:
    """The cosine between the ranking gradient and each generative task's, a row a layer, the first at the bottom;
    a panel a task. Blue: the tasks pull the same way; red: against each other; grey: one had no gradient.

    table: `task, layer, cosine` and the column that goes across: `step`, say, or which weights they were measured at;
    cosines of one cell are averaged.
    """
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
    return suptitle(figure, title)


@styled
def attributions(found: Mapping[str, Attribution], title: str = "Which tokens does the score rest on?") -> Figure:
    """A pair's tokens as each system sees them, side by side: blue raised the score, red lowered it, on a colour scale
    of each system's own (a hinge fixes no scale of scores). The query begins below the line.

    found: what `attribution.integrated_gradients` returns for one pair, by system.
    """
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
    return suptitle(figure, title)


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
