"""What a job takes, calculated: operations by hand, and words for seconds."""

import pytest

from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.sweep import costs as module
from gdmtl_lib.sweep.costs import Costs, in_words, parameters_of, shape

SETTINGS = {
    "checkpoint": None, "layers": 1, "max_length": 8, "target_length": 4, "negatives": 1, "train_fraction": 0.5, "epochs": 2,
    "batch_size": 8, "generation_head_warmup_steps": 0, "validate_every_epoch": False, "loss_weighting": "uncertainty",
}  # fmt: skip
# A layer of MiniLM over 8 tokens: 8 s d^2 + 4 s^2 d + 4 s d f, with s = 8, d = 384, f = 1536.
LAYER = 8 * 8 * 384**2 + 4 * 64 * 384 + 4 * 8 * 384 * 1536


@pytest.fixture(scope="module")
def costs():
    return Costs.of(load_collection("sample"), "train", SETTINGS)


def test_a_ranking_is_a_forward_pass_a_pair(costs):
    """Passage and query are longer than the eight tokens that are kept of them."""
    assert costs.ranking("bert", {}, 10) == 10 * LAYER
    assert costs.ranking("bert", {"layers": 3}, 10) == 30 * LAYER


def test_a_training_is_three_passes_a_sequence(costs):
    """Half of 100 pairs, twice: 100 instances of two ranking sequences; 10 pairs are measured at the end, and every epoch
    and before the first where every epoch is."""
    assert costs.training("bert", {}, 100, 10) == 3 * 100 * 2 * LAYER + 10 * LAYER
    assert costs.training("bert", {"validate_every_epoch": True}, 100, 10) == 3 * 100 * 2 * LAYER + 30 * LAYER
    generated = LAYER + 2 * 4 * 384 * 30522  # logits at the four target positions
    assert costs.training("gdmtl", {}, 100, 10) == 3 * 100 * (2 * LAYER + generated) + 10 * LAYER


def test_a_decoder_costs_its_cross_attention_too(costs):
    separate, concatenated = (costs.ranking(system, {}, 1) for system in ("bart_s", "bart_c"))
    assert LAYER < separate < concatenated


def test_the_weights_of_a_system_are_counted(toy_bert_folder):
    assert parameters_of("bert", "bert-base-uncased") == pytest.approx(109e6, rel=0.02)
    assert parameters_of("mono", "bert-large-uncased@abc") == pytest.approx(335e6, rel=0.02)
    assert parameters_of("bart_s", "facebook/bart-base") == pytest.approx(139e6, rel=0.02)
    assert shape(str(toy_bert_folder)) == (2, 32, 64, 154) and shape(str(toy_bert_folder), 1)[0] == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "under a minute"), (61, "about 1 minute"), (1200, "about 20 minutes"), (5300, "about 88 minutes"), (9000, "about 2 hours"),
     (90000, "about 25 hours"), (260000, "about 3 days")],
)  # fmt: skip
def test_seconds_in_words(seconds, words):
    assert in_words(seconds) == words


@pytest.mark.parametrize(("content", "gain"), [
    ('{"training": {"mkl": 0.03, "onednn": 0.02, "bf16": 0.01}}', 3), ('{"training": {"mkl": 0.03}}', 1), ("spoiled", 1), (None, 1),
])  # fmt: skip
def test_what_a_training_gains_over_fp32_is_taken_from_what_trainings_measured(monkeypatch, tmp_path, content, gain):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if content is not None:
        (tmp_path / "gdmtl" / "products").mkdir(parents=True)
        (tmp_path / "gdmtl" / "products" / "processor-torch.json").write_text(content)
    monkeypatch.setattr(module, "_rate", lambda *_: 100.0)
    monkeypatch.setattr(module, "visible_gpus", list)
    assert module.speed.__wrapped__() == pytest.approx(100 * module.EFFICIENCY * gain)
