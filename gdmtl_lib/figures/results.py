"""What systems reached, drawn: scores, effectiveness, differences with their intervals, costs."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gdmtl_lib.data.trec import of_judged_queries
from gdmtl_lib.evaluation import comparison
from gdmtl_lib.evaluation.comparison import MISSED, TIE, area_under_roc, is_tie
from gdmtl_lib.settings import check_count
from gdmtl_lib.systems import FIRST_STAGE, LABELS
from .style import (
    GAIN, LOSS, MOST_CATEGORIES, SAME, SYSTEM_COLOURS, beside, cut_off, difference_rows, drawn, first_stage_line, follow,
    label_points, legend_below, name_rows, near, new_figure, panels, signed, together, written,
)  # fmt: skip


@drawn("Do scores tell relevant passages from the others?")
def score_distributions(
    runs: Mapping[str, pd.DataFrame], qrels: pd.DataFrame, relevance_level: int = 1, bins: int = 40
) -> Figure:
    """Figure 8: how a system scores relevant passages and how it scores the others, a panel for each system; with
    several systems, the area under the ROC curve of all in a last panel. Each histogram adds up to 100%. Passages
    without a judgment count as not relevant; queries without judgments are left out.

    runs: `query_id, doc_id, score` by system. bins: over the scores of a panel; ValueError below 2.
    """
    if bins < 2:
        raise ValueError(f"bins: expected at least 2, found {bins!r}")
    areas = {system: area_under_roc(run, qrels, relevance_level) for system, run in runs.items()}
    relevant = qrels.loc[qrels["relevance"] >= relevance_level, ["query_id", "doc_id"]].assign(relevant=True)
    figure, axes = panels(len(runs) + (len(runs) > 1), most=4)
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
        _few_ticks(axis, 4)
        sns.move_legend(axis, "upper right", fontsize=8, handlelength=1.2)
    if len(runs) > 1:
        axis, rows, found = axes[-1], range(len(areas)), list(areas.values())
        axis.hlines(rows, 0.5, found, color="#bbbbbb", linewidth=1)
        axis.scatter(found, rows, color=[SYSTEM_COLOURS[system] for system in areas], zorder=3)
        name_rows(axis, [LABELS[system] for system in areas])
        axis.set(title="area under the ROC curve", xlabel="0.5: none told apart · 1: all")
        axis.set_xlim(min(0.5, *found) - 0.02, 1.02)
    return figure


@drawn("On how many queries does a system win, and on how many lose?")
def win_tie_loss(table: pd.DataFrame, measure: str) -> Figure:
    """Tables 4 and 7 as bars. table: what `comparison.win_tie_loss_table` returns."""
    figure, axis = new_figure(figsize=(7, 1.3 + 0.34 * len(table)))
    counts = table[["win", "tie", "loss"]]
    total = counts.sum(axis=1)
    counts.plot.barh(ax=axis, stacked=True, width=0.75, color=[GAIN, SAME, LOSS], legend=False)
    for bars, ink in zip(axis.containers, ("white", "black", "white")):
        texts = [f"{bar.get_width():,.0f}" if bar.get_width() > 0.03 * of else "" for bar, of in zip(bars, total)]
        axis.bar_label(bars, texts, label_type="center", color=ink, fontsize=9)
    name_rows(axis, _pairs(table))
    axis.set(xlim=(0, total.max()), xlabel=f"queries, by {written(measure)}")
    axis.grid(visible=False)
    axis.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), fontsize=9, handlelength=1)
    return figure


@drawn("Which queries gain, and how much do others lose?")
def query_deltas(
    deltas: Mapping[str, pd.DataFrame], baseline: str, measure: str, marked: int | None = None, tolerance: float = TIE
) -> Figure:
    """Figure 6: the difference a system makes on each query, the largest gain first, a panel for each system; grey is
    what counts as a tie.

    deltas: what `comparison.query_deltas` returns, by system. marked: the row of a query to point at.
    """
    figure, axes = panels(len(deltas), ylabel=f"{written(measure)} minus {LABELS[baseline]}'s", sharey=True)
    for system, table in deltas.items():
        if not {"baseline", "difference"} <= set(table):
            raise ValueError(
                f"{system}: expected what comparison.query_deltas(values_a, values_b, measure) returns, with the columns "
                f"baseline and difference, found {', '.join(map(str, table))}"
            )
    _sorted_deltas(axes, deltas.values(), tolerance)
    for axis, (system, table) in zip(axes, deltas.items()):
        axis.set_title(f"{LABELS[system]}: mean {signed(table['difference'].mean())}")
        if marked is not None:
            axis.plot(marked + 1, table["difference"].iloc[marked], "v", color="black", markersize=6)
    return figure


@drawn()
def pair(
    home: Mapping[str, pd.DataFrame], away: Mapping[str, pd.DataFrame], baseline: str, system: str, measure: str,
    splits: tuple[str, str],
) -> tuple[Figure, str]:  # fmt: skip
    """One system against another, query by query, at home and away: Figure 6 twice, with the mean of the differences
    and its 95% interval. home, away: per-query values by system. splits: what home and away are called."""
    figure, axes = panels(2, 3.3, 4.3, ylabel=f"{written(measure)} minus {LABELS[baseline]}'s", sharey=True)
    _sorted_deltas(axes, [comparison.query_deltas(values[baseline], values[system], measure) for values in (home, away)])
    for axis, values, split in zip(axes, (home, away), splits):
        test = comparison.compare({name: values[name] for name in (baseline, system)}, baseline, [measure]).iloc[-1]
        axis.axhspan(test["low"], test["high"], color="black", alpha=0.18, linewidth=0)
        axis.axhline(test["difference"], color="black", linewidth=1.2)
        interval = "" if np.isnan(test["low"]) else f" ±{(test['high'] - test['low']) / 2:.3f}"
        axis.set_title(f"{split}: mean {signed(test['difference'])}{interval}")
    return figure, f"Is {LABELS[system]} better than {LABELS[baseline]} in both places?"


@drawn("Where do relevant passages move?")
def rank_shifts(shifts: Mapping[str, pd.DataFrame], baseline: str, depth: int | None = None) -> Figure:
    """Figure 5: how many more (right) or fewer (left) relevant passages than the baseline a system puts at each rank,
    a panel for each system. With several seeds a bar is their mean, and each of them a dot.

    shifts: what `comparison.rank_shifts` returns, by system; those of several seeds under one another, told apart by a
    column `seed`. depth: the last rank with a bar of its own; all that every system has when None. What stands below it
    has one bar, what the first stage missed another.
    """
    check_count("depth", depth, may_lack=True)
    ranks = min((table["rank"].nunique() for table in shifts.values()), default=2) - 2
    depth = ranks if depth is None else min(depth, ranks)
    labels = [*map(str, range(1, depth + 1)), f"below rank {depth}", MISSED]
    y = np.append(np.arange(depth), (depth + 0.6, depth + 2.1))  # the last bars stand apart: they are no ranks
    figure, axes = panels(len(shifts), max(2.8, 1.6 + 0.19 * depth), ylabel="rank", sharex=True, sharey=True)
    by_system = {}
    for system, table in shifts.items():
        label = table["rank"].where(table["rank"].isin(labels), labels[-2])
        seed = table["seed"] if "seed" in table else np.zeros(len(table))
        by_system[system] = table["change"].groupby([label, seed], dropna=False).sum().unstack().loc[labels]
    reach = 1.08 * (together([by_seed.abs().to_numpy().max() for by_seed in by_system.values()]) or 1)
    axes[0].set(xlim=(-reach, reach), ylim=(depth + 2.8, -0.6))
    for axis, (system, by_seed) in zip(axes, by_system.items()):
        change = by_seed.mean(axis=1).to_numpy()
        for bar in axis.barh(y, change, color=np.where(change > 0, GAIN, LOSS), height=0.75)[-2:]:
            bar.set_alpha(0.5)
        if by_seed.shape[1] > 1:
            axis.scatter(by_seed, np.repeat(y[:, None], by_seed.shape[1], 1), s=7, color="black", zorder=3, lw=0)
        for place, value in zip(y, change):
            if abs(value) > reach:  # a bar that is cut says how long it is
                cut_off(axis, place, value, signed(value, 0), "white" if place < depth else "black", bbox=None)
        missed = shifts[system].loc[shifts[system]["rank"] == MISSED]
        if "baseline" in missed and not missed["change"].any():  # both re-rank the same candidates
            axis.text(0.03 * reach, y[-1], f"{missed['baseline'].mean():,.0f} in both", va="center", fontsize=8)
        axis.axvline(0, color="black", linewidth=0.6)
        axis.set(title=LABELS[system], xlabel=f"relevant passages, against {LABELS[baseline]}")
        axis.grid(visible=False, axis="y")
    named = [n for n in range(depth + 2) if depth <= 20 or n in (0, depth, depth + 1) or (n + 1) % 5 == 0]
    axes[0].set_yticks(y[named], [labels[n].replace("missed by", "missed by\n") for n in named])
    axes[0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if any(by_seed.shape[1] > 1 for by_seed in by_system.values()):
        dot = Line2D([], [], color="black", marker="o", markersize=3, linewidth=0, label="one seed")
        legend_below(figure, [Patch(color=GAIN, label="mean of the seeds"), dot])
    return figure


@drawn("Which kinds of queries profit?")
def categories(table: pd.DataFrame, baseline: str, measure: str) -> Figure | tuple[Figure, str]:
    """Table 5 as dots: each system's mean within a category, and its difference to the baseline with the 95% interval
    and the mark of significance. table: what `comparison.by_category` returns, of one measure; of very many
    categories the largest are drawn."""
    every, systems = list(table["category"].unique()), list(table["system"].unique())
    names = every[:MOST_CATEGORIES]
    table = table[table["category"].isin(names)]
    height = 1.5 + len(names) * max(0.5, 0.12 * len(systems))
    figure, (left, right) = new_figure(1, 2, figsize=(8.5, height), sharey=True)
    reach = min(0.41, 0.11 * (len(systems) - 1))
    offsets = dict(zip(systems, np.linspace(-reach, reach, len(systems))))
    y = table["category"].map(names.index) + table["system"].map(offsets)
    usual = dict(zip(systems, near([table["mean"][table["system"] == system].mean() for system in systems])))
    usual = table["system"].map(usual)
    for number, system in enumerate(systems):
        of, colour = table["system"] == system, SYSTEM_COLOURS[system]
        marker = "osD^v"[[SYSTEM_COLOURS[other] for other in systems[:number]].count(colour) % 5]  # colours come again
        left.scatter(table["mean"][of], y[of], s=26, color=colour, marker=marker, label=LABELS[system], zorder=3)
    follow(left, table["mean"], [SYSTEM_COLOURS[system] for system in table["system"]], rows=y, usual=usual)
    others = table["system"] != baseline
    if others.any():
        difference_rows(right, table[others], f"to {LABELS[baseline]}", y[others], size=20, usual=usual[others])
    sizes = table.drop_duplicates("category").set_index("category")
    name_rows(left, [f"{name}\n{sizes['queries'][name]:,} queries, {sizes['share'][name]:.0%}" for name in names])
    left.set(ylim=(len(names) - 0.5, -0.5), xlabel=written(measure), title="how well")
    right.set(title="how much better", xlabel=f"difference to {LABELS[baseline]}, 95% interval")
    for axis in (left, right):
        axis.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)  # the lines between categories
        axis.grid(visible=False, axis="y", which="major")
        axis.grid(axis="y", which="minor")
        axis.tick_params(axis="y", which="both", length=0)
        _few_ticks(axis, 6)
    legend_below(figure)
    return figure if every == names else (figure, f"The largest {len(names)} of {len(every):,}")


@drawn("What does re-ranking gain, and who gains most?")
def effectiveness(table: pd.DataFrame, baseline: str, by_seed: pd.DataFrame | None = None) -> Figure:
    """Table 3 as a picture: a panel for each measure, in it a line from BM25's mean to each system's, and the mark of
    significance against the baseline, whose mean is the dashed line.

    table: what `comparison.compare` returns; without a BM25 among its systems, lines begin at the baseline. by_seed:
    `measure, system, seed, mean`, of trainings: a small dot for each seed.
    """
    by_seed = pd.DataFrame(columns=["measure", "system", "seed", "mean"], dtype=float) if by_seed is None else by_seed
    measures, systems = list(table["measure"].unique()), list(table["system"].unique())
    figure, axes = panels(len(measures), 0.9 + 0.23 * len(systems), 3.2, most=3, sharey=True)
    colours = [SYSTEM_COLOURS[system] for system in systems]
    for axis, measure in zip(axes, measures):
        rows = table[table["measure"] == measure].set_index("system").loc[systems]
        axis.axvline(rows["mean"][baseline], color=SYSTEM_COLOURS[baseline], linewidth=0.8, linestyle="--", label=LABELS[baseline])
        axis.hlines(range(len(systems)), rows["mean"].get(FIRST_STAGE, rows["mean"][baseline]), rows["mean"], color=colours, linewidth=1.6)
        axis.scatter(rows["mean"], range(len(systems)), color=colours, s=34, zorder=3)
        seeds = by_seed[by_seed["measure"] == measure]
        if seeds["seed"].nunique() > 1:
            at = seeds["mean"], seeds["system"].map(systems.index)
            axis.scatter(*at, color="black", s=6, zorder=4, linewidth=0, label="one seed")
        beside(axis, [f"{mean:.3f} {mark}" for mean, mark in zip(rows["mean"], rows["mark"])], fontsize=8.5)
        ends = pd.concat([seeds, rows.reset_index()]).groupby("system")["mean"].agg(["min", "max"]).loc[systems]
        follow(axis, rows["mean"], colours, ends["min"], ends["max"])
        axis.set_title(written(measure))
        _few_ticks(axis, 4)
        name_rows(axis, [LABELS[system] for system in systems])
    legend_below(figure)
    return figure


@drawn("Which differences would hold on other queries?")
def differences(table: pd.DataFrame, baseline: str, measures: Sequence[str]) -> Figure:
    """Section 6.4: each system's difference to the baseline with its 95% interval, a panel for each of some measures.
    table: what `comparison.compare` returns."""
    systems = [system for system in table["system"].unique() if system != baseline]
    if not systems:
        raise ValueError(f"differences: expected a system beside {baseline!r} in the table, found none")
    figure, axes = panels(len(measures), 1.3 + 0.27 * len(systems), 4.2, sharey=True)
    for axis, measure in zip(axes, measures):
        rows = table[table["measure"] == measure].set_index("system", drop=False).loc[systems]
        difference_rows(axis, rows, f"to {LABELS[baseline]}")
        axis.set_title(written(measure))
        _few_ticks(axis, 6)
        name_rows(axis, [LABELS[system] for system in systems])
    return figure


@drawn("Could passages that nobody judged undo the gains?")
def judgment_holes(table: pd.DataFrame, baseline: str) -> Figure:
    """Each system's gain in RBP with its 95% interval, and as a band how far unjudged passages could move it. table: what
    `comparison.judgment_holes` returns."""
    figure, axis = new_figure(figsize=(7.2, 1.4 + 0.3 * len(table)))
    band = dict(linewidth=9, color="#dddddd", zorder=0, label="all that unjudged passages allow")
    axis.hlines(range(len(table)), table["least"], table["most"], **band)
    ends = table[["least", "most", "low", "high"]].to_numpy().ravel()
    difference_rows(axis, table, f"to {LABELS[baseline]} in {written(table['measure'].iloc[0])}", include=ends[~np.isnan(ends)])
    name_rows(axis, [LABELS[system] for system in table["system"]])
    legend_below(figure)
    return figure


@drawn("Which architecture is better, and is it sure?")
def pair_intervals(table: pd.DataFrame, measure: str) -> Figure:
    """Section 6.4: the difference of every pair of systems with its 95% interval.

    table: what `comparison.compare_pairs` returns; where it has `low (paper)` and `high (paper)`, the paper's interval
    stands beside, grey.
    """
    rows = table[table["measure"] == measure].reset_index(drop=True)
    figure, axis = new_figure(figsize=(7.2, 1.2 + 0.27 * len(rows)))
    means = dict(zip(rows["baseline"], rows["mean"] - rows["difference"])) | dict(zip(rows["system"], rows["mean"]))
    usual = dict(zip(means, near(list(means.values()))))  # a pair of one at chance does not decide how the others are seen
    difference_rows(axis, rows, f"in {written(measure)}", usual=rows["baseline"].map(usual) & rows["system"].map(usual))
    if "low (paper)" in rows:
        ends = rows["low (paper)"], rows["high (paper)"]
        axis.hlines(rows.index + 0.28, *ends, color="#999999", linewidth=2, label="the paper's interval")
    name_rows(axis, _pairs(rows))
    legend_below(figure)
    return figure


@drawn("What does generating bring the ranking?")
def twins(table: pd.DataFrame, measure: str = "RR@10", reported: Mapping[str, float] | None = None) -> Figure:
    """Every multi-task system against its single-task twin: the difference with its 95% interval and mark, each seed a
    small dot, the paper's gains as diamonds beside.

    table: what `comparison.twins` returns; of several collections under one another, told apart by a column
    `collection`. reported: what `paper.twin_gains` returns, the paper's gain by system.
    """
    figure, axis = new_figure(figsize=(7.6, 1.5 + 0.42 * len(table)))
    known = [(reported[name], row - 0.22) for row, name in enumerate(table["system"]) if name in (reported or {})]
    difference_rows(axis, table, f"in {written(measure)}", include=[gain for gain, _ in known], below=0.22)
    if known:
        style = dict(marker="D", s=24, facecolor="white", edgecolor="black", linewidth=0.9, zorder=3)
        axis.scatter(*zip(*known), label="the paper, MS MARCO", **style)
    places = table["collection"].map("\n{}".format) if "collection" in table else [""] * len(table)
    names = [name + place for name, place in zip(_pairs(table.rename(columns={"twin": "baseline"})), places)]
    name_rows(axis, names, fontsize=9)
    legend_below(figure)
    return figure


@drawn("What does effectiveness cost?")
def cost(table: pd.DataFrame, measure: str, first_stage: float | None = None) -> Figure:
    """RQ2's other half: each system's mean against the arithmetic of ranking a pair, and of its training where that is
    known. Times are not drawn: they depend on what else the machine did. The area of a dot is the number of parameters
    that rank; every dot stands where its numbers are, and a line leads to its name.

    table: `system, mean, low, high` (the mean's 95% interval), `gflops, ranking_parameters` and, if it is known,
    `training_tflops`. first_stage: BM25's mean, which costs neither.
    """
    shown = {"gflops": "ranking a pair, GFLOPs", "training_tflops": "training, TFLOPs"}
    shown = {column: label for column, label in shown.items() if column in table and table[column].notna().any()}
    figure, axes = panels(len(shown), 4.2, 5.25, ylabel=written(measure), sharey=True)
    area = (130 * table["ranking_parameters"] / table["ranking_parameters"].max()).astype(float)
    colours, mean = [SYSTEM_COLOURS[system] for system in table["system"]], table["mean"].to_numpy(dtype=float)
    is_near = near(mean)
    said = [
        LABELS[system] if known else f"{'▾' if at < np.median(mean) else '▴'} {LABELS[system]} ({at:.3f})"
        for system, at, known in zip(table["system"], mean, is_near)
    ]
    values = [*table["low"][is_near], *table["high"][is_near], *([] if first_stage is None else [first_stage])]
    margin = 0.08 * (np.nanmax(values) - np.nanmin(values) or 0.1)
    axes[0].set_ylim(np.nanmin(values) - margin, np.nanmax(values) + margin)
    for axis, (column, label) in zip(axes, shown.items()):
        x = table[column].to_numpy(dtype=float)
        axis.vlines(x, table["low"], table["high"], color=colours, linewidth=1.2, alpha=0.7)
        axis.scatter(x, mean, s=area, color=colours, zorder=3, edgecolor="white", linewidth=0.8)
        if first_stage is not None:
            first_stage_line(axis, first_stage)
            at = dict(xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8.5)
            axis.annotate("BM25", (0.01, first_stage), (0, 3), color=SYSTEM_COLOURS[FIRST_STAGE], **at)
        span = float(np.nanmax(x) - np.nanmin(x)) or float(np.nanmax(x)) or 1.0
        axis.set(xlim=(np.nanmin(x) - 0.12 * span, np.nanmax(x) + (0.3 if is_near.all() else 0.4) * span), xlabel=label)
        label_points(axis, x, mean, said, colours)
    return figure


def _few_ticks(axis: Axes, most: int) -> None:
    axis.xaxis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))


def _pairs(table: pd.DataFrame) -> list[str]:
    return [f"{LABELS[row.system]} against {LABELS[row.baseline]}" for row in table.itertuples()]


def _sorted_deltas(axes: Sequence[Axes], tables: Collection[pd.DataFrame], tolerance: float = TIE) -> None:
    """The panels of Figure 6, with one scale. tables: what `comparison.query_deltas` returns."""
    reach = 1.02 * max(1, *(table["difference"].abs().max() for table in tables))  # of a count a difference is more than 1
    for axis, table in zip(axes, tables):
        difference = table["difference"].to_numpy()
        tie = is_tie(table["difference"], table["baseline"], tolerance).to_numpy()
        gain, loss = ~tie & (difference > 0), ~tie & (difference < 0)
        for some, word, fill, ink, y in (
            (gain, "gain", GAIN, GAIN, 0.95), (tie, "tie", SAME, "#767676", 0.84), (loss, "lose", LOSS, LOSS, 0.73)
        ):  # fmt: skip
            x = np.arange(1, len(difference) + 1)
            axis.fill_between(x, np.where(some, difference, 0), step="mid", color=fill, linewidth=0)
            axis.text(0.97, y, f"{some.sum():,} {word}", color=ink, transform=axis.transAxes, ha="right", va="top")
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(ylim=(-reach, reach), xlabel="queries, sorted")
        axis.margins(x=0.01)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
