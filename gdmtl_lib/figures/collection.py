"""The figures of what a collection holds: lengths, categories, grades, and what BM25 finds of it."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .results import SPLIT_COLOURS, STYLE, new_figure, panels, suptitle


def text_lengths(lengths: Mapping[str, np.ndarray], title: str = "How long are the texts?") -> Figure:
    """Histograms of the number of words, a panel for each kind of text, with the median; the longest hundredth is
    gathered in the last bar.

    lengths: words of each text, int [n], by kind.
    """
    with plt.rc_context(STYLE):
        figure, axes = panels(len(lengths))
        for axis, (kind, words) in zip(axes, lengths.items()):
            last = max(int(np.quantile(words, 0.99)), int(words.min()) + 1)
            width = max(1, (last - int(words.min())) // 25)
            edges = np.arange(words.min(), last + width + 1, width) - 0.5
            axis.hist(np.minimum(words, last), edges, color=SPLIT_COLOURS[0], edgecolor="white", linewidth=0.4)
            median = float(np.median(words))
            axis.axvline(median, color="black", linewidth=1, linestyle="--")
            axis.annotate(
                f"median {median:g}", (median, 0.97), (4, 0), xycoords=("data", "axes fraction"),
                textcoords="offset points", va="top", fontsize=9,
            )  # fmt: skip
            axis.set(title=f"{len(words):,} {kind}", xlabel="words", ylim=(0, axis.get_ylim()[1] * 1.12))
            axis.grid(visible=False, axis="x")
        suptitle(figure, title)
    return figure


def category_shares(
    table: pd.DataFrame, paper: Mapping[str, float], title: str = "What do the queries ask for?"
) -> Figure:
    """The share of the queries of each category, with the paper's (MS MARCO dev) as a mark.

    table: what `overview.category_shares` returns, per cent. paper: the paper's shares by category, per cent.
    """
    with plt.rc_context(STYLE):
        figure, axis = new_figure(figsize=(6.2, 0.9 + 0.5 * len(table)))
        height = 0.8 / len(table.columns)
        y = np.arange(len(table))
        for number, (split, colour) in enumerate(zip(table, SPLIT_COLOURS)):
            axis.barh(y - 0.4 + height * (number + 0.5), table[split], height * 0.9, color=colour, label=split)
        known = [(place, paper[name]) for place, name in enumerate(table.index) if name in paper]
        if known:
            places, shares = zip(*known)
            axis.scatter(shares, places, marker="D", s=32, facecolor="white", edgecolor="black", zorder=3,
                         label="MS MARCO (paper, Table 5)")  # fmt: skip
        axis.set_yticks(y, [str(name).capitalize() for name in table.index])
        axis.invert_yaxis()
        axis.set(xlabel="% of the queries")
        axis.grid(visible=False, axis="y")
        axis.legend(loc="lower right")
        suptitle(figure, title)
    return figure


def judgment_grades(table: pd.DataFrame, title: str = "How are passages judged?") -> Figure:
    """How many judgments of each grade a query has, a bar for each split, the darker the more relevant.

    table: what `overview.grade_counts` returns.
    """
    with plt.rc_context(STYLE):
        figure, axis = new_figure(figsize=(6.2, 1.2 + 0.45 * len(table)))
        shades = plt.get_cmap("Blues")(np.linspace(0.15, 0.95, len(table.columns))) if len(table.columns) > 1 else ["#08306b"]
        left = np.zeros(len(table))
        for grade, shade in zip(table, shades):
            axis.barh(np.arange(len(table)), table[grade], 0.65, left, color=shade, edgecolor="white", label=f"grade {grade}")
            left += table[grade].to_numpy()
        axis.set_yticks(np.arange(len(table)), table.index)
        axis.invert_yaxis()
        axis.set(xlabel="judged passages a query")
        axis.grid(visible=False, axis="y")
        figure.legend(loc="outside lower center", ncols=min(len(table.columns), 5))
        suptitle(figure, title)
    return figure


def recall_by_depth(
    curves: Mapping[str, np.ndarray], depth: int, title: str = "How much can a re-ranker still find?"
) -> Figure:
    """The share of relevant passages among the first k candidates, a line for each split.

    curves: recall for k from 1, float [k], by split. depth: how many candidates are re-ranked; marked.
    """
    with plt.rc_context(STYLE):
        figure, axis = new_figure(figsize=(6.2, 3.4))
        for (split, recall), colour in zip(curves.items(), SPLIT_COLOURS):
            ranks = np.arange(1, len(recall) + 1)
            at = min(depth, len(recall))
            axis.plot(ranks, recall, color=colour, label=f"{split}: {recall[at - 1]:.3f} at {at}")
            axis.plot(at, recall[at - 1], "o", color=colour, markersize=5)
        axis.axvline(depth, color="black", linewidth=0.8, linestyle=":")
        axis.annotate("re-ranked", (depth, 0.02), (-4, 0), xycoords=("data", "axes fraction"),
                      textcoords="offset points", rotation=90, ha="right", fontsize=8)  # fmt: skip
        axis.set(xscale="log", ylim=(0, 1.02), xlabel="candidates a query", ylabel="recall")
        ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= max(map(len, curves.values()))]
        axis.set_xticks(ticks, [f"{k:,}" for k in ticks])
        axis.minorticks_off()
        axis.legend(loc="lower right")
        suptitle(figure, title)
    return figure
