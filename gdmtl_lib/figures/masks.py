"""Figures 1 and 2: who may attend to whom. A layout in, a matplotlib Figure out.

The paper's colours are kept: bidirectional purple, cross yellow, causal blue, in shades that differ in lightness too. In
every grid a row looks and a column is looked at. The longest input (256 and 56 tokens) draws: then the second segment
gets more room a token, bands stand for many edges, and tokens are named as far as there is room.

r rows, c columns.
"""

import io
from collections.abc import Iterable, Iterator, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from gdmtl_lib.inside.attention import BIDIRECTIONAL, CAUSAL, CROSS, NONE, Layout
from .style import bare, styled

KIND_LABELS = {BIDIRECTIONAL: "bidirectional", CROSS: "cross", CAUSAL: "causal"}
KIND_COLOURS = {BIDIRECTIONAL: "#a079c0", CROSS: "#f3c623", CAUSAL: "#0b5aa2"}
FORBIDDEN, INK = "#ededed", "#333333"
PALETTE = np.array([to_rgb(FORBIDDEN), *(to_rgb(KIND_COLOURS[kind]) for kind in sorted(KIND_COLOURS))])
LONG = 64  # tokens that fit one by one
BAND = 1100  # so many edges of one kind are drawn as a band


def places(segments: np.ndarray) -> np.ndarray:
    """Where tokens begin and end along an axis: float [tokens + 1], each one unit wide. Of more than `LONG` tokens,
    those of the second segment are wider: three tenths of the axis, if they can't be named before that."""
    widths = np.ones(len(segments))
    second = segments == 1
    if len(segments) > LONG and second.any() and not second.all():
        wanted = 0.3 / 0.7 * (~second).sum() / second.sum()
        widths[second] = np.clip(wanted, 1, len(segments) / 24)
    return np.concatenate([[0], widths.cumsum()])


class Picture:
    """A figure of one sequence that goes from step to step: what stays is drawn once, and a step, which `moving` yields,
    upon it: `png` follows a slider (a test holds it to 0.1 s). `redrawn` are parts of the figure that stay and change."""

    redrawn: list[Artist] = []
    _still = None

    def __init__(self, layout: Layout, title: str = "", kinds: bool = False):
        self.layout = layout
        self.figure = placed_figure(12.2, 5.9, title, [layout] if kinds else [])
        self.canvas = FigureCanvasAgg(self.figure)
        self._drawn: list[Artist] = []

    @styled
    def show(self, step: int | None = None, **what):
        """Draw a step, an index into `layout.steps`; without it the sequence as a whole. Returns the picture."""
        for artist in self._drawn:
            artist.remove()
        row = self.layout.steps[step] if self.layout.steps and step is not None else None
        self._drawn = list(self.moving(row, step, **what))
        return self

    @styled
    def png(self) -> bytes:
        """What is shown, as PNG."""
        changing = [*self.redrawn, *self._drawn]
        if self._still is None:
            for artist in changing:
                artist.set_visible(False)
            self.canvas.draw()
            self._still = self.canvas.copy_from_bbox(self.figure.bbox)
            for artist in changing:
                artist.set_visible(True)
        self.canvas.restore_region(self._still)
        for artist in changing:
            self.figure.draw_artist(artist)
        file = io.BytesIO()
        Image.fromarray(np.asarray(self.canvas.buffer_rgba())).convert("RGB").save(file, "png", compress_level=1)
        return file.getvalue()


class MaskPicture(Picture):
    """Figure 2 for one sequence: the mask as a grid (b), and stacked over layers as edges (a); a decoder-to-encoder
    layout is not stacked. At a step what is not yet written is pale, the row that predicts is framed, and dark edges
    lead to it from all that it has seen, directly or through other tokens."""

    @styled
    def __init__(self, layout: Layout, title: str = ""):
        super().__init__(layout, title, kinds=True)
        self.grid = Grid(self.figure.add_axes((0.085, 0.10, 0.385, 0.70)), layout)
        self.grid.kinds()
        self.edges = self.figure.add_axes((0.545, 0.22, 0.445, 0.54))
        self.stack = _Stack(self.edges, layout, layers=2)
        if layout.steps and np.count_nonzero(layout.kinds) <= BAND:
            list(self.stack.all_edges(alpha=0.12))

    def moving(self, row: int | None, step: int | None) -> Iterator[Artist]:
        if row is None:
            yield from self.stack.all_edges(alpha=0.6)
            yield from self.stack.dots()
            return
        # What is generated after the row is the end of the sequence: nothing but rows with cross or causal attention.
        generated = np.isin(self.layout.kinds, (CROSS, CAUSAL)).any(1)
        first = max(row + 1, int(np.argmax(np.append(generated, True))))
        place = (0, self.grid.down[first]), self.grid.across[-1], self.grid.down[-1] - self.grid.down[first]
        yield self.grid.axis.add_patch(Rectangle(*place, color="white", alpha=0.75, linewidth=0))
        yield from self.grid.frame(row)
        at = dict(transform=self.edges.transAxes, fontsize=10, va="center")
        yield self.edges.text(0, 1.26, sentence(self.layout, step), **at)
        yield from self.stack.seen_by(row)


def mixed_mask(layout: Layout, step: int | None = None, title: str = "") -> Figure:
    """`MaskPicture` at one step, an index into `layout.steps`, or of the whole sequence."""
    return MaskPicture(layout, title).show(step).figure


@styled
def attention_masks(layouts: Mapping[str, Layout], title: str = "Who may attend to whom?") -> Figure:
    """Figures 1 and 2 side by side: above each mask as a grid, below it as the edges from one layer to the next. layouts:
    the name of a mask -> its layout, of few tokens each. A token is equally large in all of them."""
    cell, left, gap = 0.25, 0.95, 0.55
    names = 0.075 * max(len(token) for layout in layouts.values() for token in layout.columns) + 0.1
    tallest = cell * max(len(layout.rows) for layout in layouts.values())
    widths = [left + cell * len(layout.columns) + gap for layout in layouts.values()]
    edges, below = 1.5, 0.45
    height = 0.75 + names + tallest + 0.75 + edges + names + below
    figure = placed_figure(sum(widths), height, title, layouts.values())
    for i, (name, layout) in enumerate(layouts.items()):
        rows, columns = layout.kinds.shape
        start, top = sum(widths[:i]), height - 0.75 - names
        x, wide = (start + left) / sum(widths), cell * columns / sum(widths)
        Grid(figure.add_axes((x, (top - cell * rows) / height, wide, cell * rows / height)), layout).kinds()
        figure.text((start + 0.12) / sum(widths), (top + names + 0.08) / height, name, fontsize=11)
        stack = _Stack(figure.add_axes((x, (below + names) / height, wide, edges / height)), layout, layers=1)
        list(stack.all_edges(alpha=0.6)), list(stack.dots())
    return figure


@styled
def expansion(
    losses: pd.DataFrame, source: list[str], title: str = "Is one mixed pass worth an example for every target token?"
) -> Figure:
    """How one example becomes |target| examples (Section 4.2), and what each of them costs. losses: the first frame of
    `attention.compare_expansion`. source: the source's tokens."""
    targets = losses["token"].tolist()
    n = len(targets)
    shown = source if len(source) <= 9 else [*source[:6], "\u2026", *source[-2:]]
    # Of a long target an example shows the last tokens written, so that names keep their room.
    written = [targets[:t] if t <= 8 else ["\u2026", *targets[t - 7 : t]] for t in range(n)]
    total = 0.34 * n + 1.55
    figure = placed_figure(11.5, total, title)
    bottom, height = 0.8 / total, 0.34 * n / total
    axis = figure.add_axes((0.05, bottom, 0.62, height))
    for t, target in enumerate(targets):
        # The next token is what the example is for; it is not among what the example reads.
        for x, token in enumerate([*shown, *written[t], target]):
            last = x == len(shown) + len(written[t])
            face = "#e3d7ec" if x < len(shown) else "white" if last else "#cfe0f0"
            box = dict(facecolor=face, edgecolor=INK if last else "white", linewidth=1)
            axis.add_patch(Rectangle((x + 0.03, t - 0.44), 0.94, 0.88, **box))
            weight = "bold" if last else "normal"
            size = 7 * min(1, 6 / len(token))  # within the box
            axis.text(x + 0.5, t, token, ha="center", va="center", fontsize=size, color=INK, weight=weight)
    axis.set(xlim=(0, len(shown) + min(n, 9)), ylim=(n - 0.5, -0.5), yticks=range(n), yticklabels=range(1, n + 1))
    axis.set(xticks=[], ylabel="example")
    axis.set_title("each example reads the source and what is written, and predicts the framed token", fontsize=10)
    bare(axis)
    axis = figure.add_axes((0.71, bottom, 0.275, height))
    for name, style in {
        "one mixed pass": dict(marker="o", s=70, facecolor="none", edgecolor=KIND_COLOURS[CAUSAL], linewidth=1.6),
        "expanded": dict(marker="x", s=28, color="black", linewidth=1.4),
        "[MASK]-filled": dict(marker="D", s=26, color="#d55e00"),
    }.items():
        axis.scatter(losses[name], range(n), label=name, zorder=3, **style)
    axis.set(ylim=(n - 0.5, -0.5), yticks=range(n), yticklabels=[], xlabel="loss of its token (nats)")
    axis.tick_params(axis="y", length=0)
    figure.legend(*axis.get_legend_handles_labels(), loc="lower left", ncols=3, fontsize=9)
    return figure


def sentence(layout: Layout, step: int) -> str:
    """What happens at a generation step, in words."""
    row, predicted = (layout.steps[step], layout.predicts[step]) if layout.steps else (0, None)
    looks = f"\u201c{layout.rows[row]}\u201d attends to {np.count_nonzero(layout.kinds[row])} tokens"
    after = {None: "", "score": "; the score is read here"}
    return looks + after.get(predicted, f"; to be predicted: \u201c{predicted}\u201d")


def named_tokens(edges: np.ndarray) -> list[tuple[int, float]]:
    """Which tokens there is room to name, and how large, from the end, where the target is: edges are in points. Returns
    (token, font size) pairs."""
    middles, widths = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    named: list[tuple[int, float]] = []
    for place in reversed(range(len(middles))):
        size = float(np.clip(widths[place] - 1, 6, 8.5))
        if not named or middles[named[-1][0]] - middles[place] >= (size + named[-1][1]) / 2 + 0.8:
            named.append((place, size))
    return named


def placed_figure(width: float, height: float, title: str, legend_of: Iterable[Layout] = ()) -> Figure:
    """An empty figure whose axes are placed by hand: the layout follows the tokens, not the length of their names. Its
    legend names the mechanisms that occur in some layouts."""
    figure = plt.figure(figsize=(width, height))
    plt.close(figure)  # out of pyplot's hands: it shows once, where it is returned
    # From the constrained layout of STYLE to none at all: saving would otherwise ask STYLE again.
    figure.set_layout_engine("none")
    figure.suptitle(title, x=0.12 / width, y=1 - 0.1 / height, ha="left", va="top", fontsize=12)
    there = set().union(*(np.unique(layout.kinds) for layout in legend_of))
    named = [(KIND_COLOURS[kind], label) for kind, label in KIND_LABELS.items() if kind in there]
    named += [(FORBIDDEN, "may not attend")] if NONE in there else []
    if named:
        handles = [Patch(color=colour, label=label) for colour, label in named]
        figure.legend(handles=handles, loc="lower left", ncols=4, fontsize=9)
    return figure


class Grid:
    """Tokens that look down the left of an axis, tokens that are looked at along its top, the segments below."""

    def __init__(self, axis: Axes, layout: Layout):
        self.axis, self.layout = axis, layout
        self.down, self.across = places(layout.row_segments), places(layout.column_segments)
        bare(axis)
        axis.set(xticks=[], yticks=[], xlim=(0, self.across[-1]), ylim=(self.down[-1], 0))
        name_tokens(axis, "above", layout.columns, self.across)
        name_tokens(axis, "left", layout.rows, self.down)
        middles = (self.across[:-1] + self.across[1:]) / 2
        for segment, name in enumerate(layout.segments):
            if (layout.column_segments == segment).any():
                at = (middles[layout.column_segments == segment].mean(), self.down[-1]), (0, -3)
                axis.annotate(name, *at, textcoords="offset points", ha="center", va="top", fontsize=8.5, color=INK)

    def kinds(self) -> None:
        """The mask itself, in the colours of its mechanisms."""
        self.image(PALETTE[self.layout.kinds])
        rows, columns = self.layout.kinds.shape
        if max(rows, columns) <= LONG:
            self.axis.vlines(range(1, columns), 0, rows, color="white", linewidth=0.8)
            self.axis.hlines(range(1, rows), 0, columns, color="white", linewidth=0.8)
        self.lines()

    def image(self, values: np.ndarray, **style) -> Artist:
        """values [r, c] or [r, c, colours], each token as wide as `places` has it."""
        return self.axis.pcolorfast(self.across, self.down, values, **style)

    def lines(self) -> tuple[Artist, Artist]:
        """A line between the segments of the columns, and one between those of the rows."""
        across, down = (edges[1:-1][np.diff(segments) != 0] for edges, segments in (
            (self.across, self.layout.column_segments), (self.down, self.layout.row_segments)))  # fmt: skip
        style = dict(color=INK, linewidth=1.1)
        return self.axis.vlines(across, 0, self.down[-1], **style), self.axis.hlines(down, 0, self.across[-1], **style)

    def frame(self, row: int) -> Iterator[Artist]:
        """A frame around a row, and its name in bold."""
        box = (0, self.down[row]), self.across[-1], self.down[row + 1] - self.down[row]
        style = dict(facecolor="none", edgecolor="black", linewidth=1.6, clip_on=False, zorder=4)
        yield self.axis.add_patch(Rectangle(*box, **style))
        yield from name_tokens(self.axis, "left", self.layout.rows, self.down, only=row)


class _Stack:
    """Tokens as dots, a line of them a layer, from the input at the bottom; an edge is an attention. What changes from
    step to step is drawn by its methods, which yield what they have drawn."""

    def __init__(self, axis: Axes, layout: Layout, layers: int):
        self.axis, self.layout = axis, layout
        self.square = layout.rows is layout.columns
        self.layers = layers if self.square else 1
        self.allowed = layout.kinds != NONE
        self.columns = places(layout.column_segments)
        self.below = (self.columns[:-1] + self.columns[1:]) / 2
        # A decoder's rows stand in the middle of the encoder's columns that they look at.
        middle = np.arange(len(layout.rows)) - (len(layout.rows) - 1) / 2
        self.above = self.below if self.square else self.columns[-1] / 2 + middle
        axis.set(xlim=(0, self.columns[-1]), ylim=(-0.05, self.layers + 0.05), xticks=[])
        bare(axis)
        names = ["input", *(f"layer {layer}" for layer in range(1, self.layers + 1))]
        names = names if self.layers > 1 else ["looked at", "looks"] if self.square else ["encoder", "decoder"]
        axis.set_yticks(range(self.layers + 1), names, fontsize=8)
        name_tokens(axis, "below", layout.columns, self.columns)
        if not self.square:
            name_tokens(axis, "above", layout.rows, np.append(self.above - 0.5, self.above[-1] + 0.5))

    def all_edges(self, alpha: float) -> Iterator[Artist]:
        for layer in range(self.layers):
            yield from self._edges(self.allowed, layer, alpha, 0.9)

    def seen_by(self, row: int) -> Iterator[Artist]:
        """The edges that lead to a row, through all layers; what it has seen is dark."""
        reached = [np.arange(len(self.above)) == row]
        for layer in reversed(range(self.layers)):
            chosen = self.allowed & reached[0][:, None]
            yield from self._edges(chosen, layer, 0.9, 1.1 if layer + 1 == self.layers else 0.6)
            reached.insert(0, chosen.any(0))
        yield from self.dots(reached)
        edges = self.columns if self.square else np.append(self.above - 0.5, self.above[-1] + 0.5)
        yield from name_tokens(self.axis, "below" if self.square else "above", self.layout.rows, edges, only=row)

    def dots(self, reached: list[np.ndarray] | None = None) -> Iterator[Artist]:
        """reached: bool, what is dark, by layer; everything when None."""
        size = float(np.clip(900 / len(self.below) ** 1.3, 3, 30))
        for layer in range(self.layers + 1):
            x = self.above if layer else self.below
            colours = INK if reached is None else np.where(reached[layer], INK, "#cccccc")
            yield self.axis.scatter(x, np.full(len(x), layer), s=size, c=colours, linewidth=0, zorder=3)

    def _edges(self, chosen: np.ndarray, layer: int, alpha: float, linewidth: float) -> Iterator[Artist]:
        for kind, colour in KIND_COLOURS.items():
            looks, looked_at = np.nonzero(chosen & (self.layout.kinds == kind))
            start, end = self.below[looked_at], self.above[looks]
            if len(start) > BAND:
                low, high = ([(side.min(), y), (side.max(), y)] for side, y in ((start, layer), (end, layer + 1)))
                band = PolyCollection([[*low, *high[::-1]]], facecolor=colour, alpha=0.55 * alpha, linewidth=0)
                yield self.axis.add_collection(band, autolim=False)
                continue
            ends = np.empty((len(start), 2, 2))
            ends[:, 0, 0], ends[:, 1, 0], ends[:, 0, 1], ends[:, 1, 1] = start, end, layer, layer + 1
            lines = LineCollection(ends, colors=colour, alpha=alpha, linewidth=linewidth)
            yield self.axis.add_collection(lines, autolim=False)


def name_tokens(axis: Axes, side: str, tokens: list[str], edges: np.ndarray, only: int | None = None) -> list[Artist]:
    """The names of the tokens along one side of an axis, as far as they do not touch, from the end, where the target
    is. only: this one alone, in bold, over the names that are there."""
    vertical = side == "left"
    inches = axis.figure.get_size_inches()[int(vertical)] * axis.get_position().bounds[2 + vertical]
    start, end = axis.get_ylim() if vertical else axis.get_xlim()
    points = 72 * inches / abs(end - start)
    style = {
        "left": dict(ha="right", va="center", xytext=(-3, 0)),
        "above": dict(ha="center", va="bottom", rotation=90, xytext=(0, 3)),
        "below": dict(ha="center", va="top", rotation=90, xytext=(0, -4)),
    }[side]
    if only is not None:
        style |= dict(weight="bold", bbox=dict(facecolor="white", edgecolor="none", pad=0.8), zorder=5)
        named = [(only, float(np.clip(points * np.diff(edges)[only] - 1, 6, 8.5)))]
    else:
        named = named_tokens(edges * points)
    far = axis.get_ylim()[0 if side == "below" else 1]
    drawn = []
    for place, size in named:
        middle = (edges[place] + edges[place + 1]) / 2
        at = (axis.get_xlim()[0], middle) if vertical else (middle, far)
        name = dict(textcoords="offset points", fontsize=size, annotation_clip=False, **style)
        drawn.append(axis.annotate(tokens[place], at, **name))
    return drawn
