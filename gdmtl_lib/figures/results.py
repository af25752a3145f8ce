"""The figures: one function each, data in, matplotlib Figure out.

One look for all: the colours of Okabe and Ito, which colour-blind eyes can tell apart, one colour a system wherever
it appears, text large enough for print.
"""

import os
import textwrap
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gdmtl_lib.evaluation.comparison import NOT_RETRIEVED, area_under_roc, is_tie
from gdmtl_lib.evaluation.measures import PAPER_NAMES
from gdmtl_lib.data.trec import of_judged_queries
from gdmtl_lib.systems import FIRST_STAGE, LABELS, TASK_LABELS

STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}


class _Extended(dict):
    """A dictionary that knows what to say of systems and tasks of a user's own. extend: the value for a new key, given
    the key and how many there are."""

    def __init__(self, known, extend):
        super().__init__(known)
        self._extend = extend

    def __missing__(self, key):
        self[key] = self._extend(key, len(self))
        return self[key]


_FURTHER_COLOURS = ("#882255", "#44AA99", "#999933", "#AA4499", "#117733")
TASK_COLOURS = _Extended(
    {"rank": "#0072B2", "query_generation": "#D55E00", "answer_generation": "#009E73"},
    lambda _, place: _FURTHER_COLOURS[place % len(_FURTHER_COLOURS)],
)
SYSTEM_COLOURS = _Extended(
    zip(LABELS, ("#7f7f7f", "#332288", "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#E69F00", "#CC79A7", "#000000")),
    lambda _, place: _FURTHER_COLOURS[place % len(_FURTHER_COLOURS)],
)
SPLIT_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GAIN, LOSS, SAME = "#0072B2", "#D55E00", "#cccccc"


def training_curves(history: pd.DataFrame, title: str = "Does it learn, and which task gets the weight?") -> Figure:
    """What a training did, step by step: the loss of every task, the uncertainty weights (Eq. 6) where they are
    learned, and the learning rate.

    history: what `train` returns.
    """
    tasks = [column.removesuffix("_loss") for column in history if column.endswith("_loss")]
    learned = [task for task in tasks if f"sigma2_{task}" in history]
    count = len(tasks) + bool(learned) + 1
    with plt.rc_context(STYLE):
        figure, axes = new_figure(1, count, figsize=(3.1 * count, 2.8))
        window = max(1, len(history) // 20)
        for axis, task in zip(axes, tasks):
            loss, colour = history[f"{task}_loss"], TASK_COLOURS[task]
            axis.plot(history["step"], loss, color=colour, alpha=0.25, linewidth=0.8)
            axis.plot(history["step"], loss.rolling(window, min_periods=1).mean(), color=colour, linewidth=1.8)
            unit = "hinge or cross-entropy" if task == "rank" else "nats a token"
            axis.set(title=f"{TASK_LABELS[task]} loss", ylabel=unit)
        if learned:
            axis = axes[len(tasks)]
            for task in learned:
                axis.plot(history["step"], history[f"sigma2_{task}"], color=TASK_COLOURS[task], label=TASK_LABELS[task])
            axis.set(title="uncertainty $\\sigma^2$", ylabel="larger = less weight")
            axis.legend()
        axes[-1].plot(history["step"], history["learning_rate"], color="black")
        axes[-1].set(title="learning rate")
        axes[-1].ticklabel_format(axis="y", scilimits=(0, 0))
        epochs = history.groupby("epoch")["step"].min()
        for axis in axes:
            axis.set(xlabel="optimiser step", ylim=(0, None))
            for start in epochs[1:]:
                axis.axvline(start, color="#bbbbbb", linewidth=0.7, linestyle=":")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure


def save_figure(figure: Figure, folder: str | os.PathLike, name: str) -> None:
    """Write a figure as `<name>.png` and `<name>.pdf`; the PDF carries no date, so that equal data give equal bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        figure.savefig(folder / f"{name}.png")
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})


def score_distributions(
    runs: Mapping[str, pd.DataFrame],
    qrels: pd.DataFrame,
    relevance_level: int = 1,
    bins: int = 40,
    title: str = "Do scores tell relevant passages from the others?",
) -> Figure:
    """Figure 8: how a system scores relevant passages and how it scores the others, a panel for each system; with
    several systems, the area under the ROC curve of all in a last panel.

    Each histogram adds up to 100%, so that the few relevant passages can be seen beside the many others. Passages
    without a judgment count as not relevant; queries without judgments are left out.

    Args:
        runs: `query_id, doc_id, score` by system name.
        qrels: `query_id, doc_id, relevance`.
        relevance_level: the lowest grade that counts as relevant.
        bins: how many, over the scores of a panel.

    Raises:
        ValueError: as `comparison.area_under_roc`, or bins below 2.
    """
    if bins < 2:
        raise ValueError(f"bins: expected at least 2, found {bins!r}")
    areas = {system: area_under_roc(run, qrels, relevance_level) for system, run in runs.items()}
    relevant = qrels.loc[qrels["relevance"] >= relevance_level, ["query_id", "doc_id"]].assign(relevant=True)
    with plt.rc_context(STYLE):
        figure, axes = panels(len(runs) + (len(runs) > 1))
        for axis, (system, run) in zip(axes, runs.items()):
            labelled = of_judged_queries(run, qrels).merge(relevant, "left", ["query_id", "doc_id"])
            is_relevant = labelled["relevant"].notna()
            edges = np.histogram_bin_edges(labelled["score"], bins)
            for label, some, colour in (("others", ~is_relevant, LOSS), ("relevant", is_relevant, GAIN)):
                scores = labelled.loc[some, "score"]
                share = 100 * np.histogram(scores, edges)[0] / len(scores)
                axis.stairs(share, edges, color=colour, fill=True, alpha=0.35)
                axis.stairs(share, edges, color=colour, linewidth=1.2, label=f"{label} ({len(scores):,})")
            axis.set(title=f"{LABELS[system]} · area {areas[system]:.3f}", xlabel="score", ylabel="passages, %")
            axis.set_ylim(0, axis.get_ylim()[1] * 1.35)
            axis.xaxis.set_major_locator(plt.MaxNLocator(4, steps=[1, 2, 5, 10]))
            axis.legend(loc="upper right", fontsize=8, handlelength=1.2)
        if len(runs) > 1:
            axis = axes[len(runs)]
            labels = [LABELS[system] for system in areas]
            axis.hlines(labels, 0.5, list(areas.values()), color="#bbbbbb", linewidth=1)
            axis.scatter(list(areas.values()), labels, color=[SYSTEM_COLOURS[system] for system in areas], zorder=3)
            axis.set(title="area under the ROC curve", xlabel="0.5: none told apart · 1: all")
            axis.set(xlim=(min(0.5, *areas.values()) - 0.02, 1.02), ylim=(len(areas) - 0.5, -0.5))
        suptitle(figure, title)
    return figure


def win_tie_loss(
    table: pd.DataFrame, measure: str, title: str = "On how many queries does a system win, and on how many lose?"
) -> Figure:
    """Tables 4 and 7 as bars: the queries on which a system wins, ties and loses against an earlier one.

    table: `baseline, system, win, tie, loss` by system name, as `comparison.win_tie_loss_table` returns it.
    """
    with plt.rc_context(STYLE):
        figure, axis = new_figure(figsize=(7, 1.3 + 0.34 * len(table)))
        rows = np.arange(len(table))
        left = np.zeros(len(table))
        for column, colour, ink in (("win", GAIN, "white"), ("tie", SAME, "black"), ("loss", LOSS, "white")):
            bars = axis.barh(rows, table[column], left=left, color=colour, label=column, height=0.75)
            total = table[["win", "tie", "loss"]].sum(axis=1)
            texts = [f"{count:,}" if count > 0.03 * of else "" for count, of in zip(table[column], total)]
            axis.bar_label(bars, texts, label_type="center", color=ink, fontsize=9)
            left += table[column].to_numpy()
        pairs = [f"{LABELS[row.system]} against {LABELS[row.baseline]}" for row in table.itertuples()]
        axis.set_yticks(rows, pairs)
        axis.set(ylim=(len(table) - 0.5, -0.5), xlim=(0, left.max()), xlabel=f"queries, by {_written(measure)}")
        axis.grid(visible=False)
        axis.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), fontsize=9, handlelength=1)
        suptitle(figure, title)
    return figure


def query_deltas(
    deltas: Mapping[str, pd.DataFrame],
    baseline: str,
    measure: str,
    title: str = "Which queries gain, and how much do others lose?",
    marked: int | None = None,
    tolerance: float = 0.0,
) -> Figure:
    """Figure 6: the difference a system makes on each query, the largest gain first, a panel for each system; grey is
    what counts as a tie.

    Args:
        deltas: what `comparison.query_deltas` returns, by system name.
        baseline: the system they are compared with.
        measure: the one that was compared.
        marked: the row of a query to point at.
        tolerance: as in `comparison.win_tie_loss`, so that the counts are the same.
    """
    with plt.rc_context(STYLE):
        figure, axes = panels(len(deltas), sharey=True)
        for axis, (system, table) in zip(axes, deltas.items()):
            difference = table["difference"].to_numpy()
            x = np.arange(1, len(difference) + 1)
            tie = is_tie(table["difference"], table["baseline"], tolerance).to_numpy()
            gain, loss = ~tie & (difference > 0), ~tie & (difference < 0)
            for some, colour in ((gain, GAIN), (tie, SAME), (loss, LOSS)):
                axis.fill_between(x, np.where(some, difference, 0), step="mid", color=colour, linewidth=0)
            axis.axhline(0, color="black", linewidth=0.6)
            counts = ((gain, "gain", GAIN, 0.95), (tie, "tie", "#767676", 0.84), (loss, "lose", LOSS, 0.73))
            for some, word, colour, y in counts:
                style = dict(color=colour, transform=axis.transAxes, ha="right", va="top")
                axis.text(0.97, y, f"{some.sum():,} {word}", **style)
            mean = f"{difference.mean():+.3f}".replace("-", "\N{MINUS SIGN}")
            axis.set(title=f"{LABELS[system]}: mean {mean}", xlabel="queries, sorted")
            axis.margins(x=0.01)
            if marked is not None:
                axis.plot(marked + 1, difference[marked], "v", color="black", markersize=6)
        axes[0].set(ylim=(-1.02, 1.02))
        for axis in axes[:: columns_of(len(deltas))]:
            axis.set_ylabel(f"{measure} minus {LABELS[baseline]}'s")
        suptitle(figure, title)
    return figure


def rank_shifts(
    shifts: Mapping[str, pd.DataFrame],
    baseline: str,
    depth: int | None = None,
    title: str = "Where do relevant passages move?",
) -> Figure:
    """Figure 5: how many more (right) or fewer (left) relevant passages than the baseline a system puts at each rank,
    a panel for each system. With several seeds a bar is their mean, and each of them a dot.

    Args:
        shifts: what `comparison.rank_shifts` returns, by system name; those of several seeds under one another, told
            apart by a column `seed`.
        baseline: the system they are compared with.
        depth: the last rank with a bar of its own; what stands below it counts as not retrieved. All ranks when None.
    """
    ranks = max(table["rank"].nunique() for table in shifts.values()) - 1
    depth = ranks if depth is None else min(depth, ranks)
    labels = [*map(str, range(1, depth + 1)), NOT_RETRIEVED]
    # The last bar stands apart: it is no rank.
    y = np.append(np.arange(depth), depth + 0.6)
    with plt.rc_context(STYLE):
        figure, axes = panels(len(shifts), height=max(2.6, 1.4 + 0.19 * depth), sharex=True, sharey=True)
        reach, several = 1, False
        for axis, (system, table) in zip(axes, shifts.items()):
            label = table["rank"].where(table["rank"].isin(labels), NOT_RETRIEVED)
            seed = table["seed"] if "seed" in table else np.zeros(len(table))
            by_seed = table["change"].groupby([label, seed], dropna=False).sum().unstack().loc[labels]
            change = by_seed.mean(axis=1).to_numpy()
            bars = axis.barh(y, change, color=np.where(change > 0, GAIN, LOSS), height=0.75)
            bars[-1].set_alpha(0.5)
            if by_seed.shape[1] > 1:
                several = True
                axis.scatter(by_seed, np.repeat(y[:, None], by_seed.shape[1], 1), s=7, color="black", zorder=3, lw=0)
            reach = max(reach, by_seed.abs().to_numpy().max())
            axis.axvline(0, color="black", linewidth=0.6)
            axis.set(title=LABELS[system], xlabel=f"relevant passages, against {LABELS[baseline]}")
            axis.grid(visible=False, axis="y")
        named = [n for n in range(depth + 1) if depth <= 20 or n in (0, depth) or (n + 1) % 5 == 0]
        axes[0].set_yticks(y[named], [labels[n] for n in named])
        axes[0].set(xlim=(-1.08 * reach, 1.08 * reach), ylim=(depth + 1.2, -0.6))
        axes[0].xaxis.set_major_locator(plt.MaxNLocator(5, integer=True))
        for axis in axes[:: columns_of(len(shifts))]:
            axis.set_ylabel("rank")
        if several:
            dot = plt.Line2D([], [], color="black", marker="o", markersize=3, linewidth=0, label="one seed")
            bar = plt.Rectangle((0, 0), 1, 1, color=GAIN, label="mean of the seeds")
            figure.legend(handles=[bar, dot], loc="outside lower left", ncols=2, fontsize=9)
        suptitle(figure, title)
    return figure


def categories(
    table: pd.DataFrame,
    baseline: str,
    measure: str,
    title: str = "Which kinds of queries profit?",
) -> Figure:
    """Table 5 as dots: each system's mean within a category, and its difference to the baseline with the 95% interval
    and the mark of significance.

    Args:
        table: what `comparison.by_category` returns, systems by name.
        baseline: the system they were tested against.
        measure: the one that was compared.
    """
    with plt.rc_context(STYLE):
        names = list(table["category"].unique())
        systems = list(table["system"].unique())
        height = 1.5 + len(names) * max(0.5, 0.17 * len(systems))
        figure, (left, right) = new_figure(1, 2, figsize=(8.5, height), sharey=True)
        reach = min(0.33, 0.11 * (len(systems) - 1))
        offsets = dict(zip(systems, np.linspace(-reach, reach, len(systems))))
        for system, rows in table.groupby("system", sort=False):
            y = rows["category"].map(names.index) + offsets[system]
            colour = SYSTEM_COLOURS[system]
            left.scatter(rows["mean"], y, s=26, color=colour, label=LABELS[system], zorder=3)
            if system == baseline:
                continue
            right.hlines(y, rows["low"], rows["high"], color=colour, linewidth=1.2)
            right.scatter(rows["difference"], y, s=20, color=colour, zorder=3)
            for x, at, mark in zip(rows["high"], y, rows["mark"]):
                if mark:
                    right.annotate(mark, (x, at), (3, 0), textcoords="offset points", va="center", fontsize=9)
        right.axvline(0, color=SYSTEM_COLOURS[baseline], linewidth=1.2)
        sizes = table.drop_duplicates("category").set_index("category")
        heads = [f"{name}\n{sizes['queries'][name]:,} queries, {sizes['share'][name]:.0%}" for name in names]
        left.set_yticks(range(len(names)), heads)
        left.set(ylim=(len(names) - 0.5, -0.5), xlabel=f"mean {_written(measure)}", title="how well")
        right.set(xlabel=f"difference to {LABELS[baseline]}, 95% interval", title="how much better")
        for axis in (left, right):
            axis.grid(visible=False, axis="y")
            axis.xaxis.set_major_locator(plt.MaxNLocator(6, steps=[1, 2, 5, 10]))
            for edge in range(len(names) - 1):
                axis.axhline(edge + 0.5, color="#e6e6e6", linewidth=0.7)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(systems), 5))
        suptitle(figure, title)
    return figure


def effectiveness(
    table: pd.DataFrame, by_seed: pd.DataFrame, baseline: str, title: str = "What does re-ranking gain, and who gains most?"
) -> Figure:
    """Table 3 as a picture: a panel for each measure, in it a line from BM25's mean to each system's, and the mark of
    significance against the baseline.

    Args:
        table: what `comparison.compare` returns, systems by name, BM25 among them.
        by_seed: `measure, system, seed, mean`: a small dot for each seed.
        baseline: the system the others were tested against; its mean is the dashed line.
    """
    with plt.rc_context(STYLE):
        measures = list(table["measure"].unique())
        systems = list(table["system"].unique())
        columns = min(3, len(measures))
        rows = ceil(len(measures) / columns)
        figure, axes = new_figure(
            rows, columns, figsize=(3.2 * columns, rows * (0.9 + 0.23 * len(systems))), sharey=True, squeeze=False
        )
        y = np.arange(len(systems))
        for axis, measure in zip(axes.flat, measures):
            rows_of = table[table["measure"] == measure].set_index("system").loc[systems]
            start = rows_of["mean"].get(FIRST_STAGE, 0.0)
            colours = [SYSTEM_COLOURS[system] for system in systems]
            axis.axvline(rows_of["mean"][baseline], color=SYSTEM_COLOURS[baseline], linewidth=0.8, linestyle="--")
            axis.hlines(y, start, rows_of["mean"], color=colours, linewidth=1.6)
            axis.scatter(rows_of["mean"], y, color=colours, s=34, zorder=3)
            seeds = by_seed[by_seed["measure"] == measure]
            if seeds["seed"].nunique() > 1:
                axis.scatter(seeds["mean"], seeds["system"].map(systems.index), color="black", s=6, zorder=4, linewidth=0)
            for place, (mean, mark) in enumerate(zip(rows_of["mean"], rows_of["mark"])):
                axis.annotate(f"{mean:.3f} {mark}", (1.03, place), xycoords=("axes fraction", "data"), va="center",
                              fontsize=8.5)  # fmt: skip
            axis.margins(x=0.08)
            axis.set(title=_written(measure), ylim=(len(systems) - 0.4, -0.6))
            axis.xaxis.set_major_locator(plt.MaxNLocator(4, steps=[1, 2, 5, 10]))
            axis.tick_params(axis="y", length=0)
            axis.grid(visible=False, axis="y")
        axes[0, 0].set_yticks(y, [LABELS[system] for system in systems])
        for axis in list(axes.flat)[len(measures):]:
            axis.remove()
        suptitle(figure, title)
    return figure


def differences(
    table: pd.DataFrame, baseline: str, measures: Sequence[str], title: str = "Which differences would hold on other queries?"
) -> Figure:
    """Section 6.4: each system's difference to the baseline with its 95% interval, a panel for each measure.

    table: what `comparison.compare` returns, systems by name. measures: which of its measures to draw.
    """
    with plt.rc_context(STYLE):
        systems = [system for system in table["system"].unique() if system != baseline]
        y = np.arange(len(systems))
        figure, axes = new_figure(
            1, len(measures), figsize=(4.2 * len(measures), 1.3 + 0.27 * len(systems)), sharey=True, squeeze=False
        )
        for axis, measure in zip(axes.flat, measures):
            rows = table[table["measure"] == measure].set_index("system").loc[systems]
            colours = [SYSTEM_COLOURS[system] for system in systems]
            axis.hlines(y, rows["low"], rows["high"], color=colours, linewidth=2)
            axis.scatter(rows["difference"], y, color=colours, s=30, zorder=3)
            for place, (high, mark) in enumerate(zip(rows["high"], rows["mark"])):
                axis.annotate(mark, (high, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
            axis.axvline(0, color="black", linewidth=0.8)
            axis.set(title=_written(measure), xlabel=f"difference to {LABELS[baseline]}, 95% interval")
            axis.set(ylim=(len(systems) - 0.4, -0.6))
            axis.margins(x=0.08)
            axis.xaxis.set_major_locator(plt.MaxNLocator(6, steps=[1, 2, 5, 10]))
            axis.tick_params(axis="y", length=0)
            axis.grid(visible=False, axis="y")
        axes[0, 0].set_yticks(y, [LABELS[system] for system in systems])
        suptitle(figure, title)
    return figure


def new_figure(*args, **kwargs) -> tuple[Figure, plt.Axes | np.ndarray]:
    """`plt.subplots`, with the figure taken out of pyplot's hands: it is shown where it is returned and only there,
    and it is gone when nobody holds it any more."""
    figure, axes = plt.subplots(*args, **kwargs)
    plt.close(figure)
    return figure, axes


def columns_of(panels: int) -> int:
    """Panels side by side: at most five, and rows of like length."""
    return ceil(panels / ceil(panels / 5))


def panels(count: int, height: float = 2.7, **shared: bool) -> tuple[Figure, list]:
    """A figure with so many panels, in rows; the axes in reading order. Shared axes keep their labels."""
    columns = columns_of(count)
    rows = ceil(count / columns)
    width = 6.4 if columns == 1 else 2.9
    figure, axes = new_figure(rows, columns, figsize=(width * columns, height * rows), squeeze=False, **shared)
    axes = list(axes.flat)
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[:count]:
        axis.tick_params(labelbottom=True)
    return figure, axes[:count]


def suptitle(figure: Figure, title: str) -> None:
    """A title at the left, in as many lines as the figure's width asks for (about 11 characters an inch)."""
    lines = [part for line in title.split("\n") for part in textwrap.wrap(line, int(11.4 * figure.get_figwidth())) or [""]]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=12)


def _written(measure: str) -> str:
    """A measure as the paper's tables write its mean over queries."""
    return PAPER_NAMES.get(measure, measure)
