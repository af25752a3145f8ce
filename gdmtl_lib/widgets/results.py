"""Figures to play with: ipywidgets around the plots.

Each view is a function of its controls, `draw(**values)`, that returns a matplotlib Figure, a styled frame, or several
of them; `Explorer` puts the controls above and draws anew whenever one of them changes. A reader that knows no widgets
(GitHub's, say) shows the picture of the first values; the notebooks draw the same views as plain figures, too.
"""

import base64
import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from gdmtl_lib.evaluation import comparison
from gdmtl_lib import figures as plots
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.evaluation.measures import PAPER_MEASURES, PAPER_NAMES
from gdmtl_lib.evaluation.tables import styled_passages, top_passages
from gdmtl_lib.experiments.results import Results
from gdmtl_lib.systems import LABELS, system_name

Drawn = Figure | Styler | str


class Explorer(ipywidgets.VBox):
    """Controls, and under them what `draw` makes of their values.

    draw: called with the controls' values; returns a Figure, a styled frame, a plain text, or a list of these. What it
        raises as ValueError or FileNotFoundError is shown in place of the picture: not all values go together.
    controls: ipywidgets by the name of `draw`'s argument.
    buttons: shown after the controls; what they do is their own.
    """

    def __init__(
        self,
        draw: Callable[..., Drawn | list[Drawn]],
        controls: Mapping[str, ipywidgets.Widget],
        buttons: Iterable[ipywidgets.Button] = (),
    ):
        self.controls = dict(controls)
        self._draw = draw
        self._view = ipywidgets.HTML()
        shown = [*self.controls.values(), ipywidgets.HBox(list(buttons))]
        super().__init__([ipywidgets.HBox(shown, layout={"flex_flow": "row wrap"}), self._view])
        for control in self.controls.values():
            control.observe(self._redraw, "value")
        self._redraw()

    @property
    def view(self) -> str:
        """What is shown under the controls, as HTML."""
        return self._view.value

    def _redraw(self, _=None) -> None:
        try:
            drawn = self._draw(**{name: control.value for name, control in self.controls.items()})
        except (ValueError, FileNotFoundError) as error:
            drawn = str(error)
        self._view.value = "".join(map(_html, drawn if isinstance(drawn, list) else [drawn]))

    def _repr_mimebundle_(self, **kwargs):
        """The live widget, and its picture for readers that have no kernel."""
        bundle = super()._repr_mimebundle_(**kwargs)
        return bundle | {"text/html": self.view}


def explore_scores(
    results: Results, collection: Collection, split: str, relevance_level: int = 1, bins: int = 40
) -> Explorer:
    """Figure 8, one system at a time: choose system, split and bins. `relevance_level` goes for all splits."""
    run = cache(results.run)

    def draw(system, split, bins):
        return plots.score_distributions({system: run(system, split)}, collection.qrels(split), relevance_level, bins)

    splits = [name for name in collection.splits if results.systems(name)]
    systems = results.systems(split)
    controls = {
        "system": _choice("system", _labelled(systems), systems[-1]),
        "split": _choice("split", splits, split),
        "bins": _slider("bins", 5, 100, bins),
    }
    return Explorer(draw, controls)


def explore_queries(
    results: Results,
    collection: Collection,
    split: str,
    baseline: str,
    measure: str = "RR@10",
    tolerance: float = 0.1,
    depth: int = 3,
    relevance_level: int = 1,
    system: str | None = None,
) -> Explorer:
    """Figure 6 and one line of Tables 4 and 7 for a pair of systems, and one query of them: click through the queries,
    the largest gain first, or through those that contain some words, and see the top passages before and after."""
    qrels = collection.qrels(split)
    values = results.values_by_system(split)
    texts = collection.queries(split).set_index("query_id")["text"]
    texts = texts[texts.index.isin(qrels["query_id"])]
    run = cache(results.run)

    def containing(words):
        return texts.index[texts.str.contains(words, case=False, regex=False)]

    def draw(measure, tolerance, baseline, system, words, query):
        deltas = comparison.query_deltas(values[baseline], values[system], measure)
        counts = comparison.win_tie_loss(values[baseline], values[system], measure, tolerance)
        score = f"{LABELS[system]} wins {counts.win}, ties {counts.tie}, loses {counts.loss} against {LABELS[baseline]}"
        found = deltas[deltas["query_id"].isin(containing(words))]
        if found.empty:
            raise ValueError(f"No query contains {words!r}")
        query = min(query, len(found))
        chosen = found.iloc[query - 1]
        seeds = results.common_seeds(baseline, system)
        runs = {name: run(name, split, seeds[0]) for name in (baseline, system)}
        passages = top_passages([chosen["query_id"]], runs, collection, qrels, depth, relevance_level, width=300)
        means = f" (means over {len(seeds)} seeds; below, what seed {seeds[0]} shows)" if len(seeds) > 1 else ""
        return [
            plots.query_deltas({system: deltas}, baseline, measure, score, found.index[query - 1], tolerance),
            f"Query {query} of {len(found)}, “{texts[chosen['query_id']]}”: {measure} "
            f"{chosen['baseline']:.3f} with {LABELS[baseline]}, {chosen['system']:.3f} with {LABELS[system]}{means}",
            styled_passages(passages.drop(columns="query_id")),
        ]

    words = ipywidgets.Text(description="containing", placeholder="words of a query", continuous_update=False)
    query = _slider("query", 1, qrels["query_id"].nunique(), 1)
    controls = {
        "measure": _choice("measure", _measures(), measure),
        "tolerance": _slider("tolerance", 0.0, 0.5, tolerance),
        **_pair(results, split, baseline, system),
        "words": words,
        "query": query,
    }
    # The slider reaches as far as there are queries with the words typed.
    words.observe(lambda change: setattr(query, "max", max(1, len(containing(change["new"])))), "value")
    return Explorer(draw, controls, [_step(query, "previous query", -1), _step(query, "next query", 1)])


def explore_rank_shifts(
    results: Results, collection: Collection, split: str, baseline: str, depth: int = 10, relevance_level: int = 1
) -> Explorer:
    """Figure 5: choose a pair of systems and how deep to look."""
    qrels = collection.qrels(split)
    shifts = cache(partial(results.rank_shifts, split=split, qrels=qrels, depth=50, relevance_level=relevance_level))

    def draw(baseline, system, depth):
        return plots.rank_shifts({system: shifts(baseline, system)}, baseline, depth)

    return Explorer(draw, {**_pair(results, split, baseline), "depth": _slider("depth", 1, 50, depth)})


def explore_transfer(
    home: Results, away: Results, splits: tuple[str, str], baseline: str, measure: str = "RR@10"
) -> Explorer:
    """Table 8 for a pair of systems, query by query: choose them and the measure. splits: of `home` and of `away`."""
    values = cache(lambda place, system: (home, away)[place].values(system, splits[place]))

    def draw(measure, baseline, system):
        found = [{name: values(place, name) for name in (baseline, system)} for place in (0, 1)]
        return plots.pair(*found, baseline, system, measure, splits)

    return Explorer(draw, {"measure": _choice("measure", _measures(), measure), **_pair(home, splits[0], baseline)})


def explore_categories(
    results: Results, collection: Collection, split: str, baseline: str, measure: str = "RR@10"
) -> Explorer:
    """Table 5 for a pair of systems: choose them and the measure. Marks are corrected over all systems, as there."""
    values = results.values_by_system(split)
    queries = collection.queries(split)

    @cache
    def table(measure, baseline):
        return comparison.by_category(values, queries, baseline, measure)

    def draw(measure, baseline, system):
        rows = table(measure, baseline)
        return plots.categories(rows[rows["system"].isin((baseline, system))], baseline, measure)

    controls = {"measure": _choice("measure", _measures(), measure), **_pair(results, split, baseline)}
    return Explorer(draw, controls)


def _pair(results: Results, split: str, baseline: str, system: str | None = None) -> dict[str, ipywidgets.Widget]:
    """Two choices of a system; the second begins with the one named, or with GDMTL as in the paper's figures; without
    it, or where it is the baseline, with the last other one."""
    systems, baseline = results.systems(split), system_name(baseline)
    others = [other for other in systems if other != baseline]
    others.sort(key="gdmtl".__eq__)
    return {
        "baseline": _choice("before", _labelled(systems), baseline),
        "system": _choice("after", _labelled(systems), others[-1] if system is None else system_name(system)),
    }


def _labelled(systems: Iterable[str]) -> list[tuple[str, str]]:
    return [(LABELS[system], system) for system in systems]


def _measures() -> list[tuple[str, str]]:
    return [(PAPER_NAMES[measure], measure) for measure in PAPER_MEASURES]


def _choice(label: str, options: Sequence, value: object) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(options=options, value=value, description=label)


def _step(slider: ipywidgets.IntSlider, label: str, by: int) -> ipywidgets.Button:
    """A button that moves a slider; at its ends the slider stays."""
    button = ipywidgets.Button(description=label, layout={"width": "auto"})
    button.on_click(lambda _: setattr(slider, "value", slider.value + by))
    return button


def _slider(label: str, low: float, high: float, value: float) -> ipywidgets.Widget:
    """Whole numbers in steps of one, others in hundredths; it draws when it is let go."""
    kind, step = (ipywidgets.IntSlider, 1) if isinstance(low, int) else (ipywidgets.FloatSlider, 0.01)
    return kind(value=value, min=low, max=max(high, value), step=step, description=label, continuous_update=False)


def number_slider(label: str, most: int, value: int = 1) -> ipywidgets.IntSlider:
    """One of so many things, counted from 1."""
    return _slider(label, 1, max(1, most), value)


def _html(drawn: Drawn) -> str:
    if isinstance(drawn, Figure):
        png = io.BytesIO()
        with plt.rc_context(plots.STYLE):
            FigureCanvasAgg(drawn).print_png(png)  # savefig draws twice, once to lay the figure out
        data = base64.b64encode(png.getvalue()).decode()
        return f'<img src="data:image/png;base64,{data}" style="max-width: 100%">'  # or JupyterLab cuts off what is wider
    if isinstance(drawn, Styler):
        return drawn.to_html()
    return f"<p>{html.escape(drawn)}</p>"
