"""Losses against values derived by hand, and against slow loops."""

import math
import random

import pytest
import torch

from gdmtl_lib.losses import (
    FixedWeighting,
    UncertaintyWeighting,
    generation_cross_entropy,
    listwise_softmax,
    margin_mse,
    pairwise_hinge,
    pointwise_cross_entropy,
)

LOG_2 = math.log(2)


def test_hinge():
    """Differences 2, 0.25, 0 and -1 miss a margin of 1 by 0, 0.75, 1 and 2: sum 3.75, mean 0.9375.

    A margin of 0.5 is missed by 0, 0.25, 0.5 and 1.5: sum 2.25.
    """
    positive, negative = torch.tensor([3.0, 0.5, 1.0, -2.0]), torch.tensor([1.0, 0.25, 1.0, -1.0])
    assert pairwise_hinge(positive, negative).item() == 0.9375
    assert pairwise_hinge(positive, negative, reduction="sum").item() == 3.75
    assert pairwise_hinge(positive, negative, margin=0.5, reduction="sum").item() == 2.25


def test_hinge_gradient_stops_at_the_margin():
    """Of a mean over two pairs each has half: -1/2 and 1/2 where the margin is missed, 0 where it is kept."""
    positive = torch.tensor([0.0, 5.0], requires_grad=True)
    negative = torch.tensor([0.0, 0.0], requires_grad=True)
    pairwise_hinge(positive, negative).backward()
    assert positive.grad.tolist() == [-0.5, 0]
    assert negative.grad.tolist() == [0.5, 0]


def test_listwise_softmax():
    """Equal scores of 4 passages: log 4. Scores log 3, 0 and 0: the relevant one has 3 of 5 parts. Mean of both."""
    even, uneven = torch.zeros(1, 4), torch.tensor([[math.log(3), 0.0, 0.0]])
    assert listwise_softmax(even).item() == pytest.approx(math.log(4))
    assert listwise_softmax(uneven).item() == pytest.approx(math.log(5 / 3))
    both = torch.cat([even, torch.tensor([[math.log(3), 0.0, 0.0, -math.inf]])])
    assert listwise_softmax(both).item() == pytest.approx((math.log(4) + math.log(5 / 3)) / 2)
    assert listwise_softmax(both, "sum").item() == pytest.approx(math.log(4) + math.log(5 / 3))


@pytest.mark.parametrize("seed", range(5))
def test_listwise_softmax_is_the_cross_entropy_of_the_first(seed):
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed))
    loops = [-math.log(math.exp(row[0]) / sum(map(math.exp, row))) for row in scores.tolist()]
    assert listwise_softmax(scores).item() == pytest.approx(sum(loops) / 3, rel=1e-5)


def test_margin_mse():
    """Margins 2 and -1, the teacher's 1.5 and 1: squares 0.25 and 4. What a score is does not count, only how far apart."""
    positive, negative, teacher = torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0]), torch.tensor([1.5, 1.0])
    assert margin_mse(positive, negative, teacher).item() == 2.125
    assert margin_mse(positive + 7, negative + 7, teacher, "sum").item() == 4.25


def test_pointwise():
    """The log-odds 0 is a probability of 1/2, loss log 2; log 3 is 3/4: log 4/3 if relevant, log 4 if not."""
    scores = torch.tensor([0.0, math.log(3), math.log(3)])
    expected = LOG_2 + math.log(4 / 3) + math.log(4)
    for relevant in (
        torch.tensor([True, True, False]),
        torch.tensor([1.0, 1.0, 0.0]),
        torch.tensor([1, 3, 0]),
    ):
        assert pointwise_cross_entropy(scores, relevant, "sum").item() == pytest.approx(expected)
        assert pointwise_cross_entropy(scores, relevant).item() == pytest.approx(expected / 3)


# Probabilities 1/4, 1/2, 1/8, 1/8 in the first row; 1/8, 1/8, 1/4, 1/2 in the second; 1/4 in the third.
LOGITS = torch.tensor([[2.0, 4, 1, 1], [1, 1, 2, 4], [1, 1, 1, 1]]).log()
TARGETS = torch.tensor([1, 0, 3])


def test_generation():
    """The targets have probabilities 1/2, 1/8 and 1/4: 1 + 3 + 2 = 6 times log 2 in all, 2 log 2 a token."""
    assert generation_cross_entropy(LOGITS, TARGETS, "sum").item() == pytest.approx(6 * LOG_2)
    assert generation_cross_entropy(LOGITS, TARGETS).item() == pytest.approx(2 * LOG_2)


def test_generation_by_sequence():
    """The same tokens as one target of two and one of one (Eq. 4): 4 log 2 and 2 log 2, mean 3 log 2."""
    found = generation_cross_entropy(LOGITS, TARGETS, "sequence", torch.tensor([2, 1]))
    assert found.item() == pytest.approx(3 * LOG_2)


@pytest.mark.parametrize("seed", range(5))
def test_generation_is_a_loop_over_targets(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 6, (4,), generator=generator)
    logits = torch.randn(int(lengths.sum()), 11, generator=generator)
    targets = torch.randint(0, 11, (len(logits),), generator=generator)
    sums, start = [], 0
    for length in lengths.tolist():
        rows = range(start, start + length)
        sums.append(
            -sum(math.log(math.exp(logits[i, targets[i]]) / sum(map(math.exp, logits[i]))) for i in rows)
        )
        start += length
    assert generation_cross_entropy(logits, targets).item() == pytest.approx(
        sum(sums) / len(logits), rel=1e-5
    )
    found = generation_cross_entropy(logits, targets, "sequence", lengths)
    assert found.item() == pytest.approx(sum(sums) / len(sums), rel=1e-5)


def test_generation_computes_in_float32():
    """300 equal logits: log 300, which bfloat16 would round by more than 0.01."""
    logits = torch.zeros(1, 300, dtype=torch.bfloat16)
    loss = generation_cross_entropy(logits, torch.tensor([7]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(300), rel=1e-6)


def test_nothing_costs_nothing_and_keeps_the_gradient():
    nothing = torch.zeros(0, requires_grad=True)
    no_targets = torch.zeros(0, dtype=torch.long)
    losses = [
        pairwise_hinge(nothing, nothing),
        listwise_softmax(nothing.view(0, 3)),
        margin_mse(nothing, nothing, nothing),
        pointwise_cross_entropy(nothing, nothing),
        generation_cross_entropy(nothing.view(0, 4), no_targets),
        generation_cross_entropy(nothing.view(0, 4), no_targets, "sequence", no_targets),
    ]
    assert [loss.item() for loss in losses] == [0] * 6
    sum(losses).backward()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pairwise_hinge(torch.zeros(3), torch.zeros(1)),
            "expected as many positive as negative scores, found (3,) and (1,)",
        ),
        (
            lambda: margin_mse(torch.zeros(2), torch.zeros(2), torch.zeros(1)),
            "expected as many positive and negative scores as margins of the teacher, found (2,), (2,), (1,)",
        ),
        (
            lambda: pairwise_hinge(torch.zeros(1), torch.zeros(1), reduction="sequence"),
            "unknown reduction 'sequence': expected one of mean, sum",
        ),
        (
            lambda: pointwise_cross_entropy(torch.zeros(1), torch.zeros(1), "none"),
            "unknown reduction 'none': expected one of mean, sum",
        ),
        (
            lambda: generation_cross_entropy(LOGITS, TARGETS, "none"),
            "unknown reduction 'none': expected one of mean, sequence, sum",
        ),
        (
            lambda: generation_cross_entropy(LOGITS, TARGETS, "sequence"),
            'reduction="sequence" needs `lengths` that add up to the 3 target tokens, found no lengths',
        ),
        (
            lambda: generation_cross_entropy(LOGITS, TARGETS, "sequence", torch.tensor([2, 2])),
            'reduction="sequence" needs `lengths` that add up to the 3 target tokens, found lengths for 4',
        ),
    ],
)
def test_what_cannot_be_computed_says_why(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


def test_uncertainty_weighting_starts_at_half_of_each_loss():
    """At sigma squared = 1, Eq. 6 is 0.8 / 2 + log 2 + 6 / 2 + log 2 = 3.4 + 2 log 2."""
    weighting = UncertaintyWeighting(["rank", "query_generation"])
    losses = {"rank": torch.tensor(0.8), "query_generation": torch.tensor(6.0)}
    assert weighting.variances() == {"rank": 1, "query_generation": 1}
    assert weighting(losses).item() == pytest.approx(3.4 + 2 * LOG_2)
    assert weighting.weighted(losses).item() == pytest.approx(3.4)
    assert weighting.regulariser().item() == pytest.approx(2 * LOG_2)


def test_uncertainty_weighting_is_equation_6():
    """Sigma squared 4 and 1/2: 3 / 8 + log 5 + 5 / 1 + log 1.5."""
    weighting = UncertaintyWeighting(["a", "b"])
    with torch.no_grad():
        weighting.log_variance["a"].fill_(math.log(4))
        weighting.log_variance["b"].fill_(math.log(0.5))
    found = weighting({"b": torch.tensor(5.0), "a": torch.tensor(3.0)})
    assert found.item() == pytest.approx(3 / 8 + math.log(5) + 5 + math.log(1.5))
    assert weighting.variances() == pytest.approx({"a": 4, "b": 0.5})


def test_uncertainty_weighting_first_gradients():
    """With x = log sigma^2, d/dx (L e^-x / 2 + log(1 + e^x)) at 0 is (1 - L) / 2; d/dL is 1/2."""
    weighting = UncertaintyWeighting(["rank"])
    loss = torch.tensor(4.0, requires_grad=True)
    weighting({"rank": loss}).backward()
    assert weighting.log_variance["rank"].grad.item() == pytest.approx(-1.5)
    assert loss.grad.item() == 0.5


@pytest.mark.parametrize("loss", [1e-3, 0.1, 1.0, 5.2, 100.0])
def test_uncertainty_weighting_finds_its_optimum(loss):
    """For constant L, d/ds (L / 2s + log(1 + s)) = 0 if 2 s^2 - L s - L = 0, s = (L + sqrt(L^2 + 8 L)) / 4.

    L = 1 gives s = 1, the starting value.
    """
    weighting = UncertaintyWeighting(["rank"]).double()
    losses = {"rank": torch.tensor(loss, dtype=torch.double)}
    optimizer = torch.optim.LBFGS(weighting.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        joint = weighting(losses)
        joint.backward()
        return joint

    for _ in range(5):
        optimizer.step(closure)
    expected = (loss + math.sqrt(loss**2 + 8 * loss)) / 4
    assert weighting.variances()["rank"] == pytest.approx(expected, rel=1e-4)


def test_fixed_weighting():
    """Eq. 2 with weights 1 and 0.1: 0.5 + 0.1 * 6 = 1.1."""
    weighting = FixedWeighting({"rank": 1.0, "query_generation": 0.1})
    losses = {"query_generation": torch.tensor(6.0), "rank": torch.tensor(0.5)}
    assert weighting(losses).item() == pytest.approx(1.1)
    assert weighting.weighted(losses).item() == pytest.approx(1.1)
    assert weighting.regulariser() == 0
    assert weighting.variances() == {}
    assert list(weighting.parameters()) == []


@pytest.mark.parametrize(
    "weighting", [UncertaintyWeighting(["rank", "x"]), FixedWeighting({"rank": 1, "x": 1})]
)
@pytest.mark.parametrize("found", [["rank"], ["rank", "x", "y"]])
def test_a_loss_for_every_task_is_expected(weighting, found):
    with pytest.raises(ValueError) as error:
        weighting({task: torch.tensor(1.0) for task in found})
    assert str(error.value) == f"expected one loss for each of ['rank', 'x'], found {found}"
