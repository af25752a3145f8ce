"""The settings of a training run, checked when they are made. The defaults are the paper's (Section 5.2)."""

import math
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real

from .systems import RANK_LOSSES, System, unknown_name

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DEVICES = ("auto", "cuda", "mps", "cpu")
GENERATION_MASKS = ("mixed", "mlm")
LIKELIHOODS = {"likelihood": "query_generation", "answer_likelihood": "answer_generation"}
"""By which an epoch can be chosen beside the measures of a ranking, and the task whose targets they are of."""
_CHOICES = {
    "tracker": ("tensorboard", "wandb"), "generation_mask": GENERATION_MASKS, "precision": PRECISIONS, "device": DEVICES,
    "rank_loss": RANK_LOSSES, "sigma_schedule": ("constant", "warmup"), "sigma_parameter": ("log_variance", "variance"),
}  # fmt: skip


def is_number(value: object) -> bool:
    """Whether a value is a finite number, Python's or NumPy's; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object) -> bool:
    """Whether a value is an integer, Python's or NumPy's; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_text(value) -> bool:
    return isinstance(value, str)


def check_count(name: str, value: object, may_lack: bool = False) -> None:
    """Refuse, with ValueError, what is no whole number of at least 1. may_lack: or None."""
    if value is None and may_lack:
        return
    if not is_whole(value):
        raise ValueError(f"{name} must be a whole number, found {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, found {value}")


_KINDS = {
    int: ("a whole number", is_whole),
    float: ("a number", is_number),
    str: ("a text", _is_text),
    str | float: ("'uncertainty', 'generation' or a number", lambda value: _is_text(value) or is_number(value)),
    int | None: ("a whole number, or None", lambda value: is_whole(value) or value is None),
    float | None: ("a number, or None", lambda value: is_number(value) or value is None),
    str | None: ("a text, or None", lambda value: _is_text(value) or value is None),
    bool: ("True or False", lambda value: isinstance(value, bool)),
}
_LIMITS = (
    ("at least 1", lambda value: value >= 1,
     ("epochs", "batch_size", "negatives", "gradient_accumulation", "train_relevance_level")),
    ("0 or more", lambda value: value >= 0,
     ("generation_head_warmup_steps", "seed", "warmup_epochs", "weight_decay", "min_learning_rate", "gradient_cosines_every")),
    ("below 2**63", lambda value: value < 2**63, ("seed",)),  # what torch's generators take
    ("more than 0", lambda value: value is None or value > 0,
     ("learning_rate", "sigma_learning_rate", "margin", "max_gradient_norm", "generation_level")),
    ("more than 0 and at most 1", lambda value: 0 < value <= 1, ("train_fraction",)),
    ("between 16 and 4096", lambda value: 16 <= value <= 4096, ("max_length",)),
    ("between 2 and 4096", lambda value: 2 <= value <= 4096, ("target_length",)),
    ("'uncertainty', 'generation' or a number above 0, without quotes",
     lambda value: value in ("uncertainty", "generation") if _is_text(value) else value > 0, ("loss_weighting",)),
)  # fmt: skip


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained.

    epochs: passes over the training instances. An instance is a query, a relevant passage and `negatives` others.
    batch_size: instances of one optimiser step, over all processes and all parts of an accumulated batch.
    learning_rate: AdamW's peak, reached after `warmup_epochs` and then falling linearly to `min_learning_rate`.
    weight_decay: on everything but biases and layer norms.
    sigma_learning_rate: of the uncertainty weights. sigma_schedule: `constant`, or `warmup`: it rises and falls as the
        other one does. sigma_parameter: what is learned, `log_variance`, or `variance`: sigma squared itself. The
        second of each is what the authors' code does.
    rank_loss: of `RANK_LOSSES`, in place of the system's own; None: its own.
    margin: of the hinge loss (Eq. 3). negatives: passages an instance of a lower grade than its relevant one, drawn
        anew every epoch (Eq. 3 pairs any two that differ). train_relevance_level: the lowest grade of a relevant one.
    generation_level: the query is written from a passage drawn every epoch from those of at least this grade; None
        (Section 4.2): from the relevant passage that is ranked beside it.
    max_length: tokens of a ranking input and of a source. target_length: tokens of a target.
    loss_weighting: `uncertainty` (Eq. 6), or a number: the fixed weight of every generative loss beside the ranking
        loss's 1 (Eq. 2); or `generation`: nothing else is learned, and what comes out writes and does not rank.
    generation_mask: `mixed`, or `mlm` for the ablation that replaces every target token by [MASK].
    generation_head_warmup_steps: steps in which the language-model heads alone are trained, before everything else.
    train_fraction: share of the training queries; a smaller share is part of every larger one.
    gradient_accumulation: parts in which a batch is computed, to save memory; at most batch_size. The result is
        the same, but for what dropout draws.
    max_gradient_norm: longer gradients are shortened to it; None: none is.
    selection_measure: by whose mean over the validation's queries the epoch is chosen, in ir-measures' notation; or
        `likelihood`: log P of a token of the query, given its first relevant passage; or `answer_likelihood`: of a token
        of the query's answer, given both.
    keep_epoch_runs: keep the validation's run after every epoch (epoch_runs/).
    gradient_cosines_every: measure before every n-th step how the tasks' gradients lie to each other (gradients.csv);
        0: never. It changes nothing of the training.
    precision: `fp32`, `bf16`, `fp16` (a training's on a GPU alone); `auto`: bf16 where the hardware is fast at it, fp32 elsewhere.
    device: `cuda`, `mps`, `cpu`; `auto`: the first of them that is there.
    compile: the layers by torch.compile, for long trainings on a GPU: it takes a minute at the start.
    seed: of the order of instances, the negatives and dropout.
    tracker: `tensorboard` (into the training's folder) or `wandb`: where losses and validation are logged; or None.

        settings = gdmtl.TrainingSettings(epochs=3, batch_size=8, learning_rate=1e-4, loss_weighting=0.1)

    Raises ValueError for an unknown setting and for an impossible value, saying what is expected.
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 2e-5
    min_learning_rate: float = 1e-6
    warmup_epochs: float = 1
    weight_decay: float = 5e-5
    sigma_learning_rate: float = 1e-2
    sigma_schedule: str = "constant"
    sigma_parameter: str = "log_variance"
    rank_loss: str | None = None
    margin: float = 1.0
    negatives: int = 1
    train_relevance_level: int = 1
    generation_level: int | None = None
    max_length: int = 256
    target_length: int = 56
    loss_weighting: str | float = "uncertainty"
    generation_mask: str = "mixed"
    generation_head_warmup_steps: int = 0
    train_fraction: float = 1.0
    gradient_accumulation: int = 1
    max_gradient_norm: float | None = 1.0
    selection_measure: str = "RR@10"
    keep_epoch_runs: bool = False
    gradient_cosines_every: int = 0
    precision: str = "auto"
    device: str = "auto"
    compile: bool = False
    seed: int = 0
    tracker: str | None = None

    def __new__(cls, *given, **named):
        for name in named:
            if name not in cls.__dataclass_fields__:
                raise ValueError(unknown_name("setting", name, cls.__dataclass_fields__, "there are"))
        return super().__new__(cls)

    def __post_init__(self):
        for field in fields(self):
            expected, fits = _KINDS[field.type]
            value = getattr(self, field.name)
            self._check(field.name, fits(value), expected)
            if is_number(value):  # NumPy's numbers become Python's, so that equal settings are written alike
                object.__setattr__(self, field.name, int(value) if field.type in (int, int | None) else float(value))
        for expected, fits, names in _LIMITS:
            for name in names:
                self._check(name, fits(getattr(self, name)), expected)
        for name, known in _CHOICES.items():
            value, may_lack = getattr(self, name), self.__dataclass_fields__[name].type == str | None
            expected = f"{'None or ' if may_lack else ''}one of {', '.join(known)}"
            self._check(name, value in known or may_lack and value is None, expected)
        for name, limit, called in (
            ("min_learning_rate", "learning_rate", "learning_rate"), ("gradient_accumulation", "batch_size", "batch_size"),
            ("warmup_epochs", "epochs", "number of epochs"), ("generation_level", "train_relevance_level", "train_relevance_level"),
        ):  # fmt: skip
            most = getattr(self, limit)
            value = getattr(self, name)
            self._check(name, value is None or value <= most, f"at most the {called} ({most})")

    def _check(self, name: str, passed: bool, expected: str) -> None:
        if not passed:
            raise ValueError(f"{name} must be {expected}, found {getattr(self, name)!r}")

    def rank_loss_of(self, system: System) -> str:
        """What is learned of a query's passages, of `RANK_LOSSES`."""
        return self.rank_loss or system.rank_loss

    def tasks_of(self, system: System) -> tuple[str, ...]:
        """What is learned of the system's tasks. Raises ValueError where that is nothing."""
        tasks = system.generative_tasks if self.loss_weighting == "generation" else system.tasks
        if not tasks:
            raise ValueError(f"loss_weighting 'generation' leaves {system.name} nothing to learn: it has no head to write with")
        return tasks

    def as_dict(self) -> dict:
        return asdict(self)
