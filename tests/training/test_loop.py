"""Training: it learns, it ends with the same bits however it was interrupted, and it says what went wrong."""

import json
import math
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tests.conftest import in_a_child
from transformers import BertConfig, BertModel, BertTokenizer

import gdmtl_lib as gdmtl
from gdmtl_lib import joint
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.files import read_table
from gdmtl_lib.data.splits import Split
from gdmtl_lib.data.trec import read_run
from gdmtl_lib.evaluation.measures import WORKING, evaluate
from gdmtl_lib.inference.likelihood import query_likelihood
from gdmtl_lib.inputs import InputBuilder
from gdmtl_lib.joint import JointLoss
from gdmtl_lib.packing import pack
from gdmtl_lib.pretrained import build_model, load_model
from gdmtl_lib.settings import LIKELIHOODS
from gdmtl_lib.losses import add_rank_loss
from gdmtl_lib.systems import LABELS, SYSTEMS, System, Task, add_system, add_task
from gdmtl_lib.training import batches as training_batches
from gdmtl_lib.training import folder as training_folder
from gdmtl_lib.training import loop as training
from gdmtl_lib.training.batches import Batches, TrainingInstances, describe_instance

from .conftest import (
    ENCODER,
    WORDS,
    Training,
    assert_an_interruption_changes_nothing,
    assert_same_training,
    candidates_of,
    collection_of,
    dies_at,
    fails_at,
    frame_of,
    settings_of,
    split_of,
    texts_of,
)

ENCODER_DECODER = "gdmtl_s"


@pytest.fixture(scope="module")
def finished(toy_bert_folder, tmp_path_factory):
    """A checkpoint, and a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    Training(toy_bert_folder, validated=True)(folder)
    return toy_bert_folder, folder


# --- it learns ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def wide_bert_folder(tmp_path_factory):
    """A checkpoint of random weights that is wide enough to learn by heart: 2 layers, hidden 128."""
    folder = tmp_path_factory.mktemp("wide-bert")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ":", "rank", "sum", "answer", *WORDS]
    BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, model_max_length=128).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
        max_position_embeddings=128, initializer_range=0.08,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


# Layers and epochs: a decoder that reads the encoder matches words sooner than attention within one sequence does.
LEARNING = {name: (2, 70) if system.backbone == "encoder" else (1, 50) for name, system in SYSTEMS.items()}
LEARNING["mono"] = (2, 90)  # the point-wise loss never reaches 0


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_system_overfits_16_instances(name, wide_bert_folder, tmp_path):
    """Random words, so that there is nothing to know: every query's only other candidate is the next query's
    relevant passage, so a passage alone tells nothing. Dropout is on, as always; what was learned is measured without.
    """
    collection = collection_of(train=16)
    candidates = candidates_of(collection, others=1)
    layers, epochs = LEARNING[name]
    model = build_model(name, checkpoint=wide_bert_folder, layers=layers)
    learning = dict(epochs=epochs, learning_rate=2e-3, warmup_epochs=5)
    settings = settings_of(batch_size=16, loss_weighting=1.0, max_gradient_norm=10, **learning)
    gdmtl.train(model, collection, candidates, settings, tmp_path)
    batches = Batches(model, collection, candidates, settings)
    batch = batches.packed(0, range(16))
    loss = JointLoss(model, settings)
    with torch.no_grad():
        rank, *generation = (loss(batch) / loss.counts(batch)).tolist()
    assert len(batches.instances) == 16
    assert rank < 0.05
    assert len(generation) == len(model.system.generative_tasks)
    assert all(value < 0.5 for value in generation)


# --- the same bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [ENCODER, ENCODER_DECODER, "mono"])
def test_one_seed_gives_equal_bits(name, toy_bert_folder, tmp_path):
    train = Training(toy_bert_folder, name)
    first, history = train(tmp_path / "a")
    second, again = train(tmp_path / "b")
    assert_same_training(tmp_path / "a", tmp_path / "b")
    pd.testing.assert_frame_equal(history, again, check_exact=True)
    _, other = train(tmp_path / "c", settings={"seed": 1})
    assert not other["loss"].equals(history["loss"])
    assert first.training is False


def test_the_model_ends_as_it_was_saved(toy_bert_folder, tmp_path):
    model, _ = Training(toy_bert_folder)(tmp_path)
    saved = load_model(tmp_path / "checkpoint")
    assert all(torch.equal(saved.state_dict()[name], value) for name, value in model.state_dict().items())
    assert saved.config.gdmtl == model.config.gdmtl
    assert saved.config.gdmtl["inputs"] == {"max_length": 32, "target_length": 8}


@pytest.mark.parametrize("save_every", [0.0, 600.0])
@pytest.mark.parametrize("step", [0, 2, 3, 5])
def test_an_interrupted_training_ends_with_the_same_bits(finished, tmp_path, monkeypatch, step, save_every):
    """Before the first step, within an epoch and between two; saved after every step, or after every epoch."""
    checkpoint, whole = finished
    train = Training(checkpoint, validated=True)
    with monkeypatch.context() as patch:
        patch.setattr(training, "SAVE_EVERY_SECONDS", save_every)
        fails_at(patch, step, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
    with monkeypatch.context() as patch:
        saved = step if save_every == 0 else 3 * (step // 3)
        fails_at(patch, 6 - saved, AssertionError("a step too many"))  # what was saved is not made again
        train(tmp_path)
    assert_same_training(tmp_path, whole)


@pytest.mark.parametrize(
    ("name", "call", "where"),
    [("_validate", 1, training._Training), ("warm_up_heads", 0, training), ("load_model", 0, training)],
)
def test_an_interruption_beside_the_steps(finished, tmp_path, monkeypatch, name, call, where):
    checkpoint, whole = finished
    train = Training(checkpoint, validated=True)
    with monkeypatch.context() as patch:
        fails_at(patch, call, KeyboardInterrupt(), name, where)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
    train(tmp_path)
    assert_same_training(tmp_path, whole)


def test_a_killed_training_ends_with_the_same_bits(one_thread, toy_bert_folder, tmp_path):
    """SIGKILL while the state of the second epoch is being written: it goes on from the first's."""
    train = Training(toy_bert_folder, validated=True)
    train(tmp_path / "whole")

    def killed():
        is_state = lambda _, target: Path(target).name == "training_state.safetensors"  # noqa: E731
        dies_at(training_folder.os, "replace", 1, when=is_state)
        train(tmp_path / "cut")

    child = in_a_child(killed)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert list((tmp_path / "cut").glob(".training_state.safetensors.*.unfinished"))
    train(tmp_path / "cut")
    assert_same_training(tmp_path / "cut", tmp_path / "whole")


def test_a_finished_training_returns_at_once(toy_bert_folder, tmp_path, monkeypatch):
    train = Training(toy_bert_folder, epochs=1)
    model, history = train(tmp_path)
    fails_at(monkeypatch, 0, AssertionError("a step was made"))
    again, same = train(tmp_path)
    pd.testing.assert_frame_equal(same, history, check_exact=True)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    assert again.config.gdmtl == model.config.gdmtl


def test_resume_false_trains_anew(toy_bert_folder, tmp_path):
    train = Training(toy_bert_folder, epochs=1)
    train(tmp_path / "a", settings={"seed": 7}, validation=candidates_of(train.collection, "dev"))
    train(tmp_path / "a", resume=False)
    train(tmp_path / "b")
    assert_same_training(tmp_path / "a", tmp_path / "b")


OTHER_GRADE = collection_of()
OTHER_GRADE._splits["train"].qrels.loc[0, "relevance"] = 2
OTHER_TEXT = collection_of()
OTHER_TEXT._passages["d15"] = "another text"
OTHER_JUDGMENT = collection_of()
OTHER_JUDGMENT._splits["dev"].qrels.loc[0, "doc_id"] = "d1"


@pytest.mark.parametrize(
    ("changes", "arguments", "different"),
    [
        ({"learning_rate": 5e-4}, {}, "settings.learning_rate is 0.001 there and 0.0005 here"),
        ({"seed": 1, "epochs": 3}, {}, "settings.epochs is 2 there and 3 here; settings.seed is 0 there and 1 here"),
        ({"model": "gdmtl"}, {}, "initial_weights is '"),
        ({"collection": OTHER_GRADE}, {}, "qrels is '"),
        ({"collection": OTHER_TEXT}, {}, "collection is '"),
        ({"collection": OTHER_JUDGMENT}, {}, "validation.qrels is '"),
        ({}, {"candidates": candidates_of(collection_of(), others=3)}, "candidates is '"),
        ({}, {"relevance_level": 2}, "validation.relevance_level is 1 there and 2 here"),
        ({"validated": False, "generation_head_warmup_steps": 2}, {}, "validation is {'candidates': '"),
    ],
)
def test_another_training_in_the_folder_is_refused(finished, changes, arguments, different):
    checkpoint, folder = finished
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError) as error:
        Training(checkpoint, **{"validated": True} | changes)(folder, **arguments)
    assert str(error.value).startswith(f"{folder} holds another training: {different}")
    assert str(error.value).endswith("; choose another output_dir, or resume=False to replace it")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_training_that_is_refused_leaves_the_model_as_it_was(finished):
    """The lengths of its inputs, too, which its scores depend on."""
    checkpoint, folder = finished
    model = build_model(ENCODER, checkpoint=checkpoint)
    before = dict(model.config.gdmtl)
    with pytest.raises(ValueError, match="holds another training"):
        gdmtl.train(model, collection_of(), CANDIDATES, settings_of(max_length=24), folder)
    assert model.config.gdmtl == before


def test_other_dropout_is_another_training(finished, monkeypatch):
    checkpoint, folder = finished
    other = build_model(ENCODER, checkpoint=checkpoint, attention_dropout=0.5)
    monkeypatch.setattr("tests.training.conftest.build_model", lambda *_, **__: other)
    with pytest.raises(ValueError, match="holds another training: model.dropout.attention_probs_dropout_prob is 0.1 there and 0.5 here"):
        Training(checkpoint, validated=True)(folder)


def test_what_is_replaced_under_its_name_is_another_training(toy_bert_folder, tmp_path):
    """A loss, a task and a system of one's own."""
    def hinge(scores, reduction):
        return (1 - scores[:, :1] + scores[:, 1:]).clamp(min=0).sum()

    def softmax(scores, reduction):
        return -scores.log_softmax(dim=1)[:, 0].sum()

    def train(loss=hinge, prefix="ask:", layout="concatenated"):
        add_rank_loss("my_loss", loss)
        add_task(Task("asking", prefix, ("passage",), "query"))
        add_system(System("mine", "Mine", "encoder", ("rank", "asking"), layout, "my_loss", "bert-base-uncased"))
        model, collection = build_model("mine", checkpoint=toy_bert_folder), collection_of()
        return gdmtl.train(model, collection, candidates_of(collection), settings_of(epochs=1, warmup_epochs=1), tmp_path)

    assert train().equals(train())
    for changed, said in (({"loss": softmax}, "rank_loss"), ({"prefix": "why:"}, "tasks"), ({"layout": "query_first"}, "layout")):
        with pytest.raises(ValueError, match=f"holds another training: model.{said} is "):
            train(**changed)


def test_a_training_of_before_is_gone_on_with(finished, tmp_path):
    """Whose record says nothing of the model but its weights."""
    checkpoint, whole = finished
    shutil.copytree(whole, tmp_path / "old")
    record = json.loads((tmp_path / "old" / "settings.json").read_text())
    del record["training"]["model"]
    (tmp_path / "old" / "settings.json").write_text(json.dumps(record))
    _, history = Training(checkpoint, validated=True)(tmp_path / "old")
    assert len(history) == len(pd.read_csv(whole / "history.csv"))


@pytest.mark.parametrize("measure", ["RR@10", "likelihood"])
def test_an_epoch_is_not_chosen_where_nothing_is_relevant(toy_bert_folder, tmp_path, measure):
    train = Training(toy_bert_folder, validated=True, selection_measure=measure)
    with pytest.raises(ValueError, match="validation: expected a judgment of relevance 3 or more to choose an epoch by, found 2"):
        train(tmp_path, relevance_level=3)
    assert not (tmp_path / "settings.json").exists()


def test_the_order_of_rows_and_the_device_are_no_difference(finished, monkeypatch):
    """The training is found finished when each query's candidates are given worst first, and on any device."""
    checkpoint, folder = finished
    monkeypatch.setattr(training, "pick_device", lambda name: torch.device("cpu"))
    worst_first = CANDIDATES.sort_values("score")
    by_query = worst_first.set_index("query_id").loc[CANDIDATES["query_id"].unique()].reset_index()
    _, history = Training(checkpoint, validated=True)(folder, candidates=by_query, settings={"device": "cuda"})
    assert len(history) == 6


# --- one batch, however it is computed ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def steady_bert_folder(toy_bert_folder, tmp_path_factory):
    """The toy BERT without dropout, which parts of a batch would draw differently than the whole."""
    folder = tmp_path_factory.mktemp("steady-bert")
    for file in toy_bert_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_compiled_layers_are_trained_as_plain_ones(toy_bert_folder, tmp_path, monkeypatch):
    """Down to dropout, whose numbers a backend that makes no kernels of its own leaves as they are."""
    graphs = []
    backend = lambda graph, _: graphs.append(graph) or graph.forward  # noqa: E731
    train = Training(toy_bert_folder, "gdmtl", epochs=1)
    _, plain = train(tmp_path / "plain")
    monkeypatch.setattr(training, "compiled_layers", partial(training.compiled_layers, backend=backend))
    _, compiled = train(tmp_path / "compiled", settings={"compile": True})
    assert graphs
    pd.testing.assert_frame_equal(compiled, plain, rtol=1e-4)


@pytest.mark.parametrize("name", [ENCODER, ENCODER_DECODER, "mono"])
def test_accumulated_parts_give_the_losses_of_the_whole_batch(name, steady_bert_folder, tmp_path):
    """Batches of 4, 4 and 3 instances, in 1, 3 and 4 parts: of the last one a part is empty."""
    histories = [
        Training(steady_bert_folder, name)(tmp_path / str(parts), settings={"gradient_accumulation": parts})[1]
        for parts in (1, 3, 4)
    ]
    for history in histories[1:]:
        pd.testing.assert_frame_equal(history, histories[0], rtol=1e-5)
    assert not histories[1]["loss"].equals(histories[0]["loss"])  # it was computed in another way


@pytest.mark.parametrize("name", [ENCODER, ENCODER_DECODER])
def test_two_processes_give_the_losses_of_one(name, steady_bert_folder, tmp_path):
    """Through torchrun, each process in two parts. The last batch has three instances: one part is empty. A second
    call finds the training finished, whatever the system."""
    toy = collection_of()
    write_folder(toy, tmp_path / "toy")
    train = Training(steady_bert_folder, name, validated=True, collection=gdmtl.load_collection(tmp_path / "toy"))
    _, alone = train(tmp_path / "alone")
    model, history = train(tmp_path / "two", settings={"gradient_accumulation": 2}, processes=2)
    pd.testing.assert_frame_equal(history, alone, rtol=1e-5)
    tokens = [pd.read_csv(tmp_path / folder / "timing.csv")["tokens"] for folder in ("two", "alone")]
    assert (tokens[0] < 0.8 * tokens[1]).all()  # of the first process
    saved = load_model(tmp_path / "two" / "checkpoint")
    assert all(torch.equal(saved.state_dict()[name], value) for name, value in model.state_dict().items())
    assert not (tmp_path / "two" / "job").exists()
    if name == ENCODER:
        _, again = train(tmp_path / "two", settings={"gradient_accumulation": 2}, processes=2)
        pd.testing.assert_frame_equal(again, history, check_exact=True)


def write_folder(collection, folder):
    folder.mkdir()
    (folder / "passages.tsv").write_text("".join(f"{key}\t{text}\n" for key, text in collection.passages()))
    for split in collection.splits:
        for part, frame in (("queries", collection.queries(split)), ("answers", collection.answers(split))):
            frame.to_csv(folder / f"{part}.{split}.tsv", sep="\t", header=False, index=False)
        rows = collection.qrels(split).itertuples(index=False)
        (folder / f"qrels.{split}.tsv").write_text("".join(f"{query} 0 {doc} {grade}\n" for query, doc, grade in rows))


def test_bf16_trains_like_fp32(steady_bert_folder, tmp_path):
    train = Training(steady_bert_folder)
    _, exact = train(tmp_path / "fp32")
    _, rounded = train(tmp_path / "bf16", settings={"precision": "bf16"})
    assert not rounded["loss"].equals(exact["loss"])
    pd.testing.assert_frame_equal(rounded, exact, rtol=0.02)


def test_a_batch_holds_the_sequences_of_the_systems_tasks(toy_bert_folder, tmp_path, monkeypatch):
    """Of every instance its relevant passage, its negative, its query and its answer; of the queries only t0 has an
    answer, and the others lend their places to it."""
    whole = split_of("t", 3, 1)
    answers = whole.answers.head(1)
    collection = Collection("toy", texts_of("d", 16, 5, 5), {"train": Split(whole.queries, whole.qrels, answers)})
    batches, original = [], training_batches.pack
    monkeypatch.setattr(training_batches, "pack", lambda sequences: batches.append(sequences) or original(sequences))
    model, _ = Training(toy_bert_folder, collection=collection, epochs=1)(tmp_path)
    [sequences] = batches
    texts = [[model.tokenizer.decode(ids) for ids in (s.input_ids, s.targets)] for s in sequences]
    queries, passages = dict(collection.queries("train").values), dict(collection.passages())
    [answer] = answers["text"]
    for ranked, other, query, answered in zip(*(texts[part::4] for part in range(4)), strict=True):
        i = list(queries.values()).index(query[1].removesuffix(" [SEP]"))
        own, asked = passages[f"d{i}"], queries[f"t{i}"]
        assert ranked == [f"[CLS] rank : {own} [SEP] {asked} [SEP]", ""]
        negatives = [f"[CLS] rank : {passages[f'd{i + k}']} [SEP] {asked} [SEP]" for k in range(1, 5)]
        assert other[0] in negatives
        assert query == [f"[CLS] sum : {own} [SEP] {asked}", f"{asked} [SEP]"]
        assert answered == [
            f"[CLS] answer : {passages['d0']} [SEP] {queries['t0']} [SEP] {answer}", f"{answer} [SEP]",
        ]  # fmt: skip


@pytest.mark.parametrize("on_bart", [False, True])
def test_the_description_of_an_instance_is_what_is_trained_on(
    toy_bert_folder, toy_bart_folder, tmp_path, monkeypatch, on_bart
):
    """One instance, so that it is the only batch; the first query has nothing relevant."""
    whole = split_of("t", 2, 1)
    only = Split(whole.queries, whole.qrels.iloc[1:], whole.answers)
    collection = Collection("toy", texts_of("d", 16, 5, 5), {"train": only})
    candidates = candidates_of(collection)
    model = build_model("gdmtl_c" if on_bart else ENCODER, checkpoint=toy_bart_folder if on_bart else toy_bert_folder)
    described = describe_instance(model, collection, candidates, settings_of())
    batches, original = [], training_batches.pack
    monkeypatch.setattr(training_batches, "pack", lambda sequences: batches.append(sequences) or original(sequences))
    gdmtl.train(model, collection, candidates, settings_of(epochs=1), tmp_path)
    [sequences] = batches
    decode = model.tokenizer.decode
    assert described.to_dict("records") == [
        {
            "task": each.task, "encoder": decode(each.input_ids), "decoder": decode(each.decoder_ids),
            "source": each.source_length, "to predict": decode(each.targets),
        }
        for each in sequences
    ]  # fmt: skip
    assert described["task"].tolist() == ["rank", *model.system.tasks]


# --- the settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("warmup_epochs", "expected"),
    [
        (1, [2, 4, 6, 8, 8, 7, 6, 5, 4, 3, 2, 1]),
        (0.5, [4, 8, 8, *(8 - 7 * i / 9 for i in range(1, 10))]),
        (0, [8 - 7 * i / 11 for i in range(12)]),
        (3, [8 * (i + 1) / 12 for i in range(12)]),
        (0.05, [8 - 7 * i / 11 for i in range(12)]),  # less than half a step
    ],
)
def test_the_learning_rate_by_hand(warmup_epochs, expected):
    """Three epochs of four steps, from 8 down to 1: with one epoch of warm-up in eighths."""
    settings = settings_of(epochs=3, learning_rate=8.0, min_learning_rate=1.0, warmup_epochs=warmup_epochs)
    assert [training.learning_rate(step, 4, settings) for step in range(12)] == pytest.approx(expected)


def test_a_training_of_one_step():
    settings = settings_of(epochs=1, warmup_epochs=0, min_learning_rate=1e-6)
    assert training.learning_rate(0, 1, settings) == 1e-6


def test_the_optimiser_follows_the_schedule(toy_bert_folder, tmp_path, monkeypatch):
    """What AdamW is given at every step; the uncertainty weights keep their own rate."""
    rates, original = [], torch.optim.AdamW.step

    def step(self, *arguments):
        rates.append([group["lr"] for group in self.param_groups])
        return original(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    _, history = Training(toy_bert_folder)(tmp_path)
    expected = pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3, 5.005e-4, 1e-6])
    assert history["learning_rate"].tolist() == expected
    assert [rate for rate, _, _ in rates] == [rate for _, rate, _ in rates] == expected
    assert [sigma for _, _, sigma in rates] == [1e-2] * 6


def test_weight_decay_spares_biases_and_layer_norms(toy_bert_folder):
    model = build_model("gdmtl", checkpoint=toy_bert_folder)
    decayed, plain, sigmas = training.parameter_groups(JointLoss(model, settings_of()), settings_of())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    spared = {names[id(parameter)] for parameter in plain["params"]}
    assert spared == {name for name in names.values() if "LayerNorm" in name or name.endswith("bias")}
    assert len(decayed["params"]) + len(spared) == len(names)
    assert [group["weight_decay"] for group in (decayed, plain, sigmas)] == [5e-5, 0.0, 0.0]
    assert len(sigmas["params"]) == 2
    fixed = settings_of(loss_weighting=0.1)
    assert len(training.parameter_groups(JointLoss(model, fixed), fixed)) == 2


def test_uncertainty_weights_are_learned(toy_bert_folder, tmp_path):
    """They start at 1. Adam's first step is its learning rate, whatever the gradient: a loss below 2 lowers a
    variance (the optimum of Eq. 6 for L is (L + sqrt(L^2 + 8 L)) / 4, and 1 for L = 1), a larger one raises it."""
    _, history = Training(toy_bert_folder, epochs=4)(tmp_path)
    generative = SYSTEMS[ENCODER].generative_tasks
    assert list(history) == [
        "epoch", "step", "learning_rate", "loss", "rank_loss", *(f"{task}_loss" for task in generative),
        "sigma2_rank", *(f"sigma2_{task}" for task in generative),
    ]  # fmt: skip
    assert history["epoch"].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert history["step"].tolist() == list(range(12))
    for task in ("rank", *generative):
        variances, loss = history[f"sigma2_{task}"], history[f"{task}_loss"][0]
        assert variances[0] == 1
        assert variances[1] == pytest.approx(math.exp(0.01 if loss > 1 else -0.01), abs=1e-6)
        assert variances.nunique() == 12
    parts = [history[f"{task}_loss"] / 2 / history[f"sigma2_{task}"] for task in ("rank", *generative)]
    parts += [(1 + history[f"sigma2_{task}"]).map(math.log) for task in ("rank", *generative)]
    assert history["loss"].to_numpy() == pytest.approx(sum(parts).to_numpy(), rel=1e-5)


def test_tables(toy_bert_folder, tmp_path):
    _, history = Training(toy_bert_folder, "bert", validated=True)(tmp_path)
    pd.testing.assert_frame_equal(read_table(tmp_path / "history.csv"), history, check_exact=True)
    timing = pd.read_csv(tmp_path / "timing.csv")
    assert list(timing) == ["step", "seconds", "tokens"]
    # [CLS] rank : five words [SEP] two words [SEP], and "sample" is spelled in as many pieces as it has letters.
    assert timing["step"].tolist() == list(range(6)) and (timing["seconds"] > 0).all()
    assert timing["tokens"].min() >= 3 * 2 * 12
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint", "history.csv", "settings.json", "timing.csv", "validation.csv", "validation_queries.csv",
    ]  # fmt: skip


def test_a_share_of_the_queries(toy_bert_folder, tmp_path):
    """Half of eleven queries, rounded to even: six, in two steps."""
    _, history = Training(toy_bert_folder, "bert", epochs=1, train_fraction=0.5)(tmp_path)
    assert len(history) == 2


# --- validation ---------------------------------------------------------------------------------------------


def test_the_best_epoch_is_kept_and_the_earlier_of_equals(toy_bert_folder, tmp_path, monkeypatch):
    seen, values = [], iter([0.0, 0.25, 0.75, 0.75, 0.5])  # the first is of what is tried before
    original = training._Training._validate

    def validate(self, progress):
        seen.append({name: value.clone() for name, value in self.model.state_dict().items()})
        original(self, progress)

    monkeypatch.setattr(training._Training, "_validate", validate)
    monkeypatch.setattr(training, "evaluate", lambda *_: pd.DataFrame({"query_id": ["q"], "value": [next(values)]}))
    model, history = Training(toy_bert_folder, validated=True, epochs=4)(tmp_path)
    assert len(history) == 12
    for state in (model.state_dict(), load_model(tmp_path / "checkpoint").state_dict()):
        assert all(torch.equal(state[name], value) for name, value in seen[1].items())
        assert not all(torch.equal(state[name], value) for name, value in seen[2].items())
    finished = json.loads((tmp_path / "settings.json").read_text())["finished"]
    assert finished == {"best_epoch": 1, "best_value": 0.75}
    validation = pd.read_csv(tmp_path / "validation.csv")
    assert validation.to_dict("list") == {
        "epoch": [0, 1, 2, 3], "step": [2, 5, 8, 11], "measure": ["RR@10"] * 4, "value": [0.25, 0.75, 0.75, 0.5],
    }  # fmt: skip


def test_what_is_measured_is_mean_rr_of_the_model_at_that_moment(toy_bert_folder, tmp_path):
    collection = collection_of()
    model, _ = Training(toy_bert_folder, "bert", validated=True, epochs=1)(tmp_path)
    run = gdmtl.rerank(model, collection, candidates_of(collection, "dev"), progress=False)
    values = evaluate(run, collection.qrels("dev"), ["RR@10"])
    assert pd.read_csv(tmp_path / "validation.csv")["value"].tolist() == [values["value"].mean()]
    by_query = pd.read_csv(tmp_path / "validation_queries.csv")
    assert by_query[["query_id", "value"]].to_numpy().tolist() == values[["query_id", "value"]].to_numpy().tolist()
    assert by_query[["epoch", "step"]].drop_duplicates().to_numpy().tolist() == [[0, 2]]


# --- language-model heads -----------------------------------------------------------------------------------


def spied_heads(monkeypatch, name):
    """The states before and after one of the two ways in which heads start."""
    states, original = [], getattr(training, name)

    def function(model, *arguments):
        states.append({key: value.clone() for key, value in model.state_dict().items()})
        original(model, *arguments)
        states.append({key: value.clone() for key, value in model.state_dict().items()})
        assert all(parameter.grad is None for parameter in model.parameters())

    monkeypatch.setattr(training, name, function)
    return states


@pytest.mark.parametrize("name", [ENCODER, ENCODER_DECODER])
def test_warming_up_the_heads_trains_nothing_else(name, toy_bert_folder, tmp_path, monkeypatch):
    states = spied_heads(monkeypatch, "warm_up_heads")
    settings = {"epochs": 1, "learning_rate": 1e-6}
    _, cold = Training(toy_bert_folder, name)(tmp_path / "cold", settings=settings)
    _, warm = Training(toy_bert_folder, name)(
        tmp_path / "warm", settings=settings | {"generation_head_warmup_steps": 40}
    )
    assert all(torch.equal(states[1][key], value) for key, value in states[0].items())
    changed = {key for key, value in states[2].items() if not torch.equal(states[3][key], value)}
    assert changed == {key for key in states[2] if key.startswith("generation_heads.")}
    for task in SYSTEMS[name].generative_tasks:
        assert warm[f"{task}_loss"][0] < cold[f"{task}_loss"][0]


def test_a_system_without_heads_has_nothing_to_warm_up(toy_bert_folder, tmp_path, monkeypatch):
    states = spied_heads(monkeypatch, "warm_up_heads")
    Training(toy_bert_folder, "bert", epochs=1, generation_head_warmup_steps=3)(tmp_path)
    assert all(torch.equal(states[1][key], value) for key, value in states[0].items())


def test_fresh_heads_start_from_the_frequencies_of_their_tokens(toy_bert_folder, tmp_path, monkeypatch):
    """Eleven queries of two words and eleven ends: the end is a third of the 33 target tokens."""
    states = spied_heads(monkeypatch, "start_fresh_heads")
    model, _ = Training(toy_bert_folder, "gdmtl", epochs=1)(tmp_path)
    bias = states[1]["generation_heads.query_generation.bias"]
    assert not torch.equal(bias, states[0]["generation_heads.query_generation.bias"])
    assert bias.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert bias.exp()[model.tokenizer.sep_token_id].item() == pytest.approx(1 / 3, rel=0.1)
    assert model.config.gdmtl["fresh_heads"] is False
    # Trained heads are no longer fresh: a second training goes on from them.
    states.clear()
    collection = collection_of()
    trained = load_model(tmp_path / "checkpoint")
    gdmtl.train(trained, collection, candidates_of(collection), settings_of(), tmp_path / "b")
    assert all(torch.equal(states[1][key], value) for key, value in states[0].items())


# --- what goes wrong ----------------------------------------------------------------------------------------


def poisoned(monkeypatch, call, poison):
    """Let the ranking loss of the n-th step be what `poison` makes of it."""
    original, calls = joint.pairwise_hinge, iter(range(10**6))

    def hinge(positive, negative, *arguments):
        loss = original(positive, negative, *arguments)
        return poison(loss, positive) if next(calls) == call else loss

    monkeypatch.setattr(joint, "pairwise_hinge", hinge)


@pytest.mark.parametrize(
    ("poison", "what"),
    [
        (lambda loss, scores: loss * float("nan"), "loss is nan"),
        (lambda loss, scores: loss + float("inf"), "loss is inf"),
        # The root of 0 is finite, its slope is not.
        (lambda loss, scores: loss + (scores - scores).square().sum().sqrt(), "gradient's norm is nan"),
    ],
)
@pytest.mark.parametrize("step", [1, 4])
def test_a_loss_that_is_not_finite_stops_the_training(finished, tmp_path, monkeypatch, poison, what, step):
    """The sentence names step, epoch and queries; what was saved stays, and training goes on from it."""
    checkpoint, whole = finished
    train = Training(checkpoint, validated=True)
    instances = TrainingInstances(train.collection.qrels("train"), candidates_of(train.collection))
    epoch, position = divmod(step, 3)
    queries = [instances.pairs[i][0] for i in instances.order(epoch)[4 * position : 4 * position + 4]]
    with monkeypatch.context() as patch:
        poisoned(patch, step, poison)
        with pytest.raises(FloatingPointError) as error:
            train(tmp_path)
    assert str(error.value) == (
        f"the {what} at step {step} (epoch {epoch}, queries {', '.join(queries)}): this step was not made, and what "
        f"{tmp_path} holds is kept. Lower learning_rate"
    )
    assert (tmp_path / "training_state.safetensors").exists() == (epoch > 0)
    train(tmp_path)
    assert_same_training(tmp_path, whole)


def test_running_out_of_memory_says_what_to_lower(toy_bert_folder, tmp_path, monkeypatch):
    def exhaust(loss, scores):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    poisoned(monkeypatch, 1, exhaust)
    with pytest.raises(RuntimeError) as error:
        Training(toy_bert_folder, gradient_accumulation=2)(tmp_path)
    assert str(error.value) == (
        "out of memory on cpu: lower batch_size (4) or max_length (32), or raise gradient_accumulation (2)"
    )


NOTHING_LESS_RELEVANT = (
    "query 't0' has no candidate that is less relevant than 'd0': "
    "retrieve deeper, or leave the query out of the candidates"
)
UNKNOWN_QUERY = "collection 'toy' has no query 'x' (1 unknown) in its splits train, dev"
CANDIDATES = candidates_of(collection_of())


@pytest.mark.parametrize(
    ("collection", "arguments", "message"),
    [
        (
            collection_of(answers=False),
            {},
            "gdmtl_plus learns to generate answers, but collection 'toy' has none for the training queries: "
            "add answers.<split>.tsv, or train gdmtl",
        ),
        (None, {"candidates": CANDIDATES.assign(query_id="x").head(1)}, UNKNOWN_QUERY),
        (None, {"candidates": CANDIDATES.iloc[:0]}, "run: expected at least one row, found none"),
        (None, {"candidates": CANDIDATES.iloc[:1]}, NOTHING_LESS_RELEVANT),
        (
            None,
            {"candidates": CANDIDATES.drop(columns="score")},
            "run: expected the columns query_id, doc_id, score, found query_id, doc_id, rank; add score",
        ),
        (None, {"validation": CANDIDATES.assign(query_id="x").head(1)}, UNKNOWN_QUERY),
        (
            Collection("toy", texts_of("d", 16, 5, 5), {
                "train": split_of("t", 11, 1), "dev": Split(frame_of({"v0": "ice"})),
            }),
            {"validation": CANDIDATES.assign(query_id="v0").head(1)},
            "collection 'toy' has no judgments of the validation's queries: validate on another split, or train "
            "without validation",
        ),
        (None, {"processes": 0}, "processes must be at least 1, found 0"),
        (None, {"processes": "2"}, "processes must be a whole number, found '2'"),
        (
            None,
            {"validation": CANDIDATES, "settings": {"selection_measure": "P@0"}},
            "measures: expected a cutoff and a rel that are integers of at least 1, found 'P@0'",
        ),
        (
            None,
            {"validation": CANDIDATES, "settings": {"selection_measure": "ndcg_cut_10"}},
            "measures: expected ir-measures' notation, found 'ndcg_cut_10'; did you mean nDCG@10?",
        ),
        (
            None,
            {"validation": CANDIDATES, "settings": {"selection_measure": "Accuracy"}},
            "measures: Accuracy has no value for 11 of 11 queries (t0, say): it is not defined where nothing relevant is "
            "retrieved; these work: " + WORKING,
        ),
        (
            None,
            {"settings": {"max_length": 509}},
            "max_length 509 and target_length 8 need 517 positions, but this checkpoint has 512: lower max_length",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_leaves_nothing_behind(toy_bert_folder, tmp_path, collection, arguments, message):
    with pytest.raises(ValueError) as error:
        Training(toy_bert_folder, collection=collection)(tmp_path / "out", **arguments)
    assert str(error.value) == message
    assert not (tmp_path / "out").exists()


def test_settings_are_settings_and_a_file_is_no_folder_to_train_into(toy_bert_folder, tmp_path):
    model, collection = build_model("bert", checkpoint=toy_bert_folder), collection_of()
    with pytest.raises(ValueError, match=r"^settings: expected TrainingSettings\(...\), found {'epochs': 1}$"):
        gdmtl.train(model, collection, CANDIDATES, {"epochs": 1}, tmp_path / "out")
    (tmp_path / "out").touch()
    with pytest.raises(ValueError, match=f"^output_dir: expected a folder, found the file {tmp_path / 'out'}$"):
        gdmtl.train(model, collection, CANDIDATES, settings_of(), tmp_path / "out")


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is available")
def test_a_device_that_is_not_there_replaces_nothing(finished):
    checkpoint, folder = finished
    with pytest.raises(ValueError, match="device 'cuda' is not available here: use one of auto, .*cpu"):
        Training(checkpoint, validated=True)(folder, settings={"device": "cuda"}, resume=False)
    assert (folder / "checkpoint" / "model.safetensors").exists()


def test_an_unknown_passage_is_named(toy_bert_folder, tmp_path):
    candidates = CANDIDATES.replace({"doc_id": {"d1": "elsewhere"}})
    with pytest.raises(ValueError, match="collection 'toy' has no passage 'elsewhere'"):
        Training(toy_bert_folder, epochs=8)(tmp_path, candidates=candidates)


# --- parts of a batch


@pytest.mark.parametrize("weighting", ["uncertainty", 0.1])
@pytest.mark.parametrize("processes", [1, 2])
def test_the_parts_of_a_batch_add_up_to_it(weighting, processes):
    """Parts of unequal size, and an empty one, accumulated or in processes, over which gradients are averaged."""
    joint = JointLoss(SimpleNamespace(system=SYSTEMS["gdmtl"]), settings_of(loss_weighting=weighting))
    sums, counts = torch.tensor([[0.5, 1.5], [4.0, 4.5], [0.0, 0.0]]), torch.tensor([3.0, 4.0])
    whole = joint.weighting(dict(zip(joint.tasks, sums.sum(0) / counts)))
    share = processes / len(sums)  # each process has its own parts, and the regulariser is counted once in each
    parts = [training.loss_of_part(joint, part, counts, processes, share) for part in sums]
    assert sum(parts).item() / processes == pytest.approx(whole.item())


# --- settings of the authors' code, of CAsT, and of a sweep


def test_none_means_no_clipping(toy_bert_folder, tmp_path):
    train = Training(toy_bert_folder, "bert", epochs=1)
    losses = {
        limit: train(tmp_path / str(limit), settings={"max_gradient_norm": limit})[1]["loss"]
        for limit in (None, 1e6, 1e-3)
    }
    assert losses[None].equals(losses[1e6]) and not losses[None].equals(losses[1e-3])


def test_the_uncertainty_weights_follow_the_schedule(toy_bert_folder, tmp_path, monkeypatch):
    rates, original = [], torch.optim.AdamW.step

    def step(self, *arguments):
        rates.append([group["lr"] for group in self.param_groups])
        return original(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    _, history = Training(toy_bert_folder, sigma_schedule="warmup")(tmp_path)
    assert [sigma for _, _, sigma in rates] == pytest.approx([10 * rate for rate in history["learning_rate"]])


def test_the_variance_itself_is_learned(toy_bert_folder, tmp_path):
    """Adam's first step changes what is learned by its learning rate: 1 becomes 0.99 or 1.01, and not e^0.01. Resumed,
    it goes on with the same bits."""
    train = Training(toy_bert_folder, sigma_parameter="variance")
    _, history = train(tmp_path / "whole")
    for task in ("rank", *SYSTEMS[ENCODER].generative_tasks):
        assert history[f"sigma2_{task}"][1] == pytest.approx(1.01 if history[f"{task}_loss"][0] > 1 else 0.99, abs=1e-6)
    parts = [history[f"{task}_loss"] / 2 / history[f"sigma2_{task}"] + (1 + history[f"sigma2_{task}"]).map(math.log)
             for task in ("rank", *SYSTEMS[ENCODER].generative_tasks)]  # fmt: skip
    assert history["loss"].to_numpy() == pytest.approx(sum(parts).to_numpy(), rel=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("system", ["gdmtl", "gdmtl_s"])
def test_on_a_gpu_a_resumed_training_ends_with_the_same_bits(system, compiled, toy_bert_folder, tmp_path, monkeypatch):
    """In torch's deterministic mode, with the kernel of various lengths, for which fp32 would be too precise."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    train = Training(toy_bert_folder, system, validated=True, device="cuda", precision="bf16", compile=compiled)
    torch.use_deterministic_algorithms(True)
    try:
        assert_an_interruption_changes_nothing(train, tmp_path, monkeypatch)
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_measure_that_chooses_and_the_runs_of_every_epoch(toy_bert_folder, tmp_path, monkeypatch):
    """An interrupted training leaves the same files; the run of an epoch has the values that are written of it."""
    train = Training(toy_bert_folder, "bert", validated=True, selection_measure="nDCG@10", keep_epoch_runs=True)
    assert_an_interruption_changes_nothing(train, tmp_path, monkeypatch)
    written = pd.read_csv(tmp_path / "whole" / "validation_queries.csv")
    for epoch in (0, 1):
        runs = [read_run(tmp_path / name / "epoch_runs" / f"epoch{epoch}.trec.gz") for name in ("cut", "whole")]
        pd.testing.assert_frame_equal(*runs)
        values = evaluate(runs[0], train.collection.qrels("dev"), ["nDCG@10"])["value"]
        assert written.loc[written["epoch"] == epoch, "value"].tolist() == pytest.approx(values.tolist())
    assert set(pd.read_csv(tmp_path / "whole" / "validation.csv")["measure"]) == {"nDCG@10"}
    train(tmp_path / "whole", settings={"keep_epoch_runs": False}, resume=False)
    assert not (tmp_path / "whole" / "epoch_runs").exists()


def test_an_epoch_can_be_chosen_by_the_likelihood_of_queries(toy_bert_folder, tmp_path, monkeypatch):
    """As the one who writes wants it: nothing is re-ranked, and the value is that of notebook 12's scores."""
    monkeypatch.setattr(training, "rerank", None)
    with pytest.raises(ValueError, match="^bert does not learn query_generation, as these do: gdmtl, gdmtl_plus, "):
        Training(toy_bert_folder, "bert", validated=True, selection_measure="likelihood")(tmp_path)
    learned = {"selection_measure": "likelihood", "loss_weighting": "generation"}
    train = Training(toy_bert_folder, "gdmtl", validated=True, **learned)
    model, _ = train(tmp_path)
    looks = pd.read_csv(tmp_path / "validation.csv")
    assert set(looks["measure"]) == {"likelihood"} and (looks["value"] < 0).all()
    written = pd.read_csv(tmp_path / "validation_queries.csv", dtype={"query_id": str})
    best = written[written["epoch"] == looks.loc[looks["value"].idxmax(), "epoch"]].set_index("query_id")["value"]
    relevant = train.collection.qrels("dev").query("relevance >= 1").drop_duplicates("query_id")
    scored = query_likelihood(model, train.collection, relevant[["query_id", "doc_id"]], reduction="mean", device="cpu")
    assert best.to_dict() == pytest.approx(scored.set_index("query_id")["score"].to_dict(), abs=1e-5)


@pytest.mark.parametrize("task", ["query_generation", "answer_generation"])
def test_the_likelihood_that_chooses_is_that_of_one_sequence_read_alone(task, toy_bert_folder, tmp_path):
    """The oracle: passage, query and target as training reads them, one at a time, the mean log P of the target's tokens."""
    [measure] = [name for name, of in LIKELIHOODS.items() if of == task]
    train = Training(toy_bert_folder, "gdmtl_plus", validated=True, selection_measure=measure)
    model, _ = train(tmp_path)
    written = pd.read_csv(tmp_path / "validation_queries.csv", dtype={"query_id": str})
    looks = pd.read_csv(tmp_path / "validation.csv")
    best = written[written["epoch"] == looks.loc[looks["value"].idxmax(), "epoch"]].set_index("query_id")["value"]
    builder, collection, expected = model.input_builder(), train.collection, {}
    answers = dict(zip(*(collection.answers("dev")[name] for name in ("query_id", "text"))))
    for row in collection.qrels("dev").query("relevance >= 1").drop_duplicates("query_id").itertuples():
        [query] = builder.tokens(collection.query_texts([row.query_id]))
        [target] = [query] if task == "query_generation" else builder.tokens([answers[row.query_id]])
        [passage] = builder.passage_tokens(collection.text([row.doc_id]))
        batch = pack([builder.generation(task, passage, query, target)])
        with torch.no_grad():
            logits = model(batch).logits[task]
        expected[row.query_id] = -torch.nn.functional.cross_entropy(logits.float(), batch.targets[task]).item()
    assert best.to_dict() == pytest.approx(expected, abs=1e-5) and len(expected) > 3


def test_an_epoch_is_not_chosen_by_answers_that_nobody_writes_or_nobody_gave(toy_bert_folder, tmp_path):
    by_answers = {"validated": True, "selection_measure": "answer_likelihood"}
    with pytest.raises(ValueError, match="^gdmtl does not learn answer_generation, as these do: gdmtl_plus"):
        Training(toy_bert_folder, "gdmtl", **by_answers)(tmp_path)
    train = Training(toy_bert_folder, "gdmtl_plus", **by_answers)
    dev = train.collection._splits["dev"]
    train.collection._splits["dev"] = Split(dev.queries, dev.qrels, dev.answers.iloc[:0])
    with pytest.raises(ValueError, match="^collection 'toy' has no answers to the validation's queries: choose by another"):
        train(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_a_query_is_written_from_is_read_and_what_is_ranked_stays(toy_bert_folder):
    """Every query's second passage has grade 1, and its relevant one grade 2."""
    collection = collection_of()
    qrels = collection._splits["train"].qrels
    others = candidates_of(collection).drop_duplicates("query_id", keep="last")[["query_id", "doc_id"]].assign(relevance=1)
    others = others[~others.set_index(["query_id", "doc_id"]).index.isin(qrels.set_index(["query_id", "doc_id"]).index)]
    graded = pd.concat([qrels.assign(relevance=2), others])
    collection._splits["train"] = Split(collection.queries("train"), graded, collection.answers("train"))
    model, level = build_model("gdmtl_plus", checkpoint=toy_bert_folder), {"train_relevance_level": 2}
    plain, graded = (
        Batches(model, collection, candidates_of(collection), settings_of(**level, generation_level=given)) for given in (None, 1)
    )
    differ = 0
    for index in range(len(graded.instances)):
        instance, before, after = graded.instances.instance(0, index), plain.sequences(0, [index]), graded.sequences(0, [index])
        kept = [number for number, each in enumerate(after) if each.task != "query_generation"]
        assert len(kept) == 3 and [before[number] for number in kept] == [after[number] for number in kept]
        [found] = [each for each in after if each.task == "query_generation"]
        [source] = graded.builder.passage_tokens(collection.text([instance.source]))
        [query] = graded.builder.tokens(collection.query_texts([instance.query_id]))
        assert found == graded.builder.query_generation(source, query)
        differ += instance.source != instance.positive
    assert 0 < differ < len(graded.instances)


def test_a_difference_that_rounding_made_keeps_the_earlier_epoch(toy_bert_folder, tmp_path, monkeypatch):
    values = iter([0.0, 0.1 + 0.2, 0.3, 0.1 + 0.2 + 1e-16])  # the first is of what is tried before
    monkeypatch.setattr(training, "evaluate", lambda *_: pd.DataFrame({"query_id": ["q"], "value": [next(values)]}))
    Training(toy_bert_folder, "bert", validated=True, epochs=3)(tmp_path)
    assert json.loads((tmp_path / "settings.json").read_text())["finished"]["best_epoch"] == 0


def test_a_step_that_is_not_finite_changes_nothing_until_it_is_read(toy_bert_folder, tmp_path, monkeypatch):
    """Its numbers are read after the next step was given to the device: neither of them changes a weight."""
    train, seen, original = Training(toy_bert_folder, "gdmtl"), [], training._Training._step

    def step(self, joint, optimizer, number, parts):
        made = original(self, joint, optimizer, number, parts)
        seen.append({name: value.clone() for name, value in self.joint.state_dict().items()})
        return made

    monkeypatch.setattr(training._Training, "_step", step)
    poisoned(monkeypatch, 1, lambda loss, scores: loss * float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1 "):
        train(tmp_path, settings={"batch_size": 2})
    assert len(seen) == 3  # steps 0 and 1, and the one that was given before step 1 was read
    for name, value in seen[0].items():
        assert torch.equal(seen[1][name], value) and torch.equal(seen[2][name], value), name


def test_texts_are_tokenized_once(toy_bert_folder, tmp_path, monkeypatch):
    calls, original = [], InputBuilder.passage_tokens

    def passage_tokens(self, texts):
        calls.extend(texts := list(texts))
        return original(self, texts)

    monkeypatch.setattr(InputBuilder, "passage_tokens", passage_tokens)
    Training(toy_bert_folder, epochs=4)(tmp_path / "kept")
    assert len(calls) == len(set(calls)) <= 16
    monkeypatch.setattr(training_batches, "KEPT_TOKENS", 30)  # and what is not kept is made again
    Training(toy_bert_folder, epochs=4)(tmp_path / "few")
    assert_same_training(tmp_path / "few", tmp_path / "kept")


def test_a_stopped_cell_run_again_with_the_same_model_says_so(toy_bert_folder, tmp_path, monkeypatch):
    collection = collection_of()
    model = build_model("gdmtl", checkpoint=toy_bert_folder)
    with monkeypatch.context() as patch:
        fails_at(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            gdmtl.train(model, collection, candidates_of(collection), settings_of(), tmp_path)
    with pytest.raises(ValueError) as error:
        gdmtl.train(model, collection, candidates_of(collection), settings_of(), tmp_path)
    assert str(error.value) == (
        f"{tmp_path} holds this very training, begun from other weights: a model that has been trained, be it a few "
        "steps, is not what it was. Build the model anew (build_model) to go on with it; or choose another output_dir, "
        "or resume=False to replace it"
    )
    anew = build_model("gdmtl", checkpoint=toy_bert_folder)
    gdmtl.train(anew, collection, candidates_of(collection), settings_of(), tmp_path)


def test_a_training_of_before_some_settings_were_there_is_known(finished, tmp_path):
    checkpoint, folder = finished
    shutil.copytree(folder, tmp_path / "old")
    written = json.loads((tmp_path / "old" / "settings.json").read_text())
    for name in ("sigma_parameter", "train_relevance_level", "selection_measure", "keep_epoch_runs"):
        del written["training"]["settings"][name]
    (tmp_path / "old" / "settings.json").write_text(json.dumps(written))
    _, history = Training(checkpoint, validated=True)(tmp_path / "old")
    assert len(history) == 6
    with pytest.raises(ValueError, match="settings.train_relevance_level is 1 there and 2 here"):
        Training(checkpoint, validated=True, collection=GRADED)(tmp_path / "old", settings={"train_relevance_level": 2})


GRADED = collection_of()
GRADED._splits["train"].qrels["relevance"] = 2


def test_the_card_says_what_it_was_trained_on(finished):
    _, folder = finished
    card = (folder / "checkpoint" / "README.md").read_text()
    assert "toy, 11 queries, 6 steps" in card and "| RR@10 |" in card and "learning_rate 0.001" in card


def test_fp16_without_a_gpu_is_refused_where_it_would_be_fp32(toy_bert_folder, tmp_path):
    with pytest.raises(ValueError, match="^precision 'fp16' trains on a GPU alone, and this is cpu: use bf16, fp32 or auto$"):
        Training(toy_bert_folder, "bert")(tmp_path, settings={"precision": "fp16"})


def test_what_a_tracker_is_given(toy_bert_folder, tmp_path, monkeypatch):
    """A row a step and a value an epoch, from accelerate's own trackers; one that is not installed is refused."""
    logged = []
    monkeypatch.setattr(training.Accelerator, "log", lambda self, values, step: logged.append((step, values)))
    monkeypatch.setattr(training, "is_tensorboard_available", lambda: False)
    with pytest.raises(ValueError, match="tracker 'tensorboard' is not installed: `pip install tensorboard`"):
        Training(toy_bert_folder, "gdmtl")(tmp_path / "none", settings={"tracker": "tensorboard"})
    _, history = Training(toy_bert_folder, "gdmtl", validated=True)(tmp_path / "out")
    assert [step for step, values in logged if "loss" in values] == list(range(6))
    assert [step for step, values in logged if "RR@10" in values] == [2, 5]
    assert logged[0][1]["loss"] == history["loss"][0] and logged[0][1]["gradient_norm"] > 0


# --- losses beyond the paper's


@pytest.fixture
def own_system(monkeypatch):
    """GDMTL with another ranking loss, known for as long as the test runs."""

    def make(rank_loss):
        system = replace(SYSTEMS["gdmtl"], name=f"gdmtl_{rank_loss}", rank_loss=rank_loss)
        monkeypatch.setitem(SYSTEMS, system.name, system)
        monkeypatch.setitem(LABELS, system.name, system.name)
        return system.name

    return make


@pytest.mark.parametrize("rank_loss", ["listwise", "margin_mse"])
def test_a_system_with_another_ranking_loss_trains(rank_loss, own_system, toy_bert_folder, tmp_path):
    """`train` goes through, and a loaded model is of that system; one batch, met again and again, is learned by heart."""
    once = Training(toy_bert_folder, model=own_system(rank_loss), epochs=1, warmup_epochs=0, negatives=2)
    model, history = once(tmp_path)
    chosen = Training(toy_bert_folder, "gdmtl", epochs=1, warmup_epochs=0, negatives=2, rank_loss=rank_loss)
    assert chosen(tmp_path / "chosen")[1].equals(history)  # as a setting it is the same, with any system
    assert np.isfinite(history["rank_loss"]).all() and load_model(tmp_path / "checkpoint").system.rank_loss == rank_loss
    joint = JointLoss(model.train(), settings_of(negatives=2))
    batch = Batches(model, once.collection, candidates_of(once.collection), settings_of(negatives=2)).packed(0, range(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(joint(batch)[0])
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("system", ["gdmtl", "gdmtl_plus", "gdmtl_s"])
def test_generation_alone_is_learned_and_nothing_else(system, toy_bert_folder, tmp_path):
    """No ranking sequence is read, and what is written becomes likelier."""
    once = Training(toy_bert_folder, system, loss_weighting="generation", epochs=8, warmup_epochs=0, gradient_cosines_every=2)
    model, history = once(tmp_path)
    assert "rank_loss" not in history and not (tmp_path / "gradients.csv").exists()
    assert history["query_generation_loss"].iloc[-3:].mean() < history["query_generation_loss"].iloc[:3].mean()
    read = describe_instance(model, once.collection, candidates_of(once.collection), settings_of(loss_weighting="generation"))
    assert tuple(read["task"]) == model.system.generative_tasks


def test_of_a_teachers_scores_only_how_far_apart_they_lie_counts(own_system, toy_bert_folder):
    model, settings = build_model(own_system("margin_mse"), checkpoint=toy_bert_folder), settings_of(negatives=2)
    candidates = candidates_of(collection_of())
    batches = [
        Batches(model, collection_of(), candidates.assign(score=candidates["score"] + shift), settings).packed(0, range(4))
        for shift in (0, 4)
    ]
    assert batches[0].teacher.view(4, 3)[0].tolist() == [0.0, *(batches[0].teacher.view(4, 3)[0, 1:].tolist())]
    assert torch.equal(batches[1].teacher, batches[0].teacher + 4) and (batches[0].teacher[1::3] < 0).all()
    losses = [JointLoss(model, settings)(batch) for batch in batches]
    torch.testing.assert_close(*losses)


def test_other_scores_of_a_teacher_are_another_training(own_system, toy_bert_folder, tmp_path):
    once = Training(toy_bert_folder, model=own_system("margin_mse"), epochs=1, warmup_epochs=1)
    once(tmp_path / "one")
    other = candidates_of(once.collection).assign(score=lambda run: run["score"] * 3)
    with pytest.raises(ValueError, match="holds another training"):
        once(tmp_path / "one", candidates=other)


def test_a_teacher_has_to_score_every_relevant_passage(own_system, toy_bert_folder, tmp_path):
    once = Training(toy_bert_folder, model=own_system("margin_mse"))
    candidates = candidates_of(once.collection)
    with pytest.raises(ValueError) as error:
        once(tmp_path / "one", candidates=candidates[candidates["rank"] > 1])
    assert "have no score for 11 relevant passages, query 't0' and 'd0' first" in str(error.value)
