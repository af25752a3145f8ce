"""One look for all figures: the colours of Okabe and Ito, which colour-blind eyes can tell apart, one colour a system
wherever it appears, text large enough for print.

A function that draws is decorated with `drawn` and the question that its figure answers, which is the title unless it is
called with another `title=`. No text is markup, whatever signs a query or a category has.
"""

import inspect
import os
import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import wraps
from math import ceil
from os.path import commonprefix
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter

from gdmtl_lib.data.files import kind_of
from gdmtl_lib.evaluation.measures import PAPER_NAMES
from gdmtl_lib.systems import FIRST_STAGE, LABELS

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
    "text.parse_math": False,
}
styled = plt.rc_context(STYLE)


class _Colours(dict):
    """Colours of what is known; what a user adds gets one of twelve further colours."""

    FURTHER = ("#882255", "#44AA99", "#999933", "#AA4499", "#117733", "#CC6677", "#88CCEE", "#DDCC77", "#661100", "#4477AA",
               "#66CC33", "#BB8866")  # fmt: skip

    def __missing__(self, name: str) -> str:
        self[name] = self.FURTHER[(len(self) - 9) % len(self.FURTHER)]
        return self[name]


TASK_COLOURS = _Colours(rank="#0072B2", query_generation="#D55E00", answer_generation="#009E73")
SYSTEM_COLOURS = _Colours(
    zip(LABELS, ("#7f7f7f", "#332288", "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#E69F00", "#CC79A7", "#000000"))
)
SPLIT_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", *_Colours.FURTHER)
MOST_CATEGORIES = 50  # rows of a figure: of 5,000 it would be a file of 300,000 pixels that nothing opens
LONG_NAME = 34  # letters beside a row
GAIN, LOSS, SAME = "#0072B2", "#D55E00", "#cccccc"


def written(measure: str) -> str:
    """A measure as the paper's tables write its mean over queries."""
    return PAPER_NAMES.get(measure, measure)


def new_figure(*args, **kwargs) -> tuple[Figure, Axes | np.ndarray]:
    """`plt.subplots`, with the figure taken out of pyplot's hands: it is shown where it is returned and only there,
    and it is gone when nobody holds it any more."""
    figure, axes = plt.subplots(*args, **kwargs)
    plt.close(figure)
    return figure, axes


def panels(
    count: int, height: float = 2.7, width: float = 2.9, most: int = 5, ylabel: str = "", **shared: bool
) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, at most so many side by side and rows of like length; the axes in reading order.
    Shared axes keep their labels; ylabel: of the panels at the left."""
    if not count:
        raise ValueError("expected a system or more to draw, found none")
    columns = ceil(count / ceil(count / most))
    size = (6.4 if columns == 1 else width * columns), height * ceil(count / columns)
    figure, axes = new_figure(ceil(count / columns), columns, figsize=size, squeeze=False, **shared)
    for axis in axes.flat[count:]:
        axis.remove()
    for axis in axes.flat[:count]:
        axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel(textwrap.fill(ylabel, int(9 * height)))
    return figure, list(axes.flat[:count])


def drawn(question: str = "") -> Callable:
    """Decorates a function that returns a figure, alone or with words that follow its title. The title stands at the
    left, in as many lines as the width asks for (about 11 characters an inch)."""

    def decorate(draw: Callable) -> Callable:
        @wraps(draw)
        @styled
        def titled(*args, title: str = question, **kwargs) -> Figure:
            try:
                found = draw(*args, **kwargs)
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                with suppress(TypeError):  # where a parameter is missing Python says so
                    given = inspect.signature(draw).bind(*args, **kwargs).arguments.items()
                    what = "; ".join(f"{name}: {kind_of(value)}" for name, value in given)
                    raise ValueError(f"{draw.__name__} cannot draw this ({what}): {error!s:.100}; help() says what it takes") from error
                raise
            figure, *more = found if isinstance(found, tuple) else (found,)
            _within(figure)
            across = int(11.4 * figure.get_figwidth())
            lines = [part for line in " ".join([title, *more]).strip().split("\n") for part in textwrap.wrap(line, across) or [""]]
            figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=12)
            return figure

        return titled

    return decorate


def _within(figure: Figure) -> None:
    """Break titles and labels under an axis where they are longer than it is wide; the names of runs have any length."""
    texts = ((axis, text, text.get_text()) for axis in figure.axes for text in (axis._left_title, axis.xaxis.label))
    # Names of rows take from an axis in the layout; where a text may be too long, that is made to measure it.
    room = {axis: 0.7 if isinstance(axis.yaxis.get_major_formatter(), FixedFormatter) else 1.0 for axis in figure.axes}
    long = [(axis, text, words) for axis, text, words in texts if text.get_window_extent().width > room[axis] * axis.bbox.width]
    for _, text, _ in long:
        text.set_text("")  # it would take part in the layout
    if long and (engine := figure.get_layout_engine()):
        engine.execute(figure)  # only then is an axis as wide as it will be
    for axis, text, words in long:
        text.set_text(words)
        lines, share = words.split("\n"), 0.95 * axis.bbox.width / text.get_window_extent().width
        letters = max(8, int(share * max(map(len, lines))))
        text.set_text("\n".join(textwrap.fill(line, letters, break_on_hyphens=False) for line in lines))


def name_rows(axis: Axes, names: Iterable[str], **style) -> None:
    """Names at the rows of an axis, the first on top, long lines cut; lines between rows say nothing and go."""
    names = _cut(list(map(str, names)))
    axis.set_yticks(range(len(names)), names, **style)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")


def _cut(names: list[str]) -> list[str]:
    """Names whose lines are at most LONG_NAME letters long, without their middle; where that makes two of them alike, with
    what tells each from the one that is most like it. Of a pair the second name goes into a line of its own first."""
    of_pair = {name: name.replace(" against ", "\nagainst ") for name in names if max(map(len, name.split("\n"))) > LONG_NAME}
    lines = [of_pair.get(name, name).split("\n") for name in names]
    long = {line.removeprefix("against ") for of_name in lines for line in of_name if len(line) > LONG_NAME}

    def told_apart(line: str) -> str:
        name = line.removeprefix("against ")
        head, like = line[: len(line) - len(name)], max((len(commonprefix([name, other])) for other in long - {name}), default=0)
        while like > 8 and name[like - 1].isalnum():  # back to where its word or number begins
            like -= 1
        return f"{head}{name[:8]}…{name[max(like, 8):][:LONG_NAME - 9 - len(head)]}"

    for cut in (lambda line: f"{line[:LONG_NAME - 16]}…{line[-15:]}", told_apart):
        shown = ["\n".join(line if len(line) <= LONG_NAME else cut(line) for line in of_name) for of_name in lines]
        if len(set(shown)) == len(set(names)):
            break
    return shown


def bare(axis: Axes) -> None:
    """No lines around or across an axis, nor at its names."""
    axis.spines[:].set_visible(False)
    axis.grid(visible=False)
    axis.tick_params(length=0)


def colour_bar(figure: Figure, image, label: str, **style) -> Axes:
    """The scale of an image's colours, without a frame; `style` says where it stands. Returns its axis."""
    bar = figure.colorbar(image, label=label, **style)
    bar.outline.set_visible(False)
    return bar.ax


def legend_below(figure: Figure, handles: Sequence[Artist] | None = None, columns: int = 5) -> None:
    """One legend for a figure, under it, no wider than that: of some handles, or of what has a label in the first panel."""
    handles = figure.axes[0].get_legend_handles_labels()[0] if handles is None else handles
    if handles:
        columns = min(columns, len(handles))
        if columns * (5 + max(len(str(each.get_label())) for each in handles)) > 9 * figure.get_figwidth():  # measured, then
            one = figure.legend(handles=handles, fontsize=9, borderpad=1)  # with as much at its edges as between columns
            columns = min(columns, max(1, int(figure.bbox.width / one.get_window_extent().width)))
            one.remove()
        across = ceil(len(handles) / ceil(len(handles) / columns))
        figure.legend(handles=handles, loc="outside lower left", ncols=across, fontsize=9)


def first_stage_line(axis: Axes, mean: float, along: str = "x") -> None:
    """BM25's mean, for which nothing is trained: a dashed line along an axis."""
    draw = axis.axhline if along == "x" else axis.axvline
    draw(mean, color=SYSTEM_COLOURS[FIRST_STAGE], linestyle="--", linewidth=1.2, label=LABELS[FIRST_STAGE])


def beside(axis: Axes, texts: Iterable[str], **style) -> None:
    """Texts at the right of an axis, one a row."""
    for row, text in enumerate(texts):
        axis.annotate(text, (1.03, row), xycoords=("axes fraction", "data"), va="center", **style)


def signed(number: float, digits: int = 3) -> str:
    """A difference with its sign."""
    return f"{number:+z.{digits}f}".replace("-", "\N{MINUS SIGN}")


def together(numbers: Sequence[float]) -> float:
    """The largest of some numbers from 0 up, without those far off: more than four times as large as the one that seven
    of ten do not exceed. So two systems at chance do not decide how the others are seen."""
    numbers = np.sort([number for number in numbers if np.isfinite(number)])
    usual = numbers[int(0.7 * (len(numbers) - 1))] if len(numbers) > 4 else 0.0  # of a few, none is the odd one
    return float(numbers[numbers <= 4 * usual].max() if usual > 0 else max([0.0, *numbers]))


def near(values: Sequence[float]) -> np.ndarray:
    """Which values are not far from the middle one, bool."""
    far = np.abs(np.asarray(values, dtype=float) - np.median(values))
    return far <= together(far)


def follow(
    axis: Axes, values: Sequence[float], colours: Sequence, low: Sequence | None = None, high: Sequence | None = None,
    include: Sequence[float] = (), rows: Sequence[float] | None = None, texts: Sequence[str] | None = None,
    usual: Sequence[bool] | None = None,
) -> None:  # fmt: skip
    """Let the x axis show what belongs together: values far from the middle one are cut, with their text at the edge.

    values: one a row, from the top; rows: where they stand, if not at 0, 1, .... low, high: their intervals, which are
    shown as far as the values are. include: what has to be on the axis. texts: of values that are cut; three digits.
    usual: which of them decide what the axis shows; those of systems that work.
    """
    values = np.asarray(values, dtype=float)
    rows = np.arange(len(values)) if rows is None else np.asarray(rows)
    low, high = (values if side is None else np.where(np.isnan(side), values, side) for side in (low, high))
    shown = np.ones(len(values), bool) if usual is None else np.array(usual)
    shown[shown] = near(values[shown])
    start, end = min([*low[shown], *include]), max([*high[shown], *include])
    room = 0.08 * (end - start) or 0.01
    axis.set_xlim(start - room, end + room)
    for place in np.flatnonzero((values < start - room) | (values > end + room)):
        text = f"{values[place]:.3f}" if texts is None else texts[place]
        cut_off(axis, rows[place], values[place], text, colours[place])


def cut_off(axis: Axes, row: float, value: float, text: str, colour, **style) -> None:
    """An arrow and a text at the edge of an x axis beyond which a value lies."""
    start, end = axis.get_xlim()
    left = value < start
    words = f"\N{BLACK LEFT-POINTING SMALL TRIANGLE} {text}" if left else f"{text} \N{BLACK RIGHT-POINTING SMALL TRIANGLE}"
    style = dict(bbox=dict(facecolor="white", edgecolor="none", pad=0.6)) | style
    axis.annotate(words, (start if left else end, row), (2 if left else -2, 0), textcoords="offset points", va="center",
                  ha="left" if left else "right", fontsize=8, color=colour, **style)  # fmt: skip


def difference_rows(
    axis: Axes, table: pd.DataFrame, to: str, rows: Sequence[float] | None = None, include: Sequence[float] = (),
    size: float = 30, below: float = 0, usual: Sequence[bool] | None = None,
) -> None:  # fmt: skip
    """A row for each difference of a table: a dot, its interval, the mark of significance at its end, and so far below
    it a small dot for each of several seeds; a line at zero.

    table: `system, difference, low, high, mark` and `by_seed` where that is known. to: what of, or to whom. rows,
    include, usual: as in `follow`.
    """
    colours, rows = [SYSTEM_COLOURS[system] for system in table["system"]], range(len(table)) if rows is None else rows
    axis.axvline(0, color="black", linewidth=0.8)
    axis.hlines(rows, table["low"], table["high"], color=colours, linewidth=1.8)
    axis.scatter(table["difference"], rows, color=colours, s=size, zorder=3)
    texts = [f"{signed(value)} {mark}".strip() for value, mark in zip(table["difference"], table["mark"])]
    by_seed = [each if len(each) > 1 else [] for each in table.get("by_seed", [[]] * len(table))]
    # What is shown of a row reaches to its single seeds.
    low = [np.fmin.reduce([limit, *each]) for limit, each in zip(table["low"], by_seed)]
    high = [np.fmax.reduce([limit, *each]) for limit, each in zip(table["high"], by_seed)]
    follow(axis, table["difference"], colours, low, high, [0, *include], rows, texts, usual)
    start, end = axis.get_xlim()
    for mark, value, high, row in zip(table["mark"], table["difference"], table["high"], rows):
        if mark and start <= value <= end:
            at = (value if np.isnan(high) else min(high, end), row)
            axis.annotate(mark, at, (4, 0), textcoords="offset points", va="center", fontsize=9)
    if dots := [(value, row + below) for row, each in zip(rows, by_seed) for value in each]:
        axis.scatter(*zip(*dots), s=8, color="black", linewidth=0, zorder=4, label="one seed")
    axis.set_xlabel(f"difference {to}, 95% interval")


def label_points(axis: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str], colours: Sequence) -> None:
    """Name points at their right, with a line to each. No point is moved: where some are close, their names are spread. One
    beyond the y axis has its name at the end of it, and no line."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    gap = 0.055 * (top - bottom)
    points = pd.DataFrame({"x": x, "y": y, "name": names, "colour": colours}).dropna(subset="x").sort_values("x", kind="stable")
    for _, close in points.groupby((points["x"].diff() > 0.1 * (right - left)).cumsum()):
        close = close.sort_values("y", kind="stable")
        # Apart by `gap`, around where they belong, and between the ends of the axis.
        at, steps = close["y"].clip(bottom, top).to_numpy(), gap * np.arange(len(close))
        spread = np.maximum.accumulate(at - steps) + steps
        spread -= max(spread.mean() - at.mean(), spread[-1] - top + gap / 2)
        spread += max(0.0, bottom + gap / 2 - spread[0])
        for point, place in zip(close.itertuples(), spread):
            to = close["x"].max() + 0.04 * (right - left), place
            style = dict(color=point.colour, fontsize=8.5, va="center")
            style |= dict(bbox=dict(facecolor="white", edgecolor="none", pad=0.4, alpha=0.8))
            line = dict(arrowstyle="-", color=point.colour, linewidth=0.7, shrinkA=0, shrinkB=4, relpos=(0, 0.5))
            at = ((point.x, point.y), line) if bottom <= point.y <= top else (to, None)
            axis.annotate(point.name, at[0], to, arrowprops=at[1], **style)


def save_figure(figure: Figure, folder: str | os.PathLike, name: str) -> None:
    """Write a figure as `<name>.png` and `<name>.pdf`; the PDF carries no date, so that equal data give equal bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        figure.savefig(folder / f"{name}.png")
        if engine := figure.get_layout_engine():  # what has found its place keeps it: to find it again takes as long as to draw
            figure.set_layout_engine("none")
        try:
            figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
        finally:
            if engine:
                figure.set_layout_engine(engine)
