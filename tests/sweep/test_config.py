"""A config is resolved, or refused in a sentence."""

import dataclasses
import json
from pathlib import Path

import pytest

from gdmtl_lib.sweep.config import Config

PROJECT = Path(__file__).parents[2]


def test_a_config_is_resolved(read, tmp_path):
    config = read()
    assert config.systems == ["bert", "gdmtl_plus"]
    assert config.parameters == {
        "bert": {"epochs": 2, "learning_rate": 1e-4}, "gdmtl_plus": {"epochs": 1, "learning_rate": 1e-4},
    }  # fmt: skip
    assert config.folder == str(tmp_path / "test")
    assert Config(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_results_in_the_home_folder(read, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read(results="~/mine").folder == str(tmp_path / "mine" / "test")


def test_results_go_to_papermill_runs_unless_told_otherwise(values, read):
    del values["results"]
    assert read().folder == str(PROJECT / "papermill_runs" / "test")


STUDY = {"systems": ["gdmtl"], "seeds": [3], "variants": {"half": {"train_fraction": 0.5}, "all": None}}


AWAY = {"collection": "elsewhere", "split": "cast", "level": "2"}


def study(**change):
    return {"studies": {"size": STUDY | change}}


def first_stage(**given):
    return {"first_stage": given}


def of_13(given):
    return {"notebooks": {"13_generated_queries": given}}


TUNE = "config test, first_stage: expected k1 and b, or to tune them on 1 training query or more, found "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colection": "x"}, "config test: unknown key 'colection' (did you mean 'collection'?): a config has collection, "
         "train_split, splits, folds, systems, seeds, baseline, depth, first_stage, parameters, overrides, studies, "
         "selection_folds, transfer, gpus, results, notebooks"),
        ({"seeds": None}, "config test: seeds must be list[int], found None (NoneType)"),
        ({"seeds": 3}, "config test: seeds must be list[int], found 3 (int)"),
        ({"seeds": []}, "config test: expected at least one of each of splits, systems and seeds"),
        ({"seeds": [0, 0]}, "config test: expected each of seeds once, found 0, 0"),
        ({"seeds": [-1]}, "config test: expected a depth of 1 or more and seeds of 0 or more, found depth 5 and seeds [-1]"),
        ({"seeds": [2**63]}, "config test: expected seeds of 63 bits, found 9223372036854775808"),
        ({"gpus": -1}, "config test: expected gpus of 0 or more, found -1"),
        ({"splits": {"../dev": 1}}, "config test: a split is part of names of files, of letters, digits, '.', '-' and '_'; found "
         "'../dev'"),
        ({"parameters": {"layers": 0}}, "config test: parameters: layers must be at least 1, found 0"),
        ({"parameters": {"processes": 0}}, "config test: parameters: processes must be at least 1, found 0"),
        ({"parameters": {"selection_measure": "MRR@"}},
         "config test, bert: measures: expected ir-measures' notation, found 'MRR@' ("),
        ({"parameters": {"train_depth": -1}}, "config test: parameters: train_depth must be at least 1, found -1"),
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
         "03_train has checkpoint, layers, fresh_vocabulary, "),
        ({"parameters": {"epochs": "many"}}, "config test: parameters: epochs must be int, found 'many' (str)"),
        ({"parameters": {"epochs": 0}}, "config test: parameters: epochs must be at least 1, found 0"),
        ({"overrides": {"bert": {"learning_rate": "nan"}}},
         "config test: overrides of bert: learning_rate must be float, found 'nan' (str)"),
        ({"parameters": {"seed": 1}}, "config test, parameters: seed is set by the sweep; a config has collection, "),
        ({"parameters": {"k1": 2.0}}, "config test, parameters: k1 is set by the sweep; a config has collection, train_split, "
         "splits, folds, systems, seeds, baseline, depth, first_stage"),
        ({"splits": {"train": 1, "dev": 1}}, "config test: train_split train is among splits, which would be measured on what was "
         "learned from: train, dev; --config adds to the file's splits, it replaces none"),
        ({"overrides": {"GDMTL": {}, "gdmtl": {}}}, "config test: expected each of systems once, found gdmtl, gdmtl"),
        # studies
        (study(systems=[]), "config test, study size: expected at least one of each of systems, seeds, variants, found no systems"),
        (study(seeds=[1, "1"]), "config test, study size: expected each of seeds once, found 1, 1"),
        (study(variants=["half"]), "config test, study size: variants must be a mapping, found ['half']"),
        (study(variants={0.5: {}}), "config test, study size: a variant is the name of a folder, of letters, digits, '.', '-' "
         "and '_'; found 0.5: put it into quotes"),
        (study(variants={"../x": {}}), "config test, study size: a variant is the name of a folder, of letters, digits, '.', "
         "'-' and '_'; found '../x'"),
        (study(variants={"half": {"train_fractoin": 0.5}}), "config test, variant half of size: unknown parameter "
         "'train_fractoin' (did you mean 'train_fraction'?): 03_train has "),
        (study(variants={"half": {"train_fraction": 1.5}}), "config test, gdmtl: train_fraction must be more than 0 and at most 1"),
        (study(variants={"half": {"systems": ["mono"]}}), "config test, study size: expected systems of half among gdmtl, found ['mono']"),
        (study(variants={"half": {"systems": []}}), "config test, study size: expected systems of half among gdmtl, found []"),
        (study(variants={"half": {"systems": "gdmtl"}}), "config test, study size: systems of half must be list[str], found 'gdmtl' (str)"),
        (study(system=["bert"]), "config test, study size: expected systems, seeds, variants, found systems, seeds, variants, system"),
        ({"selection_folds": 1}, "config test: selection_folds are 2 or more of the validation queries, and not of a config with "
         "folds, where every rotation has queries of its own to validate on; found 1"),
        # other collections
        ({"transfer": [{"collection": "sample", "split": "cast"}]}, "config test, transfer: expected collection, split, level, found "
         "collection, split"),
        ({"transfer": ["cast"]}, "config test, transfer: it must be a mapping, found 'cast'"),
        ({"transfer": AWAY | {"level": 0}}, "config test, transfer: level is the lowest relevant grade, 1 or more, found 0"),
        # notebooks
        ({"notebooks": {"13_generated": {}}}, "config test, notebooks: unknown notebook '13_generated' (did you mean "
         "'13_generated_queries'?): 03_train has `parameters`; others are 01_attention_masks, 02_collection_and_candidates, "),
        ({"notebooks": {"03_train": {}}}, "config test, notebooks: unknown notebook '03_train'"),
        (of_13(4), "config test, notebooks: 13_generated_queries must be a mapping, found 4"),
        ({"transfer": [{"collection": f"wikiqa:/{each}/x", "split": "dev", "level": 1} for each in "ab"]},
         "config test: expected transfers to different places, found one twice among wikiqa-x.dev, wikiqa-x.dev, as their results"),
        (of_13({"passage_read": 4}), "config test, notebooks, 13_generated_queries: unknown parameter 'passage_read' (did you mean "
         "'passages_read'?): 13_generated_queries has queries_appended, "),
        (of_13({"passages_read": "few"}), "config test, notebooks: 13_generated_queries: passages_read must be int, found 'few' (str)"),
        ({"notebooks": {"16_choices": {"measure": "MRR@"}}}, "config test, notebooks, 16_choices: measures: expected ir-measures' "
         "notation, found 'MRR@' ("),
        (of_13({"queries_appended": [1]}), "config test, notebooks: 13_generated_queries: queries_appended must be 0 and other "
         "numbers of at least 1, found [1]"),
        ({"notebooks": {"05_score_distributions": {"bins": "1"}}}, "config test, notebooks: 05_score_distributions: bins must be "
         "at least 2, found 1"),
        ({"notebooks": {"08_query_categories": {"measure": "AP"}}}, "config test, notebooks, 08_query_categories: unknown measure "
         "'AP': of trained systems there are RR@10, RR@100, "),
        (of_13({"split": "cast"}), "config test, notebooks, 13_generated_queries: split is set by the sweep; a config has collection, "),
        # the first stage
        (first_stage(k2=1), "config test, first_stage: unknown key 'k2': it has run, k1, b, enriched, tune"),
        (first_stage(run="collection", k1=1), "config test, first_stage: expected a run or BM25's parameters, found run, k1"),
        (first_stage(k1="many"), "config test, first_stage: k1 must be float, found 'many' (str)"),
        (first_stage(b=1.5), "config test, first_stage: expected b to be a number from 0 to 1, found 1.5"),
        (first_stage(tune=0), TUNE + "tune: 0"),
        (first_stage(tune=9, b=0.4), TUNE + "tune: 9, b: 0.4"),
    ],
)  # fmt: skip
def test_a_wrong_config_is_refused_in_a_sentence(read, change, message):
    with pytest.raises(ValueError) as error:
        read(**change)
    assert str(error.value).startswith(message)


def test_overrides_of_a_system_that_is_not_trained_this_time_are_nothing(read):
    """As with `--config systems=[bert,gdmtl]` for the config of MS MARCO, which has overrides for six others."""
    other = read(overrides={"mono": {"checkpoint": "bert-large-uncased"}})
    assert other.parameters == read(overrides={}).parameters


def test_what_is_missing_is_named(values, read):
    del values["collection"]
    with pytest.raises(ValueError, match="^config test lacks collection: add it to the file, or give it as --config coll"):
        read()


def test_a_variant_may_be_for_some_of_a_studys_systems(read):
    variants = {"mlm": {"systems": ["GDMTL"], "generation_mask": "mlm"}, "half": {"train_fraction": 0.5}}
    given = read(studies={"size": {"systems": ["bert", "gdmtl"], "seeds": [0], "variants": variants}}).studies["size"]["variants"]
    assert list(given["mlm"]) == ["gdmtl"] and list(given["half"]) == ["bert", "gdmtl"]
    assert given["mlm"]["gdmtl"]["generation_mask"] == "mlm" and "systems" not in given["mlm"]["gdmtl"]


def test_a_notebook_that_measures_takes_any_measure(read):
    given = {"12_query_likelihood": {"measure": "AP"}, "06_win_tie_loss": {"measure": None}}
    assert read(notebooks=given).notebooks == given


def test_one_transfer_needs_no_list_around_it(read):
    assert read(transfer=AWAY).transfer == read(transfer=[AWAY]).transfer == [AWAY | {"level": 2}]


def test_numbers_that_snakemake_takes_for_texts(read):
    """`--config seeds=[0,1]` arrives as texts."""
    config = read(seeds=["0", "3"], splits={"dev": "2"})
    assert config.seeds == [0, 3] and config.splits == {"dev": 2}
