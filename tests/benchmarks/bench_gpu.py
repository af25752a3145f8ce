"""On a GPU: BERT-base's shape in bf16, MS MARCO's lengths. Random weights, for speed does not depend on them."""

import numpy as np
import pytest
import torch
from bench_training import INSTANCES, Step, assert_same_step
from harness import machine_name, record, take_turns
from sentence_transformers import CrossEncoder
from texts import collection_of, like_ms_marco
from transformers import AutoTokenizer, BertConfig, BertModel

import gdmtl_lib as gdmtl
from gdmtl_lib.backbones.checkpoints import DEFAULT_CHECKPOINT, find_checkpoint
from gdmtl_lib.pretrained import build_model

pytestmark = pytest.mark.gpu
DEPTH = 1000
MATRIX = 8192  # of the products that the card's rate is measured on


@pytest.fixture(scope="module")
def bert_base(tmp_path_factory):
    """A checkpoint folder of BERT-base's shape with MiniLM's word pieces, which are BERT's."""
    folder = tmp_path_factory.mktemp("bert-base")
    AutoTokenizer.from_pretrained(find_checkpoint(DEFAULT_CHECKPOINT)).save_pretrained(folder)
    BertModel(BertConfig()).save_pretrained(folder)
    return str(folder)


def waited_for(call):
    """A GPU's work is done when it is, not when the call returns."""

    def timed():
        call()
        torch.cuda.synchronize()

    return timed


def matrix_rate() -> float:
    """FLOP/s of large products in bf16, as measured."""
    left, right = torch.randn(2, MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16)
    seconds = take_turns({"products": waited_for(lambda: [left @ right for _ in range(20)])})["products"]
    return 20 * 2 * MATRIX**3 / seconds


def flops_of(model, sequences) -> float:
    """FLOPs of the linear layers and attention for the real tokens, and of the logits at targets, in one forward pass."""
    layers = [module for module in model.bert.encoder.modules() if isinstance(module, torch.nn.Linear)]
    tokens = sum(len(sequence.input_ids) for sequence in sequences)
    width, depth = model.config.hidden_size, model.config.num_hidden_layers
    products = 2 * tokens * sum(layer.weight.numel() for layer in layers)
    attention = 4 * depth * width * sum(len(sequence.input_ids) ** 2 for sequence in sequences)
    logits = 2 * width * model.config.vocab_size * sum(len(sequence.targets) for sequence in sequences)
    return products + attention + logits


def test_joint_step(bert_base):
    queries, passages = like_ms_marco(build_model("gdmtl", checkpoint=bert_base).input_builder(), 2 * INSTANCES)
    step = Step("gdmtl", queries, passages, torch.device("cuda"), checkpoint=bert_base)
    assert_same_step(step)

    def in_bf16(way):
        def run():
            with torch.autocast("cuda", torch.bfloat16):
                way()

        return waited_for(run)

    seconds = take_turns({"reference": in_bf16(step.reference), "packed": in_bf16(step.packed)}, rounds=7)
    ours, machine = seconds["packed"], machine_name("cuda")
    record(
        "GPU, joint step, gdmtl in bf16 against the reference in bf16, seconds a step",
        ours, seconds["reference"], seconds["reference"] / ours, "at least 2.5", machine,
    )  # fmt: skip
    rate, limit = 3 * flops_of(step.model, step.sequences) / ours, matrix_rate()  # backward costs two forward passes
    record("GPU, joint step, share of the card's matrix rate, FLOP/s", rate, limit, rate / limit, "at least 0.4", machine)


def test_reranking(bert_base, tmp_path):
    model = build_model("bert", checkpoint=bert_base)
    queries, passages = like_ms_marco(model.input_builder(), DEPTH)
    collection, candidates = collection_of(queries, passages, DEPTH)
    model.save_pretrained(tmp_path / "bert")
    cross_encoder = CrossEncoder(str(tmp_path / "bert"), device="cuda", model_kwargs={"dtype": torch.bfloat16})
    asked, texts = collection.query_texts(candidates["query_id"]), collection.text(candidates["doc_id"])
    pairs = [("rank: " + text, query) for query, text in zip(asked, texts)]

    def rerank():
        return gdmtl.rerank(model, collection, candidates, precision="bf16", device="cuda", progress=False)

    ours = rerank().set_index(["query_id", "doc_id"])["score"].loc[list(zip(candidates["query_id"], candidates["doc_id"]))]
    theirs = cross_encoder.predict(pairs, show_progress_bar=False)
    assert np.abs(ours.to_numpy() - theirs).max() < 0.05  # both in bf16
    seconds = take_turns(
        {"theirs": waited_for(lambda: cross_encoder.predict(pairs, show_progress_bar=False)), "ours": waited_for(rerank)}
    )
    rate = {contender: len(pairs) / each for contender, each in seconds.items()}
    machine = machine_name("cuda")
    record(
        "GPU, re-ranking in bf16 against CrossEncoder in bf16, pairs/s",
        rate["ours"], rate["theirs"], rate["ours"] / rate["theirs"], "at least 2", machine,
    )  # fmt: skip
    builder = model.input_builder()
    sequences = [builder.rank(*ids) for ids in zip(builder.passage_tokens(texts), builder.tokens(asked))]
    rate, limit = flops_of(model, sequences) / seconds["ours"], matrix_rate()
    record("GPU, re-ranking, share of the card's matrix rate, FLOP/s", rate, limit, rate / limit, "at least 0.5", machine)
