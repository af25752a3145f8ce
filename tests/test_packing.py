"""From sequences to tensors: packed batches against padded ones with literal masks."""

import random

import pytest
import torch
from tests.conftest import as_matrix, outputs, plain_pack, random_batches

from gdmtl_lib.inputs import TokenSequence
from gdmtl_lib.joint import JointLoss
from gdmtl_lib.masks import Span, bidirectional_mask, causal_mask, cross_attention_mask, mixed_attention_mask
from gdmtl_lib.packing import filled, pack, pad
from gdmtl_lib.settings import TrainingSettings
from gdmtl_lib.systems import SYSTEMS


def random_sequences(builder, rng, number=6):
    """Sequences of all the tasks of a system, of many lengths, in random order."""
    sequences = []
    for _ in range(number):
        passage, query, answer = ([rng.randint(5, 100) for _ in range(rng.randint(1, 12))] for _ in range(3))
        sequences.append(builder.rank(passage, query))
        if "query_generation" in builder.system.tasks:
            sequences.append(builder.query_generation(passage, query))
        if "answer_generation" in builder.system.tasks:
            sequences.append(builder.answer_generation(passage, query, answer))
    rng.shuffle(sequences)
    return sequences


def test_pack_puts_encoder_sequences_into_one_row():
    """A ranking sequence of 3 and a generation of 2 source and 2 target tokens."""
    batch = pack([
        TokenSequence("rank", [2, 8, 3], [0, 0, 1], 3),
        TokenSequence("query_generation", [2, 3, 20, 21], [0, 0, 1, 1], 2, targets=[20, 21, 3], predict_from=1),
    ])  # fmt: skip
    assert batch.input_ids.tolist() == [[2, 8, 3, 2, 3, 20, 21]]
    assert batch.segment_ids.tolist() == [[0, 0, 1, 0, 0, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 3]]
    assert list(batch.spans) == [Span(0, 3, 0, 3, False), Span(3, 5, 3, 5, False), Span(5, 7, 3, 7, True)]
    assert batch.score_at.tolist() == [0]
    assert list(batch.predict_at) == list(batch.targets) == ["query_generation"]
    assert batch.predict_at["query_generation"].tolist() == [4, 5, 6]
    assert batch.targets["query_generation"].tolist() == [20, 21, 3]
    assert batch.decoder_ids is batch.decoder_position_ids is batch.decoder_spans is batch.cross_spans is None


@pytest.mark.parametrize("generation_mask", ["mixed", "mlm"])
@pytest.mark.parametrize("seed", range(5))
def test_arrays_are_what_lists_give_token_by_token(builder_of, seed, generation_mask):
    sequences = random_sequences(builder_of("gdmtl_plus", generation_mask=generation_mask), random.Random(seed))
    batch, expected = pack(sequences), plain_pack(sequences)
    for name in ("input_ids", "segment_ids", "position_ids"):
        assert getattr(batch, name)[0].tolist() == expected[name] and getattr(batch, name).dtype == torch.long
    for name in ("score_at", "read_at"):
        assert getattr(batch, name).tolist() == expected[name]
    for name in ("predict_at", "targets"):
        assert {task: values.tolist() for task, values in getattr(batch, name).items()} == expected[name]
    assert list(batch.spans) == expected["spans"]


def test_pack_puts_encoder_decoder_sequences_into_two_rows():
    batch = pack([
        TokenSequence("query_generation", [0, 7, 2], [0] * 3, 3, [2, 20], [20, 2]),
        TokenSequence("rank", [0, 2], [0] * 2, 2, [2, 30, 31], score_at=2),
    ])  # fmt: skip
    assert batch.input_ids.tolist() == [[0, 7, 2, 0, 2]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert list(batch.spans) == [Span(0, 3, 0, 3, False), Span(3, 5, 3, 5, False)]
    assert batch.decoder_ids.tolist() == [[2, 20, 2, 30, 31]]
    assert batch.decoder_position_ids.tolist() == [[0, 1, 0, 1, 2]]
    assert list(batch.decoder_spans) == [Span(0, 2, 0, 2, True), Span(2, 5, 2, 5, True)]
    assert list(batch.cross_spans) == [Span(0, 2, 0, 3, False), Span(2, 5, 3, 5, False)]
    assert batch.score_at.tolist() == [4]
    assert batch.predict_at["query_generation"].tolist() == [0, 1]


def test_pad_gives_each_sequence_a_row():
    batch = pad([
        TokenSequence("rank", [2, 8, 3], [0, 0, 1], 3),
        TokenSequence("query_generation", [2, 3, 20, 21], [0, 0, 1, 1], 2, targets=[20, 21, 3], predict_from=1),
    ], pad_id=9)  # fmt: skip
    assert batch.input_ids.tolist() == [[2, 8, 3, 9], [2, 3, 20, 21]]
    assert batch.segment_ids.tolist() == [[0, 0, 1, 0], [0, 0, 1, 1]]
    assert batch.mask.int().tolist() == [
        [[[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]],
        [[[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]],
    ]
    assert batch.score_at.tolist() == [0]
    assert batch.predict_at["query_generation"].tolist() == [5, 6, 7]
    assert batch.decoder_ids is batch.decoder_mask is batch.cross_mask is None


@pytest.mark.parametrize("generation_mask", ["mixed", "mlm"])
@pytest.mark.parametrize("seed", range(5))
def test_packed_encoder_spans_are_the_literal_masks(builder_of, seed, generation_mask):
    rng = random.Random(seed)
    sequences = random_sequences(builder_of("gdmtl_plus", generation_mask=generation_mask), rng)
    batch = pack(sequences)
    blocks = []
    for sequence in sequences:
        padding = torch.ones(1, len(sequence.input_ids), dtype=torch.bool)
        if sequence.task == "rank" or generation_mask == "mlm":
            blocks.append(bidirectional_mask(padding)[0])
        else:
            blocks.append(mixed_attention_mask(torch.tensor([sequence.segment_ids]), padding)[0])
    assert torch.equal(as_matrix(batch.spans, batch.input_ids.shape[1]), torch.block_diag(*blocks).bool())


@pytest.mark.parametrize("name", ["gdmtl_s", "gdmtl_c"])
@pytest.mark.parametrize("seed", range(3))
def test_packed_encoder_decoder_spans_are_the_literal_masks(builder_of, name, seed):
    sequences = random_sequences(builder_of(name), random.Random(seed))
    batch = pack(sequences)
    sources = [torch.ones(1, len(s.input_ids), dtype=torch.bool) for s in sequences]
    targets = [torch.ones(1, len(s.decoder_ids), dtype=torch.bool) for s in sequences]
    for spans, columns, blocks in (
        (batch.spans, batch.input_ids.shape[1], map(bidirectional_mask, sources)),
        (batch.decoder_spans, batch.decoder_ids.shape[1], map(causal_mask, targets)),
        (batch.cross_spans, batch.input_ids.shape[1], map(cross_attention_mask, targets, sources)),
    ):
        expected = torch.block_diag(*(block[0] for block in blocks)).bool()
        assert torch.equal(as_matrix(spans, columns), expected)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("seed", range(3))
def test_packed_and_padded_batches_hold_the_same(builder_of, name, seed):
    """The same tokens at the same positions, the same reading places, and masks that allow the same."""
    sequences = random_sequences(builder_of(name), random.Random(seed))
    packed, padded = pack(sequences), pad(sequences, pad_id=1)

    def places(rows):  # of the real tokens among the flattened padded rows, in packed order
        width = max(map(len, rows))
        return torch.tensor([row * width + i for row, ids in enumerate(rows) for i in range(len(ids))]), width

    source, width = places([s.input_ids for s in sequences])
    assert torch.equal(packed.input_ids[0], padded.input_ids.flatten()[source])
    assert torch.equal(packed.segment_ids[0], padded.segment_ids.flatten()[source])
    assert torch.equal(packed.position_ids[0], source % width)
    assert (padded.input_ids == 1).sum() == padded.input_ids.numel() - len(source)
    blocks = torch.block_diag(*padded.mask[:, 0].int())
    assert torch.equal(as_matrix(packed.spans, len(source)), blocks[source][:, source].bool())
    assert blocks.sum() == blocks[source][:, source].sum()  # padding attends to nothing, nothing to padding
    reading = source
    if SYSTEMS[name].backbone == "encoder_decoder":
        reading, width = places([s.decoder_ids for s in sequences])
        assert torch.equal(packed.decoder_ids[0], padded.decoder_ids.flatten()[reading])
        assert torch.equal(packed.decoder_position_ids[0], reading % width)
        blocks = torch.block_diag(*padded.decoder_mask[:, 0].int())
        assert torch.equal(as_matrix(packed.decoder_spans, len(reading)), blocks[reading][:, reading].bool())
        blocks = torch.block_diag(*padded.cross_mask[:, 0].int())
        assert torch.equal(as_matrix(packed.cross_spans, len(source)), blocks[reading][:, source].bool())
    assert torch.equal(reading[packed.score_at], padded.score_at)
    assert packed.predict_at.keys() == padded.predict_at.keys() == set(SYSTEMS[name].generative_tasks)
    for task in packed.predict_at:
        assert torch.equal(reading[packed.predict_at[task]], padded.predict_at[task])
        assert torch.equal(packed.targets[task], padded.targets[task])


@pytest.mark.parametrize("name", ["gdmtl", "gdmtl_s"])
def test_a_generation_target_is_predicted_by_the_token_before_it(builder_of, name):
    """Mixed attention and decoders alike: the token after the position that predicts is what it predicts."""
    sequences = random_sequences(builder_of(name), random.Random(0))
    batch = pack([s for s in sequences if s.task == "query_generation"])
    ids = batch.input_ids if batch.decoder_ids is None else batch.decoder_ids
    end = builder_of(name).end
    positions, targets = batch.predict_at["query_generation"], batch.targets["query_generation"]
    for position, target in zip(positions, targets, strict=True):
        assert target == end or ids[0, position + 1] == target


@pytest.mark.parametrize("make", [pack, lambda sequences: pad(sequences, 0)])
def test_a_batch_moves_to_a_device_whole(builder_of, make):
    batch = make(random_sequences(builder_of("gdmtl_s"), random.Random(0)))
    moved = batch.to("meta")
    assert type(moved) is type(batch)
    for name, value in vars(moved).items():
        for item in value.values() if isinstance(value, dict) else [value]:
            if isinstance(item, torch.Tensor):
                assert item.device.type == "meta", name
            else:
                assert item == getattr(batch, name)


def test_what_fills_a_batch_up_changes_nothing_of_it(toys):
    """Encoders and encoder-decoders: scores, logits and the gradients of a step stay, to rounding."""
    for name in ("bert", "gdmtl_plus", "gdmtl_s", "gdmtl_c on BART"):
        model = toys[name].eval()
        joint = JointLoss(model, TrainingSettings(loss_weighting=0.1))
        for _, sequences in random_batches(model, 3):
            batch = pack(sequences)
            more = filled(batch, 256)
            assert more.input_ids.shape == more.position_ids.shape == more.segment_ids.shape
            assert more.input_ids.shape[1] % 256 == 0 and (more.decoder_ids is None or more.decoder_ids.shape[1] % 256 == 0)
            assert filled(more, 256).spans is more.spans and filled(batch, 1).spans is batch.spans
            gradients = []
            for each in (more, batch):
                joint.zero_grad()
                joint.loss(each).backward()
                gradients.append({key: p.grad.clone() for key, p in joint.named_parameters() if p.grad is not None})
            found, expected = gradients
            largest = max(gradient.norm() for gradient in expected.values())
            assert all((found[key] - expected[key]).norm() <= 1e-5 * largest for key in expected)
            for one, other in zip(outputs(model, more), outputs(model, batch), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
