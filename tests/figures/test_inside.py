import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from gdmtl_lib.figures import inside as plots
from gdmtl_lib.inside.attribution import Attribution


def table():
    rows = [
        (step, task, layer, cosine + step / 100)
        for step in (0, 25)
        for task in ("query_generation", "answer_generation")
        for layer, cosine in (("embeddings", 0.4), ("encoder 1", -0.2), ("encoder 2", np.nan))
    ]
    return pd.DataFrame(rows, columns=["step", "task", "layer", "cosine"])


def test_a_cell_is_a_layer_at_a_step():
    figure = plots.gradient_cosines(table())
    panels = [axis for axis in figure.axes if axis.get_title(loc="left")]
    assert [axis.get_title(loc="left") for axis in panels] == ["ranking and query generation", "ranking and answer generation"]
    for axis in panels:
        [image] = axis.images
        np.testing.assert_allclose(image.get_array().filled(np.nan), [[0.4, 0.65], [-0.2, 0.05], [np.nan, np.nan]])
        assert image.get_clim() == (-0.65, 0.65)
        assert [text.get_text() for text in axis.texts] == ["+0.40", "+0.65", "-0.20", "+0.05"]
        assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "25"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["embeddings", "encoder 1", "encoder 2"]


def test_cosines_of_one_cell_are_averaged():
    twice = pd.concat([table(), table().assign(cosine=0.0)])
    [image] = plots.gradient_cosines(twice).axes[0].images
    np.testing.assert_allclose(image.get_array()[:2], [[0.2, 0.325], [-0.1, 0.025]])


@pytest.fixture
def found():
    tokens = ["[CLS]", "gla", "##cier", "ice", "[SEP]", "why", "blue", "[SEP]"]
    values = np.array([0, 0.5, -0.25, 0.1, 0, -1.0, 0.2, 0])
    segments = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    return Attribution(tokens, values, segments, score=1.0, baseline=1.5)


def test_tokens_wear_their_attribution(found):
    figure = plots.attributions({"bert": found, "gdmtl": found}, "a pair")
    first = figure.axes[0]
    assert first.get_title(loc="left") == "BERT"
    tokens = {text.get_text(): text for text in first.texts[:8]}
    colour = {name: text.get_bbox_patch().get_facecolor() for name, text in tokens.items()}
    scale = plt.get_cmap("RdBu")
    assert colour["why"] == pytest.approx(scale(0.0)) and colour["gla"] == pytest.approx(scale(0.75))
    assert colour["[CLS]"] == pytest.approx(scale(0.5))
    assert tokens["cier"].get_position()[1] == tokens["gla"].get_position()[1] == 0  # one word, one line
    assert tokens["why"].get_position() == (0, 1)  # the query begins a line
    assert "score +1.000, masked +1.500; the tokens miss the difference by +0.050" in first.texts[8].get_text()
    assert plt.get_fignums() == []


def test_long_passages_are_wrapped_within_the_panel():
    tokens = [f"word{number}" for number in range(100)]
    long = Attribution(tokens, np.linspace(-1, 1, 100), np.repeat([0, 1], [90, 10]), 0.0, 0.0)
    texts = plots.attributions({"gdmtl": long}).axes[0].texts[:100]
    lines = {}
    for text in texts:
        x, y = text.get_position()
        assert x + len(text.get_text()) <= plots.LINE
        lines.setdefault(y, []).append(x)
    assert len(lines) > 8 and all(places == sorted(set(places)) for places in lines.values())
