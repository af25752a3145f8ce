"""The figures of trainings and of studies: what a training did, how much data, which weighting, and gains elsewhere."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from gdmtl_lib.evaluation.comparison import compare, query_deltas, win_tie_loss
from gdmtl_lib.evaluation.tables import by_weighting
from gdmtl_lib.systems import FIRST_STAGE, LABELS, TASK_LABELS
from .style import (
    GAIN, LOSS, SYSTEM_COLOURS, TASK_COLOURS, beside, follow, intervals, name_rows, new_figure, signed, styled, suptitle,
    together, written,
)  # fmt: skip


@styled
def training_curves(history: pd.DataFrame, title: str = "Does it learn, and which task gets the weight?") -> Figure:
    """What a training did, step by step: the loss of every task, the uncertainty weights (Eq. 6) where they are
    learned, and the learning rate.

    history: what `train` returns.
    """
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
    if learned:
        axis = axes[len(tasks)]
        for task in learned:
            axis.plot(history["step"], history[f"sigma2_{task}"], color=TASK_COLOURS[task], label=TASK_LABELS[task])
        axis.set(title="uncertainty σ²", ylabel="larger = less weight")
        axis.legend()
    axes[-1].plot(history["step"], history["learning_rate"], color="black")
    axes[-1].set(title="learning rate")
    axes[-1].ticklabel_format(axis="y", scilimits=(0, 0))
    for axis in axes:
        axis.set(xlabel="optimiser step", ylim=(0, None))
        for start in history.groupby("epoch")["step"].min()[1:]:
            axis.axvline(start, color="#bbbbbb", linewidth=0.7, linestyle=":")
    return suptitle(figure, title)


@styled
def training_size(
    table: pd.DataFrame,
    by_seed: pd.DataFrame,
    queries: Mapping[float, int],
    first_stage: float,
    baseline: str,
    measure: str,
    title: str = "Does writing the query help more when there is little to learn from?",
) -> Figure:
    """Figure 7: effectiveness against the share of the training queries, a line for each system's mean over seeds and
    a dot for each seed; beside it the difference to the baseline with its 95% interval and the mark of significance.

    Args:
        table: what `studies.training_size` returns, systems by name; of those that are to be drawn.
        by_seed: `train_fraction, system, seed, mean` of the measure.
        queries: how many queries a share is.
        first_stage: BM25's mean, which needs no training: the dashed line.
        baseline: the system the others were tested against.
        measure: the one that was compared.
    """
    shares, systems = sorted(table["share"].unique()), list(table["system"].unique())
    others = [system for system in systems if system != baseline]
    offsets = min(0.14, 0.6 / max(1, len(others))) * (np.arange(len(others)) - (len(others) - 1) / 2)
    count = 1 + bool(others)
    figure, axes = new_figure(1, count, figsize=(4.7 * count, 3.6), squeeze=False)
    left, *right = axes[0]
    left.axhline(first_stage, color=SYSTEM_COLOURS[FIRST_STAGE], linestyle="--", linewidth=1.2, label=LABELS[FIRST_STAGE])
    for system in systems:
        colour, rows = SYSTEM_COLOURS[system], table[table["system"] == system]
        left.plot(rows["share"], rows["mean"], color=colour, linewidth=1.8, marker="o", markersize=5, label=LABELS[system])
        seeds = by_seed[by_seed["system"] == system]
        if seeds["seed"].nunique() > 1:
            left.scatter(seeds["train_fraction"], seeds["mean"], s=11, color=colour, alpha=0.55, linewidth=0, zorder=2)
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
    left.set_xlim(0, max(shares) * 1.06)
    for axis, at in zip(axes[0], (shares, range(len(shares)))):
        axis.set_xticks(at, [f"{100 * share:g}%\n{queries[share]:,}" for share in shares], fontsize=9)
        axis.set_xlabel("share of the training queries, and how many")
        axis.grid(visible=False, axis="x")
        axis.margins(y=0.12)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(systems) + 1, 5))
    return suptitle(figure, title)


@styled
def loss_weighting(
    by_seed: pd.DataFrame,
    reference: pd.DataFrame,
    first_stage: float,
    sigmas: pd.DataFrame,
    measure: str,
    title: str = "How should the losses be weighted where there is little data?",
) -> Figure:
    """A row for each weighting of the losses: a dot for each seed, a bar for their mean; the system that learns to
    rank alone is the reference. Beside it, where weights are learned (Eq. 6), the uncertainty of each task over the
    steps.

    Args:
        by_seed: what `Study.means` returns of one system and one measure.
        reference: the same of the system that learns to rank alone.
        first_stage: BM25's mean.
        sigmas: what `studies.learned_sigmas` returns.
        measure: the one that was compared.
    """
    warmed = lambda steps: f"heads first, {steps:,} steps" if steps else "fresh heads"  # noqa: E731
    [system], [baseline] = (part["system"].unique() for part in (by_seed, reference))
    rows = [(f"{LABELS[baseline]},\nranking alone", reference["mean"], SYSTEM_COLOURS[baseline])]
    for weighting, steps, of in by_weighting(by_seed):
        rows.append((f"{weighting},\n{warmed(steps)}", of["mean"], SYSTEM_COLOURS[system]))
    widths = [5.4, 4.0][: 1 + bool(len(sigmas))]
    size = (sum(widths), 1.7 + 0.46 * len(rows))
    figure, axes = new_figure(1, len(widths), figsize=size, squeeze=False, width_ratios=widths)
    left, *right = axes[0]
    lines = [
        left.axvline(first_stage, color=SYSTEM_COLOURS[FIRST_STAGE], linewidth=1.2, linestyle=":"),
        left.axvline(reference["mean"].mean(), color=SYSTEM_COLOURS[baseline], linewidth=1, linestyle="--"),
    ]
    for y, (_, means, colour) in enumerate(rows):
        left.scatter(means, [y] * len(means), s=26, color=colour, alpha=0.6, linewidth=0, zorder=3)
        left.plot([means.mean()] * 2, [y - 0.28, y + 0.28], color=colour, linewidth=2.4, zorder=4)
    beside(left, [f"{means.mean():.3f}" for _, means, _ in rows], fontsize=9)
    name_rows(left, [label for label, *_ in rows], fontsize=9)
    left.set(xlabel=f"{written(measure)}, a dot a seed", title=f"{LABELS[system]}, by weighting of its losses")
    left.margins(x=0.06)
    styles = dict(zip(sorted(sigmas["steps"].unique()), ("-", "--", ":", "-.")))
    for axis in right:
        groups = sigmas.assign(other=sigmas["task"] != "rank").groupby(["steps", "other", "task"])
        for (steps, _, task), of in groups:
            label = f"{TASK_LABELS[task]}, {warmed(steps)}"
            axis.plot(of["step"], of["sigma2"], color=TASK_COLOURS[task], linestyle=styles[steps], label=label)
        axis.set(xlabel="optimiser step", ylabel="larger means less weight", title="learned σ²")
        axis.set_ylim(0, axis.get_ylim()[1] * 1.4)
        axis.legend(fontsize=8, loc="upper left")
    figure.legend(lines, [LABELS[FIRST_STAGE], f"{LABELS[baseline]}, mean"], loc="outside lower left", ncols=2, fontsize=9)
    return suptitle(figure, title)


@styled
def denoising(
    history: pd.DataFrame, looks: pd.DataFrame, by_seed: pd.DataFrame, first_stage: float, measure: str,
    title: str = "What does denoising give an encoder-decoder?",
) -> Figure:
    """Left, a denoising step by step: the loss of every step and, as dots, that of passages held out. Right, what
    systems reach that start from so many steps: a dot a seed, lines through their means.

    history: what `denoise` returns. looks: its validation.csv. by_seed: what `Study.means` returns, of one measure.
    first_stage: BM25's mean.
    """
    figure, (left, right) = new_figure(1, 2, figsize=(8.6, 3.2))
    left.plot(history["step"] + 1, history["loss"], color="#999999", linewidth=0.8, label="passages read")
    left.plot(looks["step"] + 1, looks["value"], "o-", color="black", markersize=4, label="passages held out")
    left.set(title="text infilling", xlabel="optimiser step", ylabel="nats a token", ylim=(0, None))
    left.legend()
    for system, of in by_seed.groupby("system", sort=False):
        means = of.groupby("denoising_steps")["mean"].mean()
        right.scatter(of["denoising_steps"], of["mean"], s=20, alpha=0.5, linewidth=0, color=SYSTEM_COLOURS[system])
        right.plot(means.index, means, color=SYSTEM_COLOURS[system], label=LABELS[system])
    right.axhline(first_stage, color=SYSTEM_COLOURS[FIRST_STAGE], linestyle=":", label=LABELS[FIRST_STAGE])
    right.set(title="ranking, trained from it", xlabel="denoising steps", ylabel=written(measure), ylim=(0, None))
    right.legend()
    return suptitle(figure, title)


@styled
def gains(
    table: pd.DataFrame, baseline: str, measures: Sequence[str], splits: tuple[str, str],
    by_seed: pd.DataFrame | None = None, title: str = "Does a gain at home stay a gain?",
) -> Figure:  # fmt: skip
    """Table 8 as a picture: each system's difference to the baseline at home (across) and away (up), with its 95%
    intervals, a panel for each measure. Beside trained systems BM25 is left out: nothing of it could transfer.

    Args:
        table: what `transfer.differences` returns.
        baseline: the system the others were tested against; it stands at the origin.
        measures: which of the table's to draw.
        splits: what home and away are called.
        by_seed: what `transfer.seed_differences` returns: a small dot for each training, where there are several.
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
                axis.text(0.02, 0.08 + 0.05 * outside, words, color=colour, fontsize=7.5, transform=axis.transAxes)
                outside += 1
            if by_seed is not None:
                seeds = by_seed[(by_seed["system"] == system) & (by_seed["measure"] == measure)]
                if len(seeds) > 1:
                    axis.scatter(seeds["home"], seeds["away"], s=9, color=colour, alpha=0.7, zorder=2, linewidth=0)
        axis.set(title=written(measure), xlabel=f"at home ({splits[0]})")
    axes[0, 0].set_ylabel(f"away ({splits[1]})")
    style = dict(marker="o", linewidth=1.3)
    handles = [Line2D([], [], color=SYSTEM_COLOURS[name], label=LABELS[name], **style) for name in systems]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(7, max(1, len(systems))))
    return suptitle(figure, f"{title} Differences to {LABELS[baseline]}, 95% intervals")


@styled
def twins(
    table: pd.DataFrame, measure: str = "RR@10", reported: Mapping[str, float] | None = None,
    title: str = "What does generating bring the ranking?",
) -> Figure:  # fmt: skip
    """Every multi-task system against its single-task twin: the difference with its 95% interval and mark, each seed a
    small dot, the paper's gains as diamonds beside.

    Args:
        table: what `comparison.twins` returns; of several collections under one another, told apart by a column
            `collection`.
        measure: the one that was compared.
        reported: what `paper.twin_gains` returns: the paper's gain by system.
    """
    figure, axis = new_figure(figsize=(7.6, 1.5 + 0.42 * len(table)))
    rows, colours = np.arange(len(table)), [SYSTEM_COLOURS[system] for system in table["system"]]
    intervals(axis, table["difference"], rows, table["low"], table["high"], colours, table["mark"])
    seeds = [(value, row + 0.22) for row, each in zip(rows, table["by_seed"]) if len(each) > 1 for value in each]
    if seeds:
        axis.scatter(*zip(*seeds), s=9, color="black", linewidth=0, zorder=3, label="one seed")
    known = [(reported[name], row - 0.22) for row, name in zip(rows, table["system"]) if name in (reported or {})]
    if known:
        style = dict(marker="D", s=24, facecolor="white", edgecolor="black", linewidth=0.9, zorder=3)
        axis.scatter(*zip(*known), label="the paper, MS MARCO", **style)
    axis.axvline(0, color="black", linewidth=0.8)
    where = table["collection"].map("\n{}".format) if "collection" in table else [""] * len(table)
    pairs = zip(table["system"], table["twin"], where)
    name_rows(axis, [f"{LABELS[system]} against {LABELS[twin]}{place}" for system, twin, place in pairs], fontsize=9)
    follow(axis, table["difference"], colours, table["low"], table["high"], include=[0, *(gain for gain, _ in known)])
    axis.set_xlabel(f"difference in {written(measure)}, 95% interval over queries")
    if seeds or known:
        figure.legend(loc="outside lower left", ncols=2, fontsize=9)
    return suptitle(figure, title)


@styled
def pair(
    home: Mapping[str, pd.DataFrame], away: Mapping[str, pd.DataFrame], baseline: str, system: str, measure: str,
    splits: tuple[str, str], title: str = "",
) -> Figure:  # fmt: skip
    """One system against another, query by query, at home and away: differences sorted, with their mean and its 95%
    interval (Figure 6 twice).

    Args:
        home, away: per-query values by system name.
        baseline, system: the pair. measure: the one to compare.
        splits: what home and away are called.

    Raises:
        ValueError: as `comparison.query_deltas`.
    """
    figure, axes = new_figure(1, 2, figsize=(8.6, 3.3), sharey=True)
    for axis, values, split in zip(axes, (home, away), splits):
        difference = query_deltas(values[baseline], values[system], measure)["difference"].to_numpy()
        counts = win_tie_loss(values[baseline], values[system], measure)
        share = np.repeat(np.linspace(0, 100, len(difference) + 1), 2)[1:-1]
        height = np.repeat(difference, 2)
        for sign, colour in ((1, GAIN), (-1, LOSS)):
            axis.fill_between(share, np.where(height * sign > 0, height, 0), color=colour, linewidth=0)
        test = compare({name: values[name] for name in (baseline, system)}, baseline, [measure]).iloc[-1]
        axis.axhspan(test["low"], test["high"], color="black", alpha=0.18, linewidth=0)
        axis.axhline(test["difference"], color="black", linewidth=1.2)
        axis.axhline(0, color="black", linewidth=0.6)
        interval = "" if np.isnan(test["low"]) else f" ±{(test['high'] - test['low']) / 2:.3f}"
        axis.set(title=f"{split}: mean {signed(test['difference'])}{interval}")
        axis.set(xlim=(0, 100), xticks=(0, 25, 50, 75), xlabel=f"queries, sorted, % of {len(difference):,}")
        text = f"{counts.win:,} win, {counts.tie:,} tie, {counts.loss:,} lose"
        axis.text(0.97, 0.95, text, transform=axis.transAxes, ha="right", va="top", fontsize=9)
    axes[0].set(ylim=(-1.02, 1.02), ylabel=f"{written(measure)} minus {LABELS[baseline]}'s")
    return suptitle(figure, title or f"Is {LABELS[system]} better than {LABELS[baseline]} in both places?")


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
