"""Masks and attention to play with: ipywidgets whose picture follows every control.

The pictures are SVG, written in a few milliseconds, so that dragging and typing feel immediate. Where nobody
can drag, as under papermill, the static twin, a figure of `mask_plots` or `attention_plots`, is shown instead.
"""

import base64
import html
import io
from collections.abc import Sequence as Sequenced
from contextlib import contextmanager

import ipywidgets
import numpy as np
from IPython import get_ipython
from IPython.display import display
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from gdmtl_lib.inside.attention import NONE, Layout, Models, attention_weights, block_shares, build_sequence, layouts
from gdmtl_lib.figures.attention import HEAT, attention_map
from gdmtl_lib.figures.masks import (
    BAND,
    FORBIDDEN,
    INK,
    KIND_COLOURS,
    KIND_LABELS,
    LONG,
    PALETTE,
    mixed_mask,
    named_tokens,
    places,
    sentence,
    unwritten,
)
from gdmtl_lib.systems import LABELS, TASK_LABELS

WIDTH, HEIGHT = 1120, 520
# x, y, width and height of the grid and of what stands beside it.
GRID, BESIDE = (95, 85, 410, 400), (600, 85, 510, 320)
_MASK_LABELS = {
    "mixed": "mixed",
    "bidirectional": "bidirectional",
    "causal": "causal",
    "mlm": "bidirectional, target masked (MLM)",
    "encoder": "bidirectional (encoder)",
    "decoder": "causal (decoder)",
    "cross": "cross (decoder to encoder)",
}
_HEAT = (255 * colormaps[HEAT["cmap"]](np.linspace(0, 1, 256))[:, :3]).astype(np.uint8)


def is_interactive() -> bool:
    """Whether somebody can drag a slider: JupyterLab names the cell that it runs, papermill does not."""
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and "cellId" in kernel.get_parent("shell").get("metadata", {})


class MaskExplorer:
    """Who may attend to whom: type a passage and a query, choose system, task and mask, drag through the
    steps.

    models: opens a system's model by its name (`attention_maps.Models`). systems: those to choose from.
    passage, query, answer: texts to begin with.

    As the value of a notebook's cell it shows itself: `widget` where somebody can use it, else `figure()`.
    """

    def __init__(self, models: Models, systems: Sequenced[str], passage: str, query: str, answer: str = ""):
        self.models = models
        # A text counts when Enter is pressed or the field is left, not at every letter.
        text = dict(continuous_update=False)
        self.passage = ipywidgets.Textarea(passage, description="passage", rows=3, **text)
        self.query = ipywidgets.Text(query, description="query", **text)
        self.answer = ipywidgets.Text(answer, description="answer", **text)
        self.system = ipywidgets.Dropdown(
            options=[(LABELS[name], name) for name in systems], description="system"
        )
        self.task = ipywidgets.Dropdown(description="task")
        self.mask = ipywidgets.Dropdown(description="mask")
        self.step = ipywidgets.IntSlider(1, 1, 1, description="step")
        self.picture, self.note = ipywidgets.HTML(), ipywidgets.HTML()
        for wide in (self.passage, self.query, self.answer, self.step, self.picture, self.note):
            wide.layout.width = "99%"
        self.widget = ipywidgets.VBox(self._rows())
        self._following = True
        for control, answer in {
            self.system: self._system_changed,
            self.task: self._task_changed,
            self.mask: self._text_changed,
            self.passage: self._text_changed,
            self.query: self._text_changed,
            self.answer: self._text_changed,
            self.step: self._draw,
        }.items():
            self._follow(control, answer)
        self._system_changed()

    def figure(self) -> Figure:
        """The static twin: what the picture shows at the moment."""
        return mixed_mask(self.layout, self._index, title=self._title())

    def _svg(self) -> str:
        grid = PALETTE[self.layout.kinds]
        row = self._row
        if row is not None:
            after = unwritten(self.layout, row)
            grid[after] = 0.75 + 0.25 * grid[after]
        lines = _grid_lines(self.layout) if max(grid.shape) <= LONG else ""
        return _svg(
            _grid((255 * grid).astype(np.uint8), self.layout, row, lines), _edges(self.layout, row), _legend()
        )

    def _rows(self) -> list[ipywidgets.Widget]:
        choices = ipywidgets.HBox([self.system, self.task, self.mask])
        return [self.passage, self.query, self.answer, choices, self.step, self.note, self.picture]

    def _read(self) -> None:
        """What depends on the texts and choices, but not on the sliders."""
        model, mask = self.models(self.system.value), self.mask.value
        of_encoder = model.system.backbone == "encoder"
        texts = self.passage.value, self.query.value, self.answer.value
        self.sequence = build_sequence(model, self.task.value, *texts, mask=mask if of_encoder else None)
        self.attention = "encoder" if of_encoder else mask
        self.layout = layouts(model, self.sequence)[self.attention]

    @property
    def _index(self) -> int | None:
        return self.step.value - 1 if self.layout.steps else None

    @property
    def _row(self) -> int | None:
        return None if self._index is None else self.layout.steps[self._index]

    def _title(self) -> str:
        task, mask = TASK_LABELS[self.task.value], _MASK_LABELS[self.mask.value]
        return f"{self._name()}, {task}: {mask} attention"

    def _name(self) -> str:
        """Who attends; training changes no mask."""
        return LABELS[self.system.value]

    def _follow(self, control, answer) -> None:
        control.observe(lambda _: answer() if self._following else None, names="value")

    @contextmanager
    def _still(self):
        """Setting one control from another is not to draw: the picture is drawn once, at the end."""
        before, self._following = self._following, False
        try:
            yield
        finally:
            self._following = before

    def _system_changed(self) -> None:
        tasks = self.models(self.system.value).system.tasks
        task = self.task.value
        with self._still():
            self.task.options = [(TASK_LABELS[name], name) for name in tasks]
            # A generative task has steps to drag through: begin with one.
            self.task.value = task if task in tasks else tasks[min(1, len(tasks) - 1)]
        self._task_changed()

    def _task_changed(self) -> None:
        if self.models(self.system.value).system.backbone != "encoder":
            masks = ("cross", "decoder", "encoder")
        elif self.task.value == "rank":
            masks = ("bidirectional", "mixed", "causal")
        else:
            masks = ("mixed", "mlm", "bidirectional", "causal")
        with self._still():
            self.mask.options = [(_MASK_LABELS[name], name) for name in masks]
            self.mask.value = masks[0]
        self.answer.layout.display = None if self.task.value == "answer_generation" else "none"
        self._text_changed()

    def _text_changed(self) -> None:
        missing = [name for name in ("passage", "query") if not getattr(self, name).value.strip()]
        if missing:
            self.note.value = f"Type a {' and a '.join(missing)}."
            return
        self._read()
        with self._still():
            self.step.max = max(1, len(self.layout.steps))
            self.step.disabled = len(self.layout.steps) < 2
        self._draw()

    def _draw(self) -> None:
        words = (
            sentence(self.layout, self._index)
            if self.layout.steps
            else "no token is predicted in this attention"
        )
        which = html.escape(self.models.describe(self.system.value))
        self.note.value = f'<b>{html.escape(words)}</b><br><span style="color:#666">{which}</span>'
        self.picture.value = self._svg()

    def _ipython_display_(self) -> None:
        display(self.widget if is_interactive() else self.figure())


class AttentionExplorer(MaskExplorer):
    """What a model attends to: as `MaskExplorer`, with a layer and a head to choose."""

    def __init__(self, models: Models, systems: Sequenced[str], passage: str, query: str, answer: str = ""):
        self.layer = ipywidgets.IntSlider(1, 1, 1, description="layer")
        self.head = ipywidgets.IntSlider(1, 1, 1, description="head")
        self._follow(self.layer, self._draw)
        self._follow(self.head, self._draw)
        super().__init__(models, systems, passage, query, answer)

    def figure(self) -> Figure:
        """The static twin: what the picture shows at the moment."""
        title = f"{self._title()}, layer {self.layer.value}, head {self.head.value}"
        return attention_map(self._weights(), self.layout, self._index or 0, title)

    def _rows(self) -> list[ipywidgets.Widget]:
        *controls, note, picture = super()._rows()
        return [*controls, ipywidgets.HBox([self.layer, self.head]), note, picture]

    def _read(self) -> None:
        super()._read()
        self.weights = attention_weights(self.models(self.system.value), self.sequence)[self.attention]
        self.shares = block_shares(self.weights, self.layout)
        with self._still():
            self.layer.max, self.head.max = self.weights.shape[:2]

    def _name(self) -> str:
        return self.models.label(self.system.value)

    def _weights(self) -> np.ndarray:
        return self.weights[self.layer.value - 1, self.head.value - 1].numpy()

    def _svg(self) -> str:
        weights, row = self._weights(), self._row or 0
        colours = _HEAT[(255 * np.sqrt(weights.clip(0, 1))).astype(int)]
        colours[self.layout.kinds == NONE] = 217
        shares = self.shares[
            (self.shares["layer"] == self.layer.value) & (self.shares["head"] == self.head.value)
        ]
        lines = []
        for i, (rows, blocks) in enumerate(shares.groupby("rows", sort=False)):
            spent = ", ".join(f"{block.share:.0%} to the {block.columns}" for block in blocks.itertuples())
            words = f"attention of {rows} tokens: {spent}"
            lines.append(f'<text x="{BESIDE[0]}" y="{HEIGHT - 26 + 16 * i}" font-size="12">{words}</text>')
        return _svg(
            _grid(colours, self.layout, row),
            _bars(weights[row], self.layout, row),
            *lines,
            _heat_scale(),
        )


def _svg(*parts: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" fill="{INK}" '
        f'font-family="DejaVu Sans, sans-serif" style="width:100%;max-width:{WIDTH}px;background:white">'
        f"{''.join(parts)}</svg>"
    )


def _grid(colours: np.ndarray, layout: Layout, row: int | None, lines: str = "") -> str:
    """colours: uint8 [r, c, 3], as an image with tokens on both axes; the row in question is framed."""
    x, y, width, height = GRID
    down, right = (places(layout.row_segments), places(layout.column_segments))
    down, right = y + down / down[-1] * height, x + right / right[-1] * width
    for axis, (edges, start, size) in enumerate(((down, y, height), (right, x, width))):
        pixels = start + np.arange(2 * size) / 2 + 0.25
        colours = colours.take(np.searchsorted(edges, pixels) - 1, axis=axis)
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, format="png", compress_level=1)
    picture = base64.b64encode(buffer.getvalue()).decode()
    parts = [
        f'<image x="{x}" y="{y}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{picture}"/>',
        lines,
        _names(layout.columns, right, y - 4, "above"),
        _names(layout.rows, down, x - 4, "left", row),
    ]
    for at in right[1:-1][np.diff(layout.column_segments) != 0]:
        parts.append(f'<path d="M{at:.1f} {y}v{height}" stroke="{INK}"/>')
    for at in down[1:-1][np.diff(layout.row_segments) != 0]:
        parts.append(f'<path d="M{x} {at:.1f}h{width}" stroke="{INK}"/>')
    middles = (right[:-1] + right[1:]) / 2
    for segment, name in enumerate(layout.segments):
        if (layout.column_segments == segment).any():
            middle = middles[layout.column_segments == segment].mean()
            where = f'x="{middle:.1f}" y="{y + height + 14}"'
            parts.append(f'<text {where} font-size="11" text-anchor="middle">{name}</text>')
    if row is not None:
        parts.append(
            f'<rect x="{x}" y="{down[row]:.1f}" width="{width}" height="{down[row + 1] - down[row]:.1f}" '
            f'fill="none" stroke="black" stroke-width="2"/>'
        )
    return "".join(parts)


def _grid_lines(layout: Layout) -> str:
    """White lines between the cells, where there are few."""
    x, y, width, height = GRID
    rows, columns = layout.kinds.shape
    path = "".join(f"M{x + width * i / columns:.1f} {y}v{height}" for i in range(1, columns))
    path += "".join(f"M{x} {y + height * i / rows:.1f}h{width}" for i in range(1, rows))
    return f'<path d="{path}" stroke="white" stroke-width="0.8"/>'


def _edges(layout: Layout, row: int | None, layers: int = 2) -> str:
    """What the row in question sees, over two layers (over one, where rows and columns differ)."""
    x, y, width, height = BESIDE
    square = layout.rows is layout.columns
    layers = layers if square else 1
    across = places(layout.column_segments)
    across = x + across / across[-1] * width
    below = (across[:-1] + across[1:]) / 2
    pitch = width / len(below)
    above = (
        below
        if square
        else x + width / 2 + pitch * (np.arange(len(layout.rows)) - (len(layout.rows) - 1) / 2)
    )
    level = [y + height * (1 - layer / layers) for layer in range(layers + 1)]
    allowed, parts = layout.kinds != NONE, []
    reached = np.ones(len(above), dtype=bool) if row is None else np.arange(len(above)) == row
    known = [reached]
    for layer in reversed(range(layers)):
        part = allowed & known[0][:, None]
        known.insert(0, part.any(0))
        for kind, colour in KIND_COLOURS.items():
            looks, looked_at = np.nonzero(part & (layout.kinds == kind))
            if not len(looks):
                continue
            start, end = below[looked_at], above[looks]
            low, high = level[layer], level[layer + 1]
            if len(looks) > BAND:
                corners = (start.min(), low), (start.max(), low), (end.max(), high), (end.min(), high)
                path = "M" + "L".join(f"{a:.1f} {b}" for a, b in corners) + "Z"
                parts.append(f'<path d="{path}" fill="{colour}" opacity="0.5"/>')
            else:
                path = "".join(f"M{a:.1f} {low}L{b:.1f} {high}" for a, b in zip(start, end))
                thick = 1.4 if layer + 1 == layers else 0.7
                parts.append(f'<path d="{path}" stroke="{colour}" stroke-width="{thick}" fill="none"/>')
    radius = float(np.clip(60 / len(below), 1, 4))
    for layer, seen in enumerate(known):
        for place, is_seen in zip(above if layer else below, seen):
            fill = INK if is_seen else "#cccccc"
            parts.append(f'<circle cx="{place:.1f}" cy="{level[layer]}" r="{radius:.1f}" fill="{fill}"/>')
    names = ["input", *(f"layer {i}" for i in range(1, layers + 1))] if square else ["encoder", "decoder"]
    for name, at in zip(names, level):
        parts.append(f'<text x="{x - 8}" y="{at + 4}" font-size="11" text-anchor="end">{name}</text>')
    parts.append(_names(layout.columns, across, y + height + 8, "below", row if square else None))
    if not square:
        parts.append(
            _names(layout.rows, np.append(above - pitch / 2, above[-1] + pitch / 2), y - 8, "above", row)
        )
    return "".join(parts)


def _bars(weights: np.ndarray, layout: Layout, row: int) -> str:
    """The attention of one row, float [c], as bars that tell their numbers under the mouse."""
    x, y, width, height = BESIDE
    across = places(layout.column_segments)
    across = x + across / across[-1] * width
    top = max(float(weights.max()), 1e-9)
    parts = []
    for share in (0, top / 2, top):
        at = y + height * (1 - share / top)
        parts.append(f'<path d="M{x} {at:.1f}h{width}" stroke="#e6e6e6"/>')
        parts.append(
            f'<text x="{x - 6}" y="{at + 4:.1f}" font-size="11" text-anchor="end">{share:.2f}</text>'
        )
    for token, weight, kind, left, right in zip(
        layout.columns, weights, layout.kinds[row], across, across[1:]
    ):
        if kind == NONE:
            continue
        tall = height * weight / top
        parts.append(
            f'<rect x="{left:.1f}" y="{y + height - tall:.1f}" width="{0.9 * (right - left):.1f}" '
            f'height="{tall:.1f}" fill="{KIND_COLOURS[kind]}">'
            f"<title>{html.escape(token)}: {weight:.4f}</title></rect>"
        )
    title = f"attention of \u201c{html.escape(layout.rows[row])}\u201d"
    parts.append(f'<text x="{x}" y="{y - 16}" font-size="13">{title}</text>')
    return "".join(parts) + _bar_legend(layout, row) + _names(layout.columns, across, y + height + 6, "below")


def _names(tokens: list[str], edges: np.ndarray, at: float, side: str, important: int | None = None) -> str:
    parts = []
    for place, size in named_tokens(edges, important, smallest=8):
        middle = (edges[place] + edges[place + 1]) / 2
        if side == "left":
            where = f'x="{at}" y="{middle + size / 3:.1f}" text-anchor="end"'
        else:
            anchor = "start" if side == "above" else "end"
            x = middle + size / 3
            where = f'x="{x:.1f}" y="{at}" text-anchor="{anchor}" transform="rotate(-90 {x:.1f} {at})"'
        weight = ' font-weight="bold"' if place == important else ""
        parts.append(f'<text {where} font-size="{size + 1:.1f}"{weight}>{html.escape(tokens[place])}</text>')
    return "".join(parts)


def _legend() -> str:
    entries = [(KIND_COLOURS[kind], label) for kind, label in KIND_LABELS.items()] + [
        (FORBIDDEN, "may not attend")
    ]
    return _entries(entries, BESIDE[0], HEIGHT - 22)


def _bar_legend(layout: Layout, row: int) -> str:
    """The mechanisms by which a row attends, in the upper right corner of its bars."""
    kinds = [kind for kind in KIND_LABELS if (layout.kinds[row] == kind).any()]
    entries = [(KIND_COLOURS[kind], KIND_LABELS[kind]) for kind in kinds]
    return _entries(entries, BESIDE[0] + BESIDE[2] - 125 * len(entries), BESIDE[1] - 27)


def _entries(entries: list[tuple[str, str]], x: float, y: float) -> str:
    """A line of a legend: (colour, label) pairs side by side."""
    return "".join(
        f'<rect x="{x + 125 * i}" y="{y}" width="14" height="12" fill="{colour}"/>'
        f'<text x="{x + 20 + 125 * i}" y="{y + 10}" font-size="12">{label}</text>'
        for i, (colour, label) in enumerate(entries)
    )


def _heat_scale() -> str:
    """What the heat map's colours stand for."""
    x, y, width, height = GRID
    at, parts = x + width + 10, []
    for i in range(50):
        red, green, blue = _HEAT[int(255 * (i + 0.5) / 50)]
        top = y + height * (1 - (i + 1) / 50)
        where = f'x="{at}" y="{top:.1f}" width="8" height="{height / 50 + 0.5:.1f}"'
        parts.append(f'<rect {where} fill="rgb({red},{green},{blue})"/>')
    for share in (0, 0.05, 0.2, 0.5, 1):
        parts.append(
            f'<text x="{at + 11}" y="{y + height * (1 - share**0.5) + 4:.1f}" font-size="9">{share}</text>'
        )
    return "".join(parts)
