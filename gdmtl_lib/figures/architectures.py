"""The architectures drawn (Figures 3, 4 and 9), and effectiveness against cost: data in, a matplotlib Figure out.

The block diagrams are drawn from a system's description alone, so that any system of `SYSTEMS` can be drawn.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle

from gdmtl_lib.evaluation.measures import PAPER_NAMES
from gdmtl_lib.inside.interactions import ATTENTIONS, FRAME, PASSAGE, Attention
from .results import STYLE, SYSTEM_COLOURS, TASK_COLOURS, new_figure, suptitle
from gdmtl_lib.systems import LABELS, TASK_LABELS, System, get_system, prefixes

INK, LINE = "#333333", "#666666"
# The texts, wherever they appear: in inputs, and along the axes of Figure 9.
TEXT_COLOURS = {"passage": "#cfe0f0", "query": "#cdebd6", "answer": "#f5dcc4", "": "#ececec"}
_BLOCK, _HEAD, _ROUND = "#f4f1f8", "#ffffff", "round,pad=0,rounding_size=0.25"
_ATTENTION_COLOURS = {"bidirectional": "#a079c0", "cross": "#f3c623", "causal": "#0b5aa2"}
_MEETS, _WITHIN, _FORBIDDEN = "#D55E00", "#c9d6e3", "#ffffff"
# A task's column of a diagram, in its own units: 10 wide.
_WIDTH, _GAP = 10.0, 0.9


def inputs_of(system: System, task: str) -> dict[str, list[str]]:
    """What encoder and decoder read in a task, in words: `[CLS]`, `rank:`, `passage`, ...; the target, which is also
    read, stands last. No decoder: an encoder alone."""
    first, end = ("[CLS]", "[SEP]") if system.backbone == "encoder" else ("<s>", "</s>")
    between = [end] if system.backbone == "encoder" else [end, end]
    source = [first, prefixes()[task], "passage"]
    if system.backbone == "encoder":
        tail = {"rank": ["query", end], "query_generation": ["query"], "answer_generation": ["query", end, "answer"]}
        return {"encoder": [*source, *between, *tail[task]]}
    if task == "rank" and system.rank_layout == "separate" or task == "query_generation":
        return {"encoder": [*source, end], "decoder": ["start", "query"]}
    both = [*source, *between, "query", end]
    return {"encoder": both, "decoder": ["start", *both[:-1]] if task == "rank" else ["start", "answer"]}


def architectures(
    systems: Sequence[str], title: str = "What do the tasks share, and what does each one add?"
) -> Figure:
    """Figures 3 and 4, for any systems: a line of diagrams for each, a column a task, from the inputs at the bottom
    over encoder and decoder to the heads and their losses. All columns of a system are passes through the same
    backbone; only the heads differ.

    systems: names of neural systems.

    Raises ValueError for an unknown name and for BM25.
    """
    chosen = [get_system(system) for system in systems]
    heights = [6.7 if system.backbone == "encoder" else 10.25 for system in chosen]
    widest = max(len(system.tasks) for system in chosen)
    unit = 0.33
    width = (widest * (_WIDTH + _GAP) + 0.6) * unit
    with plt.rc_context(STYLE):
        total = sum(heights) + 1.7 * len(heights)
        figure, axis = new_figure(figsize=(max(width, 5.2), total * unit + 0.5))
        top = total
        for system, height in zip(chosen, heights):
            top -= height + 1.7
            _diagram(axis, system, top, height)
        axis.set(xlim=(-0.4, max(width, 5.2) / unit - 0.4), ylim=(0, total), aspect="equal")
        axis.axis("off")
        suptitle(figure, title)
    return figure


def interactions(
    attentions: Mapping[str, list[Attention]], title: str = "Where do query and passage meet?"
) -> Figure:
    """Figure 9, from the real masks: for each system the attentions of one layer, as grids in which a row looks and a
    column is looked at. Orange: a token of one text looks at one of the other.

    attentions: what `interactions.ranking_attentions` returns, by system name.
    """
    columns = max(map(len, attentions.values()))
    longest = max(len(each.rows) for found in attentions.values() for each in found)
    cell, names = 0.17, 0.95
    tallest = [max(len(each.rows) for each in found) for found in attentions.values()]
    heights = [cell * rows + names for rows in tallest]
    with plt.rc_context(STYLE):
        figure, axes = new_figure(
            len(attentions), columns, squeeze=False, height_ratios=tallest,
            figsize=((cell * longest + names) * columns + 0.4, sum(heights) + 0.7),
        )  # fmt: skip
        for line, rows, (system, found) in zip(axes, tallest, attentions.items()):
            for axis, each in zip(line, found):
                _grid(axis, each, f"{LABELS[system]}: {ATTENTIONS[each.name]}", (rows, longest))
            for axis in line[len(found) :]:
                axis.axis("off")
        handles = [
            Patch(color=_MEETS, label="query and passage meet"),
            Patch(color=_WITHIN, label="within a text, or with a special token"),
            Patch(facecolor=_FORBIDDEN, edgecolor="#bbbbbb", label="may not attend"),
            Patch(color=_darker("passage"), label="passage"),
            Patch(color=_darker("query"), label="query"),
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=5 if columns > 1 else 2, fontsize=9)
        suptitle(figure, title)
    return figure


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
    with plt.rc_context(STYLE):
        figure, axis = new_figure(figsize=(7.2, 1.2 + 0.27 * len(rows)))
        colours = [SYSTEM_COLOURS[system] for system in rows["system"]]
        axis.hlines(rows.index, rows["low"], rows["high"], color=colours, linewidth=2)
        axis.scatter(rows["difference"], rows.index, color=colours, s=30, zorder=3)
        if "low (paper)" in rows:
            axis.hlines(rows.index + 0.28, rows["low (paper)"], rows["high (paper)"], color="#999999", linewidth=2)
            axis.plot([], [], color="#999999", linewidth=2, label="the paper's")
            axis.legend(loc="lower right")
        for place, high, mark in zip(rows.index, rows["high"].fillna(rows["difference"]), rows["mark"]):
            axis.annotate(mark, (high, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axis.axvline(0, color="black", linewidth=0.8)
        names = [f"{LABELS[row.system]} against {LABELS[row.baseline]}" for row in rows.itertuples()]
        axis.set_yticks(rows.index, names)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_xlabel(f"difference in mean {PAPER_NAMES.get(measure, measure)}, 95% interval")
        axis.tick_params(axis="y", length=0)
        axis.grid(visible=False, axis="y")
        suptitle(figure, title)
    return figure


def cost(
    table: pd.DataFrame,
    measure: str,
    first_stage: float | None = None,
    title: str = "What does effectiveness cost?",
) -> Figure:
    """RQ2's other half: each system's mean against the arithmetic of ranking a pair, and against the time of its
    training where that is known. The area of a dot is the number of parameters that rank; dots of nearly the same cost
    stand side by side, so that none hides another.

    Args:
        table: `system, mean, low, high` (the mean's 95% interval), `gflops, ranking_parameters, training_seconds`.
        measure: the one `mean` is of.
        first_stage: BM25's mean, which costs neither: a dashed line.
    """
    panels = [("gflops", "ranking a pair, GFLOPs")]
    if table["training_seconds"].notna().any():
        panels.append(("training_seconds", "training, seconds"))
    with plt.rc_context(STYLE):
        figure, axes = new_figure(1, len(panels), figsize=(5.0 * len(panels), 4.2), sharey=True, squeeze=False)
        area = (130 * table["ranking_parameters"] / table["ranking_parameters"].max()).astype(float)
        colours = [SYSTEM_COLOURS[system] for system in table["system"]]
        for axis, (column, label) in zip(axes.flat, panels):
            x = _side_by_side(table[column])
            axis.vlines(x, table["low"], table["high"], color=colours, linewidth=1.2, alpha=0.7)
            axis.scatter(x, table["mean"], s=area, color=colours, zorder=3, edgecolor="white", linewidth=0.8)
            if first_stage is not None:
                axis.axhline(first_stage, color=SYSTEM_COLOURS["bm25"], linestyle="--", linewidth=1)
            span = _span(table[column])
            axis.set_xlim(np.nanmin(x) - 0.12 * span, np.nanmax(x) + 0.12 * span)
            axis.set(xlabel=label)
        values = [*table["low"], *table["high"], *([] if first_stage is None else [first_stage])]
        margin = 0.08 * (np.nanmax(values) - np.nanmin(values) or 0.1)
        axes[0, 0].set_ylim(np.nanmin(values) - margin, np.nanmax(values) + margin)
        axes[0, 0].set_ylabel(f"mean {PAPER_NAMES.get(measure, measure)}")
        dots = [Line2D([], [], color=colour, marker="o", linestyle="") for colour in colours]
        names = [LABELS[system] for system in table["system"]]
        figure.legend(dots, names, loc="outside lower center", ncols=min(len(names), 9), handletextpad=0.1)
        if first_stage is not None:
            axes[0, 0].annotate("BM25", (0.01, first_stage), (0, 3), xycoords=("axes fraction", "data"),
                                textcoords="offset points", fontsize=8.5, color=SYSTEM_COLOURS["bm25"])  # fmt: skip
        suptitle(figure, title)
    return figure


def _span(costs: pd.Series) -> float:
    return float(costs.max() - costs.min() or costs.max() or 1)


def _side_by_side(costs: pd.Series) -> np.ndarray:
    """Where the dots stand: each at its cost, those within a thirtieth of the span of one another spread around it."""
    x, step = costs.to_numpy(dtype=float), 0.035 * _span(costs)
    places = x.copy()
    order = [i for i in np.argsort(x, kind="stable") if not np.isnan(x[i])]
    groups = [[i] for i in order[:1]]
    for i in order[1:]:
        if x[i] - x[groups[-1][0]] < step:
            groups[-1].append(i)
        else:
            groups.append([i])
    for group in groups:
        places[group] += step * (np.arange(len(group)) - (len(group) - 1) / 2)
    return places


def _diagram(axis: Axes, system: System, bottom: float, height: float) -> None:
    joint = r"; joint loss $\sum_t\,[\,L_t\,/\,2\sigma_t^2 + \log(1 + \sigma_t^2)\,]$" if len(system.tasks) > 1 else ""
    axis.text(0, bottom + height + 0.35, system.label, fontsize=12, weight="bold", color=INK, va="baseline")
    backbone = "encoder alone" if system.backbone == "encoder" else "encoder and decoder"
    axis.text(4.2, bottom + height + 0.35, f"{backbone}{joint}", fontsize=9.5, color=LINE, va="baseline")
    end = len(system.tasks) * (_WIDTH + _GAP) - _GAP
    bands = {"encoder": bottom + 1.55} | ({"decoder": bottom + 5.1} if system.backbone != "encoder" else {})
    for name, y in bands.items():
        axis.add_patch(FancyBboxPatch((0, y), end, 1.7, boxstyle=_ROUND, facecolor=_BLOCK, edgecolor=LINE))
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
    words = "mixed attention" if mixed else "bidirectional attention"
    _block(axis, "encoder", words, "mixed" if mixed else "bidirectional", x, bands["encoder"])
    last = "encoder"
    if "decoder" in bands:
        last, y = "decoder", bands["decoder"]
        _arrow(axis, (x + 1.6, bands["encoder"] + 1.7), (x + 1.6, y), "cross", _ATTENTION_COLOURS["cross"])
        axis.text(x + 1.9, y - 1.6, "cross-attention", fontsize=7.5, color=LINE, va="center")
        _boxes(axis, read["decoder"], x + 2.9, _WIDTH - 3.1, y - 1.3)
        _arrow(axis, (x + 2.9 + (_WIDTH - 3.1) / 2, y - 0.55), (x + 2.9 + (_WIDTH - 3.1) / 2, y))
        _block(axis, "decoder", "causal attention", "causal", x, y)
    y = bands[last] + 1.7
    colour = TASK_COLOURS[task]
    if task == "rank":
        at = "state of the first token" if system.backbone == "encoder" else "state of the last token"
        head = "feed-forward → score"
        loss = "hinge" if system.rank_loss == "pairwise" else "cross-entropy of relevance"
    else:
        target = "query" if task == "query_generation" else "answer"
        at = "states that predict it"
        head, loss = f"language model → next token of the {target}", "cross-entropy"
    _arrow(axis, (middle, y), (middle, y + 0.85))
    axis.text(middle + 0.25, y + 0.42, at, fontsize=7.5, color=LINE, va="center")
    place = (x + 0.4, y + 0.85), _WIDTH - 0.8, 1.1
    axis.add_patch(FancyBboxPatch(*place, boxstyle=_ROUND, facecolor=_HEAD, edgecolor=colour, linewidth=1.6))
    axis.text(middle, y + 1.4, head, fontsize=8.5, color=INK, ha="center", va="center")
    _arrow(axis, (middle, y + 1.95), (middle, y + 2.65))
    words = f"{TASK_LABELS[task]} loss: {loss}"
    axis.text(middle, y + 3.05, words, fontsize=8.5, color=colour, weight="bold", ha="center", va="center")


def _block(axis: Axes, name: str, words: str, kind: str, x: float, y: float) -> None:
    """A pass through a stack of layers: its name, the mask it uses in words and in small."""
    axis.text(x + 2.5, y + 1.1, f"{name} layers", fontsize=9.5, color=INK, va="center", weight="bold")
    axis.text(x + 2.5, y + 0.55, words, fontsize=8, color=LINE, va="center")
    side, n = 1.2, 4
    cell = side / n
    for row in range(n):
        for column in range(n):
            axis.add_patch(
                Rectangle((x + 0.9 + column * cell, y + 0.25 + side - (row + 1) * cell), cell, cell, linewidth=0.4,
                          edgecolor="white", facecolor=_cell_colour(kind, row, column, n))
            )  # fmt: skip


def _cell_colour(kind: str, row: int, column: int, n: int) -> str:
    """A mask of n tokens in small; in the mixed one, half of them are the source."""
    if kind == "bidirectional":
        return _ATTENTION_COLOURS["bidirectional"]
    if kind == "causal":
        return _ATTENTION_COLOURS["causal"] if column <= row else "#e2e2e2"
    if column < n // 2:
        return _ATTENTION_COLOURS["bidirectional" if row < n // 2 else "cross"]
    return _ATTENTION_COLOURS["causal"] if row >= column else "#e2e2e2"


def _boxes(axis: Axes, tokens: Sequence[str], x: float, width: float, y: float) -> None:
    """What is read, as boxes in the texts' colours; a text is wider than a special token."""
    weights = np.array([_box_weight(token) for token in tokens])
    edges = x + width * np.concatenate([[0], weights.cumsum()]) / weights.sum()
    for token, start, end in zip(tokens, edges, edges[1:]):
        face = TEXT_COLOURS.get(token, TEXT_COLOURS[""])
        place = (start + 0.04, y), end - start - 0.08, 0.75
        axis.add_patch(Rectangle(*place, facecolor=face, edgecolor="#aaaaaa", linewidth=0.6))
        size = 8 if token in TEXT_COLOURS else 6.2
        axis.text((start + end) / 2, y + 0.36, token, fontsize=size, ha="center", va="center", color=INK)


def _box_weight(token: str) -> float:
    if token in TEXT_COLOURS:
        return {"passage": 3.0}.get(token, 2.2)
    return 0.55 + 0.17 * len(token)


def _arrow(axis: Axes, start: tuple, end: tuple, kind: str = "", colour: str = LINE) -> None:
    width = 2.2 if kind == "cross" else 1.0
    style = dict(arrowstyle="-|>", mutation_scale=9, shrinkA=0, shrinkB=0)
    axis.add_patch(FancyArrowPatch(start, end, color=colour, linewidth=width, **style))


def _grid(axis: Axes, attention: Attention, title: str, room: tuple[int, int]) -> None:
    """room: so many rows and columns fill the axes; a cell is equally large in all grids."""
    rows, columns = attention.allowed.shape
    cells = np.empty((rows, columns, 3))
    cells[:] = to_rgb(_FORBIDDEN)
    cells[attention.allowed] = to_rgb(_WITHIN)
    cells[attention.interacts] = to_rgb(_MEETS)
    axis.imshow(cells, interpolation="none", aspect="equal", extent=(0, columns, rows, 0))
    axis.vlines(range(columns + 1), 0, rows, color="#dddddd", linewidth=0.6)
    axis.hlines(range(rows + 1), 0, columns, color="#dddddd", linewidth=0.6)
    axis.set_xticks(np.arange(columns) + 0.5, attention.columns, rotation=90, fontsize=7)
    axis.set_yticks(np.arange(rows) + 0.5, attention.rows, fontsize=7)
    labels = [*axis.get_xticklabels(), *axis.get_yticklabels()]
    for label, text in zip(labels, [*attention.column_texts, *attention.row_texts]):
        if text != FRAME:
            label.set(color=_darker("passage" if text == PASSAGE else "query"), weight="bold")
    axis.xaxis.tick_top()
    axis.tick_params(length=0, pad=2)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.set(xlim=(0, room[1]), ylim=(room[0], 0))
    axis.set_title(title, fontsize=10, weight="bold" if attention.interacts.any() else "normal")


def _darker(text: str) -> str:
    return {"passage": "#0b5aa2", "query": "#117733"}[text]
