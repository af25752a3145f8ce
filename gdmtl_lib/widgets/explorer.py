"""Figures to play with: controls, and under them a view that follows.

A view is a function of its controls, `draw(**values)`. In JupyterLab it stands under them and is drawn anew whenever one
of them changes; where nobody can drag, as under papermill, its first picture is shown as any other picture is.
"""

import base64
import html
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
from IPython import get_ipython
from IPython.display import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from gdmtl_lib.figures.masks import Picture
from gdmtl_lib.figures.style import STYLE
from gdmtl_lib.systems import LABELS

Drawn = Figure | Picture | Styler | str


class Explorer(ipywidgets.VBox):
    """Controls, and under them what `draw` makes of their values.

    draw: called with the controls' values; returns what can be `Drawn`, or a list of it. What it raises as ValueError or
        FileNotFoundError is shown in place of the picture.
    controls: ipywidgets by the name of `draw`'s argument; `(low, high, value)` for a slider that is called so.
    buttons: shown after the controls.
    """

    def __init__(
        self, draw: Callable[..., Drawn | list[Drawn]], controls: Mapping[str, ipywidgets.Widget | tuple],
        buttons: Iterable[ipywidgets.Button] = (),
    ):  # fmt: skip
        self.controls = {name: slider(name, *each) if isinstance(each, tuple) else each for name, each in controls.items()}
        self.drawn: list[Drawn] = []
        self._draw, self._view, self._following = draw, ipywidgets.HTML(layout={"width": "99%"}), True
        shown = [*self.controls.values(), ipywidgets.HBox(list(buttons))]
        super().__init__([ipywidgets.HBox(shown, layout={"flex_flow": "row wrap"}), self._view])
        for control in self.controls.values():
            control.observe(self._changed, "value")
        self._redraw()

    @property
    def view(self) -> str:
        """What is shown under the controls, as HTML."""
        return self._view.value

    def adapt(self, changed: ipywidgets.Widget) -> None:
        """What a change of one control means for the others, before the view is drawn; nothing here."""

    @contextmanager
    def still(self) -> Iterator[None]:
        """Setting one control from another is not to draw: the view is drawn once, at the end."""
        before, self._following = self._following, False
        try:
            yield
        finally:
            self._following = before

    def _changed(self, change) -> None:
        if self._following:
            with self.still():
                self.adapt(change["owner"])
                self._redraw()

    def _redraw(self) -> None:
        try:
            drawn = self._draw(**{name: control.value for name, control in self.controls.items()})
        except (ValueError, FileNotFoundError) as error:
            drawn = str(error)
        self.drawn = drawn if isinstance(drawn, list) else [drawn]
        self._view.value = "".join(map(_html, self.drawn))

    def _repr_mimebundle_(self, **kwargs):
        """The live widget, and its picture for readers that have no kernel."""
        return super()._repr_mimebundle_(**kwargs) | {"text/html": self.view}

    def _ipython_display_(self) -> None:
        if is_interactive():
            display(self._repr_mimebundle_(), raw=True)
            return
        for part in self.drawn:
            if isinstance(part, str):  # whose own form is in quotation marks
                display({"text/html": _html(part), "text/plain": part}, raw=True)
            else:
                display(part.figure if isinstance(part, Picture) else part)


def is_interactive() -> bool:
    """Whether somebody can drag a slider: JupyterLab names the cell that it runs, papermill does not."""
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and "cellId" in kernel.get_parent("shell").get("metadata", {})


def choice(label: str, options: Sequence, value: object) -> ipywidgets.Dropdown:
    """One of some options; a pair is what is shown and the value."""
    return ipywidgets.Dropdown(options=options, value=value, description=label)


def labelled(systems: Iterable[str]) -> list[tuple[str, str]]:
    """Systems as options, under their labels."""
    return [(LABELS[system], system) for system in systems]


def slider(label: str, low: float, high: float, value: float) -> ipywidgets.Widget:
    """Whole numbers in steps of one, others in hundredths; it draws when it is let go. It reaches as far as its first value."""
    kind, step = (ipywidgets.IntSlider, 1) if isinstance(low, int) else (ipywidgets.FloatSlider, 0.01)
    return kind(value=value, min=min(low, value), max=max(high, value), step=step, description=label, continuous_update=False)


def containing(texts: pd.Series, words: str, what: str) -> pd.Series:
    """The texts with these words in them. Raises ValueError where none is."""
    found = texts[texts.str.contains(words, case=False, regex=False)]
    if found.empty:
        raise ValueError(f"No {what} contains {words!r}")
    return found


def search(what: str, texts: pd.Series) -> tuple[ipywidgets.Text, ipywidgets.IntSlider]:
    """A field for words to look for, and a slider that reaches as far as there are texts with them."""

    def reach(change):
        number.max = max(1, int(texts.str.contains(change["new"], case=False, regex=False).sum()))

    words = ipywidgets.Text(description="containing", placeholder=f"words of a {what}", continuous_update=False)
    number = slider(what, 1, max(1, len(texts)), 1)
    words.observe(reach, "value")
    return words, number


def step_button(number: ipywidgets.IntSlider, label: str, by: int) -> ipywidgets.Button:
    """A button that moves a slider; at its ends the slider stays."""
    button = ipywidgets.Button(description=label, layout={"width": "auto"})
    button.on_click(lambda _: setattr(number, "value", number.value + by))
    return button


def _html(drawn: Drawn) -> str:
    if isinstance(drawn, Styler):
        return drawn.to_html()
    if isinstance(drawn, str):
        return f"<p>{html.escape(drawn)}</p>"
    if isinstance(drawn, Figure):
        file = io.BytesIO()
        with plt.rc_context(STYLE):
            FigureCanvasAgg(drawn).print_png(file)  # savefig draws twice, once to lay the figure out
    data = base64.b64encode(file.getvalue() if isinstance(drawn, Figure) else drawn.png()).decode()
    return f'<img src="data:image/png;base64,{data}" style="max-width: 100%">'  # or JupyterLab cuts off what is wider
