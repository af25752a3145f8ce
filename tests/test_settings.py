"""The settings of a training: the paper's defaults, and a sentence for every value that cannot be."""

import dataclasses
import json

import numpy as np
import pytest

from gdmtl_lib.settings import TrainingSettings


def test_defaults_are_the_papers():
    assert TrainingSettings().as_dict() == {
        "epochs": 10,
        "batch_size": 32,
        "learning_rate": 2e-5,
        "min_learning_rate": 1e-6,
        "warmup_epochs": 1.0,
        "weight_decay": 5e-5,
        "sigma_learning_rate": 1e-2,
        "sigma_schedule": "constant",
        "sigma_parameter": "log_variance",
        "rank_loss": None,
        "margin": 1.0,
        "negatives": 1,
        "train_relevance_level": 1,
        "generation_level": None,
        "max_length": 256,
        "target_length": 56,
        "loss_weighting": "uncertainty",
        "generation_mask": "mixed",
        "generation_head_warmup_steps": 0,
        "train_fraction": 1.0,
        "gradient_accumulation": 1,
        "max_gradient_norm": 1.0,
        "selection_measure": "RR@10",
        "keep_epoch_runs": False,
        "gradient_cosines_every": 0,
        "precision": "auto",
        "device": "auto",
        "compile": False,
        "seed": 0,
        "tracker": None,
    }


def test_settings_cannot_be_changed_unchecked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainingSettings().epochs = 0


def test_the_edges_are_allowed():
    TrainingSettings(
        epochs=1, batch_size=1, warmup_epochs=0, weight_decay=0, min_learning_rate=0, max_length=16,
        target_length=2, train_fraction=1, generation_head_warmup_steps=0, seed=0,
    )  # fmt: skip
    TrainingSettings(
        warmup_epochs=10,
        learning_rate=1e-6,
        max_length=4096,
        target_length=4096,
        batch_size=8,
        gradient_accumulation=8,
    )


@pytest.mark.parametrize("weight", [0.1, 1, np.float32(0.5)])
def test_a_fixed_weight_is_a_number(weight):
    assert TrainingSettings(loss_weighting=weight).loss_weighting == weight


def test_what_may_be_left_out():
    assert TrainingSettings(max_gradient_norm=None, tracker="wandb").as_dict()["max_gradient_norm"] is None


def test_equal_settings_are_written_alike():
    """1, 1.0 and NumPy's 1 are one setting; JSON knows Python's numbers only."""
    plain = TrainingSettings(warmup_epochs=1.0, loss_weighting=1.0, seed=3, margin=2.0)
    other = TrainingSettings(warmup_epochs=1, loss_weighting=1, seed=np.int64(3), margin=np.float32(2))
    assert json.dumps(plain.as_dict()) == json.dumps(other.as_dict())


INTEGERS = [
    "epochs", "batch_size", "negatives", "max_length", "target_length", "generation_head_warmup_steps",
    "gradient_accumulation", "seed", "gradient_cosines_every", "train_relevance_level",
]  # fmt: skip
NUMBERS = [
    "learning_rate", "min_learning_rate", "warmup_epochs", "weight_decay", "sigma_learning_rate", "margin",
    "train_fraction",
]  # fmt: skip
OPTIONAL_TEXTS = ["rank_loss", "tracker"]
TEXTS = ["generation_mask", "precision", "device", "sigma_schedule", "sigma_parameter", "selection_measure"]
NAN, INFINITE = float("nan"), float("inf")


def test_every_setting_is_tried_below():
    names = {field.name for field in dataclasses.fields(TrainingSettings)}
    others = {"loss_weighting", "max_gradient_norm", "keep_epoch_runs", "compile", "generation_level"}
    assert {*INTEGERS, *NUMBERS, *TEXTS, *OPTIONAL_TEXTS, *others} == names


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [(name, value, "a whole number") for name in INTEGERS for value in (2.0, "2", True, None, NAN, [2])]
    + [(name, value, "a number") for name in NUMBERS for value in ("1e-4", True, None, NAN, INFINITE, 1j)]
    + [(name, value, "a text") for name in TEXTS for value in (1, None, True)]
    + [("max_gradient_norm", value, "a number, or None") for value in ("1e-4", True, NAN, INFINITE, 1j)]
    + [("generation_level", value, "a whole number, or None") for value in (1.0, "1", True, NAN, [1])]
    + [("generation_level", value, "more than 0") for value in (0, -1)]
    + [("generation_level", 2, "at most the train_relevance_level (1)")]
    + [(name, value, "a text, or None") for name in OPTIONAL_TEXTS for value in (1, True)]
    + [("keep_epoch_runs", value, "True or False") for value in (1, None, "yes")]
    + [
        ("loss_weighting", value, "'uncertainty', 'generation' or a number")
        for value in (None, True, NAN, INFINITE, {"rank": 1})
    ]
    + [(name, 0, "at least 1") for name in ("epochs", "batch_size", "negatives", "gradient_accumulation", "train_relevance_level")]
    + [(name, -1, "0 or more") for name in ("generation_head_warmup_steps", "seed", "gradient_cosines_every")]
    + [(name, -0.1, "0 or more") for name in ("warmup_epochs", "weight_decay", "min_learning_rate")]
    + [
        (name, value, "more than 0")
        for name in ("learning_rate", "sigma_learning_rate", "margin", "max_gradient_norm")
        for value in (0.0, -0.1)
    ]
    + [("train_fraction", value, "more than 0 and at most 1") for value in (0.0, 1.1, 25.0)]
    + [("min_learning_rate", 1e-3, "at most the learning_rate (2e-05)")]
    + [("warmup_epochs", 11.0, "at most the number of epochs (10)")]
    + [("gradient_accumulation", 33, "at most the batch_size (32)")]
    + [("max_length", value, "between 16 and 4096") for value in (15, 4097)]
    + [("target_length", value, "between 2 and 4096") for value in (1, 4097)]
    + [("generation_mask", "causal", "one of mixed, mlm")]
    + [
        ("precision", "fp8", "one of auto, fp32, bf16, fp16"),
        ("device", "gpu", "one of auto, cuda, mps, cpu"),
        ("tracker", "mlflow", "None or one of tensorboard, wandb"),
        ("rank_loss", "triplet", "None or one of pairwise, pointwise, listwise, margin_mse"),
        ("sigma_schedule", "linear", "one of constant, warmup"),
        ("sigma_parameter", "sigma", "one of log_variance, variance"),
    ]
    + [
        ("loss_weighting", value, "'uncertainty', 'generation' or a number above 0, without quotes")
        for value in ("0.1", "Uncertainty", "", 0.0, -0.1)
    ],
)
def test_a_value_that_cannot_be_is_refused(name, value, expected):
    with pytest.raises(ValueError) as error:
        TrainingSettings(**{name: value})
    assert str(error.value) == f"{name} must be {expected}, found {value!r}"
