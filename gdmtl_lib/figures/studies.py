"""The figures of studies: how much training data, and which weighting of the losses."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gdmtl_lib.evaluation.measures import PAPER_NAMES
from .results import STYLE, SYSTEM_COLOURS, TASK_COLOURS, new_figure, suptitle
from gdmtl_lib.experiments.studies import by_weighting
from gdmtl_lib.systems import FIRST_STAGE, LABELS, TASK_LABELS


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
    written = PAPER_NAMES.get(measure, measure)
    shares = sorted(table["share"].unique())
    systems = list(table["system"].unique())
    others = [system for system in systems if system != baseline]
    apart = 0.018 * max(shares)
    offsets = dict(zip(others, apart * (np.arange(len(others)) - (len(others) - 1) / 2)))
    with plt.rc_context(STYLE):
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
        left.set(ylabel=written, title="how well")
        for axis in right:
            axis.axhline(0, color=SYSTEM_COLOURS[baseline], linewidth=1.2)
            for system in others:
                rows, colour = table[table["system"] == system], SYSTEM_COLOURS[system]
                x = rows["share"] + offsets[system]
                axis.vlines(x, rows["low"], rows["high"], color=colour, linewidth=1.5)
                axis.scatter(x, rows["difference"], s=28, color=colour, zorder=3)
                for at, high, mark in zip(x, rows["high"], rows["mark"]):
                    axis.annotate(mark, (at, high), (0, 3), textcoords="offset points", ha="center", fontsize=9)
            axis.set(ylabel=f"difference in {written}", title=f"how much better than {LABELS[baseline]}, 95% interval")
        for axis in axes[0]:
            axis.set_xticks(shares, [f"{100 * share:g}%\n{queries[share]:,}" for share in shares], fontsize=9)
            axis.set_xlim(0, max(shares) * 1.06)
            axis.set_xlabel("share of the training queries, and how many")
            axis.grid(visible=False, axis="x")
            axis.margins(y=0.12)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(systems) + 1, 5))
        suptitle(figure, title)
    return figure


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
    [system], [baseline] = (part["system"].unique() for part in (by_seed, reference))
    rows = [(f"{LABELS[baseline]},\nranking alone", reference["mean"], SYSTEM_COLOURS[baseline])]
    for weighting, steps, of in by_weighting(by_seed):
        rows.append((f"{weighting},\n{_warmed(steps)}", of["mean"], SYSTEM_COLOURS[system]))
    with plt.rc_context(STYLE):
        count = 1 + bool(len(sigmas))
        height = 1.7 + 0.46 * len(rows)
        figure, axes = new_figure(
            1, count, figsize=(5.4 + 4 * (count - 1), height), squeeze=False, width_ratios=[5.4, 4][:count]
        )
        left, *right = axes[0]
        lines = [
            left.axvline(first_stage, color=SYSTEM_COLOURS[FIRST_STAGE], linewidth=1.2, linestyle=":"),
            left.axvline(reference["mean"].mean(), color=SYSTEM_COLOURS[baseline], linewidth=1, linestyle="--"),
        ]
        for y, (_, means, colour) in enumerate(rows):
            left.scatter(means, [y] * len(means), s=26, color=colour, alpha=0.6, linewidth=0, zorder=3)
            left.plot([np.mean(means)] * 2, [y - 0.28, y + 0.28], color=colour, linewidth=2.4, zorder=4)
            left.annotate(f"{np.mean(means):.3f}", (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        left.set_yticks(range(len(rows)), [label for label, *_ in rows], fontsize=9)
        left.set(ylim=(len(rows) - 0.4, -0.6), xlabel=f"{PAPER_NAMES.get(measure, measure)}, a dot a seed")
        left.set_title(f"{LABELS[system]}, by weighting of its losses")
        left.grid(visible=False, axis="y")
        left.margins(x=0.06)
        styles = dict(zip(sorted(sigmas["steps"].unique()), ("-", "--", ":", "-.")))
        for axis in right:
            for (steps, task), of in sorted(sigmas.groupby(["steps", "task"]), key=_place):
                axis.plot(of["step"], of["sigma2"], color=TASK_COLOURS[task], linestyle=styles[steps],
                          label=f"{TASK_LABELS[task]}, {_warmed(steps)}")  # fmt: skip
            axis.set(xlabel="optimiser step", ylabel="larger means less weight", title="learned $\\sigma^2$")
            axis.set_ylim(0, axis.get_ylim()[1] * 1.4)
            axis.legend(fontsize=8, loc="upper left")
        figure.legend(lines, [LABELS[FIRST_STAGE], f"{LABELS[baseline]}, mean"], loc="outside lower left", ncols=2, fontsize=9)
        suptitle(figure, title)
    return figure


def _warmed(steps: int) -> str:
    return f"heads first, {steps:,} steps" if steps else "fresh heads"


def _place(group: tuple[tuple[int, str], pd.DataFrame]) -> tuple[int, bool, str]:
    (steps, task), _ = group
    return steps, task != "rank", task
