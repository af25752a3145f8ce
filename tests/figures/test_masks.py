"""The figures of masks: what is in them, read back from the artists; long sequences; saving."""

import time
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb

from gdmtl_lib.figures import attention as attention_plots, masks as mask_plots
from gdmtl_lib.inside.attention import BIDIRECTIONAL, CAUSAL, CROSS, NONE, Layout
from gdmtl_lib.figures.masks import FORBIDDEN, KIND_COLOURS, LONG, named_tokens, places
from gdmtl_lib.figures.results import save_figure


def mixed(source: int, target: int) -> Layout:
    """Mixed attention over s1 ... and t1 ..., written out token by token."""
    total = source + target
    kinds = np.zeros((total, total), dtype=np.int8)
    for i in range(total):
        for j in range(total):
            if i < source and j < source:
                kinds[i, j] = BIDIRECTIONAL
            elif i >= source and j < source:
                kinds[i, j] = CROSS
            elif i >= source and j <= i:
                kinds[i, j] = CAUSAL
    tokens = [f"s{i + 1}" for i in range(source)] + [f"t{i + 1}" for i in range(target)]
    segments = np.array([0] * source + [1] * target)
    predicts = [*tokens[source:], "[SEP]"]
    return Layout(kinds, tokens, tokens, segments, segments, list(range(source - 1, total)), predicts)


def cross(source: int, target: int) -> Layout:
    rows, columns = [f"t{i + 1}" for i in range(target)], [f"s{i + 1}" for i in range(source)]
    return Layout(
        np.full((target, source), CROSS, dtype=np.int8), rows, columns, np.ones(target, dtype=int),
        np.zeros(source, dtype=int), list(range(target)), [*rows[1:], "[SEP]"],
    )  # fmt: skip


def even(layout: Layout) -> np.ndarray:
    allowed = layout.kinds != NONE
    return allowed / allowed.sum(1, keepdims=True)


def words(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def image_of(axis) -> np.ndarray:
    (image,) = axis.images
    return np.asarray(image.get_array())


def test_the_grid_has_the_papers_colours():
    figure = mask_plots.mixed_mask(mixed(2, 2))
    grid, edges = figure.axes
    o, b, x, c = FORBIDDEN, KIND_COLOURS[BIDIRECTIONAL], KIND_COLOURS[CROSS], KIND_COLOURS[CAUSAL]
    assert [[to_hex(cell) for cell in row] for row in image_of(grid)] == [
        [b, b, o, o],
        [b, b, o, o],
        [x, x, c, o],
        [x, x, c, c],
    ]
    assert words(grid) == ["t2", "t1", "s2", "s1"] * 2 + ["source", "target"]
    # Two layers of: 4 bidirectional, 4 cross, 3 causal edges.
    assert [len(lines.get_segments()) for lines in edges.collections[:6]] == [4, 4, 3] * 2
    assert [label.get_text() for label in edges.get_yticklabels()] == ["input", "layer 1", "layer 2"]


def test_a_step_is_framed_and_its_edges_come_from_what_it_has_seen():
    """Step 1 of s1 s2 t1 t2: row t1 sees s1, s2, t1; through layer 1 still nothing of t2."""
    figure = mask_plots.mixed_mask(mixed(2, 2), step=1)
    grid, edges = figure.axes
    colours = image_of(grid)
    pale = 0.75 + 0.25 * np.array(to_rgb(KIND_COLOURS[CAUSAL]))
    assert np.allclose(colours[3, 3], pale) and to_hex(colours[2, 2]) == KIND_COLOURS[CAUSAL]
    (frame,) = grid.patches
    assert frame.get_bbox().bounds == (0, 2, 4, 1)
    dark = [lines for lines in edges.collections[6:12]]  # the upper layer first
    starts = {tuple(start) for lines in dark for start, _ in lines.get_segments()}
    assert starts == {(0.5, 1), (1.5, 1), (2.5, 1), (0.5, 0), (1.5, 0), (2.5, 0)}
    assert "\u201ct1\u201d attends to 3 tokens and predicts \u201ct2\u201d" in [
        text.get_text() for text in figure.texts
    ]


def test_figures_1_and_2_stand_side_by_side():
    layouts = {"a": mixed(3, 2), "b": cross(3, 2)}
    figure = mask_plots.attention_masks(layouts)
    assert len(figure.axes) == 4
    sizes = [axis.get_position().width * figure.get_size_inches()[0] for axis in figure.axes]
    assert sizes == pytest.approx([1.25, 1.25, 0.75, 0.75])  # a quarter of an inch a token, everywhere
    assert (image_of(figure.axes[2]) == to_rgb(KIND_COLOURS[CROSS])).all()
    assert [label.get_text() for label in figure.axes[3].get_yticklabels()] == ["encoder", "decoder"]
    assert {"a", "b"} <= {text.get_text() for text in figure.texts}


def test_expansion_shows_the_examples_and_their_losses():
    losses = pd.DataFrame(
        {
            "token": ["a", "b"],
            "one mixed pass": [1.0, 2.0],
            "expanded": [1.0, 2.0],
            "[MASK]-filled": [1.5, 2.5],
        }
    )
    examples, points = mask_plots.expansion(losses, ["[CLS]", "s", "[SEP]"]).axes
    assert words(examples) == ["[CLS]", "s", "[SEP]", "a", "[CLS]", "s", "[SEP]", "a", "b"]
    assert [text.get_text() for text in examples.texts if text.get_weight() == "bold"] == ["a", "b"]
    assert [marks.get_offsets()[:, 0].tolist() for marks in points.collections] == [
        [1, 2],
        [1, 2],
        [1.5, 2.5],
    ]
    shortened = mask_plots.expansion(losses, [f"s{i}" for i in range(30)]).axes[0]
    assert words(shortened)[:9] == ["s0", "s1", "s2", "s3", "s4", "s5", "\u2026", "s28", "s29"]


def test_expansion_of_a_long_target_shows_the_last_tokens_written():
    names = ["one mixed pass", "expanded", "[MASK]-filled"]
    losses = pd.DataFrame({"token": [f"t{i}" for i in range(12)], **dict.fromkeys(names, range(12))})
    axis = mask_plots.expansion(losses, ["[CLS]", "[SEP]"]).axes[0]
    assert words(axis)[-11:] == ["[CLS]", "[SEP]", "\u2026", *(f"t{i}" for i in range(4, 12))]
    assert axis.get_xlim() == (0, 2 + 9)


def test_few_tokens_are_equally_wide_and_of_many_the_target_is_wider():
    assert places(np.array([0, 0, 1])).tolist() == [0, 1, 2, 3]
    few = places(np.array([0] * (LONG - 4) + [1] * 4))
    assert few.tolist() == list(range(LONG + 1))
    edges = places(np.array([0] * 256 + [1] * 16))
    assert edges[256] == 256 and (edges[-1] - 256) / edges[-1] == pytest.approx(0.3)
    single = places(np.array([0] * 256 + [1]))
    assert single[-1] - 256 < 256 / 20  # one token alone does not take three tenths
    assert places(np.zeros(100, dtype=int)).tolist() == list(range(101))
    wide = places(np.array([0] * 20 + [1] * 200))
    assert wide.tolist() == list(range(221))


def test_names_never_touch_and_the_important_one_is_there():
    edges = places(np.array([0] * 256 + [1] * 20)) * 1.1
    named = dict(named_tokens(edges, important=100))
    assert {100, 275} <= set(named)
    order = sorted(named)
    middles = (edges[:-1] + edges[1:]) / 2
    gaps = np.diff(middles[order])
    sizes = np.array([named[place] for place in order])
    assert (gaps >= (sizes[1:] + sizes[:-1]) / 2).all() and sizes.min() >= 6
    assert len(dict(named_tokens(np.arange(11) * 20.0))) == 10


@pytest.mark.parametrize("layout", [mixed(256, 56), cross(256, 56)], ids=["mixed", "cross"])
@pytest.mark.parametrize(
    "draw",
    [
        lambda layout: mask_plots.mixed_mask(layout, step=20),
        lambda layout: mask_plots.mixed_mask(layout),
        lambda layout: attention_plots.attention_map(even(layout), layout, step=20),
        lambda layout: attention_plots.attention_overview(np.tile(even(layout), (6, 12, 1, 1)), layout),
    ],
    ids=["step", "mask", "map", "overview"],
)
def test_the_longest_input_draws_fast_and_without_a_warning(layout, draw, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start = time.process_time()
        figure = draw(layout)
        figure.savefig(tmp_path / "long.png", dpi=100)
        assert time.process_time() - start < 4
        save_figure(figure, tmp_path, "long")
    assert (tmp_path / "long.pdf").stat().st_size < 2_000_000
