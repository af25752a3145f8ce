"""What systems reached, drawn: scores, effectiveness, differences with their intervals, costs."""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gdmtl_lib.data.trec import of_judged_queries
from gdmtl_lib.evaluation.comparison import MISSED, TIE, area_under_roc, is_tie
from gdmtl_lib.systems import FIRST_STAGE, LABELS
from .style import (
    GAIN, LOSS, SAME, SYSTEM_COLOURS, beside, columns_of, cut_off, follow, intervals, label_points, name_rows, new_figure,
    panels, signed, stacked_bars, styled, suptitle, together, written,
)  # fmt: skip


@styled
def score_distributions(
    runs: Mapping[str, pd.DataFrame], qrels: pd.DataFrame, relevance_level: int = 1, bins: int = 40,
    title: str = "Do scores tell relevant passages from the others?",
) -> Figure:  # fmt: skip
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
    figure, axes = panels(len(runs) + (len(runs) > 1))
    for axis, (system, run) in zip(axes, runs.items()):
        labelled = of_judged_queries(run, qrels).merge(relevant, "left", ["query_id", "doc_id"])
        is_relevant = labelled["relevant"].notna()
        names = [f"others ({(~is_relevant).sum():,})", f"relevant ({is_relevant.sum():,})"]
        sns.histplot(
            x=labelled["score"], hue=np.where(is_relevant, *names[::-1]), hue_order=names, palette=(LOSS, GAIN),
            bins=bins, stat="percent", common_norm=False, alpha=0.45, linewidth=0, ax=axis,
        )  # fmt: skip
        axis.set(title=f"{LABELS[system]} · area {areas[system]:.3f}", xlabel="score", ylabel="passages, %")
        axis.set_ylim(0, axis.get_ylim()[1] * 1.3)
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        sns.move_legend(axis, "upper right", fontsize=8, handlelength=1.2)
    if len(runs) > 1:
        axis, rows = axes[-1], range(len(areas))
        axis.hlines(rows, 0.5, list(areas.values()), color="#bbbbbb", linewidth=1)
        axis.scatter(list(areas.values()), rows, color=[SYSTEM_COLOURS[system] for system in areas], zorder=3)
        name_rows(axis, [LABELS[system] for system in areas])
        axis.set(title="area under the ROC curve", xlabel="0.5: none told apart · 1: all")
        axis.set_xlim(min(0.5, *areas.values()) - 0.02, 1.02)
    return suptitle(figure, title)


@styled
def win_tie_loss(
    table: pd.DataFrame, measure: str, title: str = "On how many queries does a system win, and on how many lose?"
) -> Figure:
    """Tables 4 and 7 as bars: the queries on which a system wins, ties and loses against an earlier one.

    table: `baseline, system, win, tie, loss` by system name, as `comparison.win_tie_loss_table` returns it.
    """
    figure, axis = new_figure(figsize=(7, 1.3 + 0.34 * len(table)))
    counts = table[["win", "tie", "loss"]]
    total = counts.sum(axis=1)
    stacked_bars(axis, counts, (GAIN, SAME, LOSS), 0.75)
    for bars, ink in zip(axis.containers, ("white", "black", "white")):
        texts = [f"{bar.get_width():,.0f}" if bar.get_width() > 0.03 * of else "" for bar, of in zip(bars, total)]
        axis.bar_label(bars, texts, label_type="center", color=ink, fontsize=9)
    name_rows(axis, [f"{LABELS[row.system]} against {LABELS[row.baseline]}" for row in table.itertuples()])
    axis.set(xlim=(0, total.max()), xlabel=f"queries, by {written(measure)}")
    axis.grid(visible=False)
    axis.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), fontsize=9, handlelength=1)
    return suptitle(figure, title)


@styled
def query_deltas(
    deltas: Mapping[str, pd.DataFrame],
    baseline: str,
    measure: str,
    title: str = "Which queries gain, and how much do others lose?",
    marked: int | None = None,
    tolerance: float = TIE,
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
    figure, axes = panels(len(deltas), sharey=True)
    for axis, (system, table) in zip(axes, deltas.items()):
        difference = table["difference"].to_numpy()
        tie = is_tie(table["difference"], table["baseline"], tolerance).to_numpy()
        x = np.arange(1, len(difference) + 1)
        gain, loss = ~tie & (difference > 0), ~tie & (difference < 0)
        for some, colour in ((gain, GAIN), (tie, SAME), (loss, LOSS)):
            axis.fill_between(x, np.where(some, difference, 0), step="mid", color=colour, linewidth=0)
        axis.axhline(0, color="black", linewidth=0.6)
        counts = ((gain, "gain", GAIN, 0.95), (tie, "tie", "#767676", 0.84), (loss, "lose", LOSS, 0.73))
        for some, word, colour, y in counts:
            axis.text(0.97, y, f"{some.sum():,} {word}", color=colour, transform=axis.transAxes, ha="right", va="top")
        axis.set(title=f"{LABELS[system]}: mean {signed(difference.mean())}", xlabel="queries, sorted")
        axis.margins(x=0.01)
        if marked is not None:
            axis.plot(marked + 1, difference[marked], "v", color="black", markersize=6)
    axes[0].set(ylim=(-1.02, 1.02))
    for axis in axes[:: columns_of(len(deltas))]:
        axis.set_ylabel(f"{written(measure)} minus {LABELS[baseline]}'s")
    return suptitle(figure, title)


@styled
def rank_shifts(
    shifts: Mapping[str, pd.DataFrame], baseline: str, depth: int | None = None,
    title: str = "Where do relevant passages move?",
) -> Figure:  # fmt: skip
    """Figure 5: how many more (right) or fewer (left) relevant passages than the baseline a system puts at each rank,
    a panel for each system. With several seeds a bar is their mean, and each of them a dot.

    Args:
        shifts: what `comparison.rank_shifts` returns, by system name; those of several seeds under one another, told
            apart by a column `seed`.
        baseline: the system they are compared with.
        depth: the last rank with a bar of its own; all that there are when None. What stands below it has one bar, what
            the first stage missed another.
    """
    ranks = max(table["rank"].nunique() for table in shifts.values()) - 2
    depth = ranks if depth is None else min(depth, ranks)
    labels = [*map(str, range(1, depth + 1)), f"below rank {depth}", MISSED]
    y = np.append(np.arange(depth), (depth + 0.6, depth + 2.1))  # the last bars stand apart: they are no ranks
    figure, axes = panels(len(shifts), height=max(2.8, 1.6 + 0.19 * depth), sharex=True, sharey=True)
    drawn = {}
    for system, table in shifts.items():
        label = table["rank"].where(table["rank"].isin(labels), labels[-2])
        seed = table["seed"] if "seed" in table else np.zeros(len(table))
        drawn[system] = table["change"].groupby([label, seed], dropna=False).sum().unstack().loc[labels]
    several = max(by_seed.shape[1] for by_seed in drawn.values()) > 1
    reach = together([by_seed.abs().to_numpy().max() for by_seed in drawn.values()]) or 1
    for axis, (system, by_seed) in zip(axes, drawn.items()):
        change = by_seed.mean(axis=1).to_numpy()
        for bar in axis.barh(y, change, color=np.where(change > 0, GAIN, LOSS), height=0.75)[-2:]:
            bar.set_alpha(0.5)
        if by_seed.shape[1] > 1:
            axis.scatter(by_seed, np.repeat(y[:, None], by_seed.shape[1], 1), s=7, color="black", zorder=3, lw=0)
        for place, value in zip(y, change):
            if abs(value) > 1.08 * reach:  # a bar that is cut says how long it is
                cut_off(axis, place, value, -1.08 * reach, 1.08 * reach, f"{value:+.0f}", "white")
        missed = shifts[system].loc[shifts[system]["rank"] == MISSED]
        if "baseline" in missed and not missed["change"].any():  # both re-rank the same candidates
            axis.text(0.03 * reach, y[-1], f"{missed['baseline'].mean():,.0f} in both", va="center", fontsize=8)
        axis.axvline(0, color="black", linewidth=0.6)
        axis.set(title=LABELS[system], xlabel=f"relevant passages, against {LABELS[baseline]}")
        axis.grid(visible=False, axis="y")
    named = [n for n in range(depth + 2) if depth <= 20 or n in (0, depth, depth + 1) or (n + 1) % 5 == 0]
    axes[0].set_yticks(y[named], [labels[n].replace("missed by", "missed by\n") for n in named])
    axes[0].set(xlim=(-1.08 * reach, 1.08 * reach), ylim=(depth + 2.8, -0.6))
    axes[0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axis in axes[:: columns_of(len(shifts))]:
        axis.set_ylabel("rank")
    if several:
        dot = Line2D([], [], color="black", marker="o", markersize=3, linewidth=0, label="one seed")
        bar = Patch(color=GAIN, label="mean of the seeds")
        figure.legend(handles=[bar, dot], loc="outside lower left", ncols=2, fontsize=9)
    return suptitle(figure, title)


@styled
def categories(
    table: pd.DataFrame, baseline: str, measure: str, title: str = "Which kinds of queries profit?"
) -> Figure:
    """Table 5 as dots: each system's mean within a category, and its difference to the baseline with the 95% interval
    and the mark of significance.

    Args:
        table: what `comparison.by_category` returns, systems by name.
        baseline: the system they were tested against.
        measure: the one that was compared.
    """
    names, systems = list(table["category"].unique()), list(table["system"].unique())
    height = 1.5 + len(names) * max(0.5, 0.17 * len(systems))
    figure, (left, right) = new_figure(1, 2, figsize=(8.5, height), sharey=True)
    reach = min(0.33, 0.11 * (len(systems) - 1))
    placed = []
    for system, offset in zip(systems, np.linspace(-reach, reach, len(systems))):
        rows = table[table["system"] == system]
        y, colour = rows["category"].map(names.index) + offset, SYSTEM_COLOURS[system]
        left.scatter(rows["mean"], y, s=26, color=colour, label=LABELS[system], zorder=3)
        if system != baseline:
            intervals(right, rows["difference"], y, rows["low"], rows["high"], colour, rows["mark"], size=20)
        placed.append(rows.assign(y=y, colour=colour))
    placed = pd.concat(placed)
    follow(left, placed["mean"], placed["colour"].tolist(), rows=placed["y"])
    others = placed[placed["system"] != baseline]
    if len(others):
        follow(right, others["difference"], others["colour"].tolist(), others["low"], others["high"], [0], others["y"])
    right.axvline(0, color=SYSTEM_COLOURS[baseline], linewidth=1.2)
    sizes = table.drop_duplicates("category").set_index("category")
    name_rows(left, [f"{name}\n{sizes['queries'][name]:,} queries, {sizes['share'][name]:.0%}" for name in names])
    left.set(ylim=(len(names) - 0.5, -0.5), xlabel=f"mean {written(measure)}", title="how well")
    right.set(xlabel=f"difference to {LABELS[baseline]}, 95% interval", title="how much better")
    for axis in (left, right):
        axis.grid(visible=False, axis="y")
        axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        for edge in range(len(names) - 1):
            axis.axhline(edge + 0.5, color="#e6e6e6", linewidth=0.7)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(systems), 5))
    return suptitle(figure, title)


@styled
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
    measures, systems = list(table["measure"].unique()), list(table["system"].unique())
    columns = min(3, len(measures))
    lines = ceil(len(measures) / columns)
    size = (3.2 * columns, lines * (0.9 + 0.23 * len(systems)))
    figure, axes = new_figure(lines, columns, figsize=size, sharey=True, squeeze=False)
    colours = [SYSTEM_COLOURS[system] for system in systems]
    for axis, measure in zip(axes.flat, measures):
        rows = table[table["measure"] == measure].set_index("system").loc[systems]
        axis.axvline(rows["mean"][baseline], color=SYSTEM_COLOURS[baseline], linewidth=0.8, linestyle="--")
        axis.hlines(range(len(systems)), rows["mean"].get(FIRST_STAGE, 0.0), rows["mean"], color=colours, linewidth=1.6)
        axis.scatter(rows["mean"], range(len(systems)), color=colours, s=34, zorder=3)
        seeds = by_seed[by_seed["measure"] == measure]
        if seeds["seed"].nunique() > 1:
            axis.scatter(seeds["mean"], seeds["system"].map(systems.index), color="black", s=6, zorder=4, linewidth=0)
        beside(axis, [f"{mean:.3f} {mark}" for mean, mark in zip(rows["mean"], rows["mark"])], fontsize=8.5)
        ends = pd.concat([seeds, rows.reset_index()]).groupby("system")["mean"].agg(["min", "max"]).loc[systems]
        follow(axis, rows["mean"], colours, ends["min"], ends["max"])
        axis.set_title(written(measure))
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        name_rows(axis, [LABELS[system] for system in systems])
    for axis in axes.flat[len(measures) :]:
        axis.remove()
    return suptitle(figure, title)


@styled
def differences(
    table: pd.DataFrame, baseline: str, measures: Sequence[str], title: str = "Which differences would hold on other queries?"
) -> Figure:
    """Section 6.4: each system's difference to the baseline with its 95% interval, a panel for each measure.

    table: what `comparison.compare` returns, systems by name. measures: which of its measures to draw.
    """
    systems = [system for system in table["system"].unique() if system != baseline]
    size = (4.2 * len(measures), 1.3 + 0.27 * len(systems))
    figure, axes = new_figure(1, len(measures), figsize=size, sharey=True, squeeze=False)
    for axis, measure in zip(axes.flat, measures):
        rows = table[table["measure"] == measure].set_index("system").loc[systems]
        colours = [SYSTEM_COLOURS[system] for system in systems]
        intervals(axis, rows["difference"], range(len(systems)), rows["low"], rows["high"], colours, rows["mark"])
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(title=written(measure), xlabel=f"difference to {LABELS[baseline]}, 95% interval")
        follow(axis, rows["difference"], colours, rows["low"], rows["high"], include=[0])
        axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        name_rows(axis, [LABELS[system] for system in systems])
    return suptitle(figure, title)


@styled
def pair_intervals(
    table: pd.DataFrame, measure: str, title: str = "Which architecture is better, and is it sure?"
) -> Figure:
    """Section 6.4: the difference of every pair of systems with its 95% interval, and where the table has them the
    paper's intervals, grey, beside.

    Args:
        table: what `comparison.compare_pairs` returns, with `low (paper)` and `high (paper)` if those are known.
        measure: which of its measures to draw.
    """
    rows = table[table["measure"] == measure].reset_index(drop=True)
    figure, axis = new_figure(figsize=(7.2, 1.2 + 0.27 * len(rows)))
    colours = [SYSTEM_COLOURS[system] for system in rows["system"]]
    intervals(axis, rows["difference"], rows.index, rows["low"], rows["high"], colours, rows["mark"])
    if "low (paper)" in rows:
        axis.hlines(rows.index + 0.28, rows["low (paper)"], rows["high (paper)"], color="#999999", linewidth=2)
        axis.legend(handles=[Line2D([], [], color="#999999", linewidth=2, label="the paper's")], loc="lower right")
    axis.axvline(0, color="black", linewidth=0.8)
    follow(axis, rows["difference"], colours, rows["low"], rows["high"], include=[0])
    name_rows(axis, [f"{LABELS[row.system]} against {LABELS[row.baseline]}" for row in rows.itertuples()])
    axis.set_xlabel(f"difference in mean {written(measure)}, 95% interval")
    return suptitle(figure, title)


@styled
def cost(
    table: pd.DataFrame, measure: str, first_stage: float | None = None, title: str = "What does effectiveness cost?"
) -> Figure:
    """RQ2's other half: each system's mean against the arithmetic of ranking a pair, and of its training where that is
    known. Times are not drawn: they depend on what else the machine did. The area of a dot is the number of parameters
    that rank; every dot stands where its numbers are, and a line leads to its name.

    Args:
        table: `system, mean, low, high` (the mean's 95% interval), `gflops, ranking_parameters` and, if it is known,
            `training_tflops`.
        measure: the one `mean` is of.
        first_stage: BM25's mean, which costs neither: a dashed line.
    """
    shown = {"gflops": "ranking a pair, GFLOPs", "training_tflops": "training, TFLOPs"}
    shown = {column: label for column, label in shown.items() if column in table and table[column].notna().any()}
    figure, axes = new_figure(1, len(shown), figsize=(6.4 if len(shown) == 1 else 10.5, 4.2), sharey=True, squeeze=False)
    area = (130 * table["ranking_parameters"] / table["ranking_parameters"].max()).astype(float)
    colours, names = [SYSTEM_COLOURS[system] for system in table["system"]], [LABELS[system] for system in table["system"]]
    mean = table["mean"].to_numpy(dtype=float)
    near = np.abs(mean - np.median(mean)) <= together(np.abs(mean - np.median(mean)))
    values = [*table["low"][near], *table["high"][near], *([] if first_stage is None else [first_stage])]
    margin = 0.08 * (np.nanmax(values) - np.nanmin(values) or 0.1)
    axes[0, 0].set_ylim(np.nanmin(values) - margin, np.nanmax(values) + margin)
    low, high = axes[0, 0].get_ylim()
    for axis, (column, label) in zip(axes.flat, shown.items()):
        x = table[column].to_numpy(dtype=float)
        axis.vlines(x, table["low"], table["high"], color=colours, linewidth=1.2, alpha=0.7)
        axis.scatter(x, mean, s=area, color=colours, zorder=3, edgecolor="white", linewidth=0.8)
        if first_stage is not None:
            axis.axhline(first_stage, color=SYSTEM_COLOURS[FIRST_STAGE], linestyle="--", linewidth=1)
            at = dict(xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8.5)
            axis.annotate("BM25", (0.01, first_stage), (0, 3), color=SYSTEM_COLOURS[FIRST_STAGE], **at)
        span = float(np.nanmax(x) - np.nanmin(x)) or float(np.nanmax(x)) or 1.0
        axis.set(xlim=(np.nanmin(x) - 0.12 * span, np.nanmax(x) + 0.3 * span), xlabel=label)
        said = [name if known else f"{name} ({value:.3f})" for name, value, known in zip(names, mean, near)]
        label_points(axis, x, np.clip(mean, low, high), said, colours)
    axes[0, 0].set_ylabel(f"mean {written(measure)}")
    return suptitle(figure, title)
