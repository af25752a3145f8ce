"""What a collection holds, drawn: lengths, categories, grades, and what BM25 finds of it."""

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import MOST_CATEGORIES, SPLIT_COLOURS, drawn, legend_below, name_rows, new_figure, panels


@drawn("How long are the texts?")
def text_lengths(lengths: Mapping[str, np.ndarray]) -> Figure:
    """Histograms of the number of words, a panel for each kind of text, with the median; the longest hundredth is
    gathered in the last bar. lengths: words of each text, int [n], by kind."""
    figure, axes = panels(len(lengths))
    for axis, (kind, words) in zip(axes, lengths.items()):
        last = max(int(np.quantile(words, 0.99)), int(words.min()) + 1)
        width, median = max(1, (last - int(words.min())) // 25), float(np.median(words))
        sns.histplot(
            np.minimum(words, last), binwidth=width, discrete=width == 1, color=SPLIT_COLOURS[0], edgecolor="white",
            linewidth=0.4, alpha=1, ax=axis,
        )  # fmt: skip
        axis.axvline(median, color="black", linewidth=1, linestyle="--")
        at = dict(xycoords=("data", "axes fraction"), textcoords="offset points")
        axis.annotate(f"median {median:g}", (median, 0.97), (4, 0), va="top", fontsize=9, **at)
        axis.set(title=f"{len(words):,} {kind}", xlabel="words", ylabel="texts", ylim=(0, axis.get_ylim()[1] * 1.12))
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.grid(visible=False, axis="x")
    return figure


@drawn("What do the queries ask for?")
def category_shares(table: pd.DataFrame, paper: Mapping[str, float]) -> tuple[Figure, str]:
    """The share of the queries of each category, with the paper's (MS MARCO dev) as a mark; both per cent. table: what
    `overview.category_shares` returns. paper: by category."""
    more = f"The largest {MOST_CATEGORIES} of {len(table):,}" if len(table) > MOST_CATEGORIES else ""
    table = table.head(MOST_CATEGORIES)
    figure, axis = new_figure(figsize=(6.2, 0.9 + 0.5 * len(table)))
    table.plot.barh(ax=axis, width=0.8, color=SPLIT_COLOURS, legend=False)
    known = [(paper[name], place) for place, name in enumerate(table.index) if name in paper]
    if known:
        style = dict(marker="D", s=32, facecolor="white", edgecolor="black", zorder=3)
        axis.scatter(*zip(*known), label="MS MARCO (paper, Table 5)", **style)
    name_rows(axis, table.index)
    axis.set(xlabel="% of the queries", ylabel="")
    legend_below(figure)
    return figure, more


@drawn("How are passages judged?")
def judgment_grades(table: pd.DataFrame) -> Figure:
    """How many judgments of each grade a query has, a bar for each split, the darker the more relevant. table: what
    `overview.grade_counts` returns."""
    figure, axis = new_figure(figsize=(6.2, 1.2 + 0.45 * len(table)))
    style = dict(width=0.65, color=sns.color_palette("Blues", len(table.columns)), edgecolor="white", legend=False)
    table.rename(columns="grade {}".format).plot.barh(ax=axis, stacked=True, **style)
    name_rows(axis, table.index)
    axis.set(xlabel="judged passages a query", ylabel="")
    legend_below(figure)
    return figure


@drawn("How much can a re-ranker still find?")
def recall_by_depth(curves: Mapping[str, np.ndarray], depth: int) -> Figure:
    """The share of relevant passages among the first k candidates, a line for each split. curves: recall for k from 1,
    float [k], by split. depth: how many candidates are re-ranked; marked."""
    figure, axis = new_figure(figsize=(6.2, 3.4))
    for (split, recall), colour in zip(curves.items(), cycle(SPLIT_COLOURS)):
        at = min(depth, len(recall))
        label = f"{split}: {recall[at - 1]:.3f} at {at}"
        axis.plot(np.arange(1, len(recall) + 1), recall, color=colour, label=label, marker="o", markevery=[at - 1])
    axis.axvline(depth, color="black", linewidth=0.8, linestyle=":")
    at = dict(xycoords=("data", "axes fraction"), textcoords="offset points")
    axis.annotate("re-ranked", (depth, 0.02), (-4, 0), rotation=90, ha="right", fontsize=8, **at)
    axis.set(xscale="log", ylim=(0, 1.02), xlabel="candidates a query", ylabel="recall")
    ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= max(map(len, curves.values()))]
    axis.set_xticks(ticks, [f"{k:,}" for k in ticks])
    axis.minorticks_off()
    legend_below(figure, columns=2)
    return figure
