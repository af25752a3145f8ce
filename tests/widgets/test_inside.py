import re

import pandas as pd
import pytest

from gdmtl_lib.widgets import inside as inside_widgets
from gdmtl_lib.widgets.generation import explore_ways, explore_written
from gdmtl_lib.widgets.inside import describe_pair, explore_attributions, explore_heads
from gdmtl_lib.pretrained import build_model

PAIRS = [("the glacier is old blue ice", "why is ice blue"), ("water in the city", "who was king")]


@pytest.fixture(scope="module")
def networks(toy_bert_folder):
    return {name: build_model(name, checkpoint=toy_bert_folder, seed=seed) for seed, name in enumerate(("bert", "gdmtl"))}


def picture(explorer):
    return re.search(r'src="data:image/png;base64,([^"]+)"', explorer.view)[1]


def changes(explorer, *values):
    seen = [picture(explorer)]
    for name, value in values:
        explorer.controls[name].value = value
        seen.append(picture(explorer))
    return len(set(seen))


def test_explore_heads(networks):
    explorer = explore_heads(networks, PAIRS, layer=2, head=3)
    assert [explorer.controls[name].value for name in ("pair", "layer", "head")] == [1, 2, 3]
    assert [explorer.controls[name].max for name in ("pair", "layer", "head")] == [2, 2, 4]
    assert changes(explorer, ("head", 1), ("layer", 1), ("pair", 2)) == 4


def test_explore_attributions(networks, monkeypatch):
    asked, original = [], inside_widgets.integrated_gradients

    def attributed(model, passage, query, steps):
        asked.append((model.system.name, query, steps))
        return original(model, passage, query, steps)

    monkeypatch.setattr(inside_widgets, "integrated_gradients", attributed)
    explorer = explore_attributions(networks, [(*pair, "a title") for pair in PAIRS], steps=12)
    assert explorer.controls["steps"].options == (8, 12, 16, 32, 64, 128)
    assert changes(explorer, ("pair", 2)) == 2
    explorer.controls["steps"].value = 8
    explorer.controls["steps"].value = 12  # kept
    expected = [(PAIRS[0][1], 12), (PAIRS[1][1], 12), (PAIRS[1][1], 8)]
    assert asked == [(name, *each) for each in expected for name in networks]


def test_a_pair_is_described():
    row = next(pd.DataFrame({"before": [float("nan")], "after": [1.0]}).itertuples())
    assert describe_pair(row, "why", "bert", "gdmtl") == "“why”: relevant passage, unranked with BERT, rank 1 with GDMTL"


def test_explore_ways():
    table = pd.DataFrame({
        "way": ["BM25", "likelihood", "ranking head", "joint", "cascade, best 2", "cascade, best 5"],
        "mean": [0.6, 0.5, 0.7, 0.72, 0.65, 0.68], "low": [-0.2, -0.3, float("nan"), -0.1, -0.1, -0.05],
        "high": [0.0, -0.1, float("nan"), 0.1, 0.02, 0.03], "gflop": [0, 4.0, 20.0, 24.0, 6.0, 10.0],
        "stored": [0, 1.0, 20.0, 21.0, 3.0, 7.0],
    })  # fmt: skip
    explorer = explore_ways(table, "RR@10", "a title")
    assert [label for label, _ in explorer.controls["k"].options] == ["all", "2", "5"]
    assert changes(explorer, ("k", "cascade, best 5"), ("k", "cascade, best 2")) == 3
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
