"""What is drawn is what the table says: no point of any figure stands anywhere else than at its numbers."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gdmtl_lib import figures as plots
from gdmtl_lib.evaluation import comparison
from gdmtl_lib.experiments import transfer

NAN = float("nan")
NAMES = ["bm25", "mono", "bert", "gdmtl", "gdmtl_plus", "bart_s", "gdmtl_s", "bart_c", "gdmtl_c"]
RNG = np.random.default_rng(0)
VALUES = {
    name: pd.DataFrame({
        "query_id": [f"q{i}" for i in range(12)], "measure": "RR@10", "residual": NAN,
        # Two systems at chance, which the scales do not follow.
        "value": RNG.random(12) * (0.1 if name in ("bart_s", "gdmtl_s") else 1),
    })
    for name in NAMES
}  # fmt: skip
TESTS = comparison.compare(VALUES, "bert")
OTHERS = TESTS[TESTS["system"] != "bert"]
SEEDS = pd.concat([TESTS[["measure", "system", "mean"]].assign(seed=seed, mean=RNG.random(9)) for seed in (0, 1)])
PAIRS = comparison.compare_pairs(VALUES, ["RR@10"])
PAIRS = PAIRS.assign(**{"low (paper)": RNG.random(len(PAIRS)), "high (paper)": RNG.random(len(PAIRS))})
TWINS = comparison.twins({name: {0: VALUES[name], 1: VALUES["mono"]} for name in NAMES[1:]})
COSTS = OTHERS.assign(gflops=RNG.random(8), training_tflops=RNG.random(8), ranking_parameters=1, system=OTHERS["system"])
COSTS = COSTS.assign(low=COSTS["mean"] - 0.01, high=COSTS["mean"] + 0.02)
KINDS = pd.DataFrame({"query_id": VALUES["bert"]["query_id"], "category": list("aaaaabbbbbbb")})
CATEGORIES = comparison.by_category(VALUES, KINDS, "bert")
DELTAS = comparison.query_deltas(VALUES["bert"], VALUES["gdmtl"], "RR@10")
SHIFTS = pd.DataFrame({"rank": ["1", "2", "3", "below rank 3", comparison.MISSED], "change": [5, -2, 1, -7, 3], "baseline": 4})
COUNTS = comparison.win_tie_loss_table({name: VALUES[name] for name in NAMES[:3]}, "RR@10")
SIZES = pd.DataFrame(
    [(share, name, *RNG.random(4), "▲") for share in (0.25, 1.0) for name in ("bert", "gdmtl")],
    columns=["share", "system", "mean", "difference", "low", "high", "mark"],
)
BY_SEED = pd.DataFrame(
    [(share, name, seed, RNG.random()) for share in (0.25, 1.0) for name in ("bert", "gdmtl") for seed in (0, 1)],
    columns=["train_fraction", "system", "seed", "mean"],
)
WEIGHTED = BY_SEED.assign(system="gdmtl", loss_weighting=BY_SEED["train_fraction"], generation_head_warmup_steps=0)
ALONE = BY_SEED.query("system == 'bert'")
CHOICES = pd.DataFrame({"choice": list("aabb"), "system": ["bert", "gdmtl"] * 2, "twin": ["", "bert"] * 2, "mark": ""}).assign(
    **{name: RNG.random(4) for name in ("difference", "low", "high")}, by_seed=list(RNG.random((4, 2)))
)
SIGMAS = pd.DataFrame({"steps": 0, "step": range(5), "task": "rank", "sigma2": RNG.random(5)})
STARTS = BY_SEED.assign(denoising_steps=(BY_SEED["train_fraction"] * 8).astype(int))
LOSSES = pd.DataFrame({"step": range(6), "loss": RNG.random(6)})
LOOKS = pd.DataFrame({"step": [2, 5], "value": RNG.random(2)})
HISTORY = pd.DataFrame({"epoch": 0, "step": range(9)}).assign(
    **{name: RNG.random(9) for name in ("rank_loss", "query_generation_loss", "sigma2_rank", "learning_rate")}
)
MOVED = transfer.differences(VALUES, {name: VALUES[name].assign(value=RNG.random(12)) for name in NAMES}, "bert")
TRAINED = MOVED[~MOVED["system"].isin(["bm25", "bert"])]
SHARES = pd.DataFrame(RNG.random((3, 2)) * 50, index=list("abc"), columns=["train", "dev"])
WAYS = pd.DataFrame({
    "way": ["BM25", "likelihood", "ranking head", "joint", "cascade, best 2"], "mean": RNG.random(5), "gflop": RNG.random(5) + 1,
    "stored": RNG.random(5), "low": [-0.1, -0.2, NAN, -0.1, -0.3], "high": [0.1, 0.2, NAN, 0.1, 0.3],
})  # fmt: skip
NEURAL, BASE = WAYS.iloc[1:], WAYS["mean"][2]
RECALL = pd.DataFrame({"measure": "R@10", "count": [0, 5, 9], "mean": RNG.random(3), "low": [NAN, 0.1, 0.2], "high": [NAN, 0.3, 0.4]})
HEADS = pd.DataFrame({"layer": np.repeat([1, 2], 3), "head": [1, 2, 3] * 2, "moved": RNG.random(6), "entropy": RNG.random(6)})
HEADS = HEADS.assign(**dict(zip(("passage", "query", "[CLS]", "[SEP]"), RNG.random((4, 6)))))
BLOCKS = pd.DataFrame(
    [(layer, head, a, b, RNG.random(), 0.5) for layer in (1, 2) for head in (1, 2) for a in "st" for b in "st"],
    columns=["layer", "head", "rows", "columns", "share", "uniform"],
)
COSINES = pd.DataFrame([(step, layer, RNG.random()) for step in (0, 9) for layer in "ab"], columns=["step", "layer", "cosine"])
NATS = pd.DataFrame({"token": list("abc")}).assign(**{name: RNG.random(3) for name in ("one mixed pass", "expanded", "[MASK]-filled")})
CURVE = RNG.random(7)

# How a figure is drawn; then for each of its panels the axis along which the numbers stand, what it draws as dots (and
# it draws no others), as ends of lines and as bars or cells.
FIGURES: dict[str, tuple[Callable[[], Figure], list[tuple]]] = {
    "effectiveness": (
        lambda: plots.effectiveness(TESTS, SEEDS, "bert"),
        [("x", [*TESTS["mean"], *SEEDS["mean"]], [TESTS["mean"][0], *TESTS["mean"]], [])],
    ),
    "differences": (
        lambda: plots.differences(TESTS, "bert", ["RR@10"]),
        [("x", OTHERS["difference"], [*OTHERS["low"], *OTHERS["high"]], [])],
    ),
    "pair_intervals": (
        lambda: plots.pair_intervals(PAIRS, "RR@10"),
        [("x", PAIRS["difference"], [*PAIRS["low"], *PAIRS["high"], *PAIRS["low (paper)"], *PAIRS["high (paper)"]], [])],
    ),
    "twins": (
        lambda: plots.twins(TWINS, reported={"gdmtl": 0.011}),
        [("x", [*TWINS["difference"], *np.concatenate(TWINS["by_seed"]), 0.011], [*TWINS["low"], *TWINS["high"]], [])],
    ),
    "cost": (
        lambda: plots.cost(COSTS, "RR@10", 0.3),
        [("xy", [*COSTS[column], *COSTS["mean"]], [*COSTS[column], *COSTS["low"], *COSTS["high"], 0.3], [])
         for column in ("gflops", "training_tflops")],
    ),
    "categories": (
        lambda: plots.categories(CATEGORIES, "bert", "RR@10"),
        [("x", CATEGORIES["mean"], [], []),
         ("x", CATEGORIES.query("system != 'bert'")["difference"], CATEGORIES.query("system != 'bert'")[["low", "high"]], [])],
    ),
    "query_deltas": (lambda: plots.query_deltas({"gdmtl": DELTAS}, "bert", "RR@10", marked=3), [("y", [], [DELTAS["difference"][3]], [])]),
    "rank_shifts": (lambda: plots.rank_shifts({"gdmtl": SHIFTS}, "bert"), [("x", [], [], SHIFTS["change"])]),
    "win_tie_loss": (lambda: plots.win_tie_loss(COUNTS, "RR@10"), [("x", [], [], COUNTS[["win", "tie", "loss"]])]),
    "training_size": (
        lambda: plots.training_size(SIZES, BY_SEED, {0.25: 2, 1.0: 8}, 0.3, "bert", "RR@10"),
        [("y", BY_SEED["mean"], [*SIZES["mean"], 0.3], []),
         ("y", SIZES.query("system == 'gdmtl'")["difference"], SIZES.query("system == 'gdmtl'")[["low", "high"]], [])],
    ),
    "loss_weighting": (
        lambda: plots.loss_weighting(WEIGHTED, ALONE, 0.3, SIGMAS, "RR@10"),
        [("x", [*WEIGHTED["mean"], *ALONE["mean"]], [*WEIGHTED.groupby("loss_weighting")["mean"].mean(), ALONE["mean"].mean(), 0.3], []),
         ("y", [], SIGMAS["sigma2"], [])],
    ),
    "choices": (
        lambda: plots.choices(CHOICES, "RR@10"),
        [("x", [*part["difference"], *np.concatenate(part["by_seed"].tolist())], [*part["low"], *part["high"]], [])
         for part in (CHOICES.iloc[::2], CHOICES.iloc[1::2])],
    ),
    "denoising": (
        lambda: plots.denoising(LOSSES, LOOKS, STARTS, 0.3, "RR@10"),
        [("y", [], [*LOSSES["loss"], *LOOKS["value"]], []),
         ("y", STARTS["mean"], [*STARTS.groupby(["system", "denoising_steps"])["mean"].mean(), 0.3], [])],
    ),
    "training_curves": (
        lambda: plots.training_curves(HISTORY),
        [("y", [], HISTORY[column], []) for column in ("rank_loss", "query_generation_loss", "sigma2_rank", "learning_rate")],
    ),
    "gains": (
        lambda: plots.gains(MOVED, "bert", ["RR@10"], ("dev", "cast")),
        [("xy", TRAINED["difference"], [*TRAINED["low"], *TRAINED["high"], *TRAINED["difference"]], [])],
    ),
    "category_shares": (
        lambda: plots.category_shares(SHARES, {"a": 30.5}), [("x", [30.5], [], SHARES)],
    ),
    "judgment_grades": (lambda: plots.judgment_grades(SHARES), [("x", [], [], SHARES)]),
    "recall_by_depth": (lambda: plots.recall_by_depth({"dev": CURVE}, 5), [("y", [], CURVE, [])]),
    "text_lengths": (lambda: plots.text_lengths({"queries": np.repeat([1, 2, 3], [30, 20, 10])}), [("y", [], [], [30, 20, 10])]),
    "cost_and_effectiveness": (
        lambda: plots.cost_and_effectiveness(WAYS, "RR@10"),
        [("xy", [], [*WAYS["mean"], *NEURAL["gflop"], *NEURAL["stored"], *(BASE + NEURAL[["low", "high"]].dropna()).to_numpy().flat], [])],
    ),
    "recall_by_count": (
        lambda: plots.recall_by_count(RECALL),
        [("y", [], [*RECALL["mean"], *(RECALL["mean"][0] + RECALL[["low", "high"]].dropna()).to_numpy().flat], [])],
    ),
    "query_attention": (
        lambda: plots.query_attention({"bert": HEADS}),
        [("y", HEADS[column], HEADS.groupby("layer")[column].mean(), []) for column in ("passage", "query", "[CLS]", "[SEP]", "entropy")],
    ),
    "block_shares": (
        lambda: plots.block_shares({"rank": BLOCKS}),
        [("y", part["share"], [*part.groupby("layer")["share"].mean(), 0.5], [])
         for _, part in BLOCKS.groupby(["rows", "columns"], sort=False)],
    ),
    "head_changes": (lambda: plots.head_changes(HEADS), [("x", [], [], HEADS["moved"])]),
    "gradient_cosines": (lambda: plots.gradient_cosines(COSINES.assign(task="query_generation")), [("x", [], [], COSINES["cosine"])]),
    "expansion": (lambda: plots.expansion(NATS, ["s"]), [("x", [], [], []), ("x", NATS.iloc[:, 1:], [], [])]),
}  # fmt: skip


def along(points: np.ndarray, direction: str) -> Iterator[float]:
    for letter in direction:
        yield from np.ma.filled(np.ma.reshape(points, (-1, 2))[:, "xy".index(letter)], NAN)


def drawn(axis, direction: str) -> tuple[list[float], list[float], list[float]]:
    """The numbers along a direction at which an axis has dots; ends of lines; bars and cells."""
    dots, ends, sizes = [], [], []
    for part in axis.collections:
        if isinstance(part, PathCollection):
            dots += along(part.get_offsets(), direction)
        elif isinstance(part, LineCollection):
            ends += (number for segment in part.get_segments() for number in along(segment, direction))
        elif isinstance(part, QuadMesh):
            sizes += part.get_array().flatten().tolist()
    for line in axis.lines:
        ends += along(np.asarray(line.get_xydata(), dtype=float), direction)
    for bar in axis.patches:
        if isinstance(bar, Rectangle):
            sizes.append(bar.get_width() if direction == "x" else bar.get_height())
    return dots, ends, sizes


def rounded(numbers) -> set[float]:
    numbers = np.asarray(numbers, dtype=float).ravel()
    return set(np.round(numbers[np.isfinite(numbers)], 9))


@pytest.mark.parametrize("name", FIGURES)
def test_points_stand_at_the_values_of_the_table(name):
    draw, panels = FIGURES[name]
    for axis, (direction, *expected) in zip(draw().axes, panels):
        dots, ends, sizes = map(rounded, drawn(axis, direction))
        wanted_dots, wanted_ends, wanted_sizes = map(rounded, expected)
        assert dots == wanted_dots
        assert wanted_ends <= ends and wanted_sizes <= sizes


def test_every_figure_of_a_table_is_held():
    """Those that are left out draw tokens, masks, diagrams or images of weights; their own tests read them back."""
    drawn_from_elsewhere = {
        "attention_map", "attention_masks", "attention_overview", "attributions", "block_diagrams", "heads_on_a_pair",
        "interactions", "mixed_mask", "pair", "score_distributions", "GAIN", "LOSS", "STYLE", "save_figure", "written",
    }  # fmt: skip
    assert set(plots.__all__) - set(FIGURES) == drawn_from_elsewhere
