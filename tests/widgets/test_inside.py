import pandas as pd
import pytest

from gdmtl_lib.widgets import inside as inside_widgets
from gdmtl_lib.widgets.inside import describe_pair, explore_attributions, explore_heads
from gdmtl_lib.pretrained import build_model

PAIRS = [("the glacier is old blue ice", "why is ice blue"), ("water in the city", "who was king")]


@pytest.fixture(scope="module")
def networks(toy_bert_folder):
    return {name: build_model(name, checkpoint=toy_bert_folder, seed=seed) for seed, name in enumerate(("bert", "gdmtl"))}


def test_explore_heads(networks, pictures):
    explorer = explore_heads(networks, PAIRS, layer=2, head=3)
    assert [explorer.controls[name].value for name in ("pair", "layer", "head")] == [1, 2, 3]
    assert [explorer.controls[name].max for name in ("pair", "layer", "head")] == [2, 2, 4]
    assert pictures(explorer, ("head", 1), ("layer", 1), ("pair", 2)) == 4


def test_explore_attributions(networks, monkeypatch, pictures):
    asked, original = [], inside_widgets.integrated_gradients

    def attributed(model, passage, query, steps):
        asked.append((model.system.name, query, steps))
        return original(model, passage, query, steps)

    monkeypatch.setattr(inside_widgets, "integrated_gradients", attributed)
    explorer = explore_attributions(networks, [(*pair, "a title") for pair in PAIRS], steps=12)
    assert explorer.controls["steps"].options == (8, 12, 16, 32, 64, 128)
    assert pictures(explorer, ("pair", 2)) == 2
    explorer.controls["steps"].value = 8
    explorer.controls["steps"].value = 12  # kept
    expected = [(PAIRS[0][1], 12), (PAIRS[1][1], 12), (PAIRS[1][1], 8)]
    assert asked == [(name, *each) for each in expected for name in networks]


def test_a_pair_is_described():
    row = next(pd.DataFrame({"before": [float("nan")], "after": [1.0]}).itertuples())
    assert describe_pair(row, "why", "bert", "gdmtl") == "“why”: relevant passage, unranked with BERT, rank 1 with GDMTL"
