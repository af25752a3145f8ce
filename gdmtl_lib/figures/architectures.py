"""The architectures drawn (Figures 3, 4 and 9): a system's description in, a matplotlib Figure out.

The block diagrams are drawn from the description alone, so that any system of `SYSTEMS` can be drawn.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle

from gdmtl_lib.inside.attention import ATTENTIONS, BIDIRECTIONAL, CAUSAL, CROSS, FRAME, PASSAGE, Layout
from gdmtl_lib.systems import GENERATIVE_TASKS, LABELS, RANK_LOSSES, TASK_LABELS, System, get_system, prefixes
from .masks import INK, KIND_COLOURS, PALETTE
from .style import TASK_COLOURS, drawn, legend_below, new_figure

LINE = "#666666"
# The texts, wherever they appear: in inputs, and along the axes of Figure 9.
TEXT_COLOURS = {"passage": "#cfe0f0", "query": "#cdebd6", "answer": "#f5dcc4", "": "#ececec"}
_ROUND = "round,pad=0,rounding_size=0.25"
_FORBIDDEN, _WITHIN, _MEETS = "#ffffff", "#c9d6e3", "#D55E00"
_NAMES = {PASSAGE: "#0b5aa2"}  # of a passage's tokens; a query's are green
_QUERY = "#117733"
# A task's column of a diagram, in its own units: 10 wide.
_WIDTH, _GAP = 10.0, 0.9
# The masks in small; in the mixed one, half of the tokens are the source.
_SMALL = {
    "bidirectional": np.full((4, 4), BIDIRECTIONAL),
    "causal": CAUSAL * np.tri(4, dtype=int),
    "mixed": np.block(
        [[np.full((2, 2), BIDIRECTIONAL), np.zeros((2, 2), int)], [np.full((2, 2), CROSS), CAUSAL * np.tri(2, dtype=int)]]
    ),
}


def inputs_of(system: System, task: str) -> dict[str, list[str]]:
    """What encoder and decoder read in a task, in words: `[CLS]`, `rank:`, `passage`, ...; the target, which is also
    read, stands last. No decoder: an encoder alone."""
    first, end = ("[CLS]", "[SEP]") if system.backbone == "encoder" else ("<s>", "</s>")
    alone = [first, prefixes()[task], "passage", end]
    both = [*alone, *([] if system.backbone == "encoder" else [end]), "query", end]
    if task == "rank":
        if system.rank_layout == "separate":
            return {"encoder": alone, "decoder": ["start", "query"]}
        return {"encoder": both} if system.backbone == "encoder" else {"encoder": both, "decoder": ["start", *both[:-1]]}
    of_task = GENERATIVE_TASKS[task]
    source = both if "query" in of_task.source else alone
    if system.backbone == "encoder":
        return {"encoder": [*source, of_task.target]}
    return {"encoder": source, "decoder": ["start", of_task.target]}


@drawn("What do the tasks share, and what does each one add?")
def block_diagrams(systems: Sequence[str]) -> Figure:
    """Figures 3 and 4, for any neural systems: a line of diagrams for each, a column a task, from the inputs at the
    bottom over encoder and decoder to the heads and their losses. All columns of a system are passes through the same
    backbone; only the heads differ."""
    chosen = [get_system(system) for system in ([systems] if isinstance(systems, str) else systems)]
    heights = [6.7 if system.backbone == "encoder" else 10.25 for system in chosen]
    unit, total = 0.33, sum(heights) + 1.7 * len(heights)
    width = max(5.2, (max(len(system.tasks) for system in chosen) * (_WIDTH + _GAP) + 0.6) * unit)
    figure, axis = new_figure(figsize=(width, total * unit + 0.5))
    top = total
    for system, height in zip(chosen, heights):
        top -= height + 1.7
        _diagram(axis, system, top, height)
    axis.set(xlim=(-0.4, width / unit - 0.4), ylim=(0, total), aspect="equal")
    axis.axis("off")
    return figure


@drawn("Where do query and passage meet?")
def interactions(attentions: Mapping[str, Mapping[str, Layout]]) -> Figure:
    """Figure 9, from the real masks: for each system the attentions of one layer, as grids in which a row looks and a
    column is looked at. Orange: a token of one text looks at one of the other. attentions: what
    `attention.ranking_layouts` returns, by system name."""
    columns = max(map(len, attentions.values()))
    tallest = [max(len(each.rows) for each in found.values()) for found in attentions.values()]
    longest, cell, names = max(tallest), 0.17, 0.95
    size = ((cell * longest + names) * columns + 0.4, cell * sum(tallest) + names * len(tallest) + 0.7)
    figure, axes = new_figure(len(attentions), columns, squeeze=False, height_ratios=tallest, figsize=size)
    for line, rows, (system, found) in zip(axes, tallest, attentions.items()):
        for axis, (name, each) in zip(line, found.items()):
            _grid(axis, each, f"{LABELS[system]}: {ATTENTIONS[name]}", (rows, longest))
        for axis in line[len(found) :]:
            axis.axis("off")
    handles = [
        Patch(color=_MEETS, label="query and passage meet"),
        Patch(color=_WITHIN, label="within a text, or with a special token"),
        Patch(facecolor=_FORBIDDEN, edgecolor="#bbbbbb", label="may not attend"),
        Patch(color=_NAMES[PASSAGE], label="passage"),
        Patch(color=_QUERY, label="query"),
    ]
    legend_below(figure, handles, 5 if columns > 1 else 2)
    return figure


def _diagram(axis: Axes, system: System, bottom: float, height: float) -> None:
    joint = r"; joint loss $\sum_t\,[\,L_t\,/\,2\sigma_t^2 + \log(1 + \sigma_t^2)\,]$" if len(system.tasks) > 1 else ""
    axis.text(0, bottom + height + 0.35, system.label, fontsize=12, weight="bold", color=INK, va="baseline")
    backbone = "encoder alone" if system.backbone == "encoder" else "encoder and decoder"
    axis.text(4.2, bottom + height + 0.35, f"{backbone}{joint}", fontsize=9.5, color=LINE, va="baseline", parse_math=True)
    end = len(system.tasks) * (_WIDTH + _GAP) - _GAP
    bands = {"encoder": bottom + 1.55} | ({"decoder": bottom + 5.1} if system.backbone != "encoder" else {})
    for y in bands.values():
        axis.add_patch(FancyBboxPatch((0, y), end, 1.7, boxstyle=_ROUND, facecolor="#f4f1f8", edgecolor=LINE))
        for i in range(1, len(system.tasks)):
            at = i * (_WIDTH + _GAP) - _GAP / 2, y + 0.85
            axis.text(*at, "same\nweights", fontsize=7.5, color=LINE, ha="center", va="center", style="italic")
    for i, task in enumerate(system.tasks):
        _pass(axis, system, task, i * (_WIDTH + _GAP), bottom, bands)


def _pass(axis: Axes, system: System, task: str, x: float, bottom: float, bands: Mapping[str, float]) -> None:
    """One task's pass, from its inputs up to its loss."""
    read = inputs_of(system, task)
    middle = x + _WIDTH / 2
    mixed = system.backbone == "encoder" and task != "rank"
    _boxes(axis, read["encoder"], x + 0.2, _WIDTH - 0.4, bottom + 0.25)
    _arrow(axis, (middle, bottom + 1.0), (middle, bands["encoder"]))
    _block(axis, "encoder", "mixed" if mixed else "bidirectional", x, bands["encoder"])
    if "decoder" in bands:
        y = bands["decoder"]
        _arrow(axis, (x + 1.6, bands["encoder"] + 1.7), (x + 1.6, y), KIND_COLOURS[CROSS], 2.2)
        axis.text(x + 1.9, y - 1.6, "cross-attention", fontsize=7.5, color=LINE, va="center")
        _boxes(axis, read["decoder"], x + 2.9, _WIDTH - 3.1, y - 1.3)
        _arrow(axis, (x + 2.9 + (_WIDTH - 3.1) / 2, y - 0.55), (x + 2.9 + (_WIDTH - 3.1) / 2, y))
        _block(axis, "decoder", "causal", x, y)
    y, colour = max(bands.values()) + 1.7, TASK_COLOURS[task]
    if task == "rank":
        at = "state of the first token" if system.backbone == "encoder" else "state of the last token"
        head, loss = "feed-forward → score", RANK_LOSSES[system.rank_loss]
    else:
        at, loss = "states that predict it", "cross-entropy"
        head = f"language model → next token of the {GENERATIVE_TASKS[task].target}"
    _arrow(axis, (middle, y), (middle, y + 0.85))
    axis.text(middle + 0.25, y + 0.42, at, fontsize=7.5, color=LINE, va="center")
    place = (x + 0.4, y + 0.85), _WIDTH - 0.8, 1.1
    axis.add_patch(FancyBboxPatch(*place, boxstyle=_ROUND, facecolor="white", edgecolor=colour, linewidth=1.6))
    axis.text(middle, y + 1.4, head, fontsize=8.5, color=INK, ha="center", va="center")
    _arrow(axis, (middle, y + 1.95), (middle, y + 2.65))
    words = f"{TASK_LABELS[task]} loss: {loss}"
    axis.text(middle, y + 3.05, words, fontsize=8.5, color=colour, weight="bold", ha="center", va="center")


def _block(axis: Axes, name: str, kind: str, x: float, y: float) -> None:
    """A pass through a stack of layers: its name, the mask it uses in words and in small."""
    axis.text(x + 2.5, y + 1.1, f"{name} layers", fontsize=9.5, color=INK, va="center", weight="bold")
    axis.text(x + 2.5, y + 0.55, f"{kind} attention", fontsize=8, color=LINE, va="center")
    across, up = x + 0.9 + 0.3 * np.arange(5), y + 0.25 + 0.3 * np.arange(5)
    axis.pcolormesh(across, up, PALETTE[_SMALL[kind]][::-1], edgecolor="white", linewidth=0.4)


def _boxes(axis: Axes, tokens: Sequence[str], x: float, width: float, y: float) -> None:
    """What is read, as boxes in the texts' colours; a text is wider than a special token."""
    wide = {"passage": 3.0, "query": 2.2, "answer": 2.2}
    weights = np.array([wide.get(token, 0.55 + 0.17 * len(token)) for token in tokens])
    edges = x + width * np.concatenate([[0], weights.cumsum()]) / weights.sum()
    for token, start, end in zip(tokens, edges, edges[1:]):
        face = TEXT_COLOURS.get(token, TEXT_COLOURS[""])
        place = (start + 0.04, y), end - start - 0.08, 0.75
        axis.add_patch(Rectangle(*place, facecolor=face, edgecolor="#aaaaaa", linewidth=0.6))
        size = 8 if token in TEXT_COLOURS else 6.2
        axis.text((start + end) / 2, y + 0.36, token, fontsize=size, ha="center", va="center", color=INK)


def _arrow(axis: Axes, start: tuple, end: tuple, colour: str = LINE, width: float = 1.0) -> None:
    style = dict(arrowstyle="-|>", mutation_scale=9, shrinkA=0, shrinkB=0)
    axis.add_patch(FancyArrowPatch(start, end, color=colour, linewidth=width, **style))


def _grid(axis: Axes, attention: Layout, title: str, room: tuple[int, int]) -> None:
    """room: so many rows and columns fill the axes; a cell is equally large in all grids."""
    cells = attention.allowed.astype(int) + attention.interacts
    sns.heatmap(
        cells, cmap=[_FORBIDDEN, _WITHIN, _MEETS], vmin=0, vmax=2, cbar=False, linewidths=0.6, linecolor="#dddddd",
        square=True, xticklabels=attention.columns, yticklabels=attention.rows, ax=axis,
    )  # fmt: skip
    axis.xaxis.tick_top()
    axis.tick_params(length=0, pad=2, labelsize=7)
    axis.tick_params(axis="x", rotation=90)
    axis.tick_params(axis="y", rotation=0)
    labels = [*axis.get_xticklabels(), *axis.get_yticklabels()]
    for label, text in zip(labels, [*attention.column_segments, *attention.row_segments]):
        if text != FRAME:
            label.set(color=_NAMES.get(text, _QUERY), weight="bold")
    axis.grid(visible=False)
    axis.set(xlim=(0, room[1]), ylim=(room[0], 0))
    axis.set_title(title, fontsize=10, weight="bold" if attention.interacts.any() else "normal")
