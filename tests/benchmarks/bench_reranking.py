"""Re-ranking on a CPU: against sentence-transformers and transformers, against the machine's limit, and in bf16."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import RESULTS, record, take_turns
from sentence_transformers import CrossEncoder
from texts import DATA, collection_of
from transformers import BartModel

import gdmtl_lib as gdmtl
from gdmtl_lib.backbones.devices import PROBED, fast_products, pick_precision
from gdmtl_lib.backbones.linear import LAID_OUT_FROM, linear_layer
from gdmtl_lib.backbones.reference import reference
from gdmtl_lib.inference import scoring
from gdmtl_lib.packing import BATCH_TOKENS, by_budget, pad
from gdmtl_lib.experiments.results import measure_first_stage
from gdmtl_lib.pretrained import build_model, load_model

CPU = torch.device("cpu")
DEPTH = 16  # candidates a query


def rerank(model, collection, candidates, precision="fp32"):
    return gdmtl.rerank(model, collection, candidates, precision=precision, device="cpu", progress=False)


def scores_of(run, candidates):
    """A run's scores in the order of the candidates."""
    return run.set_index(["query_id", "doc_id"])["score"].loc[list(zip(candidates["query_id"], candidates["doc_id"]))]


def texts_of(collection, candidates):
    return collection.query_texts(candidates["query_id"]), collection.text(candidates["doc_id"])


def sequences_of(model, collection, candidates):
    queries, passages = texts_of(collection, candidates)
    builder = model.input_builder()
    return [builder.rank(*ids) for ids in zip(builder.passage_tokens(passages), builder.tokens(queries))]


@pytest.fixture(scope="module")
def cross_encoder(model, tmp_path_factory):
    """sentence-transformers at its defaults, on the checkpoint that we saved."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder / "gdmtl")
    return CrossEncoder(str(folder / "gdmtl"), device="cpu")


def test_against_cross_encoder(model, cross_encoder, profile):
    """fp32 and the fastest mode of this CPU in turn with CrossEncoder; what is tokenized, of the time of the fastest."""
    name, queries, passages = profile
    collection, candidates = collection_of(queries, passages, DEPTH)
    asked, texts = texts_of(collection, candidates)
    pairs = [("rank: " + text, query) for query, text in zip(asked, texts)]
    theirs = cross_encoder.predict(pairs, show_progress_bar=False)
    assert np.abs(scores_of(rerank(model, collection, candidates), candidates) - theirs).max() < 1e-4

    fastest = pick_precision("auto", CPU)
    builder = model.input_builder()

    def tokenize():
        builder.tokens(list(dict.fromkeys(asked)))
        builder.passage_tokens(list(dict.fromkeys(texts)))

    seconds = take_turns({
        "CrossEncoder": lambda: cross_encoder.predict(pairs, show_progress_bar=False),
        "fp32": lambda: rerank(model, collection, candidates),
        "fastest": lambda: rerank(model, collection, candidates, fastest),
        "tokenize": tokenize,
    })  # fmt: skip
    rate = {contender: len(candidates) / each for contender, each in seconds.items()}
    other = rate["CrossEncoder"]
    record(f"re-ranking {name}, fp32 against CrossEncoder, pairs/s", rate["fp32"], other, rate["fp32"] / other, "at least 2")
    record(
        f"re-ranking {name}, fastest mode ({fastest}) against CrossEncoder in fp32, pairs/s",
        rate["fastest"], other, rate["fastest"] / other, "at least 2.8",
    )  # fmt: skip
    record(
        f"re-ranking {name}, tokenizing's share of the fastest mode, seconds",
        seconds["tokenize"], seconds["fastest"], seconds["tokenize"] / seconds["fastest"], "at most 0.05",
    )  # fmt: skip


def test_against_the_gemm_limit(model, profile):
    """The linear layers of the real tokens alone, in passes of the same sizes and as fast as this machine does them."""
    name, queries, passages = profile
    collection, candidates = collection_of(queries, passages, DEPTH)
    lengths = sorted((len(sequence.input_ids) for sequence in sequences_of(model, collection, candidates)), reverse=True)
    passes = [sum(part) for part in by_budget(lengths, dict(zip(lengths, lengths)), BATCH_TOKENS["cpu"])]
    assert sum(passes) == sum(lengths)
    layers = [module for module in model.bert.encoder.modules() if isinstance(module, torch.nn.Linear)]
    inputs = {size: torch.randn(max(passes), size) for size in {layer.in_features for layer in layers}}

    @torch.inference_mode()
    def products_alone():
        with fast_products(CPU):
            products = [(layer.in_features, linear_layer(layer.weight, layer.bias, sum(passes))) for layer in layers]
            for tokens in passes:
                for width, product in products:
                    product(inputs[width][:tokens])

    seconds = take_turns({"limit": products_alone, "ours": lambda: rerank(model, collection, candidates)})
    rate = {contender: sum(passes) / each for contender, each in seconds.items()}
    share = rate["ours"] / rate["limit"]
    record(f"re-ranking {name}, fp32, share of the GEMM limit, tokens/s", rate["ours"], rate["limit"], share, "at least 0.75")


def test_what_is_left_without_the_model(model, profile):
    """Tokens known, in passes as a GPU takes them: from texts to packed batches, in pairs a second of one core."""
    name, queries, passages = profile
    collection, candidates = collection_of(queries, passages, DEPTH)
    pairs, tokens = list(zip(*texts_of(collection, candidates))), scoring._Tokens(model.input_builder())

    def pack_all():
        lengths, pack_some = scoring._packer(tokens, pairs)
        for batch in by_budget(np.argsort(-lengths, kind="stable"), lengths, BATCH_TOKENS["cuda"]):
            pack_some(batch)

    def plainly():
        with reference("pairs"):
            pack_all()

    seconds = take_turns({"arrays": pack_all, "sequences": plainly})
    ours, other = (len(pairs) / seconds[way] for way in ("arrays", "sequences"))
    record(f"re-ranking {name}, host side against sequences, pairs/s", ours, other, ours, "at least 100000")


def test_int8_would_have_to_beat_bf16():
    """The product of the wide layer alone, without what rounding its input to int8 takes: an int8 path pays from 1.3 on."""
    rows, inner, columns = PROBED
    states, weight = torch.randn(rows, inner), torch.randn(columns, inner)
    in_bf16 = linear_layer(weight.bfloat16(), None, LAID_OUT_FROM)
    rounded = [(part * 30).clamp(-127, 127).to(torch.int8) for part in (states, weight.T)]
    repeat = range(50)
    with torch.inference_mode():
        states = states.bfloat16()
        seconds = take_turns({
            "bf16": lambda: [in_bf16(states) for _ in repeat], "int8": lambda: [torch._int_mm(*rounded) for _ in repeat]
        })  # fmt: skip
    ours, other = seconds["int8"], seconds["bf16"]
    record("a layer's product in int8 against bf16, seconds", ours, other, other / ours, "at least 1.3")


@pytest.mark.parametrize("system", ["bart_s", "bart_c"])
def test_encoder_decoder(system, profile):
    """Against transformers' BartModel on padded batches of 32, in the order given, with our head on its states."""
    name, queries, passages = profile
    model = build_model(system)
    collection, candidates = collection_of(queries, passages, DEPTH // 2)
    config = copy.deepcopy(model.config)
    config._attn_implementation = "sdpa"  # transformers' own default
    backbone = BartModel(config).eval()
    backbone.load_state_dict(model.model.state_dict())

    @torch.inference_mode()
    def padded():
        sequences, scores = sequences_of(model, collection, candidates), []
        for start in range(0, len(sequences), 32):
            batch = pad(sequences[start : start + 32], model.config.pad_token_id)
            states = backbone(
                input_ids=batch.input_ids,
                attention_mask=batch.mask[:, 0].any(1).long(),
                decoder_input_ids=batch.decoder_ids,
                decoder_attention_mask=batch.decoder_mask[:, 0].any(1).long(),
                use_cache=False,
            ).last_hidden_state
            scores.append(model.score(states.flatten(0, 1)[batch.score_at]))
        return torch.cat(scores)

    ours = scores_of(rerank(model, collection, candidates), candidates)
    assert np.abs(ours.to_numpy() - padded().numpy()).max() < 1e-4
    seconds = take_turns({"theirs": padded, "ours": lambda: rerank(model, collection, candidates)}, rounds=2)
    rate = {contender: len(candidates) / each for contender, each in seconds.items()}
    record(
        f"re-ranking {name}, {system} against transformers' padded model, pairs/s",
        rate["ours"], rate["theirs"], rate["ours"] / rate["theirs"], "at least 1.4",
    )  # fmt: skip


def test_quality_of_the_fastest_mode(tmp_path_factory):
    """MRR@10 of a trained model in the fastest mode and in fp32: 1,000 queries of SQuAD's sentences, else the sample's."""
    fastest = pick_precision("auto", CPU)
    if fastest == "fp32":
        pytest.skip("this CPU has no faster mode than fp32")
    folder = tmp_path_factory.mktemp("quality")
    model = trained_model(folder)
    if (DATA / "squad-sentences").is_dir():
        collection, split, bound = gdmtl.load_collection(f"sentences:{DATA / 'squad-sentences'}?dev=1000"), "dev", 0.002
    else:
        collection, split, bound = gdmtl.load_collection("sample"), "dev", 0.005
    candidates = measure_first_stage(folder, collection, split, depth=10)
    means = {
        precision: gdmtl.evaluate(rerank(model, collection, candidates, precision), collection.qrels(split), ["RR@10"])
        for precision in ("fp32", fastest)
    }
    exact, rounded = (means[precision]["value"].mean() for precision in ("fp32", fastest))
    queries = len(collection.qrels(split)["query_id"].unique())
    difference = abs(rounded - exact)
    record(f"MRR@10 of {queries} queries, {fastest} against fp32, difference", rounded, exact, difference, f"at most {bound}")


def trained_model(folder: Path):
    """`bert` as the sample's sweep left it, else trained here for an epoch."""
    kept = RESULTS.parents[1] / "sample" / "bert" / "seed0" / "checkpoint"
    if kept.is_dir():
        return load_model(kept)
    collection, model = gdmtl.load_collection("sample"), build_model("bert")
    candidates = gdmtl.bm25_candidates(collection, "train", depth=20, index_dir=folder / "indexes")
    settings = gdmtl.TrainingSettings(epochs=1, batch_size=8, learning_rate=1e-4, warmup_epochs=0.3, device="cpu")
    gdmtl.train(model, collection, candidates, settings, os.fspath(folder / "bert"))
    return model
