"""The figures of the generative half: what a likelihood brings for its cost, and what written queries bring BM25."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .style import legend_below, new_figure, panels, styled, suptitle, written

COLOURS = {"likelihood": "#D55E00", "ranking head": "#0072B2", "joint": "#CC79A7"}
CASCADE = "#009E73"
_NAMES = {"joint": "joint (scores interpolated)"}  # what a legend says of a way whose name in tables is short


@styled
def cost_and_effectiveness(
    table: pd.DataFrame, measure: str, title: str = "What does a way to rank bring, and what does it cost?"
) -> Figure:
    """Effectiveness against the cost of a query, for each way to rank: filled with nothing stored, hollow with the
    states of the passages computed before. The bar is the 95% interval of the difference to the ranking head, laid
    around the way's mean. BM25, which costs no operation of the model, is the line across.

    table: `way, gflop, stored, mean, low, high`; low and high of the difference, NaN for the ranking head.
    """
    figure, axis = new_figure(figsize=(6.8, 4.0))
    ways = table.set_index("way")
    axis.axhline(ways["mean"]["BM25"], color="#7f7f7f", linewidth=1, linestyle="--")
    axis.annotate("BM25", (0, ways["mean"]["BM25"]), (4, 3), xycoords=("axes fraction", "data"),
                  textcoords="offset points", fontsize=9, color="#555555")  # fmt: skip
    base = ways["mean"]["ranking head"]
    cascades = ways[ways.index.str.startswith("cascade")]
    axis.plot(cascades["gflop"], cascades["mean"], color=CASCADE, linewidth=0.8, alpha=0.6)
    for way, row in ways.drop(index="BM25").iterrows():
        colour = COLOURS.get(way, CASCADE)
        label = _NAMES.get(way, way) if way not in cascades.index else "cascade (best k)" if way == cascades.index[0] else None
        if row["stored"] < row["gflop"]:
            axis.plot([row["stored"], row["gflop"]], [row["mean"]] * 2, color=colour, linewidth=0.8, linestyle=":")
            axis.plot(row["stored"], row["mean"], "o", color=colour, markerfacecolor="white", markersize=6)
        if not np.isnan(row["low"]):
            axis.vlines(row["gflop"], base + row["low"], base + row["high"], color=colour, linewidth=1.2, alpha=0.7)
        axis.plot(row["gflop"], row["mean"], "o", color=colour, markersize=7, label=label, zorder=3)
        if way.startswith("cascade"):
            axis.annotate(way.rpartition(" ")[2], (row["gflop"], row["mean"]), (5, -11), textcoords="offset points",
                          fontsize=8.5, color=colour, bbox=dict(facecolor="white", edgecolor="none", pad=0.4))  # fmt: skip
    axis.set(xlabel="GFLOP a query", ylabel=written(measure), xlim=(0, None))
    axis.plot([], [], "o", color="#555555", markerfacecolor="white", label="states stored")
    legend_below(figure, columns=3)
    return suptitle(figure, title)


@styled
def recall_by_count(
    table: pd.DataFrame, title: str = "Do written queries help BM25 to find the passages?"
) -> Figure:
    """BM25's recall by the number of written queries appended to each passage, a panel for each cutoff. The bar is the
    95% interval of the difference to none appended, laid around the mean.

    table: what `generated_queries.recall_by_count` returns.
    """
    measures = list(table["measure"].unique())
    figure, axes = panels(len(measures), height=3.0)
    for axis, measure in zip(axes, measures):
        rows = table[table["measure"] == measure].sort_values("count")
        base = rows.loc[rows["count"] == 0, "mean"].item()
        places = np.arange(len(rows))
        axis.axhline(base, color="#7f7f7f", linewidth=1, linestyle="--")
        axis.plot(places, rows["mean"], "o-", color="#0072B2", markersize=6, linewidth=1.2, zorder=4)
        axis.vlines(places, base + rows["low"], base + rows["high"], color="#0072B2", linewidth=1.4, alpha=0.6)
        for place, mean, high in zip(places, rows["mean"], rows["high"].fillna(0)):
            axis.annotate(f"{mean:.3f}", (place, max(mean, base + high)), (0, 5), textcoords="offset points",
                          ha="center", fontsize=8, zorder=5, bbox=dict(facecolor="white", edgecolor="none", pad=0.6))  # fmt: skip
        axis.set_xticks(places, rows["count"])
        axis.set(title=measure.replace("R@", "recall@"), xlabel="queries appended", xlim=(-0.5, len(rows) - 0.5))
        axis.margins(y=0.15)
        low, high = axis.get_ylim()
        axis.set_yticks([tick for tick in axis.get_yticks() if low <= tick <= min(high, 1)])  # a bar may reach above 1
        axis.grid(visible=False, axis="x")
    return suptitle(figure, title)
