"""The losses of the paper (Equations 2 to 6), and two of other re-rankers, of scores and logits. n pairs or target tokens,
v vocabulary."""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .systems import RANK_LOSSES


def pairwise_hinge(positive: Tensor, negative: Tensor, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """Pair-wise hinge loss, `max(0, margin - (positive - negative))` averaged over the pairs (Eq. 3).

    positive, negative: float [n], the scores of the more and of the less relevant passage of each pair.
    reduction: `mean` or `sum`. Returns a scalar, 0 for no pairs.
    """
    if positive.shape != negative.shape:
        raise ValueError(
            f"expected as many positive as negative scores, found {tuple(positive.shape)} and {tuple(negative.shape)}"
        )
    return _reduce(F.relu(margin - (positive - negative)), reduction)


def pointwise_cross_entropy(scores: Tensor, relevant: Tensor, reduction: str = "mean") -> Tensor:
    """Point-wise loss of monoBERT: cross-entropy of each passage's relevance given its score.

    scores: float [n], the log-odds of relevance; relevant: [n], bool, or grades of which those above 0 are relevant.
    reduction: `mean` over the passages or `sum`. Returns a scalar, 0 for no passages.
    """
    relevant = (relevant > 0).to(scores.dtype)
    return _reduce(F.binary_cross_entropy_with_logits(scores, relevant, reduction="none"), reduction)


def listwise_softmax(scores: Tensor, reduction: str = "mean") -> Tensor:
    """List-wise loss: cross-entropy of the relevant passage among all of its instance, -log softmax(scores)_0.

    scores: float [n, 1 + negatives], of each instance its relevant passage's before those of the others.
    reduction: `mean` over the instances or `sum`. Returns a scalar, 0 for no instances.
    Source: Gao, Dai and Callan (2021), Rethink Training of BERT Rerankers in Multi-Stage Retrieval Pipeline.
    """
    return _reduce(torch.logsumexp(scores, dim=-1) - scores[:, 0], reduction)


def margin_mse(positive: Tensor, negative: Tensor, teacher_margin: Tensor, reduction: str = "mean") -> Tensor:
    """Distillation: the squared difference between a pair's margin, positive - negative, and the teacher's.

    positive, negative, teacher_margin: float [...], alike. reduction: `mean` over the pairs or `sum`. Returns a scalar, 0
    for no pairs. Raises ValueError for shapes that differ.
    Source: Hofstaetter et al. (2020), Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
    Distillation.
    """
    if not positive.shape == negative.shape == teacher_margin.shape:
        shapes = ", ".join(str(tuple(part.shape)) for part in (positive, negative, teacher_margin))
        raise ValueError(f"expected as many positive and negative scores as margins of the teacher, found {shapes}")
    return _reduce((positive - negative - teacher_margin).square(), reduction)


LISTWISE = {"listwise": listwise_softmax}
"""Losses of all scores of an instance, by the name that `rank_loss` gives: (scores, "sum") -> their sum."""
_OURS = frozenset(RANK_LOSSES)


def add_rank_loss(name: str, loss: Callable[[Tensor, str], Tensor]) -> None:
    """Make a ranking loss of your own known to `TrainingSettings(rank_loss=name)` and `System`; one that you added before
    is replaced.

    loss: called with scores, float [n, 1 + negatives], of each instance its relevant passage's first, and "sum"; returns
    the sum over the instances, a scalar. It is tried here. Raises ValueError for a name that the library has, and for a
    loss that does not return that.
    """
    if name in _OURS:
        raise ValueError(f"there is a ranking loss {name!r} already: choose another name")
    expected = 'expected one that is called with scores, float [n, 1 + negatives], and "sum", and returns their scalar'
    try:
        found = loss(torch.zeros(2, 3, requires_grad=True), "sum")
    except Exception as error:  # whatever a user's function raises
        raise ValueError(f"loss {name!r}: {expected}, but it raises {error!r}") from error
    if not isinstance(found, Tensor) or found.shape or not found.requires_grad:
        shown = f"a tensor {list(found.shape)}" if isinstance(found, Tensor) else repr(found)
        raise ValueError(f"loss {name!r}: {expected}, with a gradient; it returns {shown}")
    LISTWISE[name], RANK_LOSSES[name] = loss, name.replace("_", " ")


def added_losses() -> set[str]:
    """The names of the ranking losses that were added here."""
    return LISTWISE.keys() - _OURS


def generation_cross_entropy(
    logits: Tensor, targets: Tensor, reduction: str = "mean", lengths: Tensor | None = None
) -> Tensor:
    """Cross-entropy of the target's tokens given the source and the tokens before (Eq. 4 and 5).

    logits: float [n, v] at the positions that predict; targets: int64 [n].
    reduction: `mean` over target tokens, as the authors' code has it; `sequence`: summed over each target's tokens,
        averaged over targets, Eq. 4 and 5 to the letter (lengths: int64, the number of tokens of each target);
        `sum` over tokens.
    Returns a scalar, 0 for no targets.
    """
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    if reduction != "sequence":
        return _reduce(losses, reduction, ("mean", "sequence", "sum"))
    if lengths is None or int(lengths.sum()) != len(targets):
        found = "no lengths" if lengths is None else f"lengths for {int(lengths.sum())}"
        raise ValueError(
            f'reduction="sequence" needs `lengths` that add up to the {len(targets)} target tokens, found {found}'
        )
    return losses.sum() / max(len(lengths), 1)


def _reduce(losses: Tensor, reduction: str, known: tuple[str, ...] = ("mean", "sum")) -> Tensor:
    if reduction not in known:
        raise ValueError(f"unknown reduction {reduction!r}: expected one of {', '.join(known)}")
    return losses.sum() / max(losses.numel(), 1) if reduction == "mean" else losses.sum()


class _Weighting(nn.Module):
    """A joint loss: `weighted`, which is linear in the losses (and so adds up over parts of a batch), and a regulariser."""

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """losses: one scalar a task. Returns the joint scalar."""
        return self.weighted(losses) + self.regulariser()

    def regulariser(self) -> float | Tensor:
        """The part that keeps learned variances from growing."""
        return 0.0

    def variances(self) -> dict[str, Tensor]:
        """sigma^2 of each task, where it is learned."""
        return {}


class FixedWeighting(_Weighting):
    """Joint loss with fixed weights (Eq. 2). weights: one number a task."""

    def __init__(self, weights: Mapping[str, float]):
        super().__init__()
        self.weights = dict(weights)

    def weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        _check_tasks(self.weights, losses)
        return sum(weight * losses[task] for task, weight in self.weights.items())


class UncertaintyWeighting(_Weighting):
    """Joint loss weighted by learned uncertainty (Eq. 6): sum over tasks of L / (2 sigma^2) + log(1 + sigma^2).

    What is learned is log sigma^2, so that sigma^2 stays positive; it starts at sigma^2 = 1. For a constant loss L
    the optimum is sigma^2 = (L + sqrt(L^2 + 8 L)) / 4.

    tasks: the names of the losses. parameter: `log_variance`, or `variance`: sigma^2 itself is learned, as in the
    authors' code, and nothing keeps it positive.
    Reference: Liebel and Koerner (2018), after Kendall et al. (2018).
    """

    def __init__(self, tasks: Iterable[str], parameter: str = "log_variance"):
        super().__init__()
        start = {"log_variance": torch.zeros, "variance": torch.ones}[parameter]
        # Pairs, because ParameterDict would sort a dict's keys.
        self.add_module(parameter, nn.ParameterDict((task, nn.Parameter(start(()))) for task in tasks))
        self.is_log = parameter == "log_variance"

    @property
    def learned(self) -> nn.ParameterDict:
        return self.log_variance if self.is_log else self.variance

    def weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        _check_tasks(self.learned.keys(), losses)
        if self.is_log:
            return sum(losses[task] * torch.exp(-value) / 2 for task, value in self.learned.items())
        return sum(losses[task] / (2 * value) for task, value in self.learned.items())

    def regulariser(self) -> Tensor:
        return sum(F.softplus(value) if self.is_log else torch.log1p(value) for value in self.learned.values())

    def variances(self) -> dict[str, Tensor]:
        return {task: value.detach().exp() if self.is_log else value.detach() for task, value in self.learned.items()}


def _check_tasks(expected, found) -> None:
    if set(expected) != set(found):
        raise ValueError(f"expected one loss for each of {sorted(expected)}, found {sorted(found)}")
