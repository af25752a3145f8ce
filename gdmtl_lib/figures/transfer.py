"""Gains at home and away, drawn: all systems at a glance, and a pair of them query by query."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from scipy import stats

from . import results as plots
from gdmtl_lib.evaluation.comparison import query_deltas, win_tie_loss
from gdmtl_lib.evaluation.measures import PAPER_NAMES
from .results import GAIN, LOSS, SYSTEM_COLOURS, new_figure, suptitle
from gdmtl_lib.systems import FIRST_STAGE, LABELS


def gains(
    table: pd.DataFrame,
    baseline: str,
    measures: Sequence[str],
    splits: tuple[str, str],
    by_seed: pd.DataFrame | None = None,
    title: str = "Does a gain at home stay a gain?",
) -> Figure:
    """Table 8 as a picture: each system's difference to the baseline at home (across) and away (up), with its 95%
    intervals, a panel for each measure. Beside trained systems BM25 is left out: nothing of it could transfer.

    Args:
        table: what `transfer.differences` returns.
        baseline: the system the others were tested against; it stands at the origin.
        measures: which of the table's to draw.
        splits: what home and away are called.
        by_seed: what `transfer.seed_differences` returns: a small dot for each training, where there are several.
    """
    with plots.plt.rc_context(plots.STYLE):
        others = [system for system in table["system"].unique() if system != baseline]
        systems = [system for system in others if system != FIRST_STAGE] or others
        figure, axes = new_figure(1, len(measures), figsize=(4.3 * len(measures), 4.5), squeeze=False)
        for axis, measure in zip(axes.flat, measures):
            rows = table[table["measure"] == measure]
            home, away = (rows[rows["place"] == place].set_index("system").loc[systems] for place in ("home", "away"))
            bounds = [part[column].abs().max() for part in (home, away) for column in ("low", "high", "difference")]
            reach = 1.1 * max(0.01, np.nanmax(bounds))
            _quadrants(axis, reach)
            for system in systems:
                at, up, colour = home.loc[system], away.loc[system], SYSTEM_COLOURS[system]
                axis.plot([at["low"], at["high"]], [up["difference"]] * 2, color=colour, linewidth=1.3, alpha=0.8)
                axis.plot([at["difference"]] * 2, [up["low"], up["high"]], color=colour, linewidth=1.3, alpha=0.8)
                dot = dict(color=colour, edgecolor="white", linewidth=0.8, zorder=3)
                axis.scatter(at["difference"], up["difference"], s=42, **dot)
                if by_seed is not None:
                    seeds = by_seed[(by_seed["system"] == system) & (by_seed["measure"] == measure)]
                    if len(seeds) > 1:
                        axis.scatter(seeds["home"], seeds["away"], s=9, color=colour, alpha=0.7, zorder=2, linewidth=0)
            axis.set(title=PAPER_NAMES.get(measure, measure), xlabel=f"at home ({splits[0]})")
        axes[0, 0].set_ylabel(f"away ({splits[1]})")
        handles = [
            Line2D([], [], marker="o", linewidth=1.3, color=SYSTEM_COLOURS[name], label=LABELS[name]) for name in systems
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(7, max(1, len(systems))))
        suptitle(figure, f"{title} Differences to {LABELS[baseline]}, 95% intervals")
    return figure


def pair(
    home: dict[str, pd.DataFrame],
    away: dict[str, pd.DataFrame],
    baseline: str,
    system: str,
    measure: str,
    splits: tuple[str, str],
    title: str = "",
) -> Figure:
    """One system against another, query by query, at home and away: differences sorted, with their mean and its 95%
    interval (Figure 6 twice).

    Args:
        home, away: per-query values by system name.
        baseline, system: the pair. measure: the one to compare.
        splits: what home and away are called.

    Raises:
        ValueError: as `comparison.query_deltas`.
    """
    with plots.plt.rc_context(plots.STYLE):
        figure, axes = new_figure(1, 2, figsize=(8.6, 3.3), sharey=True)
        for axis, values, split in zip(axes, (home, away), splits):
            difference = query_deltas(values[baseline], values[system], measure)["difference"].to_numpy()
            counts = win_tie_loss(values[baseline], values[system], measure)
            share = np.repeat(np.linspace(0, 100, len(difference) + 1), 2)[1:-1]
            height = np.repeat(difference, 2)
            for sign, colour in ((1, GAIN), (-1, LOSS)):
                axis.fill_between(share, np.where(height * sign > 0, height, 0), color=colour, linewidth=0)
            mean, n = difference.mean(), len(difference)
            margin = stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
            axis.axhspan(mean - margin, mean + margin, color="black", alpha=0.18, linewidth=0)
            axis.axhline(mean, color="black", linewidth=1.2)
            axis.axhline(0, color="black", linewidth=0.6)
            signed = f"{mean:+.3f} ±{margin:.3f}".replace("-", "\N{MINUS SIGN}")
            axis.set(title=f"{split}: mean {signed}", xlabel=f"queries, sorted, % of {n:,}")
            axis.set(xlim=(0, 100), xticks=(0, 25, 50, 75))
            text = f"{counts.win:,} win, {counts.tie:,} tie, {counts.loss:,} lose"
            axis.text(0.97, 0.95, text, transform=axis.transAxes, ha="right", va="top", fontsize=9)
        axes[0].set_ylim(-1.02, 1.02)
        axes[0].set_ylabel(f"{PAPER_NAMES.get(measure, measure)} minus {LABELS[baseline]}'s")
        suptitle(figure, title or f"Is {LABELS[system]} better than {LABELS[baseline]} in both places?")
    return figure


def _quadrants(axis: Axes, reach: float) -> None:
    """The axes through zero, the line of equal gains, and what each corner means."""
    axis.add_patch(Rectangle((0, 0), reach, reach, color=GAIN, alpha=0.07, linewidth=0, zorder=0))
    axis.add_patch(Rectangle((-reach, -reach), reach, reach, color=LOSS, alpha=0.07, linewidth=0, zorder=0))
    axis.plot([-reach, reach], [-reach, reach], color="#999999", linewidth=0.8, linestyle=":")
    axis.axhline(0, color="black", linewidth=0.7)
    axis.axvline(0, color="black", linewidth=0.7)
    corners = {
        (0.98, 0.98, "right", "top"): "gains in both", (0.02, 0.02, "left", "bottom"): "loses in both",
        (0.98, 0.02, "right", "bottom"): "gains at home alone", (0.02, 0.98, "left", "top"): "gains away alone",
    }  # fmt: skip
    for (x, y, ha, va), text in corners.items():
        axis.text(x, y, text, transform=axis.transAxes, ha=ha, va=va, fontsize=8, color="#666666")
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(plots.plt.MaxNLocator(5, steps=[1, 2, 5, 10]))
