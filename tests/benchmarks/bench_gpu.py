"""On a GPU: BERT-base's shape in bf16, MS MARCO's lengths. Random weights, for speed does not depend on them."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import torch
from bench_training import INSTANCES, Step, assert_same_step
from harness import machine_name, record, take_turns
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from texts import collection_of, like_ms_marco
from transformers import AutoTokenizer, BertConfig, BertModel

import gdmtl_lib as gdmtl
from gdmtl_lib.backbones.checkpoints import DEFAULT_CHECKPOINT, find_checkpoint
from gdmtl_lib.backbones.compiled import compiled_layers
from gdmtl_lib.pretrained import build_model

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
ATTENTION = "flash_attention_2"
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
    left, right = torch.randn(2, MATRIX, MATRIX, device=DEVICE, dtype=torch.bfloat16)
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


def in_bf16(way, compiled=nullcontext):
    def run():
        with torch.autocast(DEVICE, torch.bfloat16), compiled():
            way()

    return waited_for(run)


@pytest.mark.parametrize(("instances", "share"), [(32, 0.25), (128, 0.4)])
def test_joint_step(bert_base, instances, share):
    """As it is and with compiled layers, which after the first step is what a long training has."""
    queries, passages = like_ms_marco(build_model("gdmtl", checkpoint=bert_base).input_builder(), 2 * instances)
    step = Step("gdmtl", queries, passages, torch.device(DEVICE), instances, checkpoint=bert_base)
    assert_same_step(step)
    ways = {"reference": in_bf16(step.reference), "packed": in_bf16(step.packed),
            "compiled": in_bf16(step.packed, compiled_layers(step.model))}  # fmt: skip
    seconds = take_turns(ways, rounds=7)
    machine, limit = machine_name(DEVICE), matrix_rate()
    for way in ("packed", "compiled"):
        ours, what = seconds[way], f"GPU, joint step of {instances}, {way}"
        ratio = seconds["reference"] / ours
        record(f"{what}, against the reference in bf16, seconds a step", ours, seconds["reference"], ratio, "at least 2.5", machine)
        rate = 3 * flops_of(step.model, step.sequences) / ours  # backward costs two forward passes
        record(f"{what}, share of the card's matrix rate, FLOP/s", rate, limit, rate / limit, f"at least {share}", machine)
        if instances == 32:
            record(f"{what}, seconds a step", ours, 0.022, ours / 0.022, "at most 1", machine)


@pytest.mark.parametrize("system", ["gdmtl_s", "gdmtl_c"])
def test_step_of_an_encoder_decoder(bert_base, system):
    queries, passages = like_ms_marco(build_model(system, checkpoint=bert_base).input_builder(), 2 * INSTANCES)
    step = Step(system, queries, passages, torch.device(DEVICE), checkpoint=bert_base)
    assert_same_step(step)
    seconds = take_turns({"reference": in_bf16(step.reference), "packed": in_bf16(step.packed)}, rounds=7)
    ours, other = seconds["packed"], seconds["reference"]
    record(f"GPU, step of {system} against the reference in bf16, seconds a step", ours, other, other / ours, "at least 2", machine_name(DEVICE))


def test_steps_of_a_small_encoder():
    """A whole training of MiniLM by `train`, batches of 32 of the embedded collection; its median step."""
    collection = gdmtl.load_collection("sample")
    pairs = collection.qrels("train").query("relevance > 0")[["query_id", "doc_id"]]
    others = pairs.assign(doc_id=pairs["doc_id"].sample(frac=1, random_state=0).to_numpy())
    candidates = pd.concat([pairs, others]).drop_duplicates().assign(score=0.0)
    settings = gdmtl.TrainingSettings(epochs=10, precision="bf16", device=DEVICE, loss_weighting=0.1)
    with TemporaryDirectory() as folder:
        gdmtl.train(build_model("gdmtl"), collection, candidates, settings, folder)
        seconds = pd.read_csv(Path(folder) / "timing.csv")["seconds"].median()
    record("GPU, steps of MiniLM, 32 instances, steps/s", 1 / seconds, 20, 1 / seconds / 20, "at least 1", machine_name(DEVICE))


class Reranking:
    """BERT-base that re-ranks, and the same pairs as a CrossEncoder takes them."""

    def __init__(self, checkpoint: str, folder: Path):
        self.model = build_model("bert", checkpoint=checkpoint)
        self.collection, self.candidates = collection_of(*like_ms_marco(self.model.input_builder(), DEPTH), DEPTH)
        self.model.save_pretrained(folder)
        self.asked = self.collection.query_texts(self.candidates["query_id"])
        self.texts = self.collection.text(self.candidates["doc_id"])
        self.pairs = [("rank: " + text, query) for query, text in zip(self.asked, self.texts)]

    def ours(self) -> pd.DataFrame:
        return gdmtl.rerank(self.model, self.collection, self.candidates, precision="bf16", device=DEVICE, progress=False)

    def assert_same_scores(self, theirs: np.ndarray) -> None:
        ids = ["query_id", "doc_id"]
        ours = self.ours().set_index(ids)["score"].loc[list(self.candidates[ids].itertuples(index=False, name=None))]
        assert np.abs(ours.to_numpy() - theirs).max() < 0.05  # both in bf16


def test_reranking(bert_base, tmp_path):
    work = Reranking(bert_base, tmp_path / "bert")
    cross_encoder = CrossEncoder(str(tmp_path / "bert"), device=DEVICE, model_kwargs={"dtype": torch.bfloat16})
    theirs = partial(cross_encoder.predict, work.pairs, show_progress_bar=False)
    work.assert_same_scores(theirs())
    seconds = take_turns({"theirs": waited_for(theirs), "ours": waited_for(work.ours)})
    rate = {contender: len(work.pairs) / each for contender, each in seconds.items()}
    machine = machine_name(DEVICE)
    record(
        "GPU, re-ranking in bf16 against CrossEncoder in bf16, pairs/s",
        rate["ours"], rate["theirs"], rate["ours"] / rate["theirs"], "at least 2", machine,
    )  # fmt: skip
    record("GPU, re-ranking of BERT-base, pairs/s", rate["ours"], 20_000, rate["ours"] / 20_000, "at least 1", machine)
    builder = work.model.input_builder()
    sequences = [builder.rank(*ids) for ids in zip(builder.passage_tokens(work.texts), builder.tokens(work.asked))]
    rate, limit = flops_of(work.model, sequences) / seconds["ours"], matrix_rate()
    record("GPU, re-ranking, share of the card's matrix rate, FLOP/s", rate, limit, rate / limit, "at least 0.5", machine)


def modular(model, folder, attention: str) -> CrossEncoder:
    """The strongest form that sentence-transformers documents: attention over texts that are not padded, and the heads as
    modules of their own."""
    transformer = Transformer(str(folder), model_kwargs={"dtype": torch.bfloat16, "attn_implementation": attention})
    width, pooler, classifier = model.config.hidden_size, model.base_model.pooler.dense, model.classifier
    scores = dict(activation_function=None, module_output_name="scores")
    heads = [
        Dense(width, width, init_weight=pooler.weight.data.clone(), init_bias=pooler.bias.data.clone()),
        Dense(width, 1, init_weight=classifier.weight.data.clone(), init_bias=classifier.bias.data.clone(), **scores),
    ]
    modules = [transformer, Pooling(width, "cls"), *(head.to(torch.bfloat16) for head in heads)]
    return CrossEncoder(modules=modules, device=DEVICE, activation_fn=torch.nn.Identity())


def test_reranking_against_the_strongest_peer(bert_base, tmp_path):
    """A modular CrossEncoder with FlashAttention, at its best batch size."""
    work = Reranking(bert_base, tmp_path / "bert")
    try:
        peer = modular(work.model, tmp_path / "bert", ATTENTION)
    except ImportError as error:
        pytest.skip(f"no FlashAttention for transformers: {error}")
    sizes = {
        size: waited_for(partial(peer.predict, work.pairs, batch_size=size, show_progress_bar=False)) for size in (32, 128, 512)
    }
    work.assert_same_scores(peer.predict(work.pairs, show_progress_bar=False))
    seconds = take_turns({"ours": waited_for(work.ours), **sizes})
    best = min(sizes, key=seconds.get)
    rate, other = len(work.pairs) / seconds["ours"], len(work.pairs) / seconds[best]
    what = f"GPU, re-ranking in bf16 against a modular CrossEncoder with FlashAttention, batches of {best}, pairs/s"
    record(what, rate, other, rate / other, "at least 1", machine_name(DEVICE))
