import copy
import dataclasses
import json
import re
import shutil
import socket
import time
from pathlib import Path

import pytest
import yaml

from gdmtl_lib import systems
from gdmtl_lib.sweep import jobs as sweep, config as sweep_config

PROJECT = Path(__file__).parents[2]
CONFIGS = PROJECT / "papermill_runs" / "configs"
SYSTEMS = ["bert", "mono", "gdmtl", "gdmtl_plus", "bart_s", "gdmtl_s", "bart_c", "gdmtl_c"]


@pytest.fixture
def values(tmp_path):
    """A small valid config, its results under the test's folder."""
    return {
        "collection": "sample", "train_split": "train", "splits": {"dev": 1, "cast": 2}, "systems": ["bert", "GDMTL+"],
        "seeds": [0, 1], "baseline": "bert", "depth": 5, "parameters": {"epochs": 1, "learning_rate": "1e-4"},
        "overrides": {"bert": {"epochs": 2}}, "results": str(tmp_path),
    }  # fmt: skip


def read(values):
    return sweep_config.read_config(values, "test", PROJECT)


def keys(values, project=PROJECT):
    return {job.name: job.key for job in sweep.jobs(sweep_config.read_config(values, "test", project))}


# ---- configs


def test_a_config_is_resolved(values, tmp_path):
    config = read(values)
    assert config.systems == ["bert", "gdmtl_plus"]
    assert config.parameters == {
        "bert": {"epochs": 2, "learning_rate": 1e-4}, "gdmtl_plus": {"epochs": 1, "learning_rate": 1e-4},
    }  # fmt: skip
    assert config.folder == str(tmp_path / "test")
    assert sweep_config.Config(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_results_go_to_papermill_runs_unless_told_otherwise(values):
    del values["results"]
    assert read(values).folder == str(PROJECT / "papermill_runs" / "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colection": "x"}, "config test: unknown key 'colection' (did you mean 'collection'?): a config has collection, "
         "train_split, splits, folds, systems, seeds, baseline, depth, first_stage, parameters, overrides, studies, results"),
        ({"seeds": None}, "config test: seeds must be list[int], found None (NoneType)"),
        ({"seeds": 3}, "config test: seeds must be list[int], found 3 (int)"),
        ({"seeds": []}, "config test: expected at least one of each of splits, systems and seeds"),
        ({"seeds": [0, 0]}, "config test: expected each of seeds once, found 0, 0"),
        ({"seeds": [-1]}, "config test: expected a depth of 1 or more and seeds of 0 or more, found depth 5 and seeds [-1]"),
        ({"depth": 0}, "config test: expected a depth of 1 or more and seeds of 0 or more, found depth 0 and seeds [0, 1]"),
        ({"depth": "deep"}, "config test: depth must be int, found 'deep' (str)"),
        ({"splits": ["dev"]}, "config test: splits must be a mapping, found ['dev']"),
        ({"splits": {"dev": 0}}, "config test: splits must say the lowest relevant grade of each split, as `dev: 1`; "
         "found 'dev': 0"),
        ({"systems": ["bert", "gdmlt"]}, "config test: unknown system 'gdmlt' (did you mean 'gdmtl'?): expected some of "
         "mono, bert, gdmtl, gdmtl_plus, bart_s, gdmtl_s, bart_c, gdmtl_c (bm25 is always there)"),
        ({"systems": ["bm25"]}, "config test: unknown system 'bm25': expected some of mono, bert, gdmtl, gdmtl_plus, "
         "bart_s, gdmtl_s, bart_c, gdmtl_c (bm25 is always there)"),
        ({"systems": ["bert", "BERT"]}, "config test: expected each of systems once, found bert, bert"),
        ({"baseline": "mono"}, "config test: baseline 'mono' must be bm25 or among bert, gdmtl_plus"),
        ({"overrides": {"momo": {}}}, "config test: unknown system 'momo' (did you mean 'mono'?): expected some of mono, "),
        ({"overrides": {"bert": 3}}, "config test: overrides of bert must be a mapping, found 3"),
        ({"parameters": {"epoch": 1}}, "config test, parameters: unknown parameter 'epoch' (did you mean 'epochs'?): "
         "03_train has checkpoint, layers, train_depth, epochs"),
        ({"parameters": {"epochs": "many"}}, "config test: parameters: epochs must be int, found 'many' (str)"),
        ({"parameters": {"epochs": 0}}, "config test, gdmtl_plus: epochs must be at least 1, found 0"),
        ({"overrides": {"bert": {"learning_rate": "nan"}}},
         "config test: overrides of bert: learning_rate must be float, found 'nan' (str)"),
        ({"parameters": {"seed": 1}}, "config test, parameters: seed is set by the sweep; a config has collection, "),
    ],
)  # fmt: skip
def test_a_wrong_config_is_refused_in_a_sentence(values, change, message):
    with pytest.raises(ValueError) as error:
        read(values | change)
    assert str(error.value).startswith(message)


def test_overrides_of_a_system_that_is_not_trained_this_time_are_nothing(values):
    """As with `--config systems=[bert,gdmtl]` for the config of MS MARCO, which has overrides for six others."""
    assert read(values | {"overrides": {"mono": {"checkpoint": "bert-large-uncased"}}}).parameters == read(
        values | {"overrides": {}}
    ).parameters


def test_what_is_missing_is_named(values):
    del values["collection"]
    with pytest.raises(ValueError, match="^config test lacks collection: add it to the file, or give it as --config coll"):
        read(values)


@pytest.mark.parametrize(
    ("value", "annotation", "number"),
    [
        ("1e-4", "float", 1e-4), ("1.5E-4", "float", 1.5e-4), ("3", "int | None", 3), (".5", "str | float", 0.5),
        ("uncertainty", "str | float", "uncertainty"), ("3", "str", "3"), ("1e-4", "int", "1e-4"), (2, "int", 2),
        ("inf", "float", "inf"), ("0x10", "int", "0x10"),
    ],
)  # fmt: skip
def test_numbers_that_yaml_takes_for_texts(value, annotation, number):
    found = sweep_config._number(value, annotation)
    assert found == number and type(found) is type(number)


def test_numbers_that_snakemake_takes_for_texts(values):
    """`--config seeds=[0,1]` arrives as texts."""
    config = read(values | {"seeds": ["0", "3"], "splits": {"dev": "2"}})
    assert config.seeds == [0, 3] and config.splits == {"dev": 2}


@pytest.mark.parametrize("name", ["smoke", "sample"])
def test_the_configs_of_the_project_train_all_eight_systems_the_cheapest_first(name):
    config = sweep_config.read_config(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()), name, PROJECT)
    assert config.systems == SYSTEMS
    assert config.splits == {"dev": 1, "cast": 2}
    names = [job.name for job in sweep.jobs(config)]
    assert names[2:18] == [f"{job}" for system in SYSTEMS for job in (f"train_{system}_seed0", f"rerank_{system}_seed0_cast")]
    assert len(names) == len(set(names))


def test_the_config_for_wikiqa_lacks_nothing_but_its_folder():
    values = yaml.safe_load((CONFIGS / "wikiqa.yaml").read_text())
    config = sweep_config.read_config(values | {"collection": "wikiqa:somewhere"}, "wikiqa", PROJECT)
    assert (config.systems, config.seeds, config.depth) == (["bert", "gdmtl"], [0, 1, 2], 50)
    with pytest.raises(FileNotFoundError, match="somewhere"):
        sweep.jobs(config)


PAPERS = {
    "epochs": 10, "batch_size": 32, "learning_rate": 2e-5, "min_learning_rate": 1e-6, "warmup_epochs": 1,
    "loss_weighting": "uncertainty", "generation_head_warmup_steps": 0, "validate_every_epoch": True,
}  # fmt: skip


def test_msmarco_has_the_papers_settings_and_lists_its_jobs_for_its_own_files(tmp_path, monkeypatch):
    """With a folder of MS MARCO's files in place of ir_datasets, whose splits are called the same."""
    from tests.data.test_msmarco import write

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "msmarco").mkdir()
    folder = write(tmp_path / "msmarco", **{"answers.train.tsv": "10\tLudwig\n"})
    values = yaml.safe_load((CONFIGS / "msmarco.yaml").read_text())
    config = sweep_config.read_config(values | {"collection": str(folder)}, "msmarco", PROJECT)
    assert sorted(config.systems) == sorted(SYSTEMS) and config.depth == 1000
    checkpoints = {system: given["checkpoint"] for system, given in config.parameters.items()}
    assert checkpoints == {name: system.checkpoint for name, system in systems.SYSTEMS.items()}
    for given in config.parameters.values():
        assert PAPERS.items() <= given.items()
    names = [job.name for job in sweep.jobs(config)]
    assert names[:2] == ["measure_bm25", "02_collection_and_candidates"]
    assert names[2:10] == [f"train_{system}_seed0" for system in config.systems]
    assert names[10] == "04_rerank_and_evaluate_dev-small" and "11_architectures_dev-small" in names
    (folder / "answers.train.tsv").unlink()
    with pytest.raises(ValueError, match="has no answers for the split 'train'"):
        sweep.jobs(config)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("msmarco", "fetch it where there is a network, with `ir_datasets export msmarco-passage/train queries`, and copy"),
        ("cast2019", "fetch them with `curl --create-dirs -o "),
    ],
)
def test_msmarco_and_cast_say_at_once_what_is_missing_and_how_to_fetch_it(name, command, tmp_path, monkeypatch):
    def no_network(*_):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path))
    config = sweep_config.read_config(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()), name, PROJECT)
    started = time.monotonic()
    with pytest.raises(FileNotFoundError, match=re.escape(command)):
        sweep.jobs(config)
    assert time.monotonic() - started < 1


# ---- jobs


def test_every_job_stands_after_what_it_needs_and_first_systems_come_first(values):
    jobs = sweep.jobs(read(values))
    assert [job.name for job in jobs] == [
        "measure_bm25", "02_collection_and_candidates",
        "train_bert_seed0", "rerank_bert_seed0_cast", "train_gdmtl_plus_seed0", "rerank_gdmtl_plus_seed0_cast",
        "train_bert_seed1", "rerank_bert_seed1_cast", "train_gdmtl_plus_seed1", "rerank_gdmtl_plus_seed1_cast",
        "04_rerank_and_evaluate_dev", "04_rerank_and_evaluate_cast", "05_score_distributions_dev",
        "05_score_distributions_cast", "06_win_tie_loss_dev", "06_win_tie_loss_cast", "07_rank_shifts_dev",
        "07_rank_shifts_cast", "08_query_categories_dev", "10_transfer", "11_architectures_dev", "01_attention_masks",
        "12_query_likelihood_dev", "13_generated_queries_dev", "14_what_changes_inside_dev",
    ]  # fmt: skip
    for place, job in enumerate(jobs):
        assert all(need in jobs[:place] for need in job.needs)
    needs = {job.name: [need.name for need in job.needs] for job in jobs}
    bm25 = "measure_bm25"
    assert needs["04_rerank_and_evaluate_cast"] == [bm25, *(name for name in needs if name.startswith("rerank_"))]
    assert needs["06_win_tie_loss_dev"] == [bm25, *(name for name in needs if name.startswith("train_"))]


def changed(values, **change):
    """The names of the jobs that would be repeated."""
    before, after = keys(values), keys(copy.deepcopy(values) | change)
    return {name for name in after if after[name] != before.get(name)}


EVALUATE = {"04_rerank_and_evaluate_dev", "04_rerank_and_evaluate_cast"}
GENERATING = {"12_query_likelihood_dev", "13_generated_queries_dev", "14_what_changes_inside_dev"}
ONCE = {"08_query_categories_dev", "10_transfer", "11_architectures_dev", "01_attention_masks"} | GENERATING
ANALYSES = ONCE | {
    f"{name}_{split}"
    for name in ("04_rerank_and_evaluate", "05_score_distributions", "06_win_tie_loss", "07_rank_shifts")
    for split in ("dev", "cast")
}
BERT = {"train_bert_seed0", "train_bert_seed1", "rerank_bert_seed0_cast", "rerank_bert_seed1_cast"}


def test_the_same_config_gives_the_same_jobs(values):
    assert changed(values) == set()


def test_a_changed_learning_rate_repeats_that_system_and_what_follows(values):
    assert changed(values, overrides={"bert": {"epochs": 2, "learning_rate": 2e-4}}) == BERT | ANALYSES


def test_another_seed_adds_jobs(values):
    values["seeds"] = [0]
    new = {name for name in BERT if "seed1" in name}
    assert changed(values, seeds=[0, 1]) == new | {name.replace("bert", "gdmtl_plus") for name in new} | ANALYSES


def test_another_grade_measures_again(values):
    repeated = changed(values, splits={"dev": 1, "cast": 3})
    assert {name for name in repeated if name.startswith("train")} == set()
    assert {"measure_bm25", "rerank_bert_seed0_cast"} <= repeated and "04_rerank_and_evaluate_cast" in repeated


def test_another_baseline_repeats_the_analyses_alone(values):
    # GDMTL+ is the only one of them that generates: with it as the baseline nothing is left to compare it with.
    assert changed(values, baseline="gdmtl_plus") == ANALYSES - GENERATING - {"01_attention_masks", "11_architectures_dev"}


STUDY = {"systems": ["gdmtl"], "seeds": [3], "variants": {"half": {"train_fraction": 0.5}, "all": None}}


def test_a_study_trains_its_variants_after_everything_else_on_the_validation_split(values, tmp_path):
    config = read(values | {"studies": {"size": STUDY}})
    assert config.studies["size"]["variants"] == {
        "half": {"gdmtl": {"epochs": 1, "learning_rate": 1e-4, "train_fraction": 0.5}},
        "all": {"gdmtl": {"epochs": 1, "learning_rate": 1e-4}},
    }
    assert sweep_config.Config(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert [job.name for job in sweep.jobs(config)][-2:] == ["train_size_half_gdmtl_seed3", "train_size_all_gdmtl_seed3"]
    assert changed(values, studies={"size": STUDY}) == {"train_size_half_gdmtl_seed3", "train_size_all_gdmtl_seed3"}
    [half, _] = sweep.trainings(config, "size")
    assert half.home == tmp_path / "test" / "studies" / "size" / "half" / "gdmtl" / "seed3"
    assert half.given["output_dir"] == str(half.home) and half.title == "GDMTL, seed 3, size half"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"systems": []}, "config test, study size: expected at least one of each of systems, seeds, variants, found no systems"),
        ({"seeds": [1, "1"]}, "config test, study size: expected each of seeds once, found 1, 1"),
        ({"variants": ["half"]}, "config test, study size: variants must be a mapping, found ['half']"),
        ({"variants": {0.5: {}}}, "config test, study size: a variant is the name of a folder, of letters, digits, '.', '-' "
         "and '_'; found 0.5: put it into quotes"),
        ({"variants": {"../x": {}}}, "config test, study size: a variant is the name of a folder, of letters, digits, '.', "
         "'-' and '_'; found '../x'"),
        ({"variants": {"half": {"train_fractoin": 0.5}}}, "config test, variant half of size: unknown parameter "
         "'train_fractoin' (did you mean 'train_fraction'?): 03_train has "),
        ({"variants": {"half": {"train_fraction": 1.5}}}, "config test, gdmtl: train_fraction must be more than 0 and at most 1"),
        ({"system": ["bert"]}, "config test, study size: expected systems, seeds, variants, found systems, seeds, variants, system"),
    ],
)  # fmt: skip
def test_a_wrong_study_is_refused_in_a_sentence(values, change, message):
    with pytest.raises(ValueError) as error:
        read(values | {"studies": {"size": STUDY | change}})
    assert str(error.value).startswith(message)


def test_a_study_that_has_a_notebook_is_looked_at_with_its_own_systems(values):
    sizes = STUDY | {"systems": ["bert", "gdmtl"], "seeds": [0]}
    job = sweep.jobs(read(values | {"studies": {"training_size": sizes}}))[-1]
    assert job.name == "09_training_size"
    assert job.run.args[-1]["systems"] == ["bert", "gdmtl"] and job.run.args[-1]["split"] == "dev"
    assert {need.name for need in job.needs} == {
        "measure_bm25", "train_bert_seed0", "train_bert_seed1", "train_gdmtl_plus_seed0", "train_gdmtl_plus_seed1",
        *(f"train_training_size_{variant}_{system}_seed0" for variant in ("half", "all") for system in ("bert", "gdmtl")),
    }  # fmt: skip


def test_transfer_goes_from_the_first_split_to_the_last_one(values):
    job = next(job for job in sweep.jobs(read(values)) if job.name == "10_transfer")
    given = job.run.args[-1]
    assert (given["split"], given["relevance_level"]) == ("dev", 1)
    assert (given["transfer_split"], given["transfer_relevance_level"]) == ("cast", 2)
    assert "10_transfer" not in keys(values | {"splits": {"dev": 1}})


def test_a_notebook_about_one_pair_gets_gdmtl_or_the_last_system():
    assert sweep._compared_with("bert", ["bm25", "bert", "gdmtl", "gdmtl_plus"]) == "gdmtl"
    assert sweep._compared_with("gdmtl", ["bm25", "bert", "gdmtl"]) == "bert"
    assert sweep._compared_with("bert", ["gdmtl"]) == "gdmtl"


@pytest.fixture
def copied(tmp_path, values):
    """A project of its own, with a collection folder whose files can be changed."""
    project = tmp_path / "project"
    shutil.copytree(PROJECT / "notebooks", project / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copytree(PROJECT / "gdmtl_lib" / "sample", project / "sample")
    values["collection"] = str(project / "sample")
    return project


def changed_in(copied, values, change):
    before = keys(values, copied)
    change()
    after = keys(values, copied)
    return {name for name in after if after[name] != before[name]}


def test_touching_everything_repeats_nothing(copied, values):
    assert changed_in(copied, values, lambda: [path.touch() for path in copied.rglob("*")]) == set()


def test_a_changed_judgment_repeats_what_reads_it(copied, values):
    path = copied / "sample" / "qrels.cast.tsv"
    repeated = changed_in(copied, values, lambda: path.write_text(path.read_text().replace("\t4\n", "\t3\n", 1)))
    assert {name for name in repeated if name.startswith("train")} == set()
    assert {"rerank_bert_seed0_cast", "measure_bm25", "02_collection_and_candidates"} | EVALUATE <= repeated


def edit(notebook, change):
    content = json.loads(notebook.read_text())
    change(content)
    notebook.write_text(json.dumps(content))


def test_changed_code_of_a_notebook_repeats_it_and_what_follows(copied, values):
    path = copied / "notebooks" / "04_rerank_and_evaluate.ipynb"
    change = lambda content: content["cells"][-1].update(source=["1 + 1"])  # noqa: E731
    assert changed_in(copied, values, lambda: edit(path, change)) == EVALUATE


def test_a_notebooks_prose_and_metadata_are_nothing(copied, values):
    def change(content):
        content["metadata"]["language_info"] = {"name": "python", "version": "3.99"}
        content["cells"][0]["source"] = ["# Another title"]

    def change_all():
        for path in (copied / "notebooks").glob("*.ipynb"):
            edit(path, change)

    assert changed_in(copied, values, change_all) == set()


def test_changed_weights_in_a_local_folder_train_again(copied, values, toy_bert_folder):
    folder = copied / "weights"
    shutil.copytree(toy_bert_folder, folder)
    values["parameters"]["checkpoint"] = str(folder)
    weights = folder / "model.safetensors"
    repeated = changed_in(copied, values, lambda: weights.write_bytes(weights.read_bytes()[:-1] + b"x"))
    assert {"train_bert_seed0", "train_gdmtl_plus_seed1"} <= repeated


def test_a_collection_that_lacks_something_is_refused_before_anything_runs(copied, values):
    (copied / "sample" / "answers.train.tsv").unlink()
    with pytest.raises(ValueError, match="has no answers for the split 'train'"):
        keys(values, copied)
    with pytest.raises(ValueError, match="has no split 'test': its splits are cast, dev, train"):
        keys(values | {"splits": {"test": 1}})


def test_preparing_forgets_the_jobs_whose_files_have_gone(values):
    [first, *_] = sweep.prepare(read(values))
    folder = Path(read(values).folder)
    assert sweep_config.Config(**json.loads((folder / "config.json").read_text())) == read(values)
    first.stamp.write_text(json.dumps({"figures/gone.png": "there"}))
    sweep.prepare(read(values))
    assert not first.stamp.exists()


# ---- what jobs do


@pytest.fixture
def training(values, monkeypatch):
    """Training that only notes its parameters and leaves the files of one."""
    from gdmtl_lib.sweep import execute as executing

    executed = []

    def execute(notebook, output, parameters, cwd, title):
        executed.append((title, parameters))
        home = Path(parameters["output_dir"])
        assert not (home / "settings.json").exists() or json.loads((home / "settings.json").read_text()) == parameters, (
            "holds another training"
        )
        (home / "settings.json").write_text(json.dumps(parameters))
        (home / "per_query.dev.csv").write_text("query_id,measure,value,residual\nq,RR@10,0.5,\n")
        (home / "timing.csv").write_text(str(len(executed)))
        (home / "run.cast.trec.gz").write_text("of another job")

    monkeypatch.setattr(executing, "execute_notebook", execute)
    values |= {"systems": ["bert"], "seeds": [0], "overrides": {}}

    def train(**change):
        job = next(job for job in sweep.prepare(read(values | change)) if job.name == "train_bert_seed0")
        job.execute()
        return job

    train.executed = executed
    train.folder = Path(values["results"]) / "test"
    return train


def test_a_training_is_given_its_parameters_and_listed(training, capsys):
    job = training()
    [(title, parameters)] = training.executed
    assert title == "BERT, seed 0"
    assert parameters == {
        "epochs": 1, "learning_rate": 1e-4, "model": "bert", "collection": "sample", "train_split": "train",
        "validation_split": "dev", "relevance_level": 1, "depth": 5, "seed": 0,
        "output_dir": str(training.folder / "bert" / "seed0"),
    }  # fmt: skip
    assert set(json.loads(job.stamp.read_text())) == {f"bert/seed0/{n}" for n in ("inputs.json", "settings.json", "per_query.dev.csv")}
    assert "BERT     0.500" in capsys.readouterr().out
    assert (training.folder / "tables" / "effectiveness.dev.csv").read_text() == "system,MRR@10\nBERT,0.500\n"


def test_a_training_of_other_inputs_makes_room(training, capsys):
    training()
    training(parameters={"epochs": 2})
    assert "BERT, seed 0: its inputs have changed, it is trained anew" in capsys.readouterr().out
    assert json.loads((training.folder / "bert/seed0/settings.json").read_text())["epochs"] == 2


def test_an_interrupted_training_goes_on(training):
    training().stamp.unlink()
    (training.folder / "bert/seed0/training_state.safetensors").write_text("half")
    training()
    assert (training.folder / "bert/seed0/training_state.safetensors").read_text() == "half"


def test_a_training_that_somebody_else_made_is_kept(training):
    home = training.folder / "bert" / "seed0"
    home.mkdir(parents=True)
    (home / "settings.json").write_text('"mine"')
    with pytest.raises(AssertionError, match="holds another training"):
        training()
    assert (home / "settings.json").read_text() == '"mine"'


def test_the_table_so_far_shows_no_system_of_earlier_inputs(training, values, capsys):
    values["systems"] = ["mono", "bert"]
    stale = training.folder / "mono" / "seed0" / "per_query.dev.csv"
    stale.parent.mkdir(parents=True)
    stale.write_text("query_id,measure,value,residual\nq,RR@10,0.9,\n")
    training()
    assert "mono" not in capsys.readouterr().out


def test_a_job_whose_inputs_changed_meanwhile_does_not_run(values, capsys, monkeypatch):
    monkeypatch.chdir(PROJECT)  # main goes to the project's folder
    sweep.prepare(read(values))
    arguments = [str(Path(read(values).folder) / "config.json"), "train_bert_seed0.0123456789abcdef"]
    assert sweep.main(arguments) == 1
    assert capsys.readouterr().err.strip() == (
        "the inputs of train_bert_seed0.0123456789abcdef have changed since the sweep was started: start it again"
    )


def test_a_re_ranking_that_fails_says_so_in_a_sentence(values, capsys, monkeypatch):
    monkeypatch.chdir(PROJECT)
    job = next(job for job in sweep.prepare(read(values)) if job.name == "rerank_bert_seed0_cast")
    assert sweep.main([str(Path(read(values).folder) / "config.json"), job.stamp.name]) == 1
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("rerank_bert_seed0_cast failed. FileNotFoundError: ")
    assert printed.endswith("train it with notebook 03") and "\n" not in printed
