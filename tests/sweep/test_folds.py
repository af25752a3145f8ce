"""A sweep with folds by session: every rotation trained, the turns they were tested on joined (Table 6)."""

import json
import random
from pathlib import Path

import pandas as pd
import pytest
import yaml

from gdmtl_lib.experiments import measuring
from gdmtl_lib.sweep import jobs as sweep, config as sweep_config
from gdmtl_lib.data.collection import load_collection, rotations_name, rotations_of
from gdmtl_lib.evaluation.measures import evaluate, write_values
from gdmtl_lib.experiments.results import Results
from gdmtl_lib.data.trec import canonical_order, read_run, write_run
from gdmtl_lib.sweep.config import read_config

PROJECT = Path(__file__).parents[2]
CAST = PROJECT / "papermill_runs" / "configs" / "cast2019.yaml"
TURNS = [f"{session}_{turn}" for session in range(31, 36) for turn in (1, 2)]


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
def values(folder, tmp_path, toy_bert_folder):
    """cast2019.yaml with another collection and a toy."""
    change = {
        "collection": f"folds:talk:{folder}", "depth": 5, "results": str(tmp_path / "results"),
        "parameters": {
            "checkpoint": str(toy_bert_folder), "layers": 1, "epochs": 1, "batch_size": 4, "max_length": 32,
            "precision": "fp32", "device": "cpu", "validate_every_epoch": True,
        },
    }  # fmt: skip
    return yaml.safe_load(CAST.read_text()) | change


def read(values):
    return read_config(values, "talks", PROJECT)


# ---- planned


def test_a_config_with_folds_measures_the_whole_split(values, folder):
    config = read(values)
    assert (config.collection, config.train_split, config.splits) == (str(folder), "talk", {"talk": 2})
    assert sweep_config.Config(**json.loads(json.dumps(config.__dict__))) == config


def test_every_rotation_is_trained_and_tested_before_the_turns_are_joined(values, folder):
    jobs = {job.name: job for job in sweep.jobs(read(values))}
    of_bert = [f"{job}_bert_seed0_fold{i}" for i in range(5) for job in ("train", "rerank")] + ["join_bert_seed0"]
    of_gdmtl = [name.replace("bert", "gdmtl") for name in of_bert]
    assert list(jobs) == [
        "measure_bm25", "02_collection_and_candidates", *of_bert, *of_gdmtl, "04_rerank_and_evaluate_talk",
        "05_score_distributions_talk", "06_win_tie_loss_talk", "07_rank_shifts_talk", "11_architectures_talk",
        "01_attention_masks", "13_generated_queries_test0", "14_what_changes_inside_test0",
    ]  # fmt: skip
    needs = {name: [need.name for need in job.needs] for name, job in jobs.items()}
    assert needs["join_bert_seed0"] == [name for name in of_bert if name.startswith("rerank")]
    assert needs["06_win_tie_loss_talk"] == ["measure_bm25", "join_bert_seed0", "join_gdmtl_seed0"]
    given = jobs["06_win_tie_loss_talk"].run.args[-1]
    assert (given["collection"], given["split"], given["relevance_level"]) == (str(folder), "talk", 2)


def test_what_looks_into_models_looks_into_those_of_the_first_rotation(values, folder, tmp_path):
    jobs = {job.name: job for job in sweep.jobs(read(values))}
    for name in ("01_attention_masks", "13_generated_queries_test0", "14_what_changes_inside_test0"):
        needs = [need.name for need in jobs[name].needs]
        assert needs == ["measure_bm25", "rerank_bert_seed0_fold0", "rerank_gdmtl_seed0_fold0"]
        given = jobs[name].run.args[-1]
        assert given["collection"] == f"folds:talk:{folder}" and given["split"] == "test0"
        assert given["results_dir"] == str(tmp_path / "results" / "talks" / "folds" / "0")
        assert name.startswith("01") or (given["train_split"], given["relevance_level"]) == ("train0", 2)
    given = jobs["11_architectures_talk"].run.args[-1]
    assert (given["split"], given["results_dir"]) == ("talk", str(tmp_path / "results" / "talks"))


def test_a_rotation_learns_from_its_own_folds(values, folder, tmp_path):
    found = list(sweep.trainings(read(values)))
    assert len(found) == 10
    assert found[3].home == tmp_path / "results" / "talks" / "folds" / "3" / "bert" / "seed0"
    assert found[3].title == "BERT, seed 0, rotation 3"
    given = found[3].given
    assert (given["collection"], given["train_split"], given["validation_split"], given["relevance_level"]) == (
        f"folds:talk:{folder}", "train3", "validate3", 2,
    )  # fmt: skip


def test_a_changed_judgment_repeats_the_rotations_in_which_its_turn_decides(values, folder):
    """All five: a turn trains in three rotations, validates in one and is tested in one."""
    before = {job.name: job.key for job in sweep.jobs(read(values))}
    path = folder / "qrels.talk.tsv"
    path.write_text(path.read_text().replace("\t2\n", "\t3\n", 1))
    after = {job.name: job.key for job in sweep.jobs(read(values))}
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
def test_folds_that_cannot_be_are_refused(values, change, message):
    with pytest.raises(ValueError) as error:
        read(values | change)
    assert str(error.value).startswith(message)


def test_any_number_of_folds_has_a_name(folder):
    assert rotations_of(rotations_name("irds:a", "b", 5)) == ("irds:a", "b", 5)
    assert rotations_of(rotations_name("irds:a", "b", 7)) == ("irds:a", "b", 7)
    assert rotations_of("irds:a") is None and rotations_of("folder") is None
    three = load_collection(rotations_name(str(folder), "talk", 3))
    assert len(three.splits) == 9 and load_collection(three.name).splits == three.splits


def test_cast2019_has_the_papers_settings_and_lists_its_jobs_for_its_own_files(tmp_path, monkeypatch):
    from tests.data.test_msmarco import write
    from tests.sweep.test_jobs import PAPERS

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = {
        "evaluation_topics_annotated_resolved_v1.0.tsv": "".join(f"{turn}\tWhat is ice?\n" for turn in TURNS),
        "2019qrels.txt": "".join(f"{turn} Q0 MARCO_1 2\n" for turn in TURNS),
    }
    (tmp_path / "msmarco").mkdir()
    folder = write(tmp_path / "msmarco", **files)
    values = yaml.safe_load(CAST.read_text()) | {"collection": f"folds:cast-2019:{folder}"}
    config = read_config(values, "cast2019", PROJECT)
    assert all(PAPERS.items() <= given.items() for given in config.parameters.values())
    assert config.splits == {"cast-2019": 2} and config.depth == 1000 and config.folds == 5
    names = [job.name for job in sweep.jobs(config)]
    assert len(names) == 2 + 2 * 11 + 8 and names[-8] == "04_rerank_and_evaluate_cast-2019"


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
    measuring.join_folds(parts, output, "talk", "bert")
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
        measuring.join_folds([*parts, parts[0]], output, "talk", "bert")
