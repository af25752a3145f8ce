import html
import re
import time

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from tests.conftest import PATIENCE

import gdmtl_lib as gdmtl
from gdmtl_lib.experiments.results import Results
from gdmtl_lib.widgets.explorer import Explorer
from gdmtl_lib.widgets.results import (
    explore_categories, explore_queries, explore_rank_shifts, explore_scores, explore_transfer, explore_ways, explore_written,
)  # fmt: skip

SYSTEMS = {"bm25": (None,), "bert": (0, 1), "gdmtl": (0, 1)}


@pytest.fixture(scope="module")
def collection():
    return gdmtl.load_collection("sample")


@pytest.fixture(scope="module")
def results(tmp_path_factory, write_random_results) -> Results:
    folder = tmp_path_factory.mktemp("results")
    write_random_results(folder, SYSTEMS, ("dev", "cast"))
    return Results(folder)


def test_an_explorer_draws_at_once_and_on_every_change(pictures):
    drawn = []

    def draw(word, number):
        drawn.append((word, number))
        figure, axis = plt.subplots()
        axis.plot(range(number))
        return [figure, f"<{word}>", pd.DataFrame({"n": [number]}).style]

    explorer = Explorer(draw, {"word": ipywidgets.Text("a"), "number": ipywidgets.IntText(2)})
    assert "<p>&lt;a&gt;</p>" in explorer.view and re.search(r"<td[^>]*>2</td>", explorer.view)
    assert pictures(explorer, ("number", 3)) == 2
    assert drawn == [("a", 2), ("a", 3)]
    plt.close("all")


def test_an_explorer_says_what_cannot_be_drawn_and_goes_on():
    def draw(number):
        if number == 1:
            raise ValueError("number: expected 2 <b>")
        return str(number)

    explorer = Explorer(draw, {"number": ipywidgets.IntText(1)})
    assert explorer.view == "<p>number: expected 2 &lt;b&gt;</p>"
    explorer.controls["number"].value = 2
    assert explorer.view == "<p>2</p>"


def test_an_explorer_leaves_a_picture_where_there_is_no_kernel():
    explorer = Explorer(lambda number: str(number), {"number": ipywidgets.IntText(5)})
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/html"] == "<p>5</p>"


def test_explore_scores(results, collection, pictures):
    explorer = explore_scores(results, collection, "dev")
    assert explorer.controls["system"].value == "gdmtl"
    assert explorer.controls["split"].options == ("cast", "dev")
    assert pictures(explorer, ("bins", 10), ("system", "bert"), ("split", "cast")) == 4
    explorer.controls["bins"].value = 1  # the slider begins at 5
    assert explorer.controls["bins"].value == 5


def test_sliders_reach_as_far_as_their_first_values(results, collection):
    assert explore_scores(results, collection, "dev", bins=3).controls["bins"].value == 3
    deep = explore_rank_shifts(results, collection, "dev", "bert", depth=60)
    assert deep.controls["depth"].value == 60
    assert "below rank 60" in [label.get_text() for label in deep.drawn[0].axes[0].get_yticklabels()]


def test_explore_queries(results, collection):
    explorer = explore_queries(results, collection, "dev", "bert")
    controls = explorer.controls
    chosen = [controls[name].value for name in ("baseline", "system", "measure")]
    assert chosen == ["bert", "gdmtl", "RR@10"]
    deltas = gdmtl.comparison.query_deltas(results.values("bert", "dev"), results.values("gdmtl", "dev"), "RR@10")
    texts = [html.escape(text) for text in collection.query_texts(deltas["query_id"])]
    assert f"Query 1 of 170, “{texts[0]}”" in explorer.view
    assert "(means over 2 seeds; below, what seed 0 shows)" in explorer.view
    controls["query"].value = 170
    assert f"Query 170 of 170, “{texts[-1]}”: MRR@10 {deltas['baseline'].iloc[-1]:.3f} with BERT" in explorer.view
    top = results.run("gdmtl", "dev", 0).query("query_id == @deltas.query_id.iloc[-1] and rank == 1")["doc_id"]
    assert html.escape(collection.text(top)[0][:60]) in explorer.view


def test_explore_queries_by_their_words(results, collection):
    explorer = explore_queries(results, collection, "dev", "bert")
    containing = collection.queries("dev")["text"].str.contains("moon", case=False).sum()
    explorer.controls["words"].value = "Moon"
    assert f"Query 1 of {containing}, “" in explorer.view
    explorer.controls["query"].value = 100
    assert explorer.controls["query"].max == explorer.controls["query"].value == containing
    assert f"Query {containing} of {containing}, “" in explorer.view
    explorer.controls["words"].value = "no such word"
    assert explorer.view == "<p>No query contains &#x27;no such word&#x27;</p>"


def test_explore_queries_begins_with_the_pair_named_and_shows_its_ties(results, collection, pictures):
    explorer = explore_queries(results, collection, "dev", "gdmtl", system="bm25")
    assert [explorer.controls[name].value for name in ("baseline", "system")] == ["gdmtl", "bm25"]
    assert pictures(explorer, ("tolerance", 0.5)) == 2


def test_buttons_click_through_the_queries_and_stop_at_the_ends(results, collection):
    explorer = explore_queries(results, collection, "dev", "bert")
    previous, following = explorer.children[0].children[-1].children
    assert (previous.description, following.description) == ("previous query", "next query")
    previous.click()
    assert explorer.controls["query"].value == 1
    following.click()
    assert explorer.controls["query"].value == 2 and "Query 2 of 170, “" in explorer.view


@pytest.mark.parametrize(("baseline", "system"), [("bert", "gdmtl"), ("bm25", "gdmtl"), ("gdmtl", "bert")])
def test_pairs_begin_with_the_papers_system_where_it_is_not_the_baseline(results, collection, baseline, system):
    controls = explore_rank_shifts(results, collection, "dev", baseline).controls
    assert (controls["baseline"].value, controls["system"].value) == (baseline, system)


PAIR = (("system", "bm25"), ("baseline", "gdmtl"))


@pytest.mark.parametrize(
    ("explore", "values"),
    [
        (lambda of, collection: explore_rank_shifts(of, collection, "dev", "bert"), (("depth", 3), *PAIR)),
        (lambda of, collection: explore_categories(of, collection, "dev", "bert"), (("measure", "nDCG@10"), *PAIR)),
        (lambda of, _: explore_transfer(of, of, ("dev", "cast"), "bert"), (("measure", "nDCG@10"), *PAIR)),
    ],
)
def test_pictures_follow_the_measure_and_the_pair(results, collection, pictures, explore, values):
    assert pictures(explore(results, collection), *values) == 4


def test_categories_that_are_not_there(results, collection):
    without = explore_categories(results, collection, "cast", "bert")
    assert "categories: expected query_id, category, found" in without.view


def test_measures_are_those_that_the_values_have(results, collection):
    """Of runs of one's own any measure is chosen; of a config's results the paper's are there."""
    run = results.run("gdmtl", "dev", 0)
    opened = gdmtl.open_runs({"a": results.run("bm25", "dev"), "b": run}, collection.qrels("dev"),
                             queries=collection.queries("dev"), measures=["AP"], folder=results.folder / "own")  # fmt: skip
    for explore in (explore_queries, explore_categories):
        measure = explore(opened, opened.collection, "runs", "a", "AP").controls["measure"]
        assert measure.value == "AP" and dict(measure.options)["MRR@10"] == "RR@10" and len(measure.options) == 7
        with pytest.raises(ValueError, match="^unknown measure 'AP': the values have RR@10, RR@100, "):
            explore(results, collection, "dev", "bert", "AP")


def test_explorers_leave_no_figure_behind(results, collection):
    explore_rank_shifts(results, collection, "dev", "bert").controls["depth"].value = 5
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("explore", "control", "choices"),
    [
        (lambda *arguments: explore_scores(*arguments), "bins", (10, 20, 30, 50, 60)),
        (lambda *arguments: explore_queries(*arguments, "bert"), "query", (2, 3, 4, 50, 170)),
        (lambda *arguments: explore_rank_shifts(*arguments, "bert"), "depth", (1, 5, 20, 30, 50)),
        (
            lambda results, _, split: explore_transfer(results, results, (split, "cast"), "bert"), "measure",
            ("RR@100", "nDCG@10", "nDCG@20", "RBP(p=0.5)", "RBP(p=0.8)"),
        ),
        (
            lambda *arguments: explore_categories(*arguments, "bert"), "measure",
            ("RR@100", "nDCG@10", "nDCG@20", "RBP(p=0.5)", "RBP(p=0.8)"),
        ),
    ],
)  # fmt: skip
def test_explorers_answer_within_a_quarter_of_a_second(results, collection, explore, control, choices):
    """Processor time, and the best of five answers: other work on the machine should not decide."""
    explorer = explore(results, collection, "dev")
    taken = []
    for choice in choices:
        start = time.process_time()
        explorer.controls[control].value = choice
        taken.append(time.process_time() - start)
    assert min(taken) < 0.25 * PATIENCE


def test_explore_ways(pictures):
    table = pd.DataFrame({
        "way": ["BM25", "likelihood", "ranking head", "joint", "cascade, best 2", "cascade, best 5"],
        "mean": [0.6, 0.5, 0.7, 0.72, 0.65, 0.68], "low": [-0.2, -0.3, float("nan"), -0.1, -0.1, -0.05],
        "high": [0.0, -0.1, float("nan"), 0.1, 0.02, 0.03], "gflop": [0, 4.0, 20.0, 24.0, 6.0, 10.0],
        "stored": [0, 1.0, 20.0, 21.0, 3.0, 7.0],
    })  # fmt: skip
    explorer = explore_ways(table, "RR@10", "a title")
    assert [label for label, _ in explorer.controls["k"].options] == ["all", "2", "5"]
    assert pictures(explorer, ("k", "cascade, best 5"), ("k", "cascade, best 2")) == 3
    assert "cascade, best 2: MRR@10 0.650 against the ranking head" in explorer.view
    assert "for 30% of its operations, 15% with stored states" in explorer.view


def test_explore_written():
    table = pd.DataFrame({
        "passage": ["ice is <blue>", "a king", "old ice"], "real query": ["why blue", "who", "how old"],
        "GDMTL": ["what is <ice>", "who is king", "what is old"],
    })  # fmt: skip
    explorer = explore_written(table)
    assert "Passage 1 of 3: ice is &lt;blue&gt;" in explorer.view and "what is &lt;ice&gt;" in explorer.view
    explorer.controls["passage"].value = 2
    assert "who is king" in explorer.view and "what is old" not in explorer.view
    explorer.controls["words"].value = "ICE"
    assert explorer.controls["passage"].max == 2 and "Passage 2 of 2: old ice" in explorer.view
    explorer.controls["words"].value = "nothing like it"
    assert explorer.view == "<p>No passage contains &#x27;nothing like it&#x27;</p>"


def test_a_query_is_written_for_a_paragraph_of_ones_own(toy_bert_folder):
    table = pd.DataFrame({"passage": ["ice is blue"], "real query": ["why blue"], "GDMTL": ["what is ice"]})
    model, own = gdmtl.build_model("gdmtl", checkpoint=toy_bert_folder), "old <ice> is blue"
    explorer = explore_written(table, {"GDMTL": model}, max_tokens=3)
    explorer.controls["own"].value = own
    [expected] = gdmtl.generate(model, [own], max_tokens=3)
    assert expected and html.escape(expected) in explorer.view and "Your paragraph: old &lt;ice&gt; is blue" in explorer.view
    explorer.controls["own"].value = " "
    assert "Passage 1 of 1" in explorer.view
