"""Every family of encoders: packed against padded, both against transformers' own models; what is refused."""

import json
import random

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import gdmtl_lib as gdmtl
from gdmtl_lib.inside.attention import attention_weights, build_sequence
from gdmtl_lib.inside.attribution import integrated_gradients
from gdmtl_lib.experiments.costs import pair_flops, parameter_counts, ranking_flops
from gdmtl_lib.backbones.families import FAMILIES, REFUSED, by_kind_of_layer
from gdmtl_lib.inputs import TokenSequence
from gdmtl_lib.packing import pack, pad
from gdmtl_lib.joint import JointLoss
from gdmtl_lib.inference.likelihood import log_likelihoods
from gdmtl_lib.pretrained import build_model, load_model
from gdmtl_lib.inference.scoring import in_precision

WINDOW = 4  # ModernBERT's local layers see so many tokens to either side
SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64)
OPTIONS = {
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16, "num_hidden_groups": 1},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64},
    "modernbert": {"local_attention": 2 * WINDOW},
    "ernie": {"use_task_id": True},
}
PASSAGES = ["the glacier is old blue ice", "a long river in the north of the city " * 4, "water"]
QUERIES = ["why is ice blue", "where is the river", "what"]


@pytest.fixture(scope="module")
def folder_of(toy_bert_folder, toy_bart_folder, tmp_path_factory):
    """A checkpoint of a family with random weights and its masked-language-model head; made when first asked for."""
    folders = {}

    def make(kind):
        if kind in folders:
            return folders[kind]
        folder = folders[kind] = tmp_path_factory.mktemp(kind)
        like_bart = FAMILIES[kind].counts_after_padding
        names = ["input_ids", "attention_mask"]
        kept = {} if FAMILIES[kind].has_segments or like_bart else {"model_input_names": names}
        tokenizer = AutoTokenizer.from_pretrained(toy_bart_folder if like_bart else toy_bert_folder, **kept)
        tokenizer.save_pretrained(folder)
        options = {} if kind == "distilbert" else SIZES
        positions = 512 + (tokenizer.pad_token_id + 1 if like_bart else 0)
        config = AutoConfig.for_model(
            kind, vocab_size=len(tokenizer), max_position_embeddings=positions, pad_token_id=tokenizer.pad_token_id,
            **options, **OPTIONS.get(kind, {}),
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            peer = AutoModelForMaskedLM.from_config(config)
            for parameter in peer.parameters():  # fresh weights make all states alike: spread them
                data = parameter.data
                parameter.data = data * 5 if data.dim() > 1 else data + torch.randn_like(data) / 5
        peer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(params=FAMILIES)
def kind(request):
    return request.param


@pytest.fixture
def model(kind, folder_of):
    model = build_model("gdmtl_plus", checkpoint=folder_of(kind))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "classifier" in name and parameter.dim() > 1:
                parameter.data = torch.randn_like(parameter) / 4
    return model


def random_tokens(model, rng, longest):
    return [rng.randrange(5, model.config.vocab_size) for _ in range(rng.randint(1, longest))]


def random_sequences(model, seed, instances=3):
    """Ranking positive and negative and both generative tasks, of many lengths, most longer than the window."""
    rng, builder, sequences = random.Random(seed), model.input_builder(max_length=64, target_length=16), []
    for _ in range(instances):
        query, answer = random_tokens(model, rng, 12), random_tokens(model, rng, 20)
        passages = [random_tokens(model, rng, 60) for _ in range(2)]
        sequences += [builder.rank(passage, query) for passage in passages]
        sequences.append(builder.query_generation(passages[0], query))
        sequences.append(builder.answer_generation(passages[0], query, answer))
    return sequences


@pytest.mark.parametrize("seed", range(2))
def test_packed_gives_the_scores_logits_losses_and_gradients_of_padded(model, seed):
    joint = JointLoss(model, gdmtl.TrainingSettings(loss_weighting=0.1))
    sequences, found = random_sequences(model, seed), []
    for batch in (pack(sequences), pad(sequences, model.tokenizer.pad_token_id)):
        with torch.no_grad():
            output = model(batch)
        loss = joint.loss(batch)
        joint.zero_grad()
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in joint.named_parameters() if p.grad is not None}
        found.append((output, loss.detach(), gradients))
    (packed, packed_loss, ours), (padded, padded_loss, theirs) = found
    torch.testing.assert_close(packed.scores, padded.scores, rtol=1e-5, atol=1e-5)
    for task, logits in padded.logits.items():
        torch.testing.assert_close(packed.logits[task], logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(packed_loss, padded_loss, rtol=1e-5, atol=0)
    largest = max(gradient.norm() for gradient in theirs.values())
    assert ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).norm() <= 1e-5 * largest for name in theirs)


def test_a_saved_checkpoint_opens_in_transformers_with_the_same_states_and_scores(model, tmp_path):
    """Its own mask, positions, segments and attention, from texts, against our packed pass."""
    model.save_pretrained(tmp_path / "saved")
    peer = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    assert type(peer).__module__.startswith("transformers.") and peer.config._attn_implementation == "sdpa"
    inputs = model.tokenizer([f"rank: {text}" for text in PASSAGES], QUERIES, padding=True, return_tensors="pt")
    if not model.family.has_segments:
        inputs.pop("token_type_ids", None)
    builder = model.input_builder()
    pairs = zip(builder.passage_tokens(PASSAGES), builder.tokens(QUERIES))
    batch = pack([builder.rank(passage, query) for passage, query in pairs])
    with torch.no_grad():
        theirs, scores = peer.base_model(**inputs).last_hidden_state, peer(**inputs).logits[:, 0]
        ours, output = model.states(batch), model(batch)
    torch.testing.assert_close(ours, theirs[inputs["attention_mask"].bool()], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.scores, scores, rtol=1e-5, atol=1e-5)
    assert scores.std() > 1e-3
    loaded = load_model(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(loaded(batch).scores, output.scores)
    for (key, before), (other, after) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert key == other and torch.equal(before, after)
    counts = parameter_counts(tmp_path / "saved")
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert counts["ranking head"] and counts["encoder"] and counts["decoder"] == 0


def test_what_is_attributed_is_the_score_of_re_ranking(model):
    """Segments where a family has them, windows where its layers do; the text is longer than one."""
    for query, passage in zip(QUERIES, PASSAGES):
        found = integrated_gradients(model, passage, query, steps=2)
        assert found.score == pytest.approx(float(gdmtl.rerank_texts(model, query, [passage])[0]), rel=1e-5, abs=1e-5)


def test_language_model_heads_start_from_the_familys_own(model, kind, folder_of):
    """A masked position's logits are those of <Family>ForMaskedLM: the backbone, its transform, the tied embeddings."""
    assert not model.config.gdmtl["fresh_heads"]
    peer = AutoModelForMaskedLM.from_pretrained(folder_of(kind)).eval()
    sequence = model.input_builder(generation_mask="mlm").query_generation([40, 50, 60], [20, 21])
    batch = pad([sequence], model.tokenizer.pad_token_id)
    segments = {"token_type_ids": batch.segment_ids} if model.family.has_segments else {}
    with torch.no_grad():
        theirs = peer(batch.input_ids, **segments).logits[0, -3:]
        ours = model(batch).logits["query_generation"]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_without_that_head_gets_a_fresh_one(kind, folder_of, tmp_path):
    peer = AutoModelForSequenceClassification.from_pretrained(folder_of(kind))
    peer.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder_of(kind)).save_pretrained(tmp_path)
    assert build_model("gdmtl", checkpoint=tmp_path).config.gdmtl["fresh_heads"]


@pytest.mark.parametrize("packed", [True, False])
def test_a_future_target_token_changes_nothing_before_it_nor_in_other_sequences(model, packed):
    builder, rng = model.input_builder(max_length=64, target_length=16), random.Random(0)
    sequence = builder.query_generation(random_tokens(model, rng, 50), [20, 21, 22, 23, 24, 25])
    changed = TokenSequence(**vars(sequence) | {"input_ids": list(sequence.input_ids)})
    at = sequence.source_length + 3
    changed.input_ids[at] += 1
    other = builder.query_generation([30, 31], [32])
    with torch.no_grad():
        before, after = (
            model.states(pack([s, other]) if packed else pad([s, other], model.tokenizer.pad_token_id))
            for s in (sequence, changed)
        )
    end = len(sequence.input_ids)
    assert torch.equal(before[:at], after[:at]) and torch.equal(before[end:], after[end:])
    assert not torch.equal(before[at], after[at])


def slowly(model, passage, query, max_tokens):
    """One padded row, recomputed from its first token at every step."""
    builder, written = model.input_builder(), []
    [passage], [query] = builder.passage_tokens([passage]), builder.tokens([query])
    for _ in range(max_tokens):
        sequence = builder.answer_generation(passage, query, written)
        with torch.no_grad():
            logits = model(pad([sequence], model.tokenizer.pad_token_id)).logits["answer_generation"]
        token = int(logits[-1].argmax())
        if token == builder.end:
            break
        written.append(token)
    return " ".join(model.tokenizer.decode(written, skip_special_tokens=True).split())


def test_texts_are_written_as_by_a_slow_loop(model):
    bias = model.generation_heads["answer_generation"].bias.data
    with torch.no_grad():  # without what a model would write after anything
        bias -= model(pack([model.input_builder().answer_generation([40], [50], [])])).logits["answer_generation"][0]
    bias[model.tokenizer.all_special_ids] = -100
    written = gdmtl.generate(model, PASSAGES, QUERIES, max_tokens=9)
    assert written == [slowly(model, *pair, 9) for pair in zip(PASSAGES, QUERIES)]
    assert len(set(written)) > 1 and all(written)


def test_likelihood_is_that_of_the_plain_forward_pass(model):
    pairs = [(query, passage) for passage in PASSAGES for query in QUERIES]
    found, counts = log_likelihoods(model, pairs, batch_tokens=150)
    builder = model.input_builder()
    for (query, passage), total, count in zip(pairs, found, counts):
        sequence = builder.query_generation(builder.passage_tokens([passage])[0], builder.tokens([query])[0])
        with torch.no_grad():
            logits = model(pad([sequence], model.tokenizer.pad_token_id)).logits["query_generation"]
        expected = -torch.nn.functional.cross_entropy(logits, torch.tensor(sequence.targets), reduction="sum")
        assert total == pytest.approx(float(expected), rel=1e-5, abs=1e-4) and count == len(sequence.targets)


def test_attention_weights_are_a_distribution_over_what_the_family_lets_see(model):
    sequence = build_sequence(model, "rank", PASSAGES[1], QUERIES[1])
    weights = attention_weights(model, sequence)["encoder"]
    assert weights.shape == (3, 4, len(sequence.input_ids), len(sequence.input_ids))
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))
    distance = (torch.arange(weights.shape[-1])[:, None] - torch.arange(weights.shape[-1])).abs()
    far = [bool(layer[:, distance > WINDOW].any()) for layer in weights]
    local = [kind == "sliding_attention" for kind in getattr(model.config, "layer_types", None) or ["full"] * 3]
    assert far == [not each for each in local]


def test_in_bf16_states_and_scores_are_close(model):
    """At 240 positions and more: in bf16 the angles of rotary ones would be off by half a radian."""
    for parameter in model.base_model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 0.5  # spread less: what is rounded in one layer is not to grow in the next
    rng = random.Random(0)
    batch = pack([model.input_builder().rank([rng.randrange(5, 150) for _ in range(240)], [30, 31, 32])])
    rounded = in_precision(model, "bf16")
    with torch.no_grad():
        exact, close = model.states(batch), rounded.states(batch)
        scores = [each(batch).scores for each in (model, rounded)]
    assert close.dtype == torch.bfloat16 and scores[1].dtype == torch.float32
    error = (close.float() - exact).norm(dim=1) / exact.norm(dim=1)
    assert error.max() < 0.03
    torch.testing.assert_close(scores[1], scores[0], rtol=0.1, atol=0.02)


@pytest.mark.parametrize("layers", [1, 2])
def test_layers_keeps_the_first(kind, folder_of, layers, tmp_path):
    model = build_model("bert", checkpoint=folder_of(kind), layers=layers)
    assert model.config.num_hidden_layers == layers
    model.save_pretrained(tmp_path / "saved")
    batch = pack([model.input_builder().rank([40, 50], [60])])
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "saved")(batch).scores, model(batch).scores)


def test_positions_that_roberta_counts_from_2_are_left_out_of_the_limit(folder_of):
    model = build_model("gdmtl", checkpoint=folder_of("roberta"))
    model.input_builder(max_length=456)
    build_model("bert", checkpoint=folder_of("roberta")).input_builder(max_length=512)  # which writes nothing
    with pytest.raises(ValueError, match="need 513 positions, but this checkpoint has 512: lower max_length"):
        model.input_builder(max_length=457)


def test_masks_by_kind_of_layer_by_hand():
    """Window 1. The two rows stand at 2 and 3 and look at columns at 0, 1, 3 (a source of two and a target, padded)."""
    mask = torch.tensor([[[[1, 1, 0], [1, 1, 1]]]]).bool()
    config = transformers.ModernBertConfig(local_attention=2)
    masks = by_kind_of_layer(config, mask, torch.tensor([[2, 3]]), torch.tensor([[0, 1, 3]]))
    assert masks["full_attention"] is mask
    assert masks["sliding_attention"].int().tolist() == [[[[0, 1, 0], [0, 0, 1]]]]
    added = torch.zeros(1, 1, 2, 3)
    floats = by_kind_of_layer(config, added, torch.tensor([[2, 3]]), torch.tensor([[0, 1, 3]]))["sliding_attention"]
    assert (floats == 0).int().tolist() == [[[[0, 1, 1], [0, 0, 1]]]] and floats.min() == torch.finfo(torch.float32).min


def checkpoint_with(tmp_path, **config):
    """A folder with what is looked at before any weight."""
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).touch()
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize("refused", REFUSED)
def test_a_family_that_cannot_be_packed_is_refused_with_its_reason(refused, tmp_path):
    folder = checkpoint_with(tmp_path, model_type=refused)
    with pytest.raises(ValueError) as error:
        build_model("gdmtl", checkpoint=folder)
    message = str(error.value)
    assert message.startswith(f"gdmtl needs a checkpoint of the bert family, but {folder} is of '{refused}': it")
    assert REFUSED[refused] in message
    assert message.endswith(f"; encoders that are supported: {', '.join(FAMILIES)}")


def test_an_unknown_family_and_relative_positions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is of 'mobilebert': nobody has shown that it computes the same packed"):
        build_model("bert", checkpoint=checkpoint_with(tmp_path, model_type="mobilebert"))
    with pytest.raises(ValueError, match="is of 'bert': its positions are 'relative_key': its attention adds relative"):
        relative = checkpoint_with(tmp_path, model_type="bert", position_embedding_type="relative_key")
        build_model("bert", checkpoint=relative)
    with pytest.raises(ValueError, match="a checkpoint of the bert or bart family, .* 'roberta': its weights fit"):
        build_model("gdmtl_s", checkpoint=checkpoint_with(tmp_path, model_type="roberta"))


def test_a_refused_family_is_refused_when_a_checkpoint_is_opened(tmp_path):
    folder = checkpoint_with(tmp_path, model_type="deberta-v2", gdmtl={"system": "gdmtl", "inputs": {}})
    with pytest.raises(ValueError, match="is of 'deberta-v2': its attention adds relative positions of its own"):
        load_model(folder)


def test_bert_has_the_names_it_always_had(toy_bert_folder, tmp_path):
    """Those of checkpoints that were saved before other families were there."""
    model = build_model("gdmtl", checkpoint=toy_bert_folder)
    assert type(model).__name__ == "BertGDMTL" and isinstance(model, transformers.BertForSequenceClassification)
    names = set(model.state_dict())
    head = "generation_heads.query_generation"
    assert {name for name in names if not name.startswith("bert.")} == {
        "classifier.weight", "classifier.bias", f"{head}.bias",
        *(f"{head}.transform.{part}.{kind}" for part in ("dense", "LayerNorm") for kind in ("weight", "bias")),
    }  # fmt: skip
    model.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]


def test_what_a_pair_costs_is_counted_for_every_family(model):
    """Computed on the CPU, and by the polynomial of what is counted on a device that computes nothing."""
    builder = model.input_builder()
    [passage], [query] = builder.passage_tokens(["water " * 60]), builder.tokens(["king " * 9])
    sequence = builder.rank(passage, query)
    computed = pair_flops(model, sequence)
    assert computed == ranking_flops(model.to("meta"))(len(sequence.input_ids), len(sequence.decoder_ids)) > 0
