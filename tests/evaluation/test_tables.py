import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gdmtl_lib.evaluation import comparison, tables as inspection, paper
from gdmtl_lib.data.collection import load_collection


def values_frame(*values):
    rows = [(f"q{i}", "RR@10", value) for i, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["query_id", "measure", "value"])


@pytest.fixture
def collection(tmp_path):
    (tmp_path / "passages.tsv").write_text("a\tan apple a day keeps the doctor away\nb\tbread\nc\tcheese\n")
    (tmp_path / "queries.dev.tsv").write_text("q1\tfruit\nq2\tfood\n")
    return load_collection(tmp_path)


def run_frame(*rows):
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "rank"])


def test_extremes_are_gains_then_losses():
    deltas = pd.DataFrame({"query_id": list("abcdef"), "difference": [0.9, 0.5, 0.1, 0.0, -0.2, -0.3]})
    assert list(inspection.extremes(deltas, 2)["query_id"]) == ["a", "b", "e", "f"]
    assert list(inspection.extremes(deltas, 10)["query_id"]) == ["a", "b", "c", "e", "f"]
    assert inspection.extremes(deltas[3:4], 2).empty


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("an  apple\na day", "an apple a day"), ("an apple a day keeps the doctor away", "an apple a day …"),
        ("冰" * 20, "冰" * 20), ("冰" * 21, "冰" * 18 + " …"), ("a " + "冰" * 30, "a " + "冰" * 16 + " …"),
    ],
)  # fmt: skip
def test_a_text_is_cut_between_words_where_it_has_some(text, shown):
    assert inspection.shortened(text, 20) == shown and len(shown) <= 20


def test_top_passages_side_by_side(collection):
    runs = {
        "bert": run_frame(("q1", "b", 1), ("q1", "a", 2), ("q2", "c", 1)),
        "gdmtl_plus": run_frame(("q1", "a", 1), ("q1", "b", 2), ("q2", "b", 1), ("q2", "c", 2), ("q2", "a", 3)),
    }
    qrels = pd.DataFrame({"query_id": ["q1", "q2", "q2"], "doc_id": ["a", "b", "c"], "relevance": [2, 1, 2]})
    table = inspection.top_passages(["q2", "q1"], runs, collection, qrels, depth=2, relevance_level=2, width=12)
    assert list(table.columns) == ["query_id", "rank", "BERT", "GDMTL+"]
    assert table.to_numpy().tolist() == [
        ["q2", 1, "● cheese", "bread"],
        ["q2", 2, "", "● cheese"],
        ["q1", 1, "bread", "● an apple a …"],
        ["q1", 2, "● an apple a …", "bread"],
    ]


def test_top_passages_of_runs_called_like_a_column(collection):
    runs = {name: run_frame(("q1", "b", 1)) for name in ("rank", "query_id", "self", "text")}
    qrels = pd.DataFrame({"query_id": ["q1"], "doc_id": ["a"], "relevance": [1]})
    table = inspection.top_passages(["q1"], runs, collection, qrels)
    assert table.to_dict("records") == [
        {"query_id": "q1", "rank": 1, "rank (run)": "bread", "query_id (run)": "bread", "self": "bread", "text": "bread"}
    ]


def test_styled_passages_colour_the_relevant():
    table = pd.DataFrame({"value": [0.12345], "first": ["● <b>"], "other": ["none"]})
    shown = inspection.styled_passages(table).to_html()
    assert "0.123" in shown and "0.12345" not in shown
    assert "&lt;b&gt;" in shown
    assert shown.count("background-color: #d9efe6") == 1


def test_win_tie_loss_in_the_papers_form():
    values = {"bert": values_frame(0.5, 0.5), "bm25": values_frame(0.5, 0.1), "gdmtl": values_frame(1.0, 0.5)}
    grid = inspection.win_tie_loss_grid(comparison.win_tie_loss_table(values, "RR@10")).data
    assert list(grid.index) == ["BM25", "GDMTL"] and list(grid.columns) == ["BERT", "BM25"]
    assert grid.to_numpy().tolist() == [["0 / 1 / 1", ""], ["1 / 1 / 0", "2 / 0 / 0"]]


def test_categories_in_the_papers_form():
    values = {"bert": values_frame(*[0.1, 0.2, 0.3] * 4, 1.0), "gdmtl": values_frame(*[0.6, 0.7, 0.81] * 4, 1.0)}
    queries = pd.DataFrame({"query_id": [f"q{i}" for i in range(13)], "category": ["PERSON"] * 12 + ["ENTITY"]})
    grid = inspection.category_grid(comparison.by_category(values, queries, "bert")).data
    assert list(grid.columns) == ["PERSON (92.3%)", "ENTITY (7.7%)"]
    assert grid.to_numpy().tolist() == [["0.200", "1.000"], ["0.703▲", "1.000"]]
    numbers = queries.assign(category=[2] * 12 + [1])
    grid = inspection.category_grid(comparison.by_category(values, numbers, "bert")).data
    assert list(grid.columns) == ["2 (92.3%)", "1 (7.7%)"]


def test_detectable_differences_stand_in_the_rows_of_the_table():
    """By hand for the first category: the spread of the differences there, and nothing else, goes into it."""
    generator = np.random.default_rng(0)
    values = {name: values_frame(*generator.random(12)) for name in ("bert", "gdmtl", "bm25")}
    queries = pd.DataFrame({"query_id": [f"q{i}" for i in range(12)], "category": ["A"] * 8 + ["B"] * 3 + ["C"]})
    found = inspection.detectable_by_category(values, queries, "bert", "RR@10")
    table = comparison.by_category(values, queries, "bert")
    assert list(found.isna()) == [
        system == "bert" or category == "C" for category, system in zip(table["category"], table["system"], strict=True)
    ]
    std = (values["gdmtl"]["value"] - values["bert"]["value"])[:8].std()
    [of_a] = found[(table["category"] == "A") & (table["system"] == "gdmtl")]
    assert of_a == pytest.approx(comparison.smallest_detectable_difference(std, 8))
    without = pd.concat([queries, queries.head(1).assign(category=None)])  # which says nothing of its query
    pd.testing.assert_series_equal(inspection.detectable_by_category(values, without, "bert", "RR@10"), found)
    levels = queries.assign(category=pd.Categorical(queries["category"], ["A", "B", "C", "D"]))
    pd.testing.assert_series_equal(inspection.detectable_by_category(values, levels, "bert", "RR@10"), found)


def test_effectiveness_in_the_papers_form():
    rows = [(f"q{i}", name, value, residual) for i in range(2) for name, value, residual in (
        ("RR@10", 0.5 + 0.1 * i, float("nan")), ("RBP(p=0.5)", 0.25, 0.75))]  # fmt: skip
    bert = pd.DataFrame(rows, columns=["query_id", "measure", "value", "residual"])
    gdmtl = bert.assign(value=bert["value"] + 0.1)
    values = {"gdmtl": gdmtl, "bert": bert}
    table = inspection.marked_effectiveness(values, comparison.compare(values, "bert"))
    assert table.index.tolist() == ["GDMTL", "BERT"] and table.columns.tolist() == ["MRR@10", "RBP0.5"]
    assert table.loc["BERT"].tolist() == ["0.550", "0.250 +0.750"]
    assert table.loc["GDMTL"].tolist() == ["0.650 ▲", "0.350 +0.750 ▲"]


def test_the_papers_numbers_in_the_same_form():
    reported = paper.EFFECTIVENESS[paper.EFFECTIVENESS["table"] == 8]
    table = inspection.reported_effectiveness(reported)
    assert table.index.tolist() == ["BERT", "GDMTL", "GDMTL+", "BM25"]
    assert table.columns.tolist() == ["MRR@10", "MRR@100", "NDCG@10", "NDCG@20", "RBP0.5", "RBP0.8"]
    assert table.loc["GDMTL+"].tolist() == ["0.686 △", "0.683 △", "0.498", "0.498", "0.514 +0.202 △", "0.409 +0.301"]
    assert table.loc["BM25", "MRR@10"] == "0.474 ▼"


HOSTILE = "<script>alert('$x_{$')</script>"


def test_text_from_data_is_never_markup():
    """In cells, heads and caption of whatever is shown, with numbers formatted or not."""
    values = {HOSTILE: values_frame(0.1, 0.5), "bert": values_frame(0.4, 0.5)}
    queries = pd.DataFrame({"query_id": ["q0", "q1"], "category": [HOSTILE, "x"]})
    frame = pd.DataFrame({HOSTILE: [HOSTILE], "value": 0.5}, index=[HOSTILE])
    for shown in (
        inspection.styled(frame, {"value": "{:.3f}"}, HOSTILE, na_rep=""),
        inspection.styled(frame, precision=3, index=False),
        inspection.styled(frame.set_index(HOSTILE, append=True).T),
        inspection.styled_passages(frame),
        inspection.win_tie_loss_grid(comparison.win_tie_loss_table(values, "RR@10")),
        inspection.category_grid(comparison.by_category(values, queries, "bert")),
    ):
        html = shown.to_html()
        assert "<script>" not in html and "&lt;script&gt;" in html


def test_every_table_of_a_notebook_is_shown_this_way():
    for path in Path(__file__).parents[2].glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code")
        assert not re.search(r"\.style\b(?! import)|to_html", code), path.name
