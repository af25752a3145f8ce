"""The cosines of the tasks' gradients: right, and measured without touching the training."""

import time

import numpy as np
import pandas as pd
import pytest
import torch

from gdmtl_lib.joint import JointLoss
from gdmtl_lib.pretrained import build_model
from gdmtl_lib.training.batches import Batches
from gdmtl_lib.training.gradients import gradient_cosines, gradients_now, layers

from .conftest import (
    Training, assert_an_interruption_changes_nothing, assert_same_training, candidates_of, collection_of, fails_at, settings_of,
)  # fmt: skip


def joint_and_batch(name, checkpoint):
    collection, settings = collection_of(), settings_of(margin=3.0)
    model = build_model(name, checkpoint=checkpoint).train()
    batches = Batches(model, collection, candidates_of(collection), settings)
    return JointLoss(model, settings), batches.packed(0, range(4))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gdmtl", ["embeddings", "encoder 1", "encoder 2"]),
        ("gdmtl_s", ["embeddings", "encoder 1", "encoder 2", "decoder 1", "decoder 2"]),
    ],
)
def test_every_shared_weight_is_in_one_layer(name, expected, toy_bert_folder):
    model = build_model(name, checkpoint=toy_bert_folder)
    groups = layers(model)
    assert sorted(groups) == sorted(expected)
    found = [id(parameter) for group in groups.values() for parameter in group]
    shared = {n: p for n, p in model.base_model.named_parameters() if not n.startswith("pooler.")}
    assert len(found) == len(set(found)) and set(found) == set(map(id, shared.values()))


@pytest.mark.parametrize("name", ["gdmtl_plus", "gdmtl_s"])
def test_cosines_of_separate_passes_by_a_slow_loop(name, toy_bert_folder):
    joint, batch = joint_and_batch(name, toy_bert_folder)
    rows = gradient_cosines(joint, batch)
    joint.eval()
    by_task = []
    for number in range(len(joint.tasks)):  # a pass of its own for every loss
        joint.zero_grad()
        joint(batch)[number].backward()
        by_task.append({id(p): p.grad.flatten().tolist() for p in joint.model.parameters() if p.grad is not None})
    expected = {}
    for layer, group in layers(joint.model).items():
        for task, other in zip(joint.tasks[1:], by_task[1:]):
            dot = first = second = 0.0
            for parameter in group:
                zeros = [0.0] * parameter.numel()
                a, b = by_task[0].get(id(parameter), zeros), other.get(id(parameter), zeros)
                for x, y in zip(a, b):
                    dot, first, second = dot + x * y, first + x * x, second + y * y
            expected[task, layer] = dot / (first * second) ** 0.5
    assert {(row["task"], row["layer"]): row["cosine"] for row in rows} == pytest.approx(expected, abs=1e-4)
    assert all(abs(row["cosine"]) <= 1.000001 for row in rows) and np.std(list(expected.values())) > 1e-3


def test_a_measurement_leaves_gradients_mode_and_random_state(toy_bert_folder):
    joint, batch = joint_and_batch("gdmtl", toy_bert_folder)
    before = torch.get_rng_state()
    assert gradient_cosines(joint, batch) == gradient_cosines(joint, batch)  # no dropout
    assert torch.equal(torch.get_rng_state(), before) and joint.model.training
    assert all(parameter.grad is None for parameter in joint.parameters())


def test_pairs_that_keep_their_margin_give_no_cosine(toy_bert_folder):
    joint, batch = joint_and_batch("gdmtl", toy_bert_folder)
    joint.settings = settings_of(margin=1e-9)
    joint.model.score = lambda states: torch.arange(len(states), 0, -1.0) + 0 * states.sum()  # each relevant one leads
    rows = gradient_cosines(joint, batch)
    assert all(row["rank_norm"] == 0 and np.isnan(row["cosine"]) and row["task_norm"] > 0 for row in rows)


@pytest.mark.parametrize("name", ["gdmtl_plus", "gdmtl_s"])
def test_the_training_is_the_same_with_and_without(name, toy_bert_folder, tmp_path):
    Training(toy_bert_folder, name)(tmp_path / "without")
    Training(toy_bert_folder, name, gradient_cosines_every=2)(tmp_path / "with")
    table = pd.read_csv(tmp_path / "with" / "gradients.csv")
    assert list(table) == ["epoch", "step", "task", "layer", "cosine", "rank_norm", "task_norm"]
    assert list(table["step"].unique()) == [0, 2, 4] and table["cosine"].abs().max() > 0
    (tmp_path / "with" / "gradients.csv").unlink()
    assert_same_training(tmp_path / "with", tmp_path / "without")
    # It is the same training: asking for it of a finished one neither refuses nor trains.
    Training(toy_bert_folder, name, gradient_cosines_every=3)(tmp_path / "without")
    assert not (tmp_path / "without" / "gradients.csv").exists()


def test_an_interrupted_training_ends_with_the_same_rows(toy_bert_folder, tmp_path, monkeypatch):
    train = Training(toy_bert_folder, "gdmtl", gradient_cosines_every=1)
    assert_an_interruption_changes_nothing(train, tmp_path, monkeypatch)


def test_rows_changed_on_the_disk_are_noticed(toy_bert_folder, tmp_path, monkeypatch):
    train = Training(toy_bert_folder, "gdmtl", gradient_cosines_every=1)
    with monkeypatch.context() as patch:
        fails_at(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
    table = pd.read_csv(tmp_path / "gradients.csv")
    table.loc[0, "cosine"] = 0.5
    table.to_csv(tmp_path / "gradients.csv", index=False)
    with pytest.raises(ValueError, match="the tables beside it, is not what was saved"):
        train(tmp_path)


def test_a_model_as_it_is(toy_bert_folder):
    collection, settings = collection_of(), settings_of()
    model = build_model("gdmtl", checkpoint=toy_bert_folder)
    table = gradients_now(model, collection, candidates_of(collection), settings, batches=2)
    assert list(table["batch"].unique()) == [0, 1] and set(table["task"]) == {"query_generation"}
    assert set(table["layer"]) == {"embeddings", "encoder 1", "encoder 2"} and not model.training


def test_a_measurement_costs_less_than_three_steps(toy_bert_folder):
    """One pass forward and one back a task, against a step's one and one: every 25th step, a tenth at most."""
    joint, batch = joint_and_batch("gdmtl", toy_bert_folder)

    def step():
        joint.zero_grad()
        joint(batch).sum().backward()

    def seconds(call):
        taken = []
        for _ in range(7):
            started = time.process_time()
            call()
            taken.append(time.process_time() - started)
        return min(taken)

    joint.train()
    assert seconds(lambda: gradient_cosines(joint, batch)) < 3 * seconds(step)
