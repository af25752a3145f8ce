import numpy as np
import pandas as pd
import pytest

from gdmtl_lib.figures import attention_changes as plots


@pytest.fixture
def tables():
    rng = np.random.default_rng(0)
    layers, heads = (axis.flatten() + 1 for axis in np.indices((3, 4)))

    def table():
        shares = rng.dirichlet(np.ones(4), 12)
        columns = dict(zip(("passage", "query", "[CLS]", "[SEP]"), shares.T))
        return pd.DataFrame({"layer": layers, "head": heads, **columns, "entropy": rng.random(12)})

    return {"bert": table(), "gdmtl": table()}


def test_a_line_is_the_mean_of_a_layers_heads(tables):
    figure = plots.query_attention(tables, "dev: a title")
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "to passage", "to query", "to [CLS]", "to [SEP]", "entropy",
    ]  # fmt: skip
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[3].lines}
    for label, system in (("BERT", "bert"), ("GDMTL", "gdmtl")):
        assert lines[label] == pytest.approx(tables[system].groupby("layer")["[SEP]"].mean().to_numpy())


def test_a_cell_is_a_head():
    table = pd.DataFrame({"layer": [2, 1, 1, 2], "head": [2, 1, 2, 1], "moved": [0.4, 0.3, 0.2, 0.1]})
    figure = plots.head_changes(table)
    [image] = figure.axes[0].images
    assert image.get_array().tolist() == [[0.3, 0.2], [0.1, 0.4]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["30", "20", "10", "40"]


def test_the_rows_of_the_heads_asked_for_are_drawn():
    weights = {"bert": np.arange(36).reshape(2, 2, 3, 3) / 36, "gdmtl": np.ones((2, 2, 3, 3)) / 3}
    figure = plots.heads_on_a_pair(weights, [(2, 1), (1, 2)], ["[CLS]", "ice", "blue"], [1, 2])
    first = figure.axes[0]
    assert first.get_title(loc="left") == "layer 2, head 1: BERT"
    assert first.images[0].get_array().tolist() == weights["bert"][1, 0][[1, 2]].tolist()
    assert [label.get_text() for label in first.get_yticklabels()] == ["ice", "blue"]
    assert len([axis for axis in figure.axes if axis.images]) == 4


def test_of_a_long_pair_the_tokens_are_named_that_are_looked_at_most():
    tokens = [f"t{column}" for column in range(256)]
    weights = np.full((1, 1, 256, 256), 0.001)
    weights[..., [7, 100, 101]] = [0.1, 0.2, 0.3]
    figure = plots.heads_on_a_pair({"bert": weights}, [(1, 1)], tokens, range(250, 255))
    named = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert {"t7", "t101"} <= set(named) and "t100" not in named and 60 < len(named) < 90
    assert figure.get_figwidth() < 10
    assert figure.axes[0].lines[0].get_xdata() == [249.5, 249.5]  # the query begins
    few = plots.heads_on_a_pair({"bert": weights[..., :60, :60]}, [(1, 1)], tokens[:60], [50, 51])
    assert [label.get_text() for label in few.axes[0].get_xticklabels()] == tokens[:60]


def test_small_changes_are_told_apart():
    table = pd.DataFrame({"layer": 1, "head": [1, 2], "moved": [0.004, 0.021]})
    assert [text.get_text() for text in plots.head_changes(table).axes[0].texts] == ["0.4", "2.1"]
