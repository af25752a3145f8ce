"""Killed at any moment: training resumes by itself and ends with the same bits, re-ranking with the same bytes.

GDMTL_STRESS=1 (`make stress`) kills a training 20 times instead of 6, and a re-ranking 10 times instead of 3.
"""

import os
import random
import signal
import time

import pytest
from tests.conftest import in_a_child
from tests.inference.conftest import candidates_of, collection_of, rerank
from tests.training.conftest import Training, assert_same_training, dies_at

from gdmtl_lib import models
from gdmtl_lib.inference import rerank as reranking
from gdmtl_lib.pretrained import load_model
from gdmtl_lib.training import folder as training_folder
from gdmtl_lib.training import loop as training

STRESS = bool(os.environ.get("GDMTL_STRESS"))
KILLS = 20 if STRESS else 6
RERANKING_KILLS = 10 if STRESS else 3

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

STATE, WEIGHTS = (training_folder.safetensors.torch, "save_file"), (models, "save_torch_state_dict")


def moments(rng):
    """Where to kill, by the n-th call of a function: first, certainly, in the middle of a state and of a checkpoint,
    before one is put in its place, and before a step; then the same again, at other files and steps."""
    named = [
        ("writing a state", lambda: (*STATE, rng.randrange(5), True)),
        ("writing a checkpoint", lambda: (*WEIGHTS, 0, True)),
        ("summing up a checkpoint", lambda: (models, "write_sums", 0)),
        ("between two files", lambda: (training_folder.os, "replace", rng.randrange(24))),
        ("before a step", lambda: (training._Training, "_step", rng.randrange(6))),
        ("before a checkpoint takes its place", lambda: (models.Path, "rename", rng.choice([0, 2]))),
    ]
    for number in range(KILLS):
        what, make = named[number % len(named)]
        yield what, make()


def train(checkpoint, folder, kill):
    """A training in a process of its own, which saves a state after every step; how it ended."""

    def killed():
        training.SAVE_EVERY_SECONDS = 0.0
        dies_at(*kill)
        Training(checkpoint, validated=True)(folder)

    child = in_a_child(killed)
    child.join()
    return child.exitcode


def test_a_training_killed_again_and_again_ends_with_the_same_bits(toy_bert_folder, tmp_path):
    """Killed in the same folder until it is finished, then anew in another, so many times in all: also a training
    that was killed twice, and one that was killed while it was resuming."""
    whole = tmp_path / "whole"
    Training(toy_bert_folder, validated=True)(whole)
    rng, number, survived = random.Random(os.environ.get("GDMTL_STRESS_SEED", "0")), 0, 0
    for what, kill in moments(rng):
        folder = tmp_path / f"killed{number}"
        code = train(toy_bert_folder, folder, kill)
        if code == 0:  # what it was to die of did not come any more: it was finished before
            assert_same_training(folder, whole)
            number += 1
            continue
        assert code == -signal.SIGKILL, what
        survived += 1
        if survived % 2:  # every other one is killed a second time, in the folder that the first has left
            continue
        Training(toy_bert_folder, validated=True)(folder)
        assert_same_training(folder, whole)
        number += 1
    Training(toy_bert_folder, validated=True)(tmp_path / f"killed{number}")
    assert_same_training(tmp_path / f"killed{number}", whole)
    assert survived >= KILLS // 2


def test_a_re_ranking_killed_by_the_clock_ends_byte_for_byte(toys, tmp_path, monkeypatch):
    """Killed at a random moment of the time that it takes, resumed by itself, killed again."""
    toys["gdmtl"].save_pretrained(tmp_path / "checkpoint")
    monkeypatch.setattr(reranking, "CHUNK_PAIRS", 9)
    collection = collection_of(queries=60)

    def start(output):
        def scored():
            rerank(load_model(tmp_path / "checkpoint"), collection, candidates_of(collection), output=str(output))

        return in_a_child(scored)

    def ended(child):
        child.join()
        return child.exitcode

    started = time.monotonic()
    assert ended(start(tmp_path / "whole.trec")) == 0
    took, rng, killed = time.monotonic() - started, random.Random(0), 0
    output = tmp_path / "killed.trec"
    partial = output.with_name("killed.trec.partial")
    while killed < RERANKING_KILLS:
        child = start(output)
        # After so many chunks, and some time more: into a pass, the writing of its scores, or of the run itself.
        chunks, waited = rng.randrange(1, max(2, 50 // RERANKING_KILLS)), time.monotonic()
        lines = len(partial.read_bytes().splitlines()) if partial.exists() else 0
        while child.is_alive() and time.monotonic() - waited < took:
            if partial.exists() and len(partial.read_bytes().splitlines()) >= lines + chunks:
                break
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        child.kill()
        if ended(child) == 0:
            assert output.read_bytes() == (tmp_path / "whole.trec").read_bytes()
            output.unlink()
            continue
        killed += 1
    assert ended(start(output)) == 0
    assert output.read_bytes() == (tmp_path / "whole.trec").read_bytes()
    left = [path.name for path in tmp_path.iterdir() if path.name.endswith((".partial", ".lock"))]
    assert left == []
