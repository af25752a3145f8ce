"""The last layer where it is read: the scores, logits and gradients of the whole one, and less work."""

import random

import pytest
import torch
from tests.conftest import random_sequences

import gdmtl_lib as gdmtl
from gdmtl_lib.backbones import attention
from gdmtl_lib.backbones.reference import reference
from gdmtl_lib.packing import pack
from gdmtl_lib.joint import JointLoss

ENCODERS = ["mono", "bert", "gdmtl", "gdmtl_plus"]


@pytest.fixture(params=ENCODERS)
def model(request, toys):
    return toys[request.param].eval()


def both_ways(compute):
    """What it gives with the last layer where it is read, and with the whole one."""
    found = compute()
    with reference("last layer"):
        return found, compute()


@pytest.mark.parametrize("seed", range(3))
def test_outputs_and_gradients_are_those_of_the_whole_layer(model, seed):
    batch = pack(random_sequences(model, random.Random(seed)))
    joint = JointLoss(model, gdmtl.TrainingSettings(loss_weighting=0.1))

    def step():
        joint.zero_grad()
        loss = joint.loss(batch)
        loss.backward()
        return {name: p.grad.clone() for name, p in joint.named_parameters() if p.grad is not None}, model(batch)

    (ours, output), (theirs, expected) = both_ways(step)
    torch.testing.assert_close(output.scores, expected.scores, rtol=1e-5, atol=1e-6)
    assert output.logits.keys() == expected.logits.keys()
    for task in expected.logits:
        torch.testing.assert_close(output.logits[task], expected.logits[task], rtol=1e-5, atol=1e-5)
    assert ours.keys() == theirs.keys()
    largest = max(gradient.norm() for gradient in theirs.values())
    assert all((ours[name] - theirs[name]).norm() <= 1e-5 * largest for name in theirs)


def test_in_autocast_it_rounds_as_the_whole_layer_does(model):
    batch = pack(random_sequences(model, random.Random(7)))

    def scores():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return model(batch).scores

    found, expected = both_ways(scores)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_its_feed_forward_part_sees_the_tokens_that_are_read_and_no_others(model):
    sequences = random_sequences(model, random.Random(3))
    tokens = sum(len(sequence.input_ids) for sequence in sequences)
    read = sum(1 if sequence.task == "rank" else len(sequence.targets) for sequence in sequences)
    seen = []
    dense = model.base_model.encoder.layer[-1].intermediate.dense
    hook = dense.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].shape[1]))
    try:
        both_ways(lambda: model(pack(sequences)))
    finally:
        hook.remove()
    assert seen == [read, tokens] and read < tokens


def test_the_model_is_as_it_was_afterwards_also_after_an_error(model, monkeypatch):
    last = model.base_model.encoder.layer[-1]
    before = dict(vars(last))
    monkeypatch.setattr(attention, "packed_attention", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(pack(random_sequences(model, random.Random(0))))
    assert vars(last) == before
