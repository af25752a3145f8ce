"""Damage: a file that is cut or has a flipped bit is refused in a sentence, or made anew; never silently loaded.

GDMTL_STRESS=1 (`make stress`) damages 50 places of every file instead of 8.
"""

import errno
import os
import random
import re
import shutil
import warnings

import pandas as pd
import pytest
import torch
from tests.training.conftest import DESCRIPTION, HISTORY, assert_equal_bits, state_of, trained
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from gdmtl_lib import models
from gdmtl_lib.data import bm25 as first_stage, files, trec as runs
from gdmtl_lib.evaluation import measures as evaluation
from gdmtl_lib.experiments import results as result_files
from gdmtl_lib.training import folder as training_folder
from gdmtl_lib.data.collection import Collection, load_collection
from gdmtl_lib.data.splits import Split
from gdmtl_lib.pretrained import build_model, load_model
from gdmtl_lib.experiments.results import Results
from gdmtl_lib.training.folder import Progress, TrainingFolder

PLACES = 50 if os.environ.get("GDMTL_STRESS") else 8

pytestmark = pytest.mark.slow


def damages(path, places=PLACES):
    """Write a file cut at so many places, and then with one bit flipped there; at the end it is as it was."""
    whole, rng = path.read_bytes(), random.Random(path.name)
    for place in [0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(places - 2))]:
        path.write_bytes(whole[:place])
        yield f"{path.name} cut at {place}"
        flipped = whole[place] ^ (1 << rng.randrange(8))
        path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        yield f"{path.name} flipped at {place}"
    path.write_bytes(whole)


# --- checkpoints


@pytest.fixture
def checkpoint(tmp_path, toy_bert_folder):
    folder = tmp_path / "checkpoint"
    build_model("gdmtl", checkpoint=toy_bert_folder).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "file", ["model.safetensors", "generation_heads.safetensors", "config.json", "tokenizer.json", "SHA256SUMS"]
)
def test_a_damaged_checkpoint_is_refused(checkpoint, file):
    """Where the damage leaves the content as it was (the sums' own line end) it is what was saved."""
    expected = load_model(checkpoint).state_dict()
    refused = 0
    for damage in damages(checkpoint / file):
        try:
            model = load_model(checkpoint)
        except ValueError as error:
            refused += 1
            assert str(checkpoint) in str(error), damage
        else:
            assert file == "SHA256SUMS", damage
            assert_equal_bits(model.state_dict(), expected)
        if file != "SHA256SUMS":
            with pytest.raises(ValueError, match=re.escape(str(checkpoint))):
                build_model("bert", checkpoint=checkpoint)
    assert refused >= 2 * PLACES - (2 if file == "SHA256SUMS" else 0)
    assert_equal_bits(load_model(checkpoint).state_dict(), expected)


def test_a_lost_file_of_a_checkpoint_is_named(checkpoint):
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(ValueError) as error:
        load_model(checkpoint)
    assert str(error.value) == (
        f"{checkpoint}/tokenizer.json is not as it was saved: its SHA-256 is not the one in SHA256SUMS. Take another "
        f"copy, or train again; if it was changed on purpose, delete {checkpoint}/SHA256SUMS"
    )


def test_a_checkpoint_without_sums_and_with_more_files_opens(checkpoint):
    (checkpoint / "README.md").write_text("mine")
    load_model(checkpoint)
    (checkpoint / "SHA256SUMS").unlink()
    load_model(checkpoint)


def test_plain_transformers_and_sha256sum_open_a_checkpoint(checkpoint):
    model, loaded = AutoModelForSequenceClassification.from_pretrained(checkpoint), load_model(checkpoint)
    assert torch.equal(model.classifier.weight, loaded.classifier.weight)
    assert AutoTokenizer.from_pretrained(checkpoint).get_vocab() == loaded.tokenizer.get_vocab()
    if shutil.which("sha256sum"):
        assert os.system(f"cd '{checkpoint}' && sha256sum --check --strict --quiet SHA256SUMS") == 0


# --- the state of a training


PROGRESS = Progress(
    step=3, best_epoch=0, best_value=0.1 + 0.2, history=HISTORY,
    validation=[{"epoch": 0, "step": 2, "measure": "RR@10", "value": 1 / 3}],
    validation_queries=[{"epoch": 0, "step": 2, "query_id": "31_1", "value": 1 / 3}],
    timing=[{"step": step, "seconds": 0.1, "tokens": 7} for step in range(3)],
)  # fmt: skip


@pytest.mark.parametrize("file", ["training_state.safetensors", "history.csv", "validation.csv", "validation_queries.csv", "timing.csv"])
def test_a_damaged_state_is_refused(tmp_path, file):
    """Also by what the tables beside it say of the steps that it has made."""
    folder = TrainingFolder(tmp_path / "seed0", DESCRIPTION)
    folder.open(resume=True)
    model, optimizer = trained()
    folder.save(PROGRESS, model, optimizer)
    expected, refused = state_of(model, optimizer), 0
    for damage in damages(folder.folder / file):
        other, other_optimizer = trained(0)
        try:
            found = folder.load(other, other_optimizer)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"{folder.folder}/training_state.safetensors is damaged ("), damage
        else:
            assert found == PROGRESS, damage
            assert_equal_bits(state_of(other, other_optimizer), expected)
    # The last line's end says nothing, and a flip may turn 0.1 into 0.10.
    assert refused >= 2 * PLACES - (0 if file.endswith("safetensors") else 3)


@pytest.mark.parametrize("file", ["settings.json"])
def test_damaged_settings_never_become_another_training(tmp_path, file):
    """Refused where they differ; what is finished, or not, is what they said before."""
    folder = TrainingFolder(tmp_path / "seed0", DESCRIPTION)
    folder.open(resume=True)
    for damage in damages(folder.folder / file):
        try:
            assert folder.open(resume=True) is False, damage
        except ValueError as error:
            assert str(folder.folder) in str(error), damage


# --- indexes, runs, values


def test_a_damaged_index_is_built_anew(tmp_path):
    texts = {"d1": "blue glacier ice", "d2": "an old king", "d3": "ice of the king", "d4": "long river"}
    queries = pd.DataFrame({"query_id": ["q"], "text": ["ice king"]}, dtype=str)
    collection = Collection("toy", texts, {"dev": Split(queries)})
    expected = first_stage.bm25_candidates(collection, "dev", index_dir=tmp_path)
    [home] = tmp_path.iterdir()
    files = sorted(path.name for path in (home / "lucene").iterdir() if path.stat().st_size)
    rng, rebuilt = random.Random(0), 0
    for number in range(PLACES):
        path = home / ("files.json" if number == 0 else f"lucene/{files[number % len(files)]}")
        if not path.exists():  # built anew, it may have other names
            path = max((home / "lucene").iterdir(), key=lambda path: path.stat().st_size)
        whole = path.read_bytes()
        place = rng.randrange(len(whole))
        changed = bytes([whole[place] ^ (1 << rng.randrange(8))])
        path.write_bytes(whole[:place] + (b"" if number % 2 else changed + whole[place + 1 :]))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = first_stage.bm25_candidates(collection, "dev", index_dir=tmp_path)
        rebuilt += [str(warning.message) for warning in caught] == [f"the index {home} is damaged: it is built anew"]
        pd.testing.assert_frame_equal(found, expected)
    assert rebuilt == PLACES


@pytest.fixture(scope="module")
def collection():
    return load_collection("sample")


@pytest.fixture
def measured(tmp_path, collection, monkeypatch):
    """BM25 measured on the sample's dev split."""
    monkeypatch.setattr(result_files, "indexes_folder", lambda: tmp_path / "indexes")
    result_files.measure_first_stage(tmp_path / "results", collection, "dev", depth=5)
    return Results(tmp_path / "results")


@pytest.mark.parametrize("file", ["run.dev.trec.gz", "per_query.dev.csv", "run.dev.json"])
def test_damaged_results_are_refused(measured, file):
    """A digit that changes in a table of values, or a table cut at the end of a line, looks like any other."""
    run, values = measured.run("bm25", "dev"), measured.values("bm25", "dev")
    path = measured.folder / "bm25" / file
    refused = 0
    for damage in damages(path):
        for read, expected in ((measured.run, run), (measured.values, values)):
            try:
                found = read("bm25", "dev")
            except ValueError as error:
                refused += 1
                assert str(path.parent) in str(error), damage
            else:
                pd.testing.assert_frame_equal(found, expected)
    assert refused >= 2 * PLACES if file != "run.dev.json" else refused >= 8
    pd.testing.assert_frame_equal(measured.values("bm25", "dev"), values)


def test_values_that_are_not_as_measured_are_named(measured):
    path = measured.folder / "bm25" / "per_query.dev.csv"
    path.write_text(path.read_text().rpartition("\n")[0].rpartition("\n")[0] + "\n")  # the last query is lost
    with pytest.raises(ValueError) as error:
        measured.values("bm25", "dev")
    assert str(error.value) == (
        f"{path} is not as it was measured: its SHA-256 is not the one in run.dev.json; run notebook 03 again for this "
        "system, which measures it anew, or delete both"
    )


def test_a_run_file_in_plain_text_is_refused_or_a_run(tmp_path):
    """Plain text knows no sum: what is refused is what is no run any more, with its line."""
    path = tmp_path / "run.trec"
    frame = pd.DataFrame({"query_id": "q", "doc_id": [f"d{i}" for i in range(40)], "score": [i / 7 for i in range(40)]})
    runs.write_run(frame, path)
    for damage in damages(path):
        try:
            runs.validate_run(runs.read_run(path))
        except ValueError as error:
            assert str(error).startswith(str(path)), damage


# --- a full disk


def no_space(*arguments, **named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


RUN = pd.DataFrame({"query_id": ["q"], "doc_id": ["d"], "score": [1.0]})
VALUES = pd.DataFrame({"query_id": ["q"], "measure": ["RR@10"], "value": [0.5], "residual": [float("nan")]})
WRITERS = {
    "run.trec": lambda path, n: runs.write_run(RUN.assign(score=float(n)), path),
    "run.trec.gz": lambda path, n: runs.write_run(RUN.assign(score=float(n)), path),
    "per_query.csv": lambda path, n: evaluation.write_values(VALUES.assign(value=float(n)), path),
    "history.csv": lambda path, n: files.write_lines(path, [f"{n}\n"]),
}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("call", ["write", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, name, call):
    """The disk is full when the first byte is written, or when the new file takes the old one's place."""
    path = tmp_path / name
    WRITERS[name](path, 1)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        if call == "replace":
            patch.setattr(os, "replace", no_space)
        else:
            fill(patch)
        with pytest.raises(OSError, match="No space left"):
            WRITERS[name](path, 2)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [name]
    WRITERS[name](path, 2)
    assert path.read_bytes() != before


def fill(patch):
    """Let every file that is opened for writing be on a full disk: what reaches the system ends as on /dev/full."""
    opened = training_folder.Path.open

    def open_full(path, mode="r", *arguments, **named):
        if "w" in mode:
            opened(path, mode, *arguments, **named).close()  # the directory's entry still fits
            return opened(type(path)("/dev/full"), mode, *arguments, **named)
        return opened(path, mode, *arguments, **named)

    patch.setattr(training_folder.Path, "open", open_full)


@pytest.mark.parametrize("write", ["save_torch_state_dict", "write_sums"])
def test_a_full_disk_leaves_the_old_checkpoint(checkpoint, monkeypatch, write):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    model = load_model(checkpoint)
    with torch.no_grad():
        model.classifier.bias += 1
    with monkeypatch.context() as patch:
        patch.setattr(models, write, no_space)
        with pytest.raises(OSError, match="No space left"):
            model.save_pretrained(checkpoint)
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_small_disk_that_runs_full(tmp_path, toy_bert_folder):
    """A real one of 400 kB: the checkpoint that fits stays, the one that would replace it does not fit beside it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=400k tmpfs '{disk}' 2>/dev/null") != 0:
        pytest.skip("this machine mounts nothing")
    try:
        model = build_model("bert", checkpoint=toy_bert_folder)
        model.save_pretrained(disk / "checkpoint")
        expected = {name: value.clone() for name, value in model.state_dict().items()}
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 100_000))
        with torch.no_grad():
            model.classifier.bias += 1
        with pytest.raises(Exception, match="No space left|os error 28"):
            model.save_pretrained(disk / "checkpoint")
        assert sorted(path.name for path in disk.iterdir()) == ["ballast", "checkpoint"]
        assert_equal_bits(load_model(disk / "checkpoint").state_dict(), expected)
    finally:
        os.system(f"umount '{disk}'")
