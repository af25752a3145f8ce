"""Results looked at closely: the queries that change most and their passages, and tables in the paper's form."""

import html

import pandas as pd
from pandas.io.formats.style import Styler

from gdmtl_lib.data.collection import Collection
from .comparison import by_category, query_deltas, smallest_detectable_difference
from .measures import PAPER_NAMES, effectiveness_table, format_value
from gdmtl_lib.systems import LABELS

RELEVANT = "●"  # stands before a relevant passage
WEIGHTING = ["loss_weighting", "generation_head_warmup_steps"]  # the settings by which losses are weighted


def extremes(deltas: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """Of what `comparison.query_deltas` returns the queries that gain most and those that lose most, at most `count` of
    each."""
    gain, loss = deltas[deltas["difference"] > 0], deltas[deltas["difference"] < 0]
    return pd.concat([gain.head(count), loss.tail(count)], ignore_index=True)


def top_passages(
    query_ids: list[str], runs: dict[str, pd.DataFrame], collection: Collection, qrels: pd.DataFrame, depth: int = 1,
    relevance_level: int = 1, width: int = 120,
) -> pd.DataFrame:
    """What each system shows for each of these queries, in their order.

    runs: `query_id, doc_id, rank` by system name. depth: how many passages of a query. width: passages are cut to so
    many characters.

    Returns a row for each query and rank: `query_id`, `rank`, and a column for each system, under its label (`rank (run)`
    for a run called `rank`), with the passage's text; a relevant one begins with `RELEVANT`. Raises ValueError where the
    collection lacks a passage.
    """
    pairs = qrels.loc[qrels["relevance"] >= relevance_level, ["query_id", "doc_id"]]
    relevant = set(pairs.itertuples(index=False, name=None))
    rows = pd.MultiIndex.from_product([query_ids, range(1, depth + 1)], names=["query_id", "rank"])
    table = rows.to_frame(index=False)
    for system, run in runs.items():
        top = run[run["query_id"].isin(query_ids) & (run["rank"] <= depth)]
        texts = [shortened(text, width) for text in collection.text(top["doc_id"])]
        marks = [f"{RELEVANT} " if pair in relevant else "" for pair in zip(top["query_id"], top["doc_id"])]
        shown = top[["query_id", "rank"]].assign(text=[m + t for m, t in zip(marks, texts)])
        label = LABELS[system] if LABELS[system] not in rows.names else f"{LABELS[system]} (run)"
        table = table.merge(shown.rename(columns={"text": label}), "left", ["query_id", "rank"])
    return table.fillna("")


def shortened(text: str, width: int) -> str:
    """A text's first `width` characters at most, whole words where there are some, its white space normalised."""
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    words = text[: width - 1].rpartition(" ")[0]
    return (words if len(words) > width // 2 else text[: width - 2]) + " …"  # Chinese and a URL have no spaces


def styled(
    table: pd.DataFrame, formats: dict | str | None = None, caption: str = "", index: bool = True, **how
) -> Styler:
    """A table to look at, in which text from data is never markup. formats, how: as `Styler.format` takes them."""
    shown = table.style.format(formats, escape="html", **how).set_caption(html.escape(caption))
    shown.set_table_styles([{"selector": "th.row_heading", "props": "white-space: nowrap"}])
    for axis in (0, 1):
        shown.format_index(escape="html", axis=axis).format_index_names(escape="html", axis=axis)
    return shown if index else shown.hide(axis="index")


def styled_passages(table: pd.DataFrame) -> Styler:
    """A table with passages in it, to look at: relevant ones on green, numbers to three digits."""
    green = "background-color: #d9efe6; color: black"
    colours = table.map(lambda cell: green if isinstance(cell, str) and cell.startswith(RELEVANT) else "")
    # Widgets space lines widely, and leave no room between columns.
    room = "text-align: left; vertical-align: top; line-height: 1.4; padding: 4px 8px"
    return (
        styled(table, index=False, precision=3)
        .apply(lambda _: colours, axis=None)
        .set_table_styles([{"selector": "th", "props": room}, {"selector": "td", "props": room}])
    )


def marked_effectiveness(values_by_system: dict[str, pd.DataFrame], tests: pd.DataFrame) -> pd.DataFrame:
    """Tables 3, 6, 8 and 10 in the paper's form: a row a system, a column a measure, the mean (RBP's with its residual)
    and its mark in the cell. tests: what `comparison.compare` returns for these values."""
    marks = tests.pivot(index="system", columns="measure", values="mark").rename(columns=PAPER_NAMES)
    table = effectiveness_table(values_by_system)
    table = table + " " + marks.loc[table.index, table.columns]
    return table.apply(lambda column: column.str.strip()).rename(index=LABELS).rename_axis(columns=None)


def reported_effectiveness(reported: pd.DataFrame) -> pd.DataFrame:
    """What the paper reports, in the same form. reported: what `paper.effectiveness` returns; at least a row."""
    texts = map(format_value, reported["mean"], reported["residual"])
    cells = [f"{text} {mark}".strip() for text, mark in zip(texts, reported["mark"])]
    wide = reported.assign(cell=cells).pivot(index="system", columns="measure", values="cell")
    wide = wide.loc[reported["system"].unique(), reported["measure"].unique()]
    return wide.rename(index=LABELS, columns=PAPER_NAMES).rename_axis(columns=None)


def win_tie_loss_grid(table: pd.DataFrame) -> Styler:
    """Tables 4 and 7 in the paper's form: a row a system, a column an earlier one, wins / ties / losses in the cell, of
    what `win_tie_loss_table` returns."""
    cells = [f"{row.win:,} / {row.tie:,} / {row.loss:,}" for row in table.itertuples()]
    return _grid(table.assign(cell=cells), "system", "baseline").set_caption("wins / ties / losses, row against column")


def category_grid(table: pd.DataFrame) -> Styler:
    """Table 5 in the paper's form: a row a system, a column a category, the mean with its mark in the cell, of what
    `by_category` returns."""
    heads = table["category"].astype(str) + table["share"].map(" ({:.1%})".format)
    cells = table["mean"].map("{:.3f}".format) + table["mark"]
    return _grid(table.assign(cell=cells, category=heads), "system", "category")


def detectable_by_category(
    values_by_system: dict[str, pd.DataFrame], categories: pd.DataFrame, baseline: str, measure: str
) -> pd.Series:
    """The smallest true difference to the baseline that a test within each category could have found, in the rows of
    `comparison.by_category` with the same arguments; NaN for the baseline and for a category of one query."""
    table = by_category(values_by_system, categories, baseline, measure)
    category_of = categories.dropna(subset="category").set_index("query_id")["category"]
    spreads, found = {}, []
    for system in values_by_system:
        deltas = query_deltas(values_by_system[baseline], values_by_system[system], measure)
        of_category = deltas.groupby(deltas["query_id"].map(category_of))["difference"]
        spreads |= {(category, system): differences.std() for category, differences in of_category}
    for row in table.itertuples():
        tested = row.system != baseline and row.queries > 1
        std = spreads[row.category, row.system]
        found.append(smallest_detectable_difference(std, row.queries) if tested else float("nan"))
    return pd.Series(found, index=table.index)


def by_weighting(table: pd.DataFrame) -> list[tuple[str, int, pd.DataFrame]]:
    """Rows of `Study.trainings` or `Study.means` by the weighting of the losses, in words: learned (Eq. 6) first, then
    fixed (Eq. 2) by number; with the steps of the heads' warm-up."""
    groups = list(table.groupby(WEIGHTING, sort=False))
    groups.sort(key=lambda group: (not isinstance(group[0][0], str), group[0]))
    return [
        ("learned (Eq. 6)" if isinstance(weight, str) else f"fixed at {weight:g} (Eq. 2)", int(steps), rows)
        for (weight, steps), rows in groups
    ]


def _grid(table: pd.DataFrame, row: str, column: str) -> Styler:
    """A table's `cell` by two of its columns, both in the order of their first appearance, systems by label."""
    grid = table.pivot(index=row, columns=column, values="cell").fillna("")
    grid = grid.loc[table[row].unique(), table[column].unique()].rename(index=LABELS, columns=LABELS)
    return styled(grid.rename_axis(index=None, columns=None))
