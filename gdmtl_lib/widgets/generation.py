"""What the generative half does, to play with: ways to rank and written queries under controls, as in `widgets`."""

import ipywidgets
import pandas as pd

from gdmtl_lib import figures as plots
from gdmtl_lib.evaluation.measures import PAPER_NAMES
from .results import Explorer, number_slider


def explore_ways(table: pd.DataFrame, measure: str, title: str) -> Explorer:
    """Effectiveness against cost: choose which cascade is shown beside the other ways (or all), and the sentences that
    go with it. table: as `plots.cost_and_effectiveness` takes it, with `verdict` where there is one."""
    cascades = [way for way in table["way"] if way.startswith("cascade")]
    options = [("all", "")] + [(way.rpartition(" ")[2], way) for way in cascades]

    def draw(k):
        rows = table[~table["way"].isin(cascades) | (table["way"] == k)] if k else table
        figure = plots.cost_and_effectiveness(rows, measure, title)
        if not k:
            return figure
        ways = table.set_index("way")
        row, base = ways.loc[k], ways.loc["ranking head"]
        said = (
            f"{k}: {PAPER_NAMES.get(measure, measure)} {row['mean']:.3f} against the ranking head's {base['mean']:.3f} "
            f"(difference from {row['low']:+.3f} to {row['high']:+.3f}, 95%), for {row['gflop'] / base['gflop']:.0%} of its operations, "
            f"{row['stored'] / base['gflop']:.0%} with stored states"
        )
        return [figure, said]

    return Explorer(draw, {"k": ipywidgets.Dropdown(options=options, value="", description="best k")})


def explore_written(table: pd.DataFrame) -> Explorer:
    """Browse passages: the real query and what each system writes, those first whose words are asked for.

    table: `passage`, `real query`, and a column a system, under its label.
    """

    def containing(words):
        return table[table["passage"].str.contains(words, case=False, regex=False)]

    def draw(words, passage):
        found = containing(words)
        if found.empty:
            raise ValueError(f"No passage contains {words!r}")
        passage = min(passage, len(found))
        chosen = found.iloc[passage - 1]
        written = chosen.drop("passage").rename("text").rename_axis("written by").reset_index()
        styled = written.style.hide(axis="index").format(escape="html")
        styled.set_table_styles([{"selector": "th, td", "props": "text-align: left; padding: 4px 8px"}])
        return [f"Passage {passage} of {len(found)}: {chosen['passage']}", styled]

    words = ipywidgets.Text(description="containing", placeholder="words of a passage", continuous_update=False)
    passage = number_slider("passage", len(table), 1)
    words.observe(lambda change: setattr(passage, "max", max(1, len(containing(change["new"])))), "value")
    return Explorer(draw, {"words": words, "passage": passage})
