"""Numbers: the uncertainty weights under losses of any size. (Losses that are not finite: tests/test_training.py.)"""

import math

import pytest
import torch

from gdmtl_lib.losses import UncertaintyWeighting

TASKS = ["rank", "query_generation", "answer_generation"]


def learned(losses, rate=1e-2, steps=1000):
    """The weighting after so many steps of AdamW on losses that step number `i` is given; all is finite all the way."""
    weighting = UncertaintyWeighting(TASKS)
    optimizer = torch.optim.AdamW(weighting.parameters(), lr=rate, weight_decay=0.0)
    for i in range(steps):
        joint = weighting({task: torch.tensor(loss) for task, loss in zip(TASKS, losses(i), strict=True)})
        optimizer.zero_grad()
        joint.backward()
        assert math.isfinite(joint.item())
        assert all(math.isfinite(parameter.grad.item()) for parameter in weighting.parameters())
        optimizer.step()
        assert all(0 < variance < math.inf for variance in weighting.variances().values())
    return weighting.variances()


@pytest.mark.parametrize("exponent", range(-8, 9, 2))
def test_weights_go_to_their_optimum_whatever_the_loss(exponent):
    """sigma^2 = (L + sqrt(L^2 + 8 L)) / 4, from 7e-5 to 5e7: on the way from 1 to it, never beyond, with AdamW's steps
    of at most a hundredth. The other two tasks' weights are not moved by that loss."""
    loss = 10.0**exponent
    found, *others = learned(lambda i: (loss, 1.0, 5.2), steps=1500).values()
    best, *expected = [(each + math.sqrt(each**2 + 8 * each)) / 4 for each in (loss, 1.0, 5.2)]
    low, high = sorted((1.0, best))
    assert low * 0.95 <= found <= high * 1.05
    assert abs(math.log(found)) >= min(abs(math.log(best)) * 0.95, 3)
    assert others == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("rate", [1e-2, 1.0])
def test_weights_stay_finite_when_losses_jump(rate):
    """Between the two ends at every step, and at every hundredth; also with a rate a hundred times the paper's."""
    ends = (1e-8, 1e8)
    learned(lambda i: (ends[i % 2], ends[i // 100 % 2], ends[(i + 1) % 2]), rate)


@pytest.mark.parametrize("loss", [0.0, 1e-45, 3e38])
def test_weights_stay_finite_at_the_ends_of_float32(loss):
    learned(lambda i: (loss, 1.0, 1.0))
