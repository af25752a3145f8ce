"""The figures of trainings, of studies and of the generative half: what a training did, how much data, which weighting,
gains elsewhere, what a likelihood brings for its cost, and what written queries bring BM25."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import floor, log10

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gdmtl_lib.evaluation.tables import by_weighting
from gdmtl_lib.systems import FIRST_STAGE, LABELS, TASK_LABELS
from .style import (
    GAIN, LOSS, SYSTEM_COLOURS, TASK_COLOURS, beside, difference_rows, drawn, first_stage_line, legend_below, name_rows, new_figure, panels,
    signed, together, written,
)  # fmt: skip

_SIGMA = dict(title="uncertainty σ²", xlabel="optimiser step", ylabel="larger = less weight")
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_WAYS = {"likelihood": "#D55E00", "ranking head": "#0072B2", "joint": "#CC79A7"}
_CASCADE = "#009E73"


@drawn("Does it learn, and which task gets the weight?")
def training_curves(history: pd.DataFrame) -> Figure:
    """What a training did, step by step: the loss of every task, the uncertainty weights (Eq. 6) where they are
    learned, and the learning rate. history: what `train` returns."""
    tasks = [column.removesuffix("_loss") for column in history if column.endswith("_loss")]
    learned = [task for task in tasks if f"sigma2_{task}" in history]
    count = len(tasks) + bool(learned) + 1
    figure, axes = new_figure(1, count, figsize=(3.1 * count, 2.8))
    window = max(1, len(history) // 20)
    for axis, task in zip(axes, tasks):
        loss, colour = history[f"{task}_loss"], TASK_COLOURS[task]
        axis.plot(history["step"], loss, color=colour, alpha=0.25, linewidth=0.8)
        axis.plot(history["step"], loss.rolling(window, min_periods=1).mean(), color=colour, linewidth=1.8)
        axis.set(title=f"{TASK_LABELS[task]} loss", ylabel="hinge or cross-entropy" if task == "rank" else "nats a token")
    for task in learned:
        axes[-2].plot(history["step"], history[f"sigma2_{task}"], color=TASK_COLOURS[task], label=TASK_LABELS[task])
    axes[-1].plot(history["step"], history["learning_rate"], color="black")
    power = floor(log10(history["learning_rate"].max() or 1))
    axes[-1].yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate / 10**power:g}"))
    axes[-1].set(title=f"learning rate, × 10{str(power).translate(_RAISED)}")
    for axis in axes:
        lowest = axis.get_ylim()[0] if axis.dataLim.ymin < 0 else 0  # a loss of a user's own may be below 0
        axis.set(xlabel="optimiser step", ylim=(lowest, None))
        for start in history.groupby("epoch")["step"].min()[1:]:
            axis.axvline(start, color="#bbbbbb", linewidth=0.7, linestyle=":")
    if learned:
        _legend_above(axes[-2])
    return figure


@drawn("Does writing the query help more when there is little to learn from?")
def training_size(
    table: pd.DataFrame, by_seed: pd.DataFrame, queries: Mapping[float, int], first_stage: float, baseline: str, measure: str
) -> Figure:
    """Figure 7: effectiveness against the share of the training queries, a line for each system's mean over seeds and
    a dot for each seed; beside it the difference to the baseline with its 95% interval and the mark of significance.

    table: what `studies.training_size` returns. by_seed: `train_fraction, system, seed, mean` of the measure. queries: how
    many a share is. first_stage: BM25's mean.
    """
    shares, systems = sorted(table["share"].unique()), list(table["system"].unique())
    others = [system for system in systems if system != baseline]
    offsets = min(0.14, 0.6 / max(1, len(others))) * (np.arange(len(others)) - (len(others) - 1) / 2)
    count = 1 + bool(others)
    figure, axes = new_figure(1, count, figsize=(4.7 * count, 3.6), squeeze=False)
    left, *right = axes[0]
    first_stage_line(left, first_stage)
    for system in systems:
        of, seeds = (rows[rows["system"] == system] for rows in (table, by_seed))
        _line_and_seeds(left, of["share"], of["mean"], seeds["train_fraction"], seeds["mean"], system)
    left.set(ylabel=written(measure), title="how well")
    for axis in right:
        axis.axhline(0, color=SYSTEM_COLOURS[baseline], linewidth=1.2)
        for system, offset in zip(others, offsets):
            rows, colour = table[table["system"] == system], SYSTEM_COLOURS[system]
            x = rows["share"].map(shares.index) + offset  # side by side: the shares are names here
            axis.vlines(x, rows["low"], rows["high"], color=colour, linewidth=1.5)
            axis.scatter(x, rows["difference"], s=28, color=colour, zorder=3)
            for at, high, mark in zip(x, rows["high"], rows["mark"]):
                axis.annotate(mark, (at, high), (0, 3), textcoords="offset points", ha="center", fontsize=9)
        axis.set(ylabel=f"difference in {written(measure)}", title=f"how much better than {LABELS[baseline]}, 95% interval")
    if np.diff(shares).min(initial=np.inf) < 0.11 * max(shares):  # labels would stand on each other
        left.set(xscale="log", xlim=(min(shares) / 1.3, max(shares) * 1.3))
        left.minorticks_off()
    else:
        left.set_xlim(0, max(shares) * 1.06)
    for axis, at in zip(axes[0], (shares, range(len(shares)))):
        axis.set_xticks(at, [f"{100 * share:g}%\n{queries[share]:,}" for share in shares], fontsize=9)
        axis.set_xlabel("share of the training queries, and how many")
        axis.grid(visible=False, axis="x")
        axis.margins(y=0.12)
    legend_below(figure)
    return figure


@drawn("How fast does each learn to rank?")
def learning_curves(by_steps: pd.DataFrame, first_stage: float, measure: str) -> Figure:
    """Effectiveness on the validation queries against optimiser steps, a line for each system's mean over seeds and a dot
    for each seed. by_steps: what `studies.by_steps` returns, of one measure. first_stage: BM25's mean."""
    figure, axis = new_figure(figsize=(6.4, 3.6))
    first_stage_line(axis, first_stage)
    for system, of in by_steps.groupby("system", sort=False):
        means = of.groupby("steps")["value"].mean()
        _line_and_seeds(axis, means.index, means, of["steps"], of["value"], system)
    axis.set(xlabel="optimiser steps", ylabel=written(measure))
    axis.set_xlim(0)
    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    legend_below(figure)
    return figure


@drawn("How should the losses be weighted where there is little data?")
def loss_weighting(
    by_seed: pd.DataFrame, reference: pd.DataFrame, first_stage: float, sigmas: pd.DataFrame, measure: str
) -> Figure:
    """A row for each weighting of the losses: a dot for each seed, a bar for their mean; the system that learns to
    rank alone is the reference. Beside it, where weights are learned (Eq. 6), each task's uncertainty over the steps.

    by_seed: what `Study.means` returns of one system and one measure; reference: the same of the system that learns to
    rank alone. first_stage: BM25's mean. sigmas: what `studies.learned_sigmas` returns.
    """
    [system], [baseline] = (part["system"].unique() for part in (by_seed, reference))
    rows = [(f"{LABELS[baseline]},\nranking alone", reference["mean"], SYSTEM_COLOURS[baseline])]
    for weighting, steps, of in by_weighting(by_seed):
        rows.append((f"{weighting},\n{_warmed(steps)}", of["mean"], SYSTEM_COLOURS[system]))
    widths = [5.4, 4.0][: 1 + bool(len(sigmas))]
    size = (sum(widths), 1.7 + 0.46 * len(rows))
    figure, axes = new_figure(1, len(widths), figsize=size, squeeze=False, width_ratios=widths)
    left, *right = axes[0]
    first_stage_line(left, first_stage, along="y")
    style = dict(color=SYSTEM_COLOURS[baseline], linewidth=1, linestyle="--", label=f"{LABELS[baseline]}, mean")
    left.axvline(reference["mean"].mean(), **style)
    for y, (_, means, colour) in enumerate(rows):
        left.scatter(means, [y] * len(means), s=26, color=colour, alpha=0.6, linewidth=0, zorder=3)
        left.plot([means.mean()] * 2, [y - 0.28, y + 0.28], color=colour, linewidth=2.4, zorder=4)
    beside(left, [f"{means.mean():.3f}" for _, means, _ in rows], fontsize=9)
    name_rows(left, [label for label, *_ in rows], fontsize=9)
    left.set(xlabel=f"{written(measure)}, a dot a seed", title=f"{LABELS[system]}, by weighting of its losses")
    left.margins(x=0.06)
    styles = dict(zip(sorted(sigmas["steps"].unique()), cycle(("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1))))))
    for axis in right:
        groups = sigmas.assign(other=sigmas["task"] != "rank").groupby(["steps", "other", "task"])
        for (steps, _, task), of in groups:
            label = f"{TASK_LABELS[task]}, {_warmed(steps)}"
            axis.plot(of["step"], of["sigma2"], color=TASK_COLOURS[task], linestyle=styles[steps], label=label)
        axis.set_ylim(0)
        _legend_above(axis)
    legend_below(figure)
    return figure


@drawn("What does writing better cost the ranking?")
def ranking_against_generation(table: pd.DataFrame, measure: str) -> Figure:
    """A point for each weighting of the losses: how well it writes against how well it ranks, with the spread over seeds;
    dashed, what ranking alone reaches. table: what `studies.loss_weighting` returns; measure: its first."""
    column, loss = written(measure), f"{TASK_LABELS['query_generation']} loss"
    alone, both = table[table[loss].isna()], table[table[loss].notna()]
    figure, axis = new_figure(figsize=(6.4, 3.4))
    for (name, _), row in alone.iterrows():
        axis.axhline(row[column], color=SYSTEM_COLOURS["bert"], linewidth=1, linestyle="--", label=name)
    colours = sns.color_palette("colorblind", len(both))
    for ((weighting, steps), row), marker, colour in zip(both.iterrows(), cycle("osD^vP"), colours):
        label = f"{weighting}, {_warmed(int(steps))}"
        axis.errorbar(row[loss], row[column], row["spread"], fmt=marker, color=colour, markersize=7, label=label)
    axis.set(xlabel=f"{loss}, nats a token (left: writes better)", ylabel=column)
    legend_below(figure)
    return figure


@drawn("What does denoising give an encoder-decoder?")
def denoising(
    history: pd.DataFrame, looks: pd.DataFrame, by_seed: pd.DataFrame, first_stage: float, measure: str
) -> Figure:
    """Left, a denoising step by step: the loss of every step and, as dots, that of passages held out. Right, what
    systems reach that start from so many steps: a dot a seed, lines through their means.

    history: what `denoise` returns. looks: its validation.csv. by_seed: what `Study.means` returns, of one measure.
    first_stage: BM25's mean.
    """
    figure, (left, right) = new_figure(1, 2, figsize=(8.6, 3.2))
    left.plot(history["step"] + 1, history["loss"], color="#999999", linewidth=0.8, label="passages read")
    left.plot(looks["step"] + 1, looks["value"], "o-", color="black", markersize=4, label="passages held out")
    top = 1.1 * max(history["loss"].max(), looks["value"].max())
    left.set(title="text infilling", xlabel="optimiser step", ylabel="nats a token", ylim=(0, top))
    for system, of in by_seed.groupby("system", sort=False):
        means = of.groupby("denoising_steps")["mean"].mean()
        _line_and_seeds(right, means.index, means, of["denoising_steps"], of["mean"], system)
    first_stage_line(right, first_stage)
    top = 1.1 * max(by_seed["mean"].max(), first_stage)
    right.set(title="ranking, trained from it", xlabel="denoising steps", ylabel=written(measure), ylim=(0, top))
    for axis in (left, right):
        axis.legend(fontsize=9)
    return figure


@drawn("Does a gain at home stay a gain?")
def gains(
    table: pd.DataFrame, baseline: str, measures: Sequence[str], splits: tuple[str, str], by_seed: pd.DataFrame | None = None
) -> tuple[Figure, str]:
    """Table 8 as a picture: each system's difference to the baseline, which stands at the origin, at home (across) and
    away (up) with its 95% intervals, a panel for each measure. Beside trained systems BM25 is left out.

    table: what `transfer.differences` returns. splits: what home and away are called. by_seed: what
    `transfer.seed_differences` returns: a small dot for each training, where there are several.
    """
    others = [system for system in table["system"].unique() if system != baseline]
    systems = [system for system in others if system != FIRST_STAGE] or others
    figure, axes = new_figure(1, len(measures), figsize=(4.3 * len(measures), 4.5), squeeze=False)
    for axis, measure in zip(axes.flat, measures):
        rows = table[(table["measure"] == measure) & table["system"].isin(systems)].set_index(["place", "system"])
        reaches = [np.nanmax(rows.loc[(slice(None), system), ["low", "high", "difference"]].abs()) for system in systems]
        reach = 1.1 * max(0.01, together(reaches))
        _quadrants(axis, reach)
        outside = 0
        for system in systems:
            at, up, colour = rows.loc[("home", system)], rows.loc[("away", system)], SYSTEM_COLOURS[system]
            axis.plot([at["low"], at["high"]], [up["difference"]] * 2, color=colour, linewidth=1.3, alpha=0.8)
            axis.plot([at["difference"]] * 2, [up["low"], up["high"]], color=colour, linewidth=1.3, alpha=0.8)
            dot = dict(color=colour, edgecolor="white", linewidth=0.8, zorder=3)
            axis.scatter(at["difference"], up["difference"], s=42, **dot)
            if max(abs(at["difference"]), abs(up["difference"])) > reach:  # outside: named where it would be seen
                words = f"outside: {LABELS[system]} ({signed(at['difference'])}, {signed(up['difference'])})"
                place = dict(transform=axis.transAxes, bbox=dict(facecolor="white", edgecolor="none", pad=0.8, alpha=0.85))
                axis.text(0.02, 0.08 + 0.05 * outside, words, color=colour, fontsize=7.5, zorder=5, **place)
                outside += 1
            seeds = table.head(0) if by_seed is None else by_seed.query("system == @system and measure == @measure")
            if len(seeds) > 1:
                axis.scatter(seeds["home"], seeds["away"], s=9, color=colour, alpha=0.7, zorder=2, linewidth=0)
        axis.set(title=written(measure), xlabel=f"at home ({splits[0]})")
    axes[0, 0].set_ylabel(f"away ({splits[1]})")
    legend_below(figure, _handles(systems, linewidth=1.3), 7)
    return figure, f"Differences to {LABELS[baseline]}, 95% intervals"


@drawn("What is each choice worth?")
def choices(table: pd.DataFrame, measure: str) -> Figure:
    """A row a choice, the one that gains most on top: left what it changes of each system, right what it changes of what
    generating brings; with 95% intervals over queries, marks, and each seed as a small dot. table: what `studies.choices`
    returns."""
    rows = {choice: row for row, choice in enumerate(table["choice"].unique())}
    parts = [part for part in (table[table["twin"] == ""], table[table["twin"] != ""]) if len(part)]
    size = (1.6 + 4 * len(parts), 1.9 + 0.17 * len(parts[0]) + 0.1 * len(rows))
    figure, axes = new_figure(1, len(parts), figsize=size, squeeze=False)
    for axis, part, what in zip(axes[0], parts, ("against the default", "what generating brings, against the default")):
        of = part.groupby("choice")["system"]
        at = part["choice"].map(rows) + (of.cumcount() - (of.transform("size") - 1) / 2) * 0.2
        difference_rows(axis, part, f"in {written(measure)}", list(at), size=22)
        axis.set_title(what)
        axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        name_rows(axis, [choice.replace("_", " ") if axis is axes[0, 0] else "" for choice in rows], fontsize=9)
    systems = sorted(parts[0]["system"].unique(), key=lambda name: [*LABELS, name].index(name))
    seeds = axes[0, 0].get_legend_handles_labels()[0]  # dots of single seeds, where there are several
    legend_below(figure, [*_handles(systems), *seeds])
    return figure


@drawn("What does a way to rank bring, and what does it cost?")
def cost_and_effectiveness(table: pd.DataFrame, measure: str) -> Figure:
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
    axis.plot(cascades["gflop"], cascades["mean"], color=_CASCADE, linewidth=0.8, alpha=0.6)
    labels = dict.fromkeys(cascades.index) | dict.fromkeys(cascades.index[:1], "cascade (best k)")
    labels["joint"] = "joint (scores interpolated)"
    for way, row in ways.drop(index="BM25").iterrows():
        colour = _WAYS.get(way, _CASCADE)
        if row["stored"] < row["gflop"]:
            axis.plot([row["stored"], row["gflop"]], [row["mean"]] * 2, color=colour, linewidth=0.8, linestyle=":")
            axis.plot(row["stored"], row["mean"], "o", color=colour, markerfacecolor="white", markersize=6)
        if not np.isnan(row["low"]):
            axis.vlines(row["gflop"], base + row["low"], base + row["high"], color=colour, linewidth=1.2, alpha=0.7)
        axis.plot(row["gflop"], row["mean"], "o", color=colour, markersize=7, label=labels.get(way, way), zorder=3)
        if way in cascades.index:
            axis.annotate(way.rpartition(" ")[2], (row["gflop"], row["mean"]), (5, -11), textcoords="offset points",
                          fontsize=8.5, color=colour, bbox=dict(facecolor="white", edgecolor="none", pad=0.4))  # fmt: skip
    axis.set(xlabel="GFLOP a query", ylabel=written(measure), xlim=(0, None))
    axis.plot([], [], "o", color="#555555", markerfacecolor="white", label="states stored")
    legend_below(figure, columns=3)
    return figure


@drawn("Do written queries help BM25 to find the passages?")
def recall_by_count(table: pd.DataFrame) -> Figure:
    """BM25's recall by the number of written queries appended to each passage, a panel for each cutoff. The bar is the
    95% interval of the difference to none appended, laid around the mean. table: what `doc2query.recall_by_count`
    returns."""
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
    return figure


def _handles(systems: Sequence[str], **style) -> list[Line2D]:
    return [Line2D([], [], marker="o", color=SYSTEM_COLOURS[name], label=LABELS[name], **style) for name in systems]


def _line_and_seeds(axis: Axes, x, means, seeds_x, seeds_mean, system: str) -> None:
    """A line through a system's means, and behind it a dot for each seed where a point is the mean of several."""
    colour = SYSTEM_COLOURS[system]
    axis.plot(x, means, color=colour, linewidth=1.5, marker="o", markersize=3.5, label=LABELS[system])
    if len(seeds_x) > len(set(seeds_x)):
        axis.scatter(seeds_x, seeds_mean, s=18, color=colour, alpha=0.5, linewidth=0, zorder=2)


def _legend_above(axis: Axes) -> None:
    """Learned uncertainties: what the panel says, and a legend in the room made above the lines."""
    axis.set(**_SIGMA, ylim=(0, axis.get_ylim()[1] * max(1.4, 1 + 0.13 * len(axis.get_legend_handles_labels()[0]))))
    axis.legend(fontsize=8, loc="upper left")


def _warmed(steps: int) -> str:
    return f"heads first, {steps:,} steps" if steps else "fresh heads"


def _quadrants(axis: Axes, reach: float) -> None:
    """The axes through zero, the line of equal gains, and what each corner means."""
    for start, colour in ((0, GAIN), (-reach, LOSS)):
        axis.add_patch(Rectangle((start, start), reach, reach, color=colour, alpha=0.07, linewidth=0, zorder=0))
    axis.plot([-reach, reach], [-reach, reach], color="#999999", linewidth=0.8, linestyle=":")
    axis.axhline(0, color="black", linewidth=0.7)
    axis.axvline(0, color="black", linewidth=0.7)
    for x, y, text in (
        (0.98, 0.98, "gains in both"), (0.02, 0.02, "loses in both"),
        (0.98, 0.02, "gains at home alone"), (0.02, 0.98, "gains away alone"),
    ):  # fmt: skip
        side = dict(ha="right" if x > 0.5 else "left", va="top" if y > 0.5 else "bottom")
        axis.text(x, y, text, transform=axis.transAxes, fontsize=8, color="#666666", **side)
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
