"""Figures 1 and 2: who may attend to whom. A layout in, a matplotlib Figure out.

The paper's reading of mixed attention is kept: bidirectional purple, cross yellow, causal blue, here in
shades that differ in lightness too, so that colour-blind eyes and grey print tell them apart. In every grid a
row looks and a column is looked at. The longest input (256 and 56 tokens) draws: then the second segment,
where the interesting part is, gets more room a token, bands stand for many edges, and tokens are named as far
as there is room.

r rows, c columns.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from gdmtl_lib.inside.attention import BIDIRECTIONAL, CAUSAL, CROSS, NONE, Layout
from .results import STYLE

KIND_LABELS = {BIDIRECTIONAL: "bidirectional", CROSS: "cross", CAUSAL: "causal"}
KIND_COLOURS = {BIDIRECTIONAL: "#a079c0", CROSS: "#f3c623", CAUSAL: "#0b5aa2"}
FORBIDDEN, INK = "#ededed", "#333333"
PALETTE = np.array([to_rgb(FORBIDDEN), *(to_rgb(KIND_COLOURS[kind]) for kind in sorted(KIND_COLOURS))])
LONG = 64  # tokens that fit one by one
BAND = 1100  # so many edges of one kind are drawn as a band


def places(segments: np.ndarray) -> np.ndarray:
    """Where tokens begin and end along an axis: float [tokens + 1], each one unit wide.

    Of more than `LONG` tokens, those of the second segment are wider: together three tenths of the axis, if
    they are not wide enough to be named before that.
    """
    widths = np.ones(len(segments))
    second = segments == 1
    if len(segments) > LONG and second.any() and not second.all():
        wanted = 0.3 / 0.7 * (~second).sum() / second.sum()
        widths[second] = np.clip(wanted, 1, len(segments) / 24)
    return np.concatenate([[0], widths.cumsum()])


def attention_masks(layouts: Mapping[str, Layout], title: str = "Who may attend to whom?") -> Figure:
    """Figures 1 and 2 side by side: above each mask as a grid, below it as the edges from one layer to the
    next.

    layouts: the name of a mask -> its layout, of few tokens each. A token is equally large in all of them.
    """
    cell, left, gap = 0.25, 0.95, 0.55
    names = 0.075 * max(len(token) for layout in layouts.values() for token in layout.columns) + 0.1
    tallest = cell * max(len(layout.rows) for layout in layouts.values())
    widths = [left + cell * len(layout.columns) + gap for layout in layouts.values()]
    edges, below = 1.5, 0.45
    height = 0.75 + names + tallest + 0.75 + edges + names + below
    with plt.rc_context(STYLE):
        figure = placed_figure(sum(widths), height, title, kinds=True)
        for i, (name, layout) in enumerate(layouts.items()):
            rows, columns = layout.kinds.shape
            start, top = sum(widths[:i]), height - 0.75 - names
            x, wide = (start + left) / sum(widths), cell * columns / sum(widths)
            grid = figure.add_axes((x, (top - cell * rows) / height, wide, cell * rows / height))
            _draw_grid(grid, layout)
            figure.text((start + 0.12) / sum(widths), (top + names + 0.08) / height, name, fontsize=11)
            beneath = figure.add_axes((x, (below + names) / height, wide, edges / height))
            _draw_edges(beneath, layout, None, layers=1)
    return figure


def mixed_mask(layout: Layout, step: int | None = None, layers: int = 2, title: str = "") -> Figure:
    """Figure 2 for one sequence: the mask as a grid (b), and stacked over layers as edges (a).

    step: the generation step to follow, an index into `layout.steps`: what is not yet written is pale, the
    row that predicts is framed, and dark edges lead to it from all that it has seen, directly or through
    other tokens. A decoder-to-encoder (cross) layout is not stacked: its rows are not its columns.
    """
    row = None if step is None or not layout.steps else layout.steps[step]
    with plt.rc_context(STYLE):
        figure = placed_figure(12.2, 5.9, title, kinds=True)
        _draw_grid(figure.add_axes((0.085, 0.10, 0.385, 0.70)), layout, row)
        _draw_edges(figure.add_axes((0.545, 0.22, 0.445, 0.54)), layout, row, layers)
        if row is not None:
            figure.text(0.545, 0.90, sentence(layout, step), fontsize=10)
    return figure


def expansion(
    losses: pd.DataFrame,
    source: list[str],
    title: str = "Is one mixed pass worth an example for every target token?",
) -> Figure:
    """How one example becomes |target| examples (Section 4.2), and what each of them costs.

    losses: the first frame of `attention_maps.compare_expansion`. source: the source's tokens.
    """
    targets = losses["token"].tolist()
    n = len(targets)
    shown = source if len(source) <= 9 else [*source[:6], "\u2026", *source[-2:]]
    # Of a long target an example shows the last tokens written, so that names keep their room.
    written = [targets[:t] if t <= 8 else ["\u2026", *targets[t - 7 : t]] for t in range(n)]
    with plt.rc_context(STYLE):
        total = 0.34 * n + 1.55
        figure = placed_figure(11.5, total, title)
        bottom, height = 0.8 / total, 0.34 * n / total
        axis = figure.add_axes((0.05, bottom, 0.62, height))
        for t, target in enumerate(targets):
            # The next token is what the example is for; it is not among what the example reads.
            for x, token in enumerate([*shown, *written[t], target]):
                last = len(shown) + len(written[t])
                kind = "source" if x < len(shown) else "predicted" if x == last else "target"
                face = {"source": "#e3d7ec", "target": "#cfe0f0", "predicted": "white"}[kind]
                edge = INK if kind == "predicted" else "white"
                axis.add_patch(
                    Rectangle((x + 0.03, t - 0.44), 0.94, 0.88, facecolor=face, edgecolor=edge, linewidth=1)
                )
                axis.text(
                    x + 0.5, t, token, ha="center", va="center", fontsize=7, color=INK,
                    weight="bold" if kind == "predicted" else "normal",
                )  # fmt: skip
        axis.set(xlim=(0, len(shown) + min(n, 9)), ylim=(n - 0.5, -0.5), yticks=range(n), yticklabels=range(1, n + 1))
        axis.set(xticks=[], ylabel="example")
        axis.set_title(
            "each example reads the source and what is written, and predicts the framed token", fontsize=10
        )
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        axis.grid(visible=False)
        axis = figure.add_axes((0.71, bottom, 0.275, height))
        marks = {
            "one mixed pass": dict(
                marker="o", s=70, facecolor="none", edgecolor=KIND_COLOURS[CAUSAL], linewidth=1.6
            ),
            "expanded": dict(marker="x", s=28, color="black", linewidth=1.4),
            "[MASK]-filled": dict(marker="D", s=26, color="#d55e00"),
        }
        for name, style in marks.items():
            axis.scatter(losses[name], range(n), label=name, zorder=3, **style)
        axis.set(ylim=(n - 0.5, -0.5), yticks=range(n), yticklabels=[], xlabel="loss of its token (nats)")
        figure.legend(*axis.get_legend_handles_labels(), loc="lower left", ncols=3, fontsize=9)
    return figure


def sentence(layout: Layout, step: int) -> str:
    """What happens at a generation step, in words."""
    row = layout.steps[step] if layout.steps else 0
    looks = f"\u201c{layout.rows[row]}\u201d attends to {np.count_nonzero(layout.kinds[row])} tokens"
    if not layout.steps:
        return looks
    if layout.predicts[step] == "score":
        return f"{looks}; the score is read here"
    return f"{looks} and predicts \u201c{layout.predicts[step]}\u201d"


def unwritten(layout: Layout, row: int) -> np.ndarray:
    """The rows that are generated after the row in question: bool [r]."""
    generated = np.isin(layout.kinds, (CROSS, CAUSAL)).any(1)
    return generated & (np.arange(len(layout.rows)) > row)


def named_tokens(
    edges: np.ndarray, important: int | None = None, smallest: float = 6
) -> list[tuple[int, float]]:
    """Which tokens there is room to name, and how large: edges are in points. Returns (token, font size)
    pairs."""
    middles, widths = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    order = list(range(len(middles) - 1, -1, -1))
    if important is not None:
        order.insert(0, important)
    named: list[tuple[int, float]] = []
    for place in order:
        size = float(np.clip(widths[place] - 1, smallest, 8.5))
        if all(abs(middles[place] - middles[other]) >= (size + there) / 2 + 0.8 for other, there in named):
            named.append((place, size))
    return named


def placed_figure(width: float, height: float, title: str, kinds: bool = False) -> Figure:
    """An empty figure whose axes are placed by hand: the layout follows the tokens, not the length of their
    names."""
    figure = empty_figure((width, height))
    # From the constrained layout of STYLE to none at all: saving would otherwise ask STYLE again.
    figure.set_layout_engine("none")
    figure.suptitle(title, x=0.12 / width, y=1 - 0.1 / height, ha="left", va="top", fontsize=12)
    if kinds:
        handles = [Patch(color=KIND_COLOURS[kind], label=label) for kind, label in KIND_LABELS.items()]
        handles.append(Patch(color=FORBIDDEN, label="may not attend"))
        figure.legend(handles=handles, loc="lower left", ncols=4, fontsize=9)
    return figure


def empty_figure(size: tuple[float, float]) -> Figure:
    """A figure out of pyplot's hands, which shows once, where it is returned."""
    figure = plt.figure(figsize=size)
    plt.close(figure)
    return figure


def _draw_grid(axis: Axes, layout: Layout, row: int | None = None) -> None:
    colours = PALETTE[layout.kinds]
    if row is not None:
        after = unwritten(layout, row)
        colours[after] = 0.75 + 0.25 * colours[after]
    token_image(axis, colours, layout)
    rows, columns = layout.kinds.shape
    if max(rows, columns) <= LONG:
        axis.vlines(range(1, columns), 0, rows, color="white", linewidth=0.8)
        axis.hlines(range(1, rows), 0, columns, color="white", linewidth=0.8)
    name_grid(axis, layout, row)


def token_image(axis: Axes, values: np.ndarray, layout: Layout, **style):
    """values [r, c] or [r, c, colours] as an image, each token as wide as `places` has it."""
    vertical, horizontal = places(layout.row_segments), places(layout.column_segments)
    for dimension, edges in enumerate((vertical, horizontal)):
        if edges[-1] != len(edges) - 1:
            pixels = (np.arange(1200) + 0.5) / 1200 * edges[-1]
            values = values.take(np.searchsorted(edges, pixels) - 1, axis=dimension)
    extent = (0, horizontal[-1], vertical[-1], 0)
    return axis.imshow(values, interpolation="none", aspect="auto", extent=extent, **style)


def name_grid(axis: Axes, layout: Layout, row: int | None) -> None:
    """Tokens on both axes, a line between the segments, a frame around the row in question."""
    vertical, horizontal = places(layout.row_segments), places(layout.column_segments)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.set(xticks=[], yticks=[], xlim=(0, horizontal[-1]), ylim=(vertical[-1], 0))
    name_tokens(axis, "above", layout.columns, horizontal)
    name_tokens(axis, "left", layout.rows, vertical, row)
    axis.vlines(
        horizontal[1:-1][np.diff(layout.column_segments) != 0], 0, vertical[-1], color=INK, linewidth=1.1
    )
    axis.hlines(
        vertical[1:-1][np.diff(layout.row_segments) != 0], 0, horizontal[-1], color=INK, linewidth=1.1
    )
    middles = (horizontal[:-1] + horizontal[1:]) / 2
    for segment, name in enumerate(layout.segments):
        if (layout.column_segments == segment).any():
            x = middles[layout.column_segments == segment].mean()
            style = dict(ha="center", va="top", fontsize=8.5, color=INK)
            axis.annotate(name, (x, vertical[-1]), (0, -3), textcoords="offset points", **style)
    if row is not None:
        frame = (0, vertical[row]), horizontal[-1], vertical[row + 1] - vertical[row]
        axis.add_patch(
            Rectangle(*frame, facecolor="none", edgecolor="black", linewidth=1.6, clip_on=False, zorder=4)
        )


def _draw_edges(axis: Axes, layout: Layout, row: int | None, layers: int) -> None:
    """Tokens as dots, a line of them a layer, from the input at the bottom; an edge is an attention."""
    square = layout.rows is layout.columns
    layers = layers if square else 1
    edges = places(layout.column_segments)
    below = (edges[:-1] + edges[1:]) / 2
    # A decoder's rows stand in the middle of the encoder's columns that they look at.
    above = below if square else edges[-1] / 2 + (np.arange(len(layout.rows)) - (len(layout.rows) - 1) / 2)
    allowed = layout.kinds != NONE
    reached = [np.ones(len(above if layer else below), dtype=bool) for layer in range(layers + 1)]
    if row is None or np.count_nonzero(allowed) <= BAND:
        for layer in range(layers):
            _edges(
                axis, layout, allowed, layer, below, above, alpha=0.6 if row is None else 0.12, linewidth=0.9
            )
    if row is not None:
        reached[layers] = np.arange(len(above)) == row
        for layer in reversed(range(layers)):
            part = allowed & reached[layer + 1][:, None]
            _edges(
                axis,
                layout,
                part,
                layer,
                below,
                above,
                alpha=0.9,
                linewidth=1.1 if layer + 1 == layers else 0.6,
            )
            reached[layer] = part.any(0)
    size = float(np.clip(900 / len(below) ** 1.3, 3, 30))
    for layer, known in enumerate(reached):
        x = above if layer else below
        axis.scatter(
            x, np.full(len(x), layer), s=size, c=np.where(known, INK, "#cccccc"), linewidth=0, zorder=3
        )
    axis.set(xlim=(0, edges[-1]), ylim=(-0.05, layers + 0.05), xticks=[])
    axis.spines[:].set_visible(False)
    axis.grid(visible=False)
    lines = (
        ["input", *(f"layer {layer}" for layer in range(1, layers + 1))]
        if layers > 1
        else ["looked at", "looks"]
    )
    axis.set_yticks(range(layers + 1), lines if square else ["encoder", "decoder"], fontsize=8)
    axis.tick_params(length=0)
    name_tokens(axis, "below", layout.columns, edges, row if square else None)
    if not square:
        starts = np.append(above - 0.5, above[-1] + 0.5)
        name_tokens(axis, "above", layout.rows, starts, row)


def _edges(
    axis: Axes, layout: Layout, chosen: np.ndarray, layer: int, below, above, alpha: float, linewidth: float
):
    for kind, colour in KIND_COLOURS.items():
        looks, looked_at = np.nonzero(chosen & (layout.kinds == kind))
        start, end = below[looked_at], above[looks]
        if len(start) > BAND:
            band = [
                (start.min(), layer),
                (start.max(), layer),
                (end.max(), layer + 1),
                (end.min(), layer + 1),
            ]
            axis.add_collection(PolyCollection([band], facecolor=colour, alpha=0.55 * alpha, linewidth=0))
            continue
        ends = np.empty((len(start), 2, 2))
        ends[:, 0, 0], ends[:, 1, 0], ends[:, 0, 1], ends[:, 1, 1] = start, end, layer, layer + 1
        axis.add_collection(LineCollection(ends, colors=colour, alpha=alpha, linewidth=linewidth))


def name_tokens(axis: Axes, side: str, tokens: list[str], edges: np.ndarray, important: int | None = None) -> None:
    """The names of the tokens along one side of an axis, as far as they do not touch: the important one
    first, then from the end, where the target is."""
    vertical = side == "left"
    inches = axis.figure.get_size_inches()[int(vertical)] * axis.get_position().bounds[2 + vertical]
    start, end = axis.get_ylim() if vertical else axis.get_xlim()
    points = 72 * inches / abs(end - start)
    style = {
        "left": dict(ha="right", va="center", xytext=(-3, 0)),
        "above": dict(ha="center", va="bottom", rotation=90, xytext=(0, 3)),
        "below": dict(ha="center", va="top", rotation=90, xytext=(0, -4)),
    }[side]
    far = axis.get_ylim()[0 if side == "below" else 1]
    for place, size in named_tokens(edges * points, important):
        middle = (edges[place] + edges[place + 1]) / 2
        at = (axis.get_xlim()[0], middle) if vertical else (middle, far)
        weight = "bold" if place == important else "normal"
        axis.annotate(
            tokens[place],
            at,
            textcoords="offset points",
            fontsize=size,
            weight=weight,
            annotation_clip=False,
            **style,
        )
