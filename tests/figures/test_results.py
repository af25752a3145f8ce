"""The figures of analyses, read back: what stands where, in which colour, in which words."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from gdmtl_lib.evaluation import comparison
from gdmtl_lib.figures import results as plots


def values_frame(*values, measure="RR@10"):
    rows = [(f"q{i}", measure, value) for i, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["query_id", "measure", "value"])


def texts(figure):
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text() and text.get_visible()]


@pytest.fixture
def scored():
    """Two queries of four passages; the relevant ones score 3 and 1, the others 2, 0, 0, 0, 0, 0."""
    run = pd.DataFrame(
        {
            "query_id": ["q1"] * 4 + ["q2"] * 4,
            "doc_id": list("abcd") * 2,
            "score": [3.0, 2.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
        }
    )
    qrels = pd.DataFrame({"query_id": ["q1", "q2"], "doc_id": ["a", "a"], "relevance": [2, 1]})
    return run, qrels


def test_score_distributions_add_up_to_100_each(scored):
    run, qrels = scored
    figure = plots.score_distributions({"bert": run}, qrels, bins=3)
    [axis] = figure.axes
    heights = [stairs.get_data().values for stairs in axis.patches if not stairs.get_fill()]
    assert heights == [pytest.approx([500 / 6, 0, 100 / 6]), pytest.approx([0, 50, 50])]
    assert {"others (6)", "relevant (2)"} <= set(texts(figure))


def test_score_distributions_name_the_area(scored):
    """11 of the 12 pairs are in order: only the relevant passage with 1 stands below another, with 2."""
    run, qrels = scored
    figure = plots.score_distributions({"bm25": run, "gdmtl_plus": run.assign(score=-run["score"])}, qrels)
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "BM25 · area 0.917", "GDMTL+ · area 0.083", "area under the ROC curve",
    ]  # fmt: skip
    dots = figure.axes[2].collections[-1].get_offsets()[:, 0]
    assert dots.tolist() == pytest.approx([11 / 12, 1 / 12])
    assert figure.axes[2].get_xlim()[0] < 1 / 12


def test_score_distributions_by_relevance_level(scored):
    run, qrels = scored
    figure = plots.score_distributions({"bert": run}, qrels, relevance_level=2)
    assert {"others (7)", "relevant (1)"} <= set(texts(figure))


def test_score_distributions_need_bins(scored):
    with pytest.raises(ValueError, match="bins: expected at least 2, found 1"):
        plots.score_distributions({"bert": scored[0]}, scored[1], bins=1)


def test_win_tie_loss_bars_are_the_counts():
    table = pd.DataFrame([("bert", "gdmtl", 60, 30, 10), ("bert", "bm25", 1, 19, 80)],
                         columns=["baseline", "system", "win", "tie", "loss"])  # fmt: skip
    figure = plots.win_tie_loss(table, "RR@10")
    [axis] = figure.axes
    assert [[bar.get_width() for bar in bars] for bars in axis.containers] == [[60, 1], [30, 19], [10, 80]]
    assert [[bar.get_x() for bar in bars] for bars in axis.containers] == [[0, 0], [60, 1], [90, 20]]
    shown = texts(figure)
    assert {"GDMTL against BERT", "BM25 against BERT", "60", "80", "queries, by MRR@10"} <= set(shown)
    assert shown.count("1") == 0  # too narrow for a number


def test_query_deltas_show_gains_and_losses():
    deltas = comparison.query_deltas(values_frame(0.5, 0.5, 0.5, 1.0), values_frame(1.0, 0.5, 0.5, 0.2), "RR@10")
    figure = plots.query_deltas({"gdmtl": deltas}, "bert", "RR@10", marked=3)
    [axis] = figure.axes
    assert axis.get_title(loc="left") == "GDMTL: mean −0.075"
    assert axis.get_ylabel() == "RR@10 minus BERT's"
    assert {"1 gain", "2 tie", "1 lose"} <= set(texts(figure))
    gain, tie, loss = (fill.get_paths()[0].vertices[:, 1] for fill in axis.collections)
    assert (gain.min(), gain.max(), loss.min(), loss.max()) == pytest.approx((0, 0.5, -0.8, 0))
    assert not tie.any()
    marker = next(line for line in axis.lines if line.get_marker() == "v")
    assert (marker.get_xdata()[0], marker.get_ydata()[0]) == pytest.approx((4, -0.8))


def test_query_deltas_count_ties_as_the_table_does():
    """From 0.5 a tenth is 0.05: 0.54 and 0.46 tie, 0.6 gains, and 0.4 loses."""
    baseline, system = values_frame(0.5, 0.5, 0.5, 0.5), values_frame(0.6, 0.54, 0.46, 0.4)
    deltas = comparison.query_deltas(baseline, system, "RR@10")
    figure = plots.query_deltas({"gdmtl": deltas}, "bert", "RR@10", tolerance=0.1)
    assert {"1 gain", "2 tie", "1 lose"} <= set(texts(figure))
    assert comparison.win_tie_loss(baseline, system, "RR@10", 0.1) == (1, 2, 1)
    _, tie, _ = (fill.get_paths()[0].vertices[:, 1] for fill in figure.axes[0].collections)
    assert (tie.min(), tie.max()) == pytest.approx((-0.04, 0.04))


def shifts_frame(changes, seed=0):
    ranks = [*map(str, range(1, len(changes))), "not retrieved"]
    return pd.DataFrame({"rank": ranks, "change": changes, "seed": seed})


def bars_of(axis):
    return [bar.get_width() for bar in axis.containers[0]]


def test_rank_shifts_draw_the_mean_of_the_seeds_and_each_of_them():
    shifts = pd.concat([shifts_frame([4, -1, -3], seed=0), shifts_frame([2, -1, -1], seed=1)])
    figure = plots.rank_shifts({"gdmtl": shifts, "bm25": shifts_frame([-6, 1, 5])}, "bert")
    left, right = figure.axes
    assert bars_of(left) == [3, -1, -2] and bars_of(right) == [-6, 1, 5]
    [dots] = [collection for collection in left.collections if len(collection.get_offsets())]
    assert sorted(dots.get_offsets()[:, 0]) == [-3, -1, -1, -1, 2, 4]
    assert not right.collections
    assert {"mean of the seeds", "one seed"} <= set(texts(figure))
    assert [label.get_text() for label in left.get_yticklabels()] == ["1", "2", "not retrieved"]
    assert left.yaxis_inverted() and left.get_xlim() == (-1.08 * 6, 1.08 * 6)


def test_rank_shifts_below_the_depth_count_as_not_retrieved():
    figure = plots.rank_shifts({"gdmtl": shifts_frame([4, -1, 2, -2, -3])}, "bert", depth=2)
    assert bars_of(figure.axes[0]) == [4, -1, -3]
    assert "one seed" not in texts(figure)
    assert bars_of(plots.rank_shifts({"gdmtl": shifts_frame([4, -4])}, "bert", depth=9).axes[0]) == [4, -4]


def test_rank_shifts_name_every_fifth_of_many_ranks():
    figure = plots.rank_shifts({"gdmtl": shifts_frame([0] * 31)}, "bert")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["1", "5", "10", "15", "20", "25", "30", "not retrieved"]


def test_categories_show_means_differences_and_marks():
    """Six descriptions on which GDMTL is better by about .4: a mark. Two numbers on which it is not: none."""
    baseline = values_frame(0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.5, 0.6)
    system = values_frame(0.5, 0.6, 0.7, 0.5, 0.6, 0.75, 0.6, 0.5)
    queries = pd.DataFrame({"query_id": baseline["query_id"], "category": ["DESCRIPTION"] * 6 + ["NUMERIC"] * 2})
    table = comparison.by_category({"bert": baseline, "gdmtl": system}, queries, "bert")
    figure = plots.categories(table, "bert", "RR@10")
    left, right = figure.axes
    means = {tuple(np.round(x, 3)) for dots in left.collections for x in [dots.get_offsets()[:, 0]]}
    assert means == {(0.2, 0.55), (0.608, 0.55)}
    assert [text.get_text() for text in right.texts] == ["▲"]
    heads = [tick.get_text() for tick in left.get_yticklabels()]
    assert heads == ["DESCRIPTION\n6 queries, 75%", "NUMERIC\n2 queries, 25%"]
    assert right.get_xlabel() == "difference to BERT, 95% interval"


@pytest.mark.parametrize(("panels", "columns"), [(1, 1), (5, 5), (6, 3), (8, 4), (9, 5)])
def test_panels_stand_in_rows_of_like_length(panels, columns):
    systems = list(plots.SYSTEM_COLOURS)[:panels]
    figure = plots.rank_shifts(dict.fromkeys(systems, shifts_frame([1, -1])), "bert")
    assert len(figure.axes) == panels
    assert figure.axes[0].get_gridspec().ncols == columns


def test_figures_are_not_kept_by_pyplot(scored):
    plots.score_distributions({"bert": scored[0]}, scored[1])
    assert plt.get_fignums() == []


def test_a_saved_figure_has_the_same_bytes_every_time(tmp_path, scored):
    for name in ("one", "two"):
        figure = plots.score_distributions({"bert": scored[0]}, scored[1])
        plots.save_figure(figure, tmp_path / "figures", name)
    for suffix in (".png", ".pdf"):
        one, two = ((tmp_path / "figures" / f"{name}{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two and len(one) > 5000
