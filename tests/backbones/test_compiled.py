"""Compiled layers: the step of the plain ones, compiled once for all batches."""

import pytest
import torch
from tests.conftest import random_batches
from transformers import AttentionInterface

import gdmtl_lib as gdmtl
from gdmtl_lib.backbones.attention import PACKED, packed_attention
from gdmtl_lib.backbones.compiled import compiled_layers
from gdmtl_lib.backbones.reference import reference
from gdmtl_lib.joint import JointLoss
from gdmtl_lib.packing import pack


@pytest.mark.parametrize("name", ["gdmtl", "gdmtl_c on BART"])
def test_the_step_is_that_of_plain_layers_and_is_compiled_once_for_batches_of_all_sizes(toys, name):
    """A layer without its attention is two graphs, a decoder's three; layers of one kind share them, and so do batches."""
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph.forward

    model = toys[name].eval()
    joint, layers = JointLoss(model, gdmtl.TrainingSettings(loss_weighting=0.1)), compiled_layers(model, counting)

    def gradients(batch):
        joint.zero_grad()
        with layers():
            joint.loss(batch).backward()
        return {key: p.grad.clone() for key, p in joint.named_parameters() if p.grad is not None}

    counted = []
    for _, sequences in random_batches(model, 4):
        fast = gradients(pack(sequences))
        counted.append(len(graphs))
        with reference("compiled"):
            plain = gradients(pack(sequences))
        assert fast.keys() == plain.keys()
        largest = max(gradient.norm() for gradient in plain.values())
        assert all((fast[key] - plain[key]).norm() <= 1e-5 * largest for key in plain)
    assert 0 < counted[0] <= 12 and counted[1:] == counted[:1] * 3


def test_after_the_block_everything_is_as_it_was(toys):
    """Attention, which the whole process shares, too."""
    model = toys["gdmtl"]
    layer, known = model.base_model.encoder.layer[0], AttentionInterface()
    with compiled_layers(model, "eager")():
        assert "forward" in vars(layer) and known[PACKED] is not packed_attention
    assert "forward" not in vars(layer) and known[PACKED] is packed_attention
    with reference("compiled"), compiled_layers(model, "eager")():
        assert "forward" not in vars(layer) and known[PACKED] is packed_attention
