"""The joint step's arithmetic on scores and logits given by hand; models themselves are in test_models."""

import math
from types import SimpleNamespace

import pytest
import torch

from gdmtl_lib.joint import JointLoss
from gdmtl_lib.settings import TrainingSettings
from gdmtl_lib.systems import SYSTEMS

TASK = "query_generation"


class Given(torch.nn.Module):
    """A model whose output is the batch's own."""

    def __init__(self, name):
        super().__init__()
        self.system = SYSTEMS[name]

    def forward(self, batch):
        return batch


def batch_of(scores, targets=()):
    """A batch with these scores, and logits that are 0 for each of 4 tokens: each target costs log 4."""
    return SimpleNamespace(
        scores=torch.tensor(scores),
        score_at=torch.arange(len(scores)),
        logits={TASK: torch.zeros(len(targets), 4)},
        targets={TASK: torch.tensor(targets, dtype=torch.long)},
    )


def joint_of(name, **settings):
    return JointLoss(Given(name), TrainingSettings(**settings))


def test_pairwise_with_several_negatives():
    """Two instances of a relevant passage and two others: margins missed by 0.5, 0, 1 and 3; mean 4.5 / 4."""
    joint, batch = joint_of("bert", negatives=2), batch_of([1.0, 0.5, -1.0, 0.0, 0.0, 2.0])
    assert joint.counts(batch).tolist() == [4]
    assert joint.sums(batch).tolist() == [4.5]
    loss, sums = joint(batch, joint.counts(batch))
    assert (loss.item(), sums.tolist()) == (1.125, [4.5])


def test_pointwise_with_several_negatives():
    """Scores 0: every one of the six passages costs log 2, relevant or not; log 3 tells the two apart."""
    joint, batch = joint_of("mono", negatives=2), batch_of([0.0] * 6)
    assert joint.counts(batch).tolist() == [6]
    assert joint(batch, joint.counts(batch))[0].item() == pytest.approx(math.log(2))
    sums = joint.sums(batch_of([math.log(3), -math.log(3), -math.log(3)]))
    assert sums.tolist() == pytest.approx([3 * math.log(4 / 3)])


def test_uncertainty_weighting_is_the_default_of_several_tasks():
    """Ranking 0.5, generation log 4 a token: at sigma squared = 1 half of each, and log 2 twice."""
    joint, batch = joint_of("gdmtl"), batch_of([1.0, 0.5], [0, 1, 2])
    assert joint.counts(batch).tolist() == [1, 3]
    loss, sums = joint(batch, joint.counts(batch))
    assert loss.item() == pytest.approx(0.25 + math.log(4) / 2 + 2 * math.log(2))
    assert sums.tolist() == pytest.approx([0.5, 3 * math.log(4)])


def test_one_task_needs_no_weights():
    assert list(joint_of("bert").parameters()) == []
    assert list(joint_of("gdmtl", loss_weighting=0.1).parameters()) == []
    assert len(list(joint_of("gdmtl_plus").parameters())) == 3


def test_a_fixed_weight_is_that_of_the_generative_losses():
    joint, batch = joint_of("gdmtl", loss_weighting=0.1), batch_of([1.0, 0.5], [0, 1, 2])
    assert joint(batch, joint.counts(batch))[0].item() == pytest.approx(0.5 + 0.1 * math.log(4))


@pytest.mark.parametrize("weighting", ["uncertainty", 0.1])
def test_the_parts_of_a_batch_add_up_to_it(weighting):
    """Two parts of unequal size, and an empty one that is computed on something and counts nothing."""
    joint = joint_of("gdmtl", loss_weighting=weighting)
    whole = batch_of([1.0, 0.5, 0.0, 3.0, 0.0, 0.0], [0, 1, 2, 3])
    parts = [batch_of([1.0, 0.5], [0]), batch_of([0.0, 3.0, 0.0, 0.0], [1, 2, 3]), batch_of([9.0, 9.0], [0])]
    counts, weights = joint.counts(whole), [1.0, 1.0, 0.0]
    assert counts.tolist() == [3, 4]
    assert sum(w * joint.counts(part) for w, part in zip(weights, parts, strict=True)).tolist() == [3, 4]
    expected, expected_sums = joint(whole, counts)
    results = [joint(part, counts, weight, share=1 / 3) for weight, part in zip(weights, parts, strict=True)]
    assert sum(loss for loss, _ in results).item() == pytest.approx(expected.item())
    assert sum(sums for _, sums in results).tolist() == pytest.approx(expected_sums.tolist())


@pytest.mark.parametrize("weighting", ["uncertainty", 0.1])
def test_the_mean_over_processes_is_the_loss_of_the_whole(weighting):
    """Gradients are averaged over processes, and so is the loss here: two of them with an instance each."""
    joint = joint_of("gdmtl", loss_weighting=weighting)
    whole = batch_of([1.0, 0.5, 0.0, 3.0], [0, 1, 2])
    parts = [batch_of([1.0, 0.5], [0]), batch_of([0.0, 3.0], [1, 2])]
    counts = joint.counts(whole)
    losses = [joint(part, counts, processes=2)[0].item() for part in parts]
    assert sum(losses) / 2 == pytest.approx(joint(whole, counts)[0].item())


def test_a_row_of_the_history():
    row = joint_of("gdmtl").describe(torch.tensor([0.5, 4.0]))
    assert list(row) == ["loss", "rank_loss", f"{TASK}_loss", "sigma2_rank", f"sigma2_{TASK}"]
    assert list(row.values()) == pytest.approx([2.25 + 2 * math.log(2), 0.5, 4, 1, 1])
    assert joint_of("bert").describe(torch.tensor([0.5])) == {"loss": 0.5, "rank_loss": 0.5}
    row = joint_of("gdmtl", loss_weighting=0.5).describe(torch.tensor([0.5, 4.0]))
    assert row == {"loss": 2.5, "rank_loss": 0.5, f"{TASK}_loss": 4}
