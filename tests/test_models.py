"""The two architectures: the packed joint pass against padded passes and the paper's expansion, leakage, saving."""

import random

import pytest
import torch
from tests.conftest import ALL_TOYS, GENERATING, random_sequences, random_tokens

import gdmtl_lib as gdmtl
from gdmtl_lib.inputs import TokenSequence
from gdmtl_lib.packing import pack, pad
from gdmtl_lib.joint import JointLoss
from gdmtl_lib.pretrained import build_model, load_model
from gdmtl_lib.systems import SYSTEMS

ENCODERS = [name for name, system in SYSTEMS.items() if system.backbone == "encoder"]
SETTINGS = gdmtl.TrainingSettings(loss_weighting="uncertainty")


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
    }


def assert_same_gradients(found, expected):
    """Within 1e-5 of the largest parameter-gradient norm."""
    largest = max(gradient.norm() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * largest, name


@pytest.mark.parametrize("name", ALL_TOYS)
@pytest.mark.parametrize("seed", range(3))
def test_packed_joint_pass_equals_padded_separate_passes(toys, name, seed):
    model, rng = toys[name].eval(), random.Random(seed)
    joint = JointLoss(model, SETTINGS)
    sequences = random_sequences(model, rng)
    packed = pack(sequences)
    counts = joint.counts(packed)
    loss = joint.loss(packed)
    found = gradients(joint, loss)

    reference = 0
    for task, count in zip(model.system.tasks, counts):
        passes = pad([s for s in sequences if s.task == task], model.tokenizer.pad_token_id)
        output = model(passes)
        if task == "rank":
            scores = output.scores.view(-1, 2)
            if model.system.rank_loss == "pairwise":
                mean = torch.clamp(1 - (scores[:, 0] - scores[:, 1]), min=0).mean()
            else:
                mean = -(torch.sigmoid(scores[:, 0]).log() + (1 - torch.sigmoid(scores[:, 1])).log()).sum() / count
        else:
            logits, targets = output.logits[task], passes.targets[task]
            mean = -logits.log_softmax(-1)[torch.arange(len(targets)), targets].mean()
        # At sigma squared = 1, Eq. 6 is half of each loss and log 2.
        if len(model.system.tasks) > 1:
            log_variance = joint.weighting.log_variance[task]
            mean = mean / (2 * log_variance.exp()) + torch.log(1 + log_variance.exp())
        reference = reference + mean
    assert torch.isclose(loss, reference, rtol=1e-5, atol=0)
    assert_same_gradients(found, gradients(joint, reference))


@pytest.mark.parametrize("name", [name for name in ENCODERS if name in GENERATING])
@pytest.mark.parametrize("seed", range(3))
def test_mixed_attention_equals_one_example_per_target_token(toys, name, seed):
    """Section 4.2: the same loss and gradients as |target| examples, each with its loss at its last position only."""
    model, rng = toys[name].eval(), random.Random(seed)
    builder = model.input_builder(max_length=64, target_length=16)
    sequences = [
        builder.query_generation(random_tokens(model, rng, 1, 60), random_tokens(model, rng, 1, 14)) for _ in range(4)
    ]
    batch = pack(sequences)
    logits, targets = model(batch).logits["query_generation"], batch.targets["query_generation"]
    loss = torch.nn.functional.cross_entropy(logits, targets)
    found = gradients(model, loss)

    examples = []
    for s in sequences:
        for t, target in enumerate(s.targets):
            length = s.source_length + t
            examples.append(
                TokenSequence(s.task, s.input_ids[:length], s.segment_ids[:length], s.source_length, [], [target], length - 1)
            )
    expanded = pad(examples, model.tokenizer.pad_token_id)
    logits, targets = model(expanded).logits["query_generation"], expanded.targets["query_generation"]
    reference = torch.nn.functional.cross_entropy(logits, targets)
    assert torch.isclose(loss, reference, rtol=1e-5, atol=0)
    assert_same_gradients(found, gradients(model, reference))


def test_masked_bidirectional_examples_do_not_give_the_same_loss(toys):
    """The paper's wording of the expansion ([MASK] tokens, bidirectional attention) is another loss."""
    model, rng = toys["gdmtl"].eval(), random.Random(0)
    builder = model.input_builder(max_length=64, target_length=16)
    s = builder.query_generation(random_tokens(model, rng, 20, 20), random_tokens(model, rng, 8, 8))
    mask, source = model.tokenizer.mask_token_id, s.source_length
    target = s.input_ids[source:]
    losses = []
    for t, token in enumerate(s.targets):
        ids = s.input_ids[:source] + target[:t] + [mask] * (len(s.targets) - t)
        segments = [0] * source + [1] * len(s.targets)
        losses.append(TokenSequence(s.task, ids, segments, len(ids), [], [token], source + t))
    with torch.no_grad():
        mixed, masked = pack([s]), pad(losses, model.tokenizer.pad_token_id)
        a = torch.nn.functional.cross_entropy(model(mixed).logits[s.task], mixed.targets[s.task])
        b = torch.nn.functional.cross_entropy(model(masked).logits[s.task], masked.targets[s.task])
    assert abs(a - b) > 1e-4


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_a_future_target_token_changes_nothing_before_it(toys, seed, packed):
    """In every layer, every source state and every target state before the changed token is bit-identical."""
    model, rng = toys["gdmtl"].eval(), random.Random(seed)
    builder = model.input_builder(max_length=64, target_length=16)
    s = builder.query_generation(random_tokens(model, rng, 1, 50), random_tokens(model, rng, 3, 14))
    target_length = len(s.input_ids) - s.source_length
    changed_at = s.source_length + rng.randrange(target_length)
    other = builder.query_generation([5], [6])
    changed = TokenSequence(**vars(s) | {"input_ids": list(s.input_ids)})
    changed.input_ids[changed_at] = (changed.input_ids[changed_at] - 5 + 1) % (model.config.vocab_size - 5) + 5
    states = []
    hooks = [layer.register_forward_hook(lambda _, __, out: states.append(_tensor(out)[0])) for layer in model.bert.encoder.layer]
    with torch.no_grad():
        for sequence in (s, changed):
            model.states(pack([sequence, other]) if packed else pad([sequence, other], 0))
    for hook in hooks:
        hook.remove()
    layers = len(states) // 2
    assert layers == model.config.num_hidden_layers
    for before, after in zip(states[:layers], states[layers:]):
        assert torch.equal(before[:changed_at], after[:changed_at])
        assert not torch.equal(before[changed_at], after[changed_at])


def _tensor(output):
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("name", ["gdmtl_s on BART", "gdmtl_c on BART"])
def test_packed_bart_equals_bart_itself(toys, name, toy_bart_folder):
    """The layers that are walked here against transformers' own BartModel, padded the ordinary way."""
    from transformers import BartModel

    model, rng = toys[name].eval(), random.Random(3)
    bart = BartModel.from_pretrained(toy_bart_folder).eval()
    bart.load_state_dict(model.model.state_dict())
    sequences = [s for s in random_sequences(model, rng, 5) if s.task == "rank"]
    padded = pad(sequences, model.tokenizer.pad_token_id)
    with torch.no_grad():
        mine = model.states(pack(sequences))[pack(sequences).score_at]
        theirs = bart(
            padded.input_ids,
            attention_mask=(padded.input_ids != model.tokenizer.pad_token_id).long(),
            decoder_input_ids=padded.decoder_ids,
        ).last_hidden_state
    last = torch.tensor([len(s.decoder_ids) - 1 for s in sequences])
    assert torch.allclose(mine, theirs[torch.arange(len(last)), last], atol=1e-5)


def test_encoder_ranking_equals_bert_for_sequence_classification(toys, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = toys["bert"]
    model.save_pretrained(tmp_path / "saved")
    peer = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    texts = [("rank: the glacier is blue ice", "why is ice blue"), ("rank: the river", "a long river in the north")]
    inputs = model.tokenizer(*map(list, zip(*texts)), padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = peer(**inputs).logits[:, 0]
    ours = [gdmtl.rerank_texts(model, query, [passage.removeprefix("rank: ")])[0] for passage, query in texts]
    assert torch.allclose(torch.tensor(ours), theirs, atol=1e-5)


@pytest.mark.parametrize("name", ALL_TOYS)
def test_save_and_load_give_equal_bits(toys, name, tmp_path):
    model = toys[name]
    model.save_pretrained(tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    for (key, before), (other, after) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert key == other and torch.equal(before, after)
    assert loaded.system == model.system
    assert not loaded.training
    batch = pack(random_sequences(model, random.Random(0)))
    with torch.no_grad():
        assert torch.equal(model.eval()(batch).scores, loaded(batch).scores)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    model.save_pretrained(tmp_path / "saved")  # replaces
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_language_model_head_is_tied_to_the_word_embeddings(toys):
    for name in GENERATING:
        model = toys[name]
        assert not any(p.shape == (model.config.vocab_size, 32) for p in model.generation_heads.parameters())
        batch = pack([s for s in random_sequences(model, random.Random(0)) if s.task == "query_generation"])
        logits = model(batch).logits["query_generation"]
        model.zero_grad()
        logits.sum().backward()
        assert model.get_input_embeddings().weight.grad.abs().sum() > 0


def test_names_of_systems_are_forgiving():
    assert gdmtl.systems.get_system("GDMTL+") is SYSTEMS["gdmtl_plus"]
    assert gdmtl.systems.get_system("Bart-C") is SYSTEMS["bart_c"]
    assert gdmtl.systems.system_name("BM25") == "bm25"


def test_too_long_for_the_checkpoints_positions(toys):
    with pytest.raises(ValueError, match="^max_length 464 and target_length 56 need 520 positions, .* has 512: lower max_length"):
        toys["gdmtl"].input_builder(max_length=464)
    toys["bert"].input_builder(max_length=512)  # of what it never writes it reads nothing
    with pytest.raises(ValueError, match="^max_length 513 needs 513 positions, but this checkpoint has 512: lower max_length"):
        toys["bert"].input_builder(max_length=513)
    for name in ("bart_s", "gdmtl_c on BART"):
        toys[name].input_builder(max_length=512, target_length=512)
        with pytest.raises(ValueError, match="need 600 positions, but this checkpoint has 512: lower target_length"):
            toys[name].input_builder(target_length=600)
