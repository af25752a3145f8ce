"""Results, studies and the generative half to play with: the figures of `figures` under controls.

The arguments are those of the figures and tables that are drawn; `measure`, `baseline` and the like say what the controls
begin with.
"""

from collections.abc import Mapping
from functools import cache, partial

import ipywidgets
import pandas as pd
from pandas.io.formats.style import Styler

from gdmtl_lib import figures as plots
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.evaluation import comparison
from gdmtl_lib.evaluation.tables import styled, styled_passages, top_passages
from gdmtl_lib.experiments import studies
from gdmtl_lib.experiments.results import Results
from gdmtl_lib.figures.style import written
from gdmtl_lib.inference.generation import generate
from gdmtl_lib.systems import LABELS, unknown_name
from .explorer import Explorer, choice, containing, labelled, search, step_button


def explore_scores(
    results: Results, collection: Collection, split: str, relevance_level: int = 1, bins: int = 40
) -> Explorer:
    """Figure 8, one system at a time: choose system, split and bins. `relevance_level` goes for all splits."""
    run, systems = cache(results.run), results.systems(split)

    def draw(system, split, bins):
        return plots.score_distributions({system: run(system, split)}, collection.qrels(split), relevance_level, bins)

    splits = [name for name in collection.splits if results.systems(name)]
    chosen = choice("system", labelled(systems), systems[-1])
    return Explorer(draw, {"system": chosen, "split": choice("split", splits, split), "bins": (5, 100, bins)})


def explore_queries(
    results: Results, collection: Collection, split: str, baseline: str, measure: str = "RR@10",
    tolerance: float = 0.1, depth: int = 3, relevance_level: int = 1, system: str | None = None,
) -> Explorer:  # fmt: skip
    """Figure 6 and one line of Tables 4 and 7 for a pair of systems, and one query of them: click through the queries,
    the largest gain first, or through those that contain some words, and see the top passages before and after."""
    qrels = collection.qrels(split)
    values = results.values_by_system(split)
    texts = collection.queries(split).set_index("query_id")["text"]
    texts = texts[texts.index.isin(qrels["query_id"])]
    run = cache(results.run)

    def draw(measure, tolerance, baseline, system, words, query):
        deltas = comparison.query_deltas(values[baseline], values[system], measure)
        counts = comparison.win_tie_loss(values[baseline], values[system], measure, tolerance)
        score = f"{LABELS[system]} wins {counts.win}, ties {counts.tie}, loses {counts.loss} against {LABELS[baseline]}"
        found = deltas[deltas["query_id"].isin(containing(texts, words, "query").index)]
        query = min(query, len(found))
        chosen = found.iloc[query - 1]
        seeds = results.common_seeds(baseline, system, split=split)
        runs = {name: run(name, split, seeds[0]) for name in (baseline, system)}
        passages = top_passages([chosen["query_id"]], runs, collection, qrels, depth, relevance_level, width=300)
        means = f" (means over {len(seeds)} seeds; below, what seed {seeds[0]} shows)" if len(seeds) > 1 else ""
        return [
            plots.query_deltas({system: deltas}, baseline, measure, found.index[query - 1], tolerance, title=score),
            f"Query {query} of {len(found)}, “{texts[chosen['query_id']]}”: {written(measure)} "
            f"{chosen['baseline']:.3f} with {LABELS[baseline]}, {chosen['system']:.3f} with {LABELS[system]}{means}",
            styled_passages(passages.drop(columns="query_id")),
        ]

    words, query = search("query", texts)
    controls = {"measure": _measures(measure, next(iter(values.values()))), "tolerance": (0.0, 0.5, tolerance)}
    controls |= _pair(results, split, baseline, system)
    buttons = [step_button(query, "previous query", -1), step_button(query, "next query", 1)]
    return Explorer(draw, {**controls, "words": words, "query": query}, buttons)


def explore_rank_shifts(
    results: Results, collection: Collection, split: str, baseline: str, depth: int = 10, relevance_level: int = 1
) -> Explorer:
    """Figure 5: choose a pair of systems and how deep to look."""
    qrels = collection.qrels(split)
    shifts = cache(partial(results.rank_shifts, split=split, qrels=qrels, depth=max(50, depth), relevance_level=relevance_level))

    def draw(baseline, system, depth):
        return plots.rank_shifts({system: shifts(baseline, system)}, baseline, depth)

    return Explorer(draw, {**_pair(results, split, baseline), "depth": (1, 50, depth)})


def explore_transfer(home: Results, away: Results, splits: tuple[str, str], baseline: str) -> Explorer:
    """Table 8 for a pair of systems, query by query: choose them and the measure. splits: of `home` and of `away`."""
    values = cache(lambda place, system: (home, away)[place].values(system, splits[place]))

    def draw(measure, baseline, system):
        found = [{name: values(place, name) for name in (baseline, system)} for place in (0, 1)]
        return plots.pair(*found, baseline, system, measure, splits)

    return Explorer(draw, {"measure": _measures("RR@10", values(0, home.name(baseline))), **_pair(home, splits[0], baseline)})


def explore_categories(
    results: Results, collection: Collection, split: str, baseline: str, measure: str = "RR@10"
) -> Explorer:
    """Table 5 for a pair of systems: choose them and the measure. Marks are corrected over all systems, as there."""
    values = results.values_by_system(split)
    table = cache(partial(comparison.by_category, values, collection.queries(split)))

    def draw(measure, baseline, system):
        rows = table(baseline, measure)
        return plots.categories(rows[rows["system"].isin((baseline, system))], baseline, measure)

    return Explorer(draw, {"measure": _measures(measure, next(iter(values.values()))), **_pair(results, split, baseline)})


def explore_training_size(
    study: studies.Study, trainings: pd.DataFrame, queries: Mapping[float, int], first_stage: pd.DataFrame,
    baseline: str, measure: str = "RR@10",
) -> Explorer:  # fmt: skip
    """Figure 7: choose systems (several with Ctrl or Shift) and the measure. Marks are corrected over all systems.
    first_stage: BM25's per-query values."""
    means, bm25 = study.means(trainings), first_stage.groupby("measure")["value"].mean()
    # All of them at once: a change of the measure only draws.
    tables = {name: studies.training_size(study, trainings, baseline, name) for name in means["measure"].unique()}

    def draw(systems, measure):
        rows, by_seed = tables[measure], means[means["measure"] == measure]
        if not systems:
            raise ValueError("systems: choose at least one")
        rows = rows[rows["system"].isin(systems)]
        return plots.training_size(rows, by_seed, queries, bm25[measure], baseline, measure)

    names = list(trainings["system"].unique())
    some = dict(options=labelled(names), value=names, rows=min(len(names), 5), description="systems")
    return Explorer(draw, {"systems": ipywidgets.SelectMultiple(**some), "measure": _measures(measure, means)})


def explore_loss_weighting(
    study: studies.Study, trainings: pd.DataFrame, reference: pd.DataFrame, first_stage: pd.DataFrame,
    sigmas: pd.DataFrame, measure: str = "RR@10",
) -> Explorer:  # fmt: skip
    """The weightings of the losses under another measure. reference: the trainings of the system that learns to rank
    alone. first_stage: BM25's per-query values."""
    weighted, alone = study.means(trainings), study.means(reference)
    bm25 = first_stage.groupby("measure")["value"].mean()

    def draw(measure):
        of_measure = (means[means["measure"] == measure] for means in (weighted, alone))
        return plots.loss_weighting(*of_measure, bm25[measure], sigmas, measure)

    return Explorer(draw, {"measure": _measures(measure, weighted)})


def explore_ways(table: pd.DataFrame, measure: str, title: str) -> Explorer:
    """Effectiveness against cost: choose which cascade is shown beside the other ways (or all), and the sentence that
    goes with it. table: as `figures.cost_and_effectiveness` takes it."""
    cascades = [way for way in table["way"] if way.startswith("cascade")]

    def draw(k):
        rows = table[~table["way"].isin(cascades) | (table["way"] == k)] if k else table
        figure = plots.cost_and_effectiveness(rows, measure, title=title)
        if not k:
            return figure
        ways = table.set_index("way")
        row, base = ways.loc[k], ways.loc["ranking head"]
        said = (
            f"{k}: {written(measure)} {row['mean']:.3f} against the ranking head's {base['mean']:.3f} "
            f"(difference from {row['low']:+.3f} to {row['high']:+.3f}, 95%), for {row['gflop'] / base['gflop']:.0%} of its operations, "
            f"{row['stored'] / base['gflop']:.0%} with stored states"
        )
        return [figure, said]

    return Explorer(draw, {"k": choice("best k", [("all", ""), *((way.rpartition(" ")[2], way) for way in cascades)], "")})


def explore_written(table: pd.DataFrame, models: Mapping | None = None, max_tokens: int = 14) -> Explorer:
    """Browse passages: the real query and what each system writes, those first whose words are asked for. Or give a
    paragraph of your own, and see what they write for it.

    table: `passage`, `real query`, and a column a system, under its label. models: by label, what writes.
    max_tokens: the longest query.
    """

    def by_writer(texts: pd.Series) -> Styler:
        shown = styled(texts.rename("text").rename_axis("written by").reset_index(), index=False)
        return shown.set_table_styles([{"selector": "th, td", "props": "text-align: left; padding: 4px 8px"}])

    def draw(words, passage, own=""):
        if own.strip():
            written = {label: generate(model, [own], max_tokens=max_tokens)[0] for label, model in models.items()}
            return [f"Your paragraph: {own}", by_writer(pd.Series(written, dtype=str))]
        found = table.loc[containing(table["passage"], words, "passage").index]
        passage = min(passage, len(found))
        chosen = found.iloc[passage - 1]
        return [f"Passage {passage} of {len(found)}: {chosen['passage']}", by_writer(chosen.drop("passage"))]

    controls = dict(zip(("words", "passage"), search("passage", table["passage"])))
    if models:
        controls["own"] = ipywidgets.Textarea(
            description="or your own", placeholder="a paragraph: press Tab when it is complete", continuous_update=False,
            layout={"width": "36em"},
        )  # fmt: skip
    return Explorer(draw, controls)


def _pair(results: Results, split: str, baseline: str, system: str | None = None) -> dict[str, ipywidgets.Widget]:
    """Two choices of a system; the second begins with the one named, or with GDMTL as in the paper's figures; without
    it, or where it is the baseline, with the last other one."""
    systems, baseline = results.systems(split), results.name(baseline)
    others = [other for other in systems if other != baseline]
    others.sort(key="gdmtl".__eq__)
    return {
        "baseline": choice("before", labelled(systems), baseline),
        "system": choice("after", labelled(systems), others[-1] if system is None else results.name(system)),
    }


def _measures(value: str, values: pd.DataFrame) -> ipywidgets.Dropdown:
    """A choice of the measures that values, or means of them, have."""
    known = list(values["measure"].unique())
    if value not in known:
        raise ValueError(unknown_name("measure", value, known, "the values have"))
    return choice("measure", [(written(measure), measure) for measure in known], value)
