"""What tests of training share: a toy collection, one training on call, and what makes two trainings the same."""

import json
import os
import random
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch

import gdmtl_lib as gdmtl
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.splits import Split
from gdmtl_lib.pretrained import build_model, load_model
from gdmtl_lib.settings import TrainingSettings
from gdmtl_lib.training import loop

WORDS = (
    "ice blue glacier river water city king war north south light year day food long old new first how many where "
    "when why who what is was the in on by for with from"
).split()
ENCODER = "gdmtl_plus"


def texts_of(prefix, number, length, seed):
    rng = random.Random(seed)
    return {f"{prefix}{i}": " ".join(rng.sample(WORDS, length)) for i in range(number)}


def frame_of(texts):
    return pd.DataFrame({"query_id": list(texts), "text": list(texts.values())}, dtype=str)


def split_of(prefix, number, seed):
    """Query i asks for passage i; of the validation's, the last one's is of grade 2."""
    grades = [1 + (prefix == "v" and i == number - 1) for i in range(number)]
    qrels = [(f"{prefix}{i}", f"d{i}", grade) for i, grade in enumerate(grades)]
    return Split(
        frame_of(texts_of(prefix, number, 2, seed)),
        pd.DataFrame(qrels, columns=["query_id", "doc_id", "relevance"]),
        frame_of(texts_of(prefix, number, 3, seed + 1)),
    )


def collection_of(train=11, dev=6, answers=True):
    splits = {"train": split_of("t", train, 1), "dev": split_of("v", dev, 3)}
    if not answers:
        splits = {name: Split(split.queries, split.qrels) for name, split in splits.items()}
    return Collection("toy", texts_of("d", 16, 5, 5), splits)


def candidates_of(collection, split="train", others=4):
    """The relevant passage of each query, and those that follow it."""
    rows = [
        (query_id, f"d{(i + rank) % 16}", float(-rank), rank + 1)
        for i, query_id in enumerate(collection.queries(split)["query_id"])
        for rank in range(1 + others)
    ]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score", "rank"])


def settings_of(**changes):
    """Three steps an epoch over eleven queries, the last of them with three instances."""
    few = dict(epochs=2, batch_size=4, learning_rate=1e-3, max_length=32, target_length=8, precision="fp32")
    return TrainingSettings(**few | dict(device="cpu") | changes)


class Training:
    """One training of a toy, on call. validated: as the module's `finished` one."""

    def __init__(self, checkpoint, model=ENCODER, validated=False, collection=None, **settings):
        settings = settings | ({"generation_head_warmup_steps": 2} if validated else {})
        self.checkpoint, self.model, self.validated, self.settings = checkpoint, model, validated, settings
        self.collection = collection or collection_of()

    def __call__(self, folder, **arguments):
        """Train a fresh model; returns it and the history."""
        model = build_model(self.model, checkpoint=self.checkpoint)
        collection = self.collection
        arguments = {"candidates": candidates_of(collection)} | arguments
        if self.validated:
            arguments["validation"] = candidates_of(collection, "dev")
        settings = settings_of(**self.settings | arguments.pop("settings", {}))
        history = gdmtl.train(model, collection, settings=settings, output_dir=folder, **arguments)
        return model, history


def assert_same_training(found, expected):
    """Equal bits in every weight, and in every table but the clock's."""
    weights = [load_model(folder / "checkpoint").state_dict() for folder in (found, expected)]
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[1][name]), name
    for table in ("history.csv", "validation.csv", "validation_queries.csv", "gradients.csv"):
        there = [(folder / table).read_bytes() if (folder / table).exists() else None for folder in (found, expected)]
        assert there[0] == there[1], table
    finished = [json.loads((folder / "settings.json").read_text())["finished"] for folder in (found, expected)]
    assert finished[0] == finished[1] != None  # noqa: E711
    names = [sorted(path.name for path in folder.iterdir()) for folder in (found, expected)]
    assert names[0] == names[1]


def fails_at(monkeypatch, call, error, name="_step", where=loop._Training):
    """Let a method of the training, or a function that it calls, raise at its n-th call, counted from 0."""
    original, calls = getattr(where, name), iter(range(10**6))

    def function(*arguments):
        if next(calls) == call:
            raise error
        return original(*arguments)

    monkeypatch.setattr(where, name, function)


def dies_at(module, name, count, half=False, when=lambda *_: True):
    """Let this process kill itself at the n-th call of a function, counted from 0, of those that `when` its arguments
    say; half: what the call writes is there in part."""
    original, calls = getattr(module, name), iter(range(10**6))

    def function(*arguments, **named):
        if when(*arguments) and next(calls) == count:
            if half:
                original(*arguments, **named)
                file = Path(arguments[1])
                file = file / "model.safetensors" if file.is_dir() else file
                os.truncate(file, file.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    setattr(module, name, function)


DESCRIPTION = {"system": "bert", "settings": {"seed": 0, "learning_rate": 2e-5}, "validation": None}
HISTORY = [{"epoch": 0, "step": step, "loss": 1 / (step + 3)} for step in range(3)]


def trained(steps=3):
    """A model and its optimiser after some steps; one parameter never gets a gradient."""
    torch.manual_seed(1)
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(3, 2), "unused": torch.nn.Linear(2, 1)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model["used"](torch.ones(3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def state_of(model, optimizer):
    tensors = dict(model.named_parameters())
    for name, parameter in model.named_parameters():
        tensors |= {f"{name} {moment}": value for moment, value in optimizer.state.get(parameter, {}).items()}
    return {name: torch.as_tensor(tensor).detach().clone() for name, tensor in tensors.items()}


def assert_equal_bits(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def assert_an_interruption_changes_nothing(train, folder, monkeypatch):
    """A training stopped at its fourth step and begun again (`cut`) leaves what one in a single go does (`whole`)."""
    train(folder / "whole")
    with monkeypatch.context() as patch:
        fails_at(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train(folder / "cut")
    train(folder / "cut")
    assert_same_training(folder / "cut", folder / "whole")
