"""BM25's settings, and the trainings of a config: one of each system and seed, or one a rotation (Table 6)."""

import inspect
import json
import random
from pathlib import Path

import pandas as pd
import pytest
import yaml

from gdmtl_lib.data import bm25 as tuning
from gdmtl_lib.data.bm25 import bm25_candidates
from gdmtl_lib.data.collection import load_collection, rotations_name, rotations_of
from gdmtl_lib.data.trec import canonical_order, read_run, write_run
from gdmtl_lib.evaluation.measures import evaluate, write_values
from gdmtl_lib.experiments import results as result_files
from gdmtl_lib.experiments.notebook import notebook_parameters
from gdmtl_lib.experiments.results import Results
from gdmtl_lib.sweep import trainings as sweep_trainings
from gdmtl_lib.sweep.config import Config, read_config
from gdmtl_lib.sweep.execute import execute
from gdmtl_lib.sweep.jobs import plan, prepare
from gdmtl_lib.sweep.trainings import first_stage_inputs, first_stage_of, rotations, trainings

PROJECT = Path(__file__).parents[2]
TURNS = [f"{session}_{turn}" for session in range(31, 36) for turn in (1, 2)]
SEARCHING = ("02_collection_and_candidates", "03_train", "04_rerank_and_evaluate", "10_transfer")

# ---- the first stage


def test_the_notebooks_that_search_take_what_bm25_takes():
    own = inspect.signature(bm25_candidates).parameters
    for notebook in SEARCHING:
        declared = notebook_parameters(PROJECT / "notebooks" / f"{notebook}.ipynb")
        assert {name: declared[name][1] for name in ("k1", "b", "enriched")} == {
            name: own[name].default for name in ("k1", "b", "enriched")
        }


def test_a_changed_k1_repeats_everything(planned, changed):
    """Candidates are what is trained on, re-ranked and looked at."""
    assert changed(first_stage={"k1": "2"}) == set(planned())


def test_other_enriched_passages_repeat_and_the_same_elsewhere_do_not(read, planned, tmp_path):
    for name, text in (("a", "ice"), ("b", "wind"), ("c", "ice")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": "1", "contents": text}) + "\n")
    a, b, c = (first_stage_inputs(read(first_stage={"enriched": f"{tmp_path}/{name}.jsonl"})) for name in "abc")
    assert a == c != b
    with pytest.raises(FileNotFoundError, match="^no enriched passages at .*d.jsonl: expected a file of JSON lines"):
        planned(first_stage={"enriched": f"{tmp_path}/d.jsonl"})


def test_tuned_settings_are_found_first_and_used_by_all_that_search(read, monkeypatch, tmp_path):
    monkeypatch.setattr(sweep_trainings, "tune_bm25", lambda *given, **named: tuning.tune_bm25(
        *given, **named | {"k1s": [0.9, 3.0], "bs": [0.4]}
    ))  # fmt: skip
    config = read(first_stage={"tune": 20})
    jobs = {job.name: job for job in prepare(config)}
    assert next(iter(jobs)) == "tune_bm25"
    for name in ("measure_bm25", "search_train_top5"):
        assert jobs[name].needs == ["tune_bm25"]
    execute(config, list(jobs.values()), jobs["tune_bm25"])
    assert jobs["tune_bm25"].is_done()
    found = first_stage_of(config)
    assert found["k1"] in (0.9, 3.0) and found["b"] == 0.4
    assert (tmp_path / "test" / "tables" / "candidate_tuning.csv").read_text().startswith("k1,b,recall,queries\n")
    assert prepare(config) == list(jobs.values())  # what was found changes no plan


# ---- rotations


@pytest.fixture
def folder(tmp_path):
    """CAsT in small: ten turns of five sessions, each about a passage of its own."""
    folder, draw = tmp_path / "talks", random.Random(0)
    folder.mkdir()
    words = "glacier river city king war ice water light day food north south".split()
    passages = {f"d{number}": " ".join(draw.choices(words, k=8)) for number in range(40)}
    about = dict(zip(TURNS, draw.sample(sorted(passages), len(TURNS))))

    def lines(name, rows):
        (folder / name).write_text("".join("\t".join(row) + "\n" for row in rows))

    lines("passages.tsv", passages.items())
    lines("queries.talk.tsv", [(turn, " ".join(passages[doc].split()[:3])) for turn, doc in about.items()])
    lines("qrels.talk.tsv", [(turn, "0", doc, "2") for turn, doc in about.items()])
    lines("sessions.talk.tsv", [(turn, turn[:2]) for turn in TURNS])
    return folder


@pytest.fixture
def cast2019(folder, tmp_path, toy_bert_folder):
    """cast2019.yaml with another collection and a toy."""
    change = {
        "collection": f"folds:talk:{folder}", "depth": 5, "results": str(tmp_path / "results"),
        "parameters": {
            "checkpoint": str(toy_bert_folder), "layers": 1, "epochs": 1, "batch_size": 4, "max_length": 32,
            "precision": "fp32", "device": "cpu", "validate_every_epoch": True,
        },
    }  # fmt: skip
    return yaml.safe_load((PROJECT / "papermill_runs" / "configs" / "cast2019.yaml").read_text()) | change


@pytest.fixture
def talks(cast2019):
    return lambda **change: read_config(cast2019 | change, "talks", PROJECT)


@pytest.fixture
def jobs(talks):
    return {job.name: job for job in plan(talks())}


# ---- planned


def test_a_config_with_folds_measures_the_whole_split(talks, folder):
    config = talks()
    assert (config.collection, config.train_split, config.splits) == (str(folder), "talk", {"talk": 2})
    assert Config(**json.loads(json.dumps(config.__dict__))) == config


def test_every_rotation_is_trained_and_tested_before_the_turns_are_joined(jobs, folder):
    of_bert = [f"{job}_bert_seed0_fold{i}" for i in range(5) for job in ("train", "rerank")] + ["join_bert_seed0"]
    of_gdmtl = [name.replace("bert", "gdmtl") for name in of_bert]
    assert list(jobs) == [
        "measure_bm25", "02_collection_and_candidates", *of_bert, *of_gdmtl, "04_rerank_and_evaluate_talk",
        "05_score_distributions_talk", "06_win_tie_loss_talk", "07_rank_shifts_talk", "11_architectures_talk",
        "01_attention_masks", "13_generated_queries_test0", "14_what_changes_inside_test0",
    ]  # fmt: skip
    needs = {name: job.needs for name, job in jobs.items()}
    assert needs["join_bert_seed0"] == [name for name in of_bert if name.startswith("rerank")]
    assert needs["06_win_tie_loss_talk"] == ["measure_bm25", "join_bert_seed0", "join_gdmtl_seed0"]
    given = jobs["06_win_tie_loss_talk"].given["parameters"]
    assert (given["collection"], given["split"], given["relevance_level"]) == (str(folder), "talk", 2)


def test_what_looks_into_models_looks_into_those_of_the_first_rotation(jobs, folder, tmp_path):
    for name in ("01_attention_masks", "13_generated_queries_test0", "14_what_changes_inside_test0"):
        assert jobs[name].needs == ["measure_bm25", "rerank_bert_seed0_fold0", "rerank_gdmtl_seed0_fold0"]
        given = jobs[name].given["parameters"]
        assert given["collection"] == f"folds:talk:{folder}" and given["split"] == "test0"
        assert given["results_dir"] == str(tmp_path / "results" / "talks" / "folds" / "0")
        assert name.startswith("01") or (given["train_split"], given["relevance_level"]) == ("train0", 2)
    given = jobs["11_architectures_talk"].given["parameters"]
    assert (given["split"], given["results_dir"]) == ("talk", str(tmp_path / "results" / "talks"))


def test_a_rotation_learns_from_its_own_folds(talks, folder, tmp_path):
    config = talks()
    found = [each for training in trainings(config) for each in rotations(config, training)]
    assert len(found) == 10
    assert found[3].home == str(tmp_path / "results" / "talks" / "folds" / "3" / "bert" / "seed0")
    assert found[3].title == "BERT, seed 0, rotation 3"
    given = found[3].given
    assert (given["collection"], given["train_split"], given["validation_split"], given["relevance_level"]) == (
        f"folds:talk:{folder}", "train3", "validate3", 2,
    )  # fmt: skip


def test_a_changed_judgment_repeats_the_rotations_in_which_its_turn_decides(talks, folder):
    """All five: a turn trains in three rotations, validates in one and is tested in one."""
    before = {job.name: job.key for job in plan(talks())}
    path = folder / "qrels.talk.tsv"
    path.write_text(path.read_text().replace("\t2\n", "\t3\n", 1))
    after = {job.name: job.key for job in plan(talks())}
    rotation = next(
        i for i, part in enumerate(load_collection(f"folds:talk:{folder}").queries(f"test{i}") for i in range(5))
        if TURNS[0] in set(part["query_id"])
    )  # fmt: skip
    same = {name for name in after if after[name] == before[name]}
    assert same == {f"train_{system}_seed0_fold{rotation}" for system in ("bert", "gdmtl")}  # it is tested there alone


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": 2}, "config talks: expected folds of 3 or more and the collection folds:<split>:<collection>, found folds "
         "2 and the collection 'folds:talk:"),
        ({"collection": "sample"}, "config talks: expected folds of 3 or more and the collection folds:<split>:<collection>, "
         "found folds 5 and the collection 'sample'"),
        ({"collection": "folds:talk"}, "expected folds:<split>:<collection>, found 'folds:talk'"),
        ({"splits": {"test": 2}}, "config talks: with folds expected train_split train and splits {validate: n, test: n}, the "
         "parts of every rotation, found train and {'test': 2}"),
        ({"studies": {"size": {"systems": ["bert"], "seeds": [0], "variants": {"all": {}}}}}, "config talks: with folds every "
         "query is tested on, and none is left for studies: give them a config of their own"),
        ({"first_stage": {"tune": 10}}, "config talks: with folds every query is tested on, and none is left for tune"),
    ],
)  # fmt: skip
def test_folds_that_cannot_be_are_refused(talks, change, message):
    with pytest.raises(ValueError) as error:
        talks(**change)
    assert str(error.value).startswith(message)


def test_any_number_of_folds_has_a_name(folder):
    assert rotations_of(rotations_name("irds:a", "b", 5)) == ("irds:a", "b", 5)
    assert rotations_of(rotations_name("irds:a", "b", 7)) == ("irds:a", "b", 7)
    assert rotations_of("irds:a") is None and rotations_of("folder") is None
    three = load_collection(rotations_name(str(folder), "talk", 3))
    assert len(three.splits) == 9 and load_collection(three.name).splits == three.splits


# ---- joined


def test_the_joined_turns_are_what_the_whole_split_would_give(folder, tmp_path):
    """Five rotations that score alike: their runs and values are those of one system measured on all turns."""
    whole, rotations = load_collection(str(folder)), load_collection(f"folds:talk:{folder}")
    draw = random.Random(1)
    rows = [(turn, f"d{doc}", draw.random()) for turn in TURNS for doc in range(40)]
    run = canonical_order(pd.DataFrame(rows, columns=["query_id", "doc_id", "score"]))
    parts = []
    for number in range(5):
        home, split = tmp_path / str(number), f"test{number}"
        tested = run[run["query_id"].isin(rotations.queries(split)["query_id"])]
        write_run(tested, home / f"run.{split}.trec.gz")
        write_values(evaluate(tested, rotations.qrels(split), relevance_level=2), home / f"per_query.{split}.csv")
        parts.append((home, split))
    output = tmp_path / "results" / "bert" / "seed0"
    result_files.join_folds(parts, output, "talk", "bert")
    results = Results(tmp_path / "results")
    joined = results.run("bert", "talk").sort_values(["query_id", "rank"], ignore_index=True)
    expected = run.sort_values(["query_id", "rank"], ignore_index=True)
    pd.testing.assert_frame_equal(joined[["query_id", "doc_id", "rank"]], expected[["query_id", "doc_id", "rank"]])
    key = ["measure", "query_id"]
    expected = evaluate(read_run(output / "run.talk.trec.gz"), whole.qrels("talk"), relevance_level=2)
    found = results.values("bert", "talk")[expected.columns]
    pd.testing.assert_frame_equal(
        found.sort_values(key, ignore_index=True), expected.sort_values(key, ignore_index=True)
    )
    with pytest.raises(ValueError, match="stands in an earlier one too"):
        result_files.join_folds([*parts, parts[0]], output, "talk", "bert")
