"""Killed at any moment: training resumes by itself and ends with the same bits, re-ranking with the same bytes.

GDMTL_STRESS=1 (`make stress`) kills a training 20 times instead of 6, and a re-ranking 10 times instead of 3.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.training.conftest import Training, assert_same_training

STRESS = bool(os.environ.get("GDMTL_STRESS"))
KILLS = 20 if STRESS else 6
RERANKING_KILLS = 10 if STRESS else 3

pytestmark = pytest.mark.slow

# A process that is told when to die, by the n-th file operation of a kind or by the clock, and that goes on otherwise.
TRAINING = """
import os, signal, sys, threading
sys.path[:0] = {path!r}
from pathlib import Path
from gdmtl_lib import models
from gdmtl_lib.training import loop as training, folder as training_folder
from tests.training.conftest import Training
training.SAVE_EVERY_SECONDS = 0.0  # a state after every step
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def dies_at(module, name, count, half=False):
    original, calls = getattr(module, name), iter(range(10**6))
    def function(*arguments, **named):
        if next(calls) == count:
            if half:  # what is being written is there in part
                original(*arguments, **named)
                file = Path(arguments[1])
                file = file / "model.safetensors" if file.is_dir() else file
                os.truncate(file, file.stat().st_size // 2)
            die()
        return original(*arguments, **named)
    setattr(module, name, function)
{kill}
Training(Path({checkpoint!r}), validated=True)(Path({folder!r}))
"""
STATE, WEIGHTS = "training_folder.safetensors.torch, 'save_file'", "models, 'save_torch_state_dict'"


def moments(rng):
    """Where to kill: first, certainly, in the middle of a state and of a checkpoint, before one is put in its place,
    and before a step; then the same again, at other files and steps."""
    named = [
        ("writing a state", lambda: f"dies_at({STATE}, {rng.randrange(5)}, half=True)"),
        ("writing a checkpoint", lambda: f"dies_at({WEIGHTS}, 0, half=True)"),
        ("summing up a checkpoint", lambda: "dies_at(models, 'write_sums', 0)"),
        ("between two files", lambda: f"dies_at(training_folder.os, 'replace', {rng.randrange(24)})"),
        ("before a step", lambda: f"dies_at(training._Training, '_step', {rng.randrange(6)})"),
        ("before a checkpoint takes its place", lambda: f"dies_at(models.Path, 'rename', {rng.choice([0, 2])})"),
    ]
    for number in range(KILLS):
        what, make = named[number % len(named)]
        yield what, make()


def train(checkpoint, folder, kill):
    source = TRAINING.format(
        path=[str(Path(__file__).parent)], checkpoint=str(checkpoint), folder=str(folder), kill=kill
    )
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True)


def test_a_training_killed_again_and_again_ends_with_the_same_bits(toy_bert_folder, tmp_path):
    """Killed in the same folder until it is finished, then anew in another, so many times in all: also a training
    that was killed twice, and one that was killed while it was resuming."""
    whole = tmp_path / "whole"
    Training(toy_bert_folder, validated=True)(whole)
    rng, number, survived = random.Random(os.environ.get("GDMTL_STRESS_SEED", "0")), 0, 0
    for what, kill in moments(rng):
        folder = tmp_path / f"killed{number}"
        child = train(toy_bert_folder, folder, kill)
        if child.returncode == 0:  # what it was to die of did not come any more: it was finished before
            assert_same_training(folder, whole)
            number += 1
            continue
        assert child.returncode == -signal.SIGKILL, f"{what}: {child.stderr}"
        survived += 1
        if survived % 2:  # every other one is killed a second time, in the folder that the first has left
            continue
        Training(toy_bert_folder, validated=True)(folder)
        assert_same_training(folder, whole)
        number += 1
    Training(toy_bert_folder, validated=True)(tmp_path / f"killed{number}")
    assert_same_training(tmp_path / f"killed{number}", whole)
    assert survived >= KILLS // 2


RERANKING = """
import sys
sys.path[:0] = {path!r}
from gdmtl_lib.inference import rerank as reranking
from gdmtl_lib.pretrained import load_model
from tests.inference.conftest import candidates_of, collection_of, rerank
reranking.CHUNK_PAIRS = 9
collection = collection_of(queries=60)
print("ready", flush=True)
rerank(load_model({checkpoint!r}), collection, candidates_of(collection), output={output!r})
"""


def test_a_re_ranking_killed_by_the_clock_ends_byte_for_byte(toys, tmp_path):
    """Killed at a random moment of the time that it takes, resumed by itself, killed again."""
    toys["gdmtl"].save_pretrained(tmp_path / "checkpoint")
    arguments = {"path": [str(Path(__file__).parent)], "checkpoint": str(tmp_path / "checkpoint")}
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}

    def start(output):
        source = RERANKING.format(**arguments, output=str(output))
        child = subprocess.Popen([sys.executable, "-c", source], env=environment, stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "ready\n"
        child.stdout.close()
        return child

    started = time.monotonic()
    assert start(tmp_path / "whole.trec").wait() == 0
    took, rng, killed = time.monotonic() - started, random.Random(0), 0
    output = tmp_path / "killed.trec"
    partial = output.with_name("killed.trec.partial")
    while killed < RERANKING_KILLS:
        child = start(output)
        # After so many chunks, and some time more: into a pass, the writing of its scores, or of the run itself.
        chunks, waited = rng.randrange(1, max(2, 50 // RERANKING_KILLS)), time.monotonic()
        lines = len(partial.read_bytes().splitlines()) if partial.exists() else 0
        while child.poll() is None and time.monotonic() - waited < took:
            if partial.exists() and len(partial.read_bytes().splitlines()) >= lines + chunks:
                break
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        child.kill()
        if child.wait() == 0:
            assert output.read_bytes() == (tmp_path / "whole.trec").read_bytes()
            output.unlink()
            continue
        killed += 1
    assert start(output).wait() == 0
    assert output.read_bytes() == (tmp_path / "whole.trec").read_bytes()
    left = [path.name for path in tmp_path.iterdir() if path.name.endswith((".partial", ".lock"))]
    assert left == []
