"""Every fast path times every system: over random batches it gives what the plain computation gives, and that is what
padded rows under literal masks give.

GDMTL_STRESS=1 (`make stress`): 200 random batches of each system instead of 10.
"""

import os
import random

import pytest
import torch
from tests.conftest import ALL_TOYS, GENERATING, outputs, random_batches, random_tokens

import gdmtl_lib as gdmtl
from gdmtl_lib.backbones import devices
from gdmtl_lib.backbones.devices import fast_products
from gdmtl_lib.backbones.linear import fused_layers
from gdmtl_lib.backbones.reference import FAST_PATHS, reference
from gdmtl_lib.inference.prefix_cache import Continuation, encode_sources
from gdmtl_lib.inference.scoring import in_precision
from gdmtl_lib.joint import JointLoss
from gdmtl_lib.packing import pack, pad

PATHS = sorted(FAST_PATHS - {"compiled"})  # which a training asks for: test_compiled
BATCHES = 200 if os.environ.get("GDMTL_STRESS") else 10
CPU = torch.device("cpu")

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """Products are fast on this processor, whatever it is."""
    monkeypatch.setattr(devices, "_cpu_name", lambda: "AMD EPYC")


def fast_outputs(model, sequences):
    with fast_products(CPU), torch.inference_mode(), fused_layers(model):
        return outputs(model, pack(sequences))


@pytest.mark.parametrize("path", [*PATHS, "all"])
@pytest.mark.parametrize("name", ALL_TOYS)
def test_a_fast_path_gives_what_the_plain_one_and_padded_rows_give(toys, name, path):
    """With all paths but this one, and with all of them: to 1e-4 of the padded rows."""
    model = toys[name].eval()
    for _, sequences in random_batches(model, BATCHES):
        expected = outputs(model, pad(sequences, model.config.pad_token_id))
        with reference(*(() if path == "all" else (path,))):
            plain = fast_outputs(model, sequences)
        for found, without, exact in zip(fast_outputs(model, sequences), plain, expected, strict=True):
            torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(without, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ALL_TOYS)
def test_a_fast_path_gives_the_gradients_that_the_plain_one_gives(toys, name, path):
    """Of a joint step without dropout, to 1e-5 of the largest."""
    model = toys[name].eval()
    joint = JointLoss(model, gdmtl.TrainingSettings(loss_weighting=0.1))

    def gradients(batch):
        joint.zero_grad()
        with fast_products(CPU):
            joint.loss(batch).backward()
        return {key: p.grad.clone() for key, p in joint.named_parameters() if p.grad is not None}

    for _, sequences in random_batches(model, BATCHES // 5):
        fast = gradients(pack(sequences))
        with reference(path):
            plain = gradients(pack(sequences))
        assert fast.keys() == plain.keys()
        largest = max(gradient.norm() for gradient in plain.values())
        assert all((fast[key] - plain[key]).norm() <= 1e-5 * largest for key in plain)


@pytest.mark.parametrize("name", ALL_TOYS)
def test_a_rounded_backbone_ranks_as_its_eight_bits_allow(toys, name):
    model = toys[name].eval()
    rounded, widest, plain = in_precision(model, "bf16"), 0.0, []
    for _, sequences in random_batches(model, BATCHES):
        [expected, *_] = outputs(model, pad(sequences, model.config.pad_token_id))
        [scores] = outputs(rounded, pack([s for s in sequences if s.task == "rank"]))
        plain.append(expected)
        widest = max(widest, float((scores - expected).abs().max()))
    assert 0 < widest < 0.2 * float(torch.cat(plain).std())


@pytest.mark.parametrize("name", [name for name in ALL_TOYS if name.split()[0] in GENERATING])
def test_cached_states_give_what_one_pass_gives(toys, name):
    """Sources computed once, targets in pieces of random lengths against them."""
    model = toys[name].eval()
    builder = model.input_builder(max_length=64, target_length=16)
    for seed in range(BATCHES):
        rng = random.Random(seed)
        pairs = [(random_tokens(model, rng, 1, 60), random_tokens(model, rng, 1, 14)) for _ in range(rng.randint(1, 6))]
        whole = pack([builder.query_generation(*pair) for pair in pairs])
        with torch.inference_mode():
            expected = model.states(whole)[whole.predict_at["query_generation"]]
            continuation = Continuation(model, encode_sources(model, [builder.query_generation(p, []) for p, _ in pairs]))
            states, longest = [continuation.start()[:, None]], max(len(query) for _, query in pairs)
            padded = torch.tensor([query + [5] * (longest - len(query)) for _, query in pairs])
            start = 0
            while start < longest:
                end = start + rng.randint(1, longest - start)
                states.append(continuation.advance(padded[:, start:end]))
                start = end
        states = torch.cat(states, dim=1)
        found = torch.cat([row[: len(query) + 1] for row, (_, query) in zip(states, pairs)])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
