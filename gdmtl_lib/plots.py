"""The figures: one function each, data in, matplotlib Figure out.

One look for all: the colours of Okabe and Ito, which colour-blind eyes can tell apart, one colour a system wherever
it appears, text large enough for print.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from .systems import LABELS

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
TASK_LABELS = {"rank": "ranking", "query_generation": "query generation", "answer_generation": "answer generation"}
TASK_COLOURS = {"rank": "#0072B2", "query_generation": "#D55E00", "answer_generation": "#009E73"}
SYSTEM_COLOURS = dict(
    zip(LABELS, ("#7f7f7f", "#332288", "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#E69F00", "#CC79A7", "#000000"))
)


def training_curves(history: pd.DataFrame, title: str = "Does it learn, and which task gets the weight?") -> Figure:
    """What a training did, step by step: the loss of every task, the uncertainty weights (Eq. 6) where they are
    learned, and the learning rate.

    history: what `train` returns.
    """
    tasks = [task for task in TASK_LABELS if f"{task}_loss" in history]
    learned = [task for task in tasks if f"sigma2_{task}" in history]
    panels = len(tasks) + bool(learned) + 1
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, panels, figsize=(3.1 * panels, 2.8))
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
