"""Leak over random shapes: nothing sees what it may not; saving and threads change nothing but, at most, rounding.

GDMTL_STRESS=1 (`make stress`): 200 random batches of each system instead of 10.
"""

import copy
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import ALL_TOYS, GENERATING, outputs, random_batches
from tests.training.conftest import Training, assert_same_training

import gdmtl_lib as gdmtl
from gdmtl_lib.inputs import TokenSequence
from gdmtl_lib.packing import pack, pad
from gdmtl_lib.masks import mixed_attention_mask
from gdmtl_lib.pretrained import build_model, load_model

BATCHES = 200 if os.environ.get("GDMTL_STRESS") else 10

pytestmark = pytest.mark.slow


# --- leak


def test_the_mask_lets_nothing_leak_over_random_shapes():
    """A row's allowed columns, closed under any number of layers: what reaches a source token is source, what reaches a
    target token is source and targets up to itself, and padding reaches nobody."""
    for seed in range(BATCHES * 10):
        rng = np.random.default_rng(seed)
        rows, length = rng.integers(1, 5), int(rng.integers(1, 40))
        real = rng.integers(1, length + 1, rows)
        sources = np.array([rng.integers(1, end + 1) for end in real])
        places = np.arange(length)
        segments = torch.tensor((places >= sources[:, None]).astype(np.int64))
        padding = torch.tensor(places < real[:, None])
        mask = mixed_attention_mask(segments, padding)
        reached = mask.float()
        for _ in range(6):  # two, four, ... layers: 64 in the end
            reached = ((reached @ reached + reached) > 0).float()
        for row in range(rows):
            for place in range(real[row]):
                expected = places < (sources[row] if place < sources[row] else place + 1)
                assert (reached[row, place].bool().numpy() == expected).all(), (seed, row, place)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("name", [name for name in ALL_TOYS if name.split()[0] in GENERATING])
def test_a_changed_token_changes_no_logits_before_it(toys, name, packed):
    """Over random batches, bit for bit; the logits after it do change, and so does the loss."""
    model = toys[name].eval()
    for rng, sequences in random_batches(model, BATCHES):
        number = rng.choice([i for i, s in enumerate(sequences) if s.task == "query_generation" and len(s.targets) > 1])
        s = sequences[number]
        place = rng.randrange(len(s.targets) - 1)  # the target's last token, its end, is read by nobody
        field, start = ("decoder_ids", 1) if s.decoder_ids else ("input_ids", s.source_length)
        ids = list(getattr(s, field))
        ids[start + place] = next(i for i in iter(lambda: rng.randrange(5, model.config.vocab_size), -1) if i != ids[start + place])
        changed = list(sequences)
        changed[number] = TokenSequence(**vars(s) | {field: ids})
        before = sum(len(x.targets) for x in sequences[:number] if x.task == s.task) + place + 1
        after = sum(len(x.targets) for x in sequences[: number + 1] if x.task == s.task)
        with torch.inference_mode():
            one, other = (
                model(pack(each) if packed else pad(each, model.config.pad_token_id)) for each in (sequences, changed)
            )
        assert torch.equal(one.scores, other.scores)
        one, other = one.logits[s.task], other.logits[s.task]
        assert torch.equal(one[:before], other[:before]) and torch.equal(one[after:], other[after:])
        assert not torch.equal(one[before:after], other[before:after])


# --- saving


@pytest.mark.parametrize("name", ALL_TOYS)
def test_saving_and_loading_changes_no_bit(toys, name, tmp_path):
    model = copy.deepcopy(toys[name]).eval()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * 1e-3)
    model.save_pretrained(tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    for _, sequences in random_batches(model, BATCHES):
        for found, expected in zip(outputs(loaded, pack(sequences)), outputs(model, pack(sequences)), strict=True):
            assert torch.equal(found, expected)


# --- the same seed, other threads


TRAINING = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from tests.training.conftest import Training
for model in {models!r}:
    Training(Path({checkpoint!r}), model=model, validated=True)(Path({folder!r}) / model)
"""
TRAINED = ["gdmtl_plus", "gdmtl_s"]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, toy_bert_folder):
    """Trained in a process of its own, which orders its sets in another way than this one."""
    folder, path = tmp_path_factory.mktemp("elsewhere"), [str(Path(__file__).parent)]
    code = TRAINING.format(path=path, checkpoint=str(toy_bert_folder), models=TRAINED, folder=str(folder))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("model", TRAINED)
def test_two_runs_of_one_seed_give_equal_bits_and_threads_only_round(one_thread, elsewhere, toy_bert_folder, tmp_path, model):
    """In two processes, which order their sets differently; two threads to 1e-6 of one."""
    for folder, threads in (("one", 1), ("two", 2)):
        torch.set_num_threads(threads)
        Training(toy_bert_folder, model=model, validated=True)(tmp_path / folder)
    assert_same_training(elsewhere / model, tmp_path / "one")
    one, two = (load_model(tmp_path / folder / "checkpoint").state_dict() for folder in ("one", "two"))
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=0, atol=1e-6)


def test_scores_of_minilm_do_not_depend_on_the_threads(tmp_path):
    """Large enough for the products to be shared out among threads."""
    collection, model = gdmtl.load_collection("sample"), build_model("gdmtl")
    candidates = gdmtl.bm25_candidates(collection, "dev", depth=4, index_dir=tmp_path / "indexes").head(48)
    before, runs = torch.get_num_threads(), {}
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            runs[threads] = gdmtl.rerank(model, collection, candidates, device="cpu", progress=False)
    finally:
        torch.set_num_threads(before)
    one, *others = (run.set_index(["query_id", "doc_id"])["score"].sort_index() for run in runs.values())
    assert all((other - one).abs().max() <= 1e-6 for other in others)
