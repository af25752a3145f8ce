"""The figures of the generative half, read back."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from gdmtl_lib.figures import generation as plots

WAYS = ["BM25", "likelihood", "ranking head", "joint", "cascade, best 2", "cascade, best 5"]


def texts(figure):
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text() and text.get_visible()]


@pytest.fixture
def ways():
    nan = float("nan")
    return pd.DataFrame({
        "way": WAYS, "mean": [0.66, 0.61, 0.7, 0.72, 0.66, 0.69],
        "low": [-0.09, -0.16, nan, -0.01, -0.1, -0.05], "high": [0.01, -0.02, nan, 0.05, 0.02, 0.03],
        "gflop": [0, 30, 55, 85, 41, 57.0], "stored": [0, 9, 55, 64, 20, 36.0],
    })  # fmt: skip


def test_every_way_stands_at_its_cost_and_mean(ways):
    figure = plots.cost_and_effectiveness(ways, "RR@10", "dev: a title")
    [axis] = figure.axes
    dots = {
        tuple(line.get_xydata()[0]) for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1
    }
    of_model = ways[ways["way"] != "BM25"]
    filled = set(zip(of_model["gflop"], of_model["mean"]))
    hollow = set(zip(of_model["stored"], of_model["mean"]))  # the ranking head stores nothing: its two are one
    assert dots == filled | hollow
    assert {"dev: a title", "BM25", "likelihood", "ranking head", "joint", "cascade (best k)", "states stored", "2", "5"} <= set(texts(figure))


def test_bars_are_the_intervals_around_the_mean(ways):
    """Those of the differences to the ranking head's 0.7, drawn where the way itself would then stand."""
    [axis] = plots.cost_and_effectiveness(ways, "RR@10").axes
    bars = [tuple(collection.get_segments()[0].ravel()) for collection in axis.collections]
    expected = [(30, 0.54, 30, 0.68), (85, 0.69, 85, 0.75), (41, 0.6, 41, 0.72), (57, 0.65, 57, 0.73)]
    assert len(bars) == 4 and all(bar == pytest.approx(wanted) for bar, wanted in zip(bars, expected))


def test_ways_without_a_cascade_can_be_drawn(ways):
    figure = plots.cost_and_effectiveness(ways.head(4), "RR@10")
    assert "cascade (best k)" not in texts(figure)


def test_recall_has_a_panel_a_cutoff():
    nan = float("nan")
    rows = [("R@10", 0, 0.5, nan, nan), ("R@10", 5, 0.6, 0.02, 0.18), ("R@100", 0, 0.9, nan, nan), ("R@100", 5, 0.9, -0.1, 0.1)]
    table = pd.DataFrame(rows, columns=["measure", "count", "mean", "low", "high"])
    figure = plots.recall_by_count(table, "dev: a title")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["recall@10", "recall@100"]
    [line] = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert line.get_xydata().tolist() == [[0, 0.5], [1, 0.6]]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "5"]
    [bars] = figure.axes[0].collections
    assert bars.get_segments()[-1].ravel().tolist() == pytest.approx([1, 0.52, 1, 0.68])
    assert {"0.500", "0.600", "dev: a title"} <= set(texts(figure))
