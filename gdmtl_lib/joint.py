"""The joint loss (Eq. 2 to 6): one packed pass, the loss of every task, their weighted sum."""

import torch
from torch import Tensor, nn

from .losses import FixedWeighting, UncertaintyWeighting, generation_cross_entropy
from .losses import LISTWISE, margin_mse, pairwise_hinge, pointwise_cross_entropy
from .packing import Batch
from .settings import TrainingSettings


class JointLoss(nn.Module):
    """A model with the losses of its system's tasks and their weights."""

    def __init__(self, model: nn.Module, settings: TrainingSettings):
        super().__init__()
        self.model, self.settings, self.tasks = model, settings, settings.tasks_of(model.system)
        self.rank_loss, weight = settings.rank_loss_of(model.system), settings.loss_weighting
        if len(self.tasks) > 1 and weight == "uncertainty":
            self.weighting = UncertaintyWeighting(self.tasks, settings.sigma_parameter)
        else:
            beside_ranking = 1.0 if weight == "generation" else weight
            self.weighting = FixedWeighting({task: 1.0 if task == "rank" else beside_ranking for task in self.tasks})

    def counts(self, batch: Batch) -> Tensor:
        """What each task's mean is over: pairs (passages, point-wise; instances, list-wise), and target tokens; float
        [tasks]."""
        instances = len(batch.score_at) // (1 + self.settings.negatives)
        each = {"pointwise": 1 + self.settings.negatives} | dict.fromkeys(LISTWISE, 1)
        ranked = instances * each.get(self.rank_loss, self.settings.negatives)
        return torch.tensor([ranked if task == "rank" else len(batch.targets[task]) for task in self.tasks]).float()

    def forward(self, batch: Batch) -> Tensor:
        """The loss of each task summed over the batch (Eq. 3 to 5), float [tasks].

        batch: of instances, each one's relevant passage before its negatives.
        """
        output = self.model(batch)
        losses = [
            self._ranking(output.scores, batch) if task == "rank"
            else generation_cross_entropy(output.logits[task], batch.targets[task], "sum")
            for task in self.tasks
        ]  # fmt: skip
        if "rank" not in self.tasks:  # no scores, whose sum is 0: several processes want a gradient for every weight
            losses[0] = losses[0] + output.scores.sum()
        return torch.stack(losses)

    def _ranking(self, scores: Tensor, batch: Batch) -> Tensor:
        """The ranking loss summed over the batch: Eq. 3, or one of other re-rankers. scores: float [passages]."""
        scores = scores.float().view(-1, 1 + self.settings.negatives)
        positive, negative = scores[:, :1].expand(-1, self.settings.negatives), scores[:, 1:]
        match self.rank_loss:
            case "pairwise":
                return pairwise_hinge(positive, negative, self.settings.margin, "sum")
            case "pointwise":
                relevant = torch.zeros_like(scores)
                relevant[:, 0] = 1
                return pointwise_cross_entropy(scores, relevant, "sum")
            case "margin_mse":
                teacher = batch.teacher.view_as(scores)
                return margin_mse(positive, negative, teacher[:, :1] - teacher[:, 1:], "sum")
            case name:
                return LISTWISE[name](scores, "sum")

    def loss(self, batch: Batch) -> Tensor:
        """The joint loss of a batch: its mean losses, weighted (Eq. 2, or Eq. 6 with learned weights)."""
        sums = self(batch)
        means = sums / self.counts(batch).to(sums.device).clamp(min=1)
        return self.weighting(dict(zip(self.tasks, means)))

    @torch.no_grad()
    def row(self, means: Tensor) -> dict[str, Tensor]:
        """A row of the history: the joint loss, each task's mean loss, and its sigma squared where it is learned; still
        on the device, since reading a number waits for it."""
        by_task = dict(zip(self.tasks, means))
        return {
            "loss": self.weighting(by_task),
            **{f"{task}_loss": loss for task, loss in by_task.items()},
            **{f"sigma2_{task}": variance for task, variance in self.weighting.variances().items()},
        }
