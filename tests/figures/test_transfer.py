import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from gdmtl_lib.experiments import transfer
from gdmtl_lib.figures import transfer as transfer_plots
from gdmtl_lib.figures.results import SYSTEM_COLOURS

SPLITS = ("dev", "cast")


def values(seed, gain=0.0, queries=40):
    generator = np.random.default_rng(seed)
    rows = [(f"q{i}", "RR@10", min(1.0, 0.5 * generator.random() + gain), float("nan")) for i in range(queries)]
    return pd.DataFrame(rows, columns=["query_id", "measure", "value", "residual"])


@pytest.fixture
def places():
    """gdmtl gains in both places, gdmtl_s at home alone."""
    home = {"bm25": values(0), "bert": values(0), "gdmtl": values(0, 0.2), "gdmtl_s": values(0, 0.1)}
    away = {"bm25": values(1), "bert": values(1), "gdmtl": values(1, 0.1), "gdmtl_s": values(1, -0.1)}
    return home, away


def test_each_system_stands_at_its_two_differences(places):
    table = transfer.differences(*places, "bert")
    [axis] = transfer_plots.gains(table, "bert", ["RR@10"], SPLITS).axes
    dots = np.concatenate([dots.get_offsets() for dots in axis.collections])
    assert np.allclose(dots, [[0.2, 0.1], [0.1, -0.1]], atol=1e-9)
    assert axis.get_title(loc="left") == "MRR@10"
    assert axis.get_xlabel() == "at home (dev)" and axis.get_ylabel() == "away (cast)"
    assert {text.get_text() for text in axis.texts} == {
        "gains in both", "loses in both", "gains at home alone", "gains away alone",
    }  # fmt: skip


def test_intervals_cross_in_the_dot(places):
    away = places[1] | {"gdmtl": values(7, 0.1)}
    table = transfer.differences(places[0], away, "bert").set_index(["place", "system"])
    [axis] = transfer_plots.gains(table.reset_index(), "bert", ["RR@10"], SPLITS).axes
    colour = SYSTEM_COLOURS["gdmtl"]
    across, up = (line for line in axis.lines if line.get_color() == colour)
    assert list(across.get_xdata()) == table.loc[("home", "gdmtl"), ["low", "high"]].tolist()
    assert list(up.get_ydata()) == table.loc[("away", "gdmtl"), ["low", "high"]].tolist()
    assert up.get_ydata()[0] < up.get_ydata()[1] < axis.get_ylim()[1]


def test_bm25_is_drawn_only_where_nothing_else_is(places):
    legend = lambda figure: [text.get_text() for text in figure.legends[0].get_texts()]  # noqa: E731
    table = transfer.differences(*places, "bert")
    assert legend(transfer_plots.gains(table, "bert", ["RR@10"], SPLITS)) == ["GDMTL", "GDMTL_S"]
    only = table[table["system"].isin(["bm25", "bert"])]
    assert legend(transfer_plots.gains(only, "bert", ["RR@10"], SPLITS)) == ["BM25"]


def test_trainings_are_dots_where_there_are_several(places):
    table = transfer.differences(*places, "bert")
    by_seed = pd.DataFrame(
        [("RR@10", "gdmtl", 0, 0.25, 0.15), ("RR@10", "gdmtl", 1, 0.15, 0.05), ("RR@10", "gdmtl_s", 0, 0.1, -0.1)],
        columns=["measure", "system", "seed", "home", "away"],
    )
    [axis] = transfer_plots.gains(table, "bert", ["RR@10"], SPLITS, by_seed).axes
    assert [len(dots.get_offsets()) for dots in axis.collections] == [1, 2, 1]


def test_a_pair_shows_its_means_and_counts(places):
    figure = transfer_plots.pair(*places, "bert", "gdmtl", "RR@10", SPLITS)
    left, right = figure.axes
    assert left.get_title(loc="left") == "dev: mean +0.200 ±0.000"
    assert right.get_title(loc="left") == "cast: mean +0.100 ±0.000"
    assert left.texts[0].get_text() == "40 win, 0 tie, 0 lose"
    assert left.get_xlabel() == "queries, sorted, % of 40"
    worse = transfer_plots.pair(*places, "bert", "gdmtl_s", "RR@10", SPLITS).axes[1]
    assert worse.get_title(loc="left").startswith("cast: mean \N{MINUS SIGN}0.100") and "40 lose" in worse.texts[0].get_text()


def test_no_figure_stays_open(places):
    transfer_plots.pair(*places, "bert", "gdmtl", "RR@10", SPLITS)
    assert plt.get_fignums() == []
