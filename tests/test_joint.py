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
    assert joint(batch).tolist() == [4.5]
    assert joint.loss(batch).item() == 1.125


def test_pointwise_with_several_negatives():
    """Scores 0: every one of the six passages costs log 2, relevant or not; log 3 tells the two apart."""
    joint, batch = joint_of("mono", negatives=2), batch_of([0.0] * 6)
    assert joint.counts(batch).tolist() == [6]
    assert joint.loss(batch).item() == pytest.approx(math.log(2))
    sums = joint(batch_of([math.log(3), -math.log(3), -math.log(3)]))
    assert sums.tolist() == pytest.approx([3 * math.log(4 / 3)])


def test_listwise_with_several_negatives():
    """Two instances of three passages with equal scores: log 3 each."""
    joint, batch = joint_of("bert", negatives=2, rank_loss="listwise"), batch_of([1.0] * 6)
    assert joint.counts(batch).tolist() == [2]
    assert joint(batch).tolist() == pytest.approx([2 * math.log(3)])
    assert joint.loss(batch).item() == pytest.approx(math.log(3))


def test_margins_of_a_teacher():
    """Margins 1 and 0 of one instance, the teacher's 3 and 1: squares 4 and 1, over two pairs."""
    joint, batch = joint_of("bert", negatives=2, rank_loss="margin_mse"), batch_of([1.0, 0.0, 1.0])
    batch.teacher = torch.tensor([5.0, 2.0, 4.0])
    assert joint.counts(batch).tolist() == [2]
    assert joint(batch).tolist() == [5]
    assert joint.loss(batch).item() == 2.5


def test_uncertainty_weighting_is_the_default_of_several_tasks():
    """Ranking 0.5, generation log 4 a token: at sigma squared = 1 half of each, and log 2 twice."""
    joint, batch = joint_of("gdmtl"), batch_of([1.0, 0.5], [0, 1, 2])
    assert joint.counts(batch).tolist() == [1, 3]
    assert joint.loss(batch).item() == pytest.approx(0.25 + math.log(4) / 2 + 2 * math.log(2))
    assert joint(batch).tolist() == pytest.approx([0.5, 3 * math.log(4)])


def test_generation_alone():
    """Three tokens of log 4 each, whatever the (absent) scores; a system that writes nothing is refused."""
    joint, batch = joint_of("gdmtl", loss_weighting="generation"), batch_of([], [0, 1, 2])
    assert joint.tasks == (TASK,) and list(joint.parameters()) == []
    assert joint.counts(batch).tolist() == [3] and joint(batch).tolist() == pytest.approx([3 * math.log(4)])
    assert joint.loss(batch).item() == pytest.approx(math.log(4))
    assert list(joint.row(torch.tensor([0.5]))) == ["loss", f"{TASK}_loss"]
    with pytest.raises(ValueError, match="leaves bert nothing to learn: it has no head to write with"):
        joint_of("bert", loss_weighting="generation")


def test_one_task_needs_no_weights():
    assert list(joint_of("bert").parameters()) == []
    assert list(joint_of("gdmtl", loss_weighting=0.1).parameters()) == []
    assert len(list(joint_of("gdmtl_plus").parameters())) == 3


def test_a_fixed_weight_is_that_of_the_generative_losses():
    joint, batch = joint_of("gdmtl", loss_weighting=0.1), batch_of([1.0, 0.5], [0, 1, 2])
    assert joint.loss(batch).item() == pytest.approx(0.5 + 0.1 * math.log(4))


def test_a_row_of_the_history():
    row = joint_of("gdmtl").row(torch.tensor([0.5, 4.0]))
    assert list(row) == ["loss", "rank_loss", f"{TASK}_loss", "sigma2_rank", f"sigma2_{TASK}"]
    assert torch.stack(list(row.values())).tolist() == pytest.approx([2.25 + 2 * math.log(2), 0.5, 4, 1, 1])
    assert joint_of("bert").row(torch.tensor([0.5])) == {"loss": 0.5, "rank_loss": 0.5}
    row = joint_of("gdmtl", loss_weighting=0.5).row(torch.tensor([0.5, 4.0]))
    assert row == {"loss": 2.5, "rank_loss": 0.5, f"{TASK}_loss": 4}
