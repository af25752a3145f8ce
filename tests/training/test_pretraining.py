"""Denoising: what is damaged, what is read, and that it ends with the same bits however it was interrupted."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import gdmtl_lib as gdmtl
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.training import pretraining
from gdmtl_lib.training.pretraining import denoise, denoised_start, infilled, infilling

MASK = -1
WORDS = "ice blue glacier river water city king war north south light year day food long old new first".split()


class PassagesOnly(Collection):
    """A collection of which nothing but passages may be read."""

    def __init__(self, passages: int = 40):
        generator = np.random.default_rng(0)
        texts = {f"d{i}": " ".join(generator.choice(WORDS, 18)) for i in range(passages)}
        super().__init__("toy", texts, {})

    def _refuse(self, *_):
        raise AssertionError("denoising reads passages and nothing else")

    queries = qrels = answers = candidates = query_texts = qrels_of = answers_of = fingerprint = _refuse


@pytest.fixture
def settings(monkeypatch):
    monkeypatch.setattr(pretraining, "EVERY", 4)
    return {"batch_size": 4, "max_length": 16, "precision": "fp32", "device": "cpu"}


def weights(folder):
    return load_file(folder / "checkpoint" / "model.safetensors")


@pytest.mark.parametrize(("steps", "how"), [(1, {}), (2, {"max_gradient_norm": None})])
def test_the_fewest_steps_and_gradients_that_are_not_clipped(toy_bert_folder, tmp_path, settings, steps, how):
    folder = denoised_start(PassagesOnly(), "bart_s", steps, tmp_path, str(toy_bert_folder), **settings, **how)
    assert weights(tmp_path) and pretraining.build_model("bart_s", folder)


@pytest.mark.parametrize(
    ("rate", "length", "expected"),
    [
        (0.0, 3.0, [5, 6, 7]),
        (1.0, 0.0, [MASK, 5, MASK, 6, MASK, 7]),  # spans of no tokens: a mask before each
        (1.0, 500.0, [MASK]),  # a span longer than what is left ends with it
    ],
)
def test_infilling_at_its_extremes(rate, length, expected):
    assert infilled([5, 6, 7], MASK, np.random.default_rng(0), rate, length) == expected


def test_spans_start_and_last_as_often_as_asked():
    """Of n places that are not inside a span, a share r starts one. With Poisson's mean 3, a span takes m = 3 + e^-3
    tokens, counting the one after an empty span, so that r n m + (1 - r) n is the number of tokens."""
    tokens = list(range(200_000))
    damaged = infilled(tokens, MASK, np.random.default_rng(1))
    kept = [token for token in damaged if token != MASK]
    assert kept == sorted(set(kept))  # in their order, none twice
    masks = len(damaged) - len(kept)
    places = len(tokens) / (0.12 * (3 + np.exp(-3)) + 0.88)
    assert masks / places == pytest.approx(0.12, rel=0.02)
    assert (len(tokens) - len(kept)) / masks == pytest.approx(3.0, rel=0.02)


def test_a_source_longer_than_its_window_ends_at_the_builders_length(builder_of):
    class EmptySpans:  # one before every token
        integers = random = poisson = staticmethod(lambda *_: 0)

    for length, kept in ((64, 2 * 20), (32, 30)):
        sequence = infilling(builder_of("gdmtl_s", max_length=length), list(range(5, 105)), 20, EmptySpans())
        assert sequence.source_length == len(sequence.input_ids) == 1 + kept + 1
        assert sequence.targets[:-1] == sequence.decoder_ids[1:] == list(range(5, 25))


def test_the_longest_window_that_a_checkpoint_reads(toy_bert_folder, tmp_path, settings):
    long = Collection("long", {f"d{i}": "ice " * 600 for i in range(10)}, {})
    denoise(long, 8, tmp_path / "510", str(toy_bert_folder), **settings | {"max_length": 510, "batch_size": 1})
    with pytest.raises(ValueError, match="^max_length: expected at most 510 with 512 positions, found 511: lower it$"):
        denoise(long, 8, tmp_path / "511", str(toy_bert_folder), **settings | {"max_length": 511})
    assert not (tmp_path / "511").exists()


def test_the_loss_falls_on_passages_held_out_and_nothing_else_is_read(toy_bert_folder, tmp_path, settings):
    history = denoise(PassagesOnly(), np.int64(60), tmp_path, str(toy_bert_folder), **settings | {"learning_rate": 3e-3})
    assert list(history) == ["step", "learning_rate", "loss"] and history["step"].tolist() == list(range(len(history)))
    held_out = pd.read_csv(tmp_path / "validation.csv")["value"]
    assert held_out.is_monotonic_decreasing
    assert history["loss"][-10:].mean() < history["loss"][:10].mean() - 0.05
    assert history["learning_rate"].max() == pytest.approx(3e-3) and history["learning_rate"].iloc[-1] == 0


def test_it_ends_with_the_same_bits_after_an_interruption(toy_bert_folder, tmp_path, settings, monkeypatch):
    checkpoint = str(toy_bert_folder)
    whole = denoise(PassagesOnly(), 12, tmp_path / "whole", checkpoint, **settings)
    batch = pretraining._Denoising._batch

    def interrupted(self, step):
        if step == 6:
            raise KeyboardInterrupt
        return batch(self, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretraining._Denoising, "_batch", interrupted)
        denoise(PassagesOnly(), 12, tmp_path / "parts", checkpoint, **settings)
    steps = []
    monkeypatch.setattr(pretraining._Denoising, "_batch", lambda self, step: steps.append(step) or batch(self, step))
    parts = denoise(PassagesOnly(), 12, tmp_path / "parts", checkpoint, **settings)
    assert steps == list(range(4, 12))  # from the last look at what is held out
    pd.testing.assert_frame_equal(parts, whole)
    for name, weight in weights(tmp_path / "whole").items():
        assert torch.equal(weight, weights(tmp_path / "parts")[name]), name
    assert steps and denoise(PassagesOnly(), 12, tmp_path / "parts", checkpoint, **settings).equals(parts)
    assert len(steps) == 8  # the finished one was not touched


def test_it_stops_when_the_held_out_loss_rises_and_keeps_the_best(toy_bert_folder, tmp_path, settings, monkeypatch):
    losses, looks = iter([3.0, 2.0, 2.5, 2.1, 1.0]), []
    loss, name = pretraining._Denoising._loss, "model.decoder.layers.0.encoder_attn.q_proj.weight"

    def planned(self, batch):
        if torch.is_grad_enabled():
            return loss(self, batch)
        looks.append(self.model.get_parameter(name).clone())
        return torch.tensor(next(losses))

    monkeypatch.setattr(pretraining._Denoising, "_loss", planned)
    history = denoise(PassagesOnly(), 60, tmp_path, str(toy_bert_folder), **settings)
    assert len(history) == 28  # looks after 16, 20, 24 and 28 steps: two without a lower loss
    assert torch.equal(weights(tmp_path)[name], looks[1]) and not torch.equal(looks[1], looks[3])
    assert json.loads((tmp_path / "settings.json").read_text())["finished"] == {"best_epoch": 1, "best_value": 2.0}


@pytest.mark.parametrize("system", ["bart_s", "gdmtl_s", "bart_c", "gdmtl_c"])
def test_every_encoder_decoder_starts_from_it(toy_bert_folder, tmp_path, settings, system):
    start = denoised_start(PassagesOnly(), system, 4, tmp_path, str(toy_bert_folder), **settings)
    model = gdmtl.build_model(system, checkpoint=start)
    kept = weights(tmp_path)
    for name, weight in model.model.state_dict().items():
        if f"model.{name}" in kept:
            assert torch.equal(weight, kept[f"model.{name}"]), name
    warm = gdmtl.build_model(system, checkpoint=str(toy_bert_folder))
    at = "decoder.layers.0.encoder_attn.q_proj.weight"
    assert not torch.equal(model.model.get_parameter(at), warm.model.get_parameter(at))
    at = "decoder.embed_positions.weight"  # a window teaches the first ones alone
    assert torch.equal(model.model.get_parameter(at), warm.model.get_parameter(at))
    # Their language-model heads are as fresh as without it.
    assert model.config.gdmtl["fresh_heads"] == warm.config.gdmtl["fresh_heads"] == system.startswith("gdmtl")


@pytest.mark.parametrize(("system", "steps"), [("bert", 4), ("bart_s", 0)])
def test_nothing_is_done_where_nothing_is_to_be_denoised(tmp_path, system, steps):
    assert denoised_start(PassagesOnly(), system, steps, tmp_path / "none", "somewhere") == "somewhere"
    assert denoised_start(PassagesOnly(), system, steps, tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_what_is_refused(toy_bert_folder, toy_bart_folder, tmp_path, settings):
    bert = str(toy_bert_folder)
    with pytest.raises(ValueError, match="was pre-trained by denoising .* set denoising_steps to 0"):
        denoise(PassagesOnly(), 4, tmp_path, str(toy_bart_folder), **settings)
    with pytest.raises(ValueError, match="expected 10 or more, and 'toy' has 9"):
        denoise(PassagesOnly(9), 4, tmp_path, bert, **settings)
    with pytest.raises(ValueError, match="^steps must be a whole number, found 2.5$"):
        denoise(PassagesOnly(), 2.5, tmp_path, bert, **settings)
    with pytest.raises(ValueError, match="^steps must be at least 1, found -1$"):
        denoised_start(PassagesOnly(), "bart_s", -1, tmp_path, bert, **settings)
    denoise(PassagesOnly(), 4, tmp_path, bert, **settings)
    with pytest.raises(ValueError, match="holds another training: .*settings.seed is 0 there and 1 here"):
        denoise(PassagesOnly(), 4, tmp_path, bert, **settings, seed=1)
