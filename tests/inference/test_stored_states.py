"""States on disk: the scores they give, whose they are, and a store that is cut short, damaged, full or shared."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors
import safetensors.torch
import torch
from tests.conftest import spread

import gdmtl_lib as gdmtl
from gdmtl_lib.inference import likelihood, stored_states
from gdmtl_lib.inference.likelihood import query_likelihood
from gdmtl_lib.data.files import try_lock
from gdmtl_lib.pretrained import build_model, load_model
from gdmtl_lib.inference.prefix_cache import Source, encode_sources
from gdmtl_lib.inference.stored_states import StoredStates, open_states

from .conftest import HOW

TOYS = ["gdmtl", "gdmtl_s"]


@pytest.fixture(params=TOYS)
def model(request, toy_bert_folder):
    return spread(build_model(request.param, checkpoint=toy_bert_folder), 4, embeddings=3)


def scores_of(run):
    return run.sort_values(["query_id", "doc_id"])["score"].to_numpy()


@pytest.fixture
def scores(model, collection, candidates):
    """Scores with the states of a folder, or with what is given, in one order."""

    def score(states, model=model, **how):
        return scores_of(query_likelihood(model, collection, candidates, states=states, **HOW | how))

    return score


@pytest.fixture
def encoded(monkeypatch):
    """The passages that were computed, of all calls."""
    seen, original = [], stored_states.encode_sources

    def encode(model, sequences):
        seen.extend(tuple(sequence.input_ids) for sequence in sequences)
        return original(model, sequences)

    monkeypatch.setattr(stored_states, "encode_sources", encode)
    return seen


def assert_close(found, expected):
    """As far as bf16 goes: alone or beside others, a passage's states may be rounded to neighbours."""
    np.testing.assert_allclose(found, expected, rtol=10 * 2**-9)


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "made_from.json")


def rounded(model, sequences):
    """Every state as the nearest bf16 number."""
    return [
        Source(**{name: part.to(torch.bfloat16).float() for name, part in vars(source).items() if part is not None})
        for source in encode_sources(model, sequences)
    ]


def test_scores_are_those_of_states_rounded_to_bf16_stored_or_not(scores, encoded, tmp_path, monkeypatch):
    """To the last bit: computed and stored, read, and computed without a store but rounded."""
    first = scores(tmp_path / "states")
    passages = len(encoded)
    assert passages == len(set(encoded)) == len(files_in(tmp_path / "states"))
    second = scores(tmp_path / "states")
    assert len(encoded) == passages  # nothing was computed again
    with monkeypatch.context() as patch:
        patch.setattr(likelihood, "encode_sources", rounded)
        expected = scores(None)
    assert np.array_equal(first, expected) and np.array_equal(second, expected)


def test_scores_are_those_of_the_plain_pass_within_the_rounding(scores, tmp_path):
    """bf16 keeps 8 bits: a state is off by at most 2^-9 of itself. A likelihood may be off by ten times that share."""
    plain, stored = scores(None), scores(tmp_path / "states")
    assert 0 < np.abs(stored / plain - 1).max() < 10 * 2**-9
    assert np.corrcoef(plain, stored)[0, 1] > 0.999


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_batches_and_queries_do_not_matter(scores, precision, tmp_path):
    first = scores(tmp_path / "states", precision=precision)
    again = scores(tmp_path / "states", precision=precision, batch_tokens=60)
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    np.testing.assert_allclose(again, first, rtol=tolerance, atol=tolerance)


def test_what_is_stored_is_bf16_in_safetensors(scores, model, tmp_path):
    scores(tmp_path / "states")
    for path in files_in(tmp_path / "states"):
        tensors = safetensors.torch.load_file(path)
        assert set(tensors) == ({"keys", "values", "states"} if model.system.backbone == "encoder" else {"states"})
        assert {part.dtype for part in tensors.values()} == {torch.bfloat16}


def test_another_models_states_are_never_used(scores, model, encoded, tmp_path):
    """A weight that has changed in its last digit, the other precision: all is computed anew, beside the old."""
    scores(tmp_path / "states")
    passages = len(encoded)
    weight = model.get_input_embeddings().weight.data
    weight[7, 0] += 1e-6
    changed = scores(tmp_path / "states")
    assert len(encoded) == 2 * passages
    scores(tmp_path / "states", precision="bf16")
    assert len(encoded) == 3 * passages
    assert len(list((tmp_path / "states").iterdir())) == 3
    weight[7, 0] -= 1e-6
    weight[5:] *= 1.5  # and one that scores otherwise
    assert np.abs(scores(tmp_path / "states") - changed).min() > 1e-4
    assert np.array_equal(scores(tmp_path / "states"), scores(tmp_path / "elsewhere"))


def test_a_saved_models_states_are_its_own_again_and_a_setting_makes_them_others(scores, model, encoded, tmp_path):
    """Settings count too, not weights alone: the same weights with another norm give other states."""
    expected = scores(tmp_path / "states")
    passages = len(encoded)
    model.save_pretrained(tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    assert np.array_equal(scores(tmp_path / "states", model=loaded), expected) and len(encoded) == passages
    loaded.config.layer_norm_eps = 0.1
    scores(tmp_path / "states", model=loaded)
    assert len(encoded) == 2 * passages


def spoilt(content):
    """What a crash, a disk or a mistake makes of a file."""
    middle = len(content) * 3 // 4
    yield b""
    yield content[:5]
    yield content[:middle]
    yield content[:-1]
    yield content[:middle] + bytes([content[middle] ^ 64]) + content[middle + 1 :]
    yield content[: len(content) // 2] + bytes(len(content) - len(content) // 2)
    sector = min(512, len(content) // 4)
    yield content[: -2 * sector] + content[-sector:] + content[-2 * sector : -sector]
    yield bytes(len(content))


def test_a_spoilt_file_is_computed_anew_and_replaced(scores, encoded, tmp_path):
    expected = scores(tmp_path / "states")
    path, other = files_in(tmp_path / "states")[:2]
    content = path.read_bytes()
    for broken in (*spoilt(content), other.read_bytes()):  # the last: another passage's
        path.write_bytes(broken)
        encoded.clear()
        assert_close(scores(tmp_path / "states"), expected)
        assert len(encoded) == 1 and path.stat().st_size == len(content)
        assert_close(scores(tmp_path / "states"), expected)
        assert len(encoded) == 1


def test_a_run_that_is_interrupted_leaves_nothing_half_written(scores, encoded, tmp_path, monkeypatch):
    expected, written, original = scores(None), [], Path.write_bytes

    def killed_at_the_third(path, content):
        written.append(path)
        original(path, content if len(written) < 3 else content[:100])
        if len(written) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", killed_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            scores(tmp_path / "states")
    assert len(files_in(tmp_path / "states")) == 2
    [folder] = (tmp_path / "states").iterdir()
    (folder / "left.tmp").write_bytes(b"half")  # of a process that could not even clean up
    encoded.clear()
    assert_close(scores(tmp_path / "states"), expected)
    assert len(files_in(tmp_path / "states")) == len(encoded) + 2 and not list(folder.glob("*.tmp"))


def test_at_the_limit_no_more_is_stored_and_the_scores_stay(scores, encoded, tmp_path):
    expected = scores(tmp_path / "all")
    sizes = [path.stat().st_size for path in files_in(tmp_path / "all")]
    limit = sum(sizes) // 2
    with pytest.warns(UserWarning, match="has reached its limit of .* GB: more passages' states are computed but not"):
        assert_close(scores(StoredStates(tmp_path / "some", limit / 1e9)), expected)
    kept = files_in(tmp_path / "some")
    assert limit - max(sizes) < sum(path.stat().st_size for path in kept) <= limit
    encoded.clear()
    with pytest.warns(UserWarning, match="has reached its limit"):
        assert_close(scores(StoredStates(tmp_path / "some", limit / 1e9)), expected)
    assert files_in(tmp_path / "some") == kept and len(encoded) == len(sizes) - len(kept)


def test_a_limit_of_0_only_reads(scores, encoded, tmp_path):
    expected = scores(tmp_path / "states")
    path, *others = files_in(tmp_path / "states")
    path.unlink()
    encoded.clear()
    with warnings.catch_warnings(action="error"):
        assert_close(scores(StoredStates(tmp_path / "states", 0)), expected)
    assert len(encoded) == 1 and files_in(tmp_path / "states") == others


def test_of_two_processes_the_second_only_reads(scores, encoded, tmp_path):
    expected = scores(tmp_path / "states")
    path, *others = files_in(tmp_path / "states")
    path.unlink()
    unfinished = path.with_suffix(".tmp")
    unfinished.write_bytes(b"being written")
    encoded.clear()
    with try_lock(tmp_path / "states" / ".lock") as is_mine:
        assert is_mine
        assert_close(scores(tmp_path / "states"), expected)
        assert unfinished.exists() and not path.exists() and len(encoded) == 1
    scores(tmp_path / "states")
    assert files_in(tmp_path / "states") == [path, *others]


def test_rerank_takes_them(model, collection, candidates, encoded, tmp_path):
    how = HOW | {"states": tmp_path / "states"}
    likely = gdmtl.rerank(model, collection, candidates, score="likelihood", **how)
    passages = len(encoded)
    pd.testing.assert_frame_equal(likely, query_likelihood(model, collection, candidates, **how))
    joint = gdmtl.rerank(model, collection, candidates, score="interpolated", weight=0.5, **how)
    ranking = gdmtl.rerank(model, collection, candidates, **HOW)
    pd.testing.assert_frame_equal(joint, likelihood.interpolate(ranking, likely, 0.5))
    assert len(encoded) == passages


def test_what_cannot_be_stored_says_why(model, collection, candidates, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file: give a folder for the passages' states"):
        query_likelihood(model, collection, candidates, states=tmp_path / "file", **HOW)
    with pytest.raises(ValueError, match="^limit_gb must be a number of 0 or more, found -1$"):
        query_likelihood(model, collection, candidates, states=StoredStates(tmp_path, -1), **HOW)


def test_without_a_store_there_is_none(model):
    with open_states(None, model, "fp32") as stored:
        assert stored is None
