"""`make check`: what a config lacks, all of it in one list, and what it takes."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import yaml

from gdmtl_lib.sweep import check, costs
from gdmtl_lib.sweep.config import read_config

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path, capsys):
    """Writes a config into a copy of the project and checks it; returns the status and what was printed."""

    def run(**change) -> tuple[int, str]:
        project = tmp_path / "project"
        configs = project / "papermill_runs" / "configs"
        if not configs.exists():
            configs.mkdir(parents=True)
            shutil.copytree(PROJECT / "notebooks", project / "notebooks", ignore=shutil.ignore_patterns(".*"))
        values = yaml.safe_load((PROJECT / "papermill_runs" / "configs" / "smoke.yaml").read_text()) | change
        (configs / "mine.yaml").write_text(yaml.safe_dump(values))
        status = check.main([str(configs / "mine.yaml")])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def test_where_nothing_is_missing_it_says_how_long_it_takes_and_what_it_can_show(run):
    status, text = run(collection="sample")
    assert status == 0 and text.startswith("mine: nothing is missing\n  to do: 1 x measure (under a minute), ")
    assert "8 x rerank" in text and "15 x train" in text and "1 x denoise" in text and "disk: about " in text and "memory of the largest job: about " in text
    assert "dev: 170 queries and 1 seed show a true difference in MRR@10 of 0.052 four times in five" in text


def test_everything_that_is_missing_is_named_at_once_with_what_to_do(run, tmp_path):
    sample = tmp_path / "sample"
    shutil.copytree(PROJECT / "gdmtl_lib" / "data" / "sample", sample)
    (sample / "answers.train.tsv").unlink()
    (sample / "qrels.cast.tsv").unlink()
    overrides = {"mono": {"checkpoint": "bert-large-uncased"}, "bert": {"checkpoint": "bert-base-uncased"}}
    away = {"collection": str(tmp_path / "nowhere"), "split": "dev", "level": 1}
    status, text = run(collection=str(sample), overrides=overrides, transfer=away, studies={}, systems=["bert", "mono", "gdmtl_plus"],
                       first_stage={"enriched": str(tmp_path / "deepct.jsonl")})  # fmt: skip
    head, *lines = text.splitlines()
    assert status == 1 and head == "mine: 6 missing"
    for line, (start, remedy) in zip(lines, [
        ("data: ", "has no qrels for the split 'cast'"),
        ("answers for GDMTL+: ", "or leave it out: --config 'systems=[bert,mono]'"),
        ("data for the transfer: ", "or leave it out: --config 'transfer=[]'"),
        ("first stage: no enriched passages at ", "deepct.jsonl"),
        ("weights of BERT: ", "fetch it with `hf download bert-base-uncased --revision 86b5e0934494bd15c9632b12f734a8a67f723594`"),
        ("weights of mono: ", "fetch it with `hf download bert-large-uncased --revision "),
    ]):  # fmt: skip
        assert line.startswith(f"  - {start}") and remedy in line


def test_a_first_stages_run_has_to_be_there_for_every_split(run, tmp_path):
    for split in ("train", "cast"):
        (tmp_path / f"{split}.trec").write_text("q Q0 d 1 1 t\n")
    status, text = run(first_stage={"run": f"{tmp_path}/{{split}}.trec"})
    assert status == 1 and f"  - first stage: no file {tmp_path}/dev.trec: a first stage's run has all splits" in text


def test_of_ms_marco_the_hours_are_known_before_the_data_are_here(run, monkeypatch, tmp_path):
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "nothing"))

    def network(*_):
        raise AssertionError("a check fetches nothing of the data")

    monkeypatch.setattr(socket, "getaddrinfo", network)
    chosen = {"splits": {"dev-small": 1}, "studies": {}, "systems": ["bert", "gdmtl_plus"], "depth": 1000}
    status, text = run(collection="irds:msmarco-passage", **chosen)
    assert status == 1 and text.startswith("mine: 4 missing\n")
    for data in ("export msmarco-passage/dev/small queries` and `ir_datasets export msmarco-passage/dev/small qrels", "lookup msmarco-passage 0"):
        assert f"(a check fetches nothing): fetch it where there is a network, with `ir_datasets {data}`, and copy" in text
    assert "answers for GDMTL+: " in text and "msmarco-qna/train_v2.1.json.gz https://" in text
    assert "on MS MARCO as it is published: " in text and "BM25 over 502,939 training queries" in text


@pytest.mark.parametrize(("load", "said"), [(3.1, True), (2.9, False)])
def test_a_speed_that_was_measured_on_a_busy_machine_says_so(run, monkeypatch, load, said):
    """More than half of the cores taken by others, the check itself not counted."""
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(costs, "visible_gpus", list)
    _, text = run(systems=["bert"], studies={})
    assert ("GFLOP/s in a training, measured while other programs compute: alone it is faster, no GPU" in text) == said


def test_a_wrong_config_is_refused_as_the_sweep_refuses_it(run):
    status, text = run(systems=["bret"])
    assert status == 2 and text.startswith("config mine: unknown system 'bret' (did you mean 'bert'?)")


@pytest.mark.parametrize(("content", "message"), [
    (b"", "{} is empty"),
    (b"collection: sample\nseeds: [0\n", "{} is no config in YAML: while parsing a flow sequence"),
    (b"\tcollection: sample\n", "{} is no config in YAML: while scanning for the next token"),
    (b"- bert\n", "{} is no config in YAML: expected `key: value` lines, found ['bert']"),
    (b"# nothing yet\n", "{} is no config in YAML: expected `key: value` lines, found None"),
    (b"seeds: [0]\nseeds: [1]\n", "{} is no config in YAML: key 'seeds' stands twice, line 1 and after: keep one"),
    (b"parameters:\n  epochs: 1\n  epochs: 2\n", "{} is no config in YAML: key 'epochs' stands twice, line 2 and after"),
    (b"depth: !!python/object/apply:os.getcwd []\n", "{} is no config in YAML: could not determine a constructor"),
    ("depth: 3 # caf\xe9\n".encode("latin-1"), "{}, line 1: not UTF-8 (byte 0xe9 at position 15): convert the file to UTF-8"),
    ("depth: 3\n".encode("utf-16"), "{}, line 1: not UTF-8 (byte 0xff at position 1): convert the file to UTF-8"),
    (None, "no file {}"),
])  # fmt: skip
def test_a_config_that_is_no_yaml_is_refused(tmp_path, capsys, content, message):
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_bytes(content)
    assert check.main([str(file)]) == 2
    assert capsys.readouterr().err.startswith(message.replace("{}", str(file)))


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "{}: expected a config in papermill_runs/configs, beside whose notebooks it runs"),
    (["--config", "depth"], "--config: expected KEY=VALUE, found 'depth'"),
    (["--config", "=1"], "--config: expected KEY=VALUE, found '=1'"),
])  # fmt: skip
def test_a_config_elsewhere_and_values_that_are_none_are_refused(tmp_path, capsys, arguments, message):
    (tmp_path / "mine.yaml").write_text("\ufeffdepth: 3\r\n", newline="")
    assert check.main([str(tmp_path / "mine.yaml"), *arguments]) == 2
    assert capsys.readouterr().err.startswith(message.replace("{}", str(tmp_path / "mine.yaml")))


def test_values_can_be_changed_as_for_the_sweep(run, tmp_path, capsys):
    """Snakemake merges mappings, and takes what stands in brackets for texts."""
    run(systems=["bert"], studies={})
    file = tmp_path / "project" / "papermill_runs" / "configs" / "mine.yaml"
    given = ["seeds=[3, 4]", "splits={cast: 3}", "parameters={max_gradient_norm: null}", "gpus=null",
             "notebooks={13_generated_queries: {queries_appended: [0, 2]}}"]  # fmt: skip
    config = read_config(check.as_snakemake_merges(file, given), "mine", PROJECT)
    assert (config.seeds, config.splits, config.gpus) == ([3, 4], {"dev": 1, "cast": 3}, None)
    assert config.parameters["bert"]["max_gradient_norm"] is None and config.parameters["bert"]["layers"] == 2
    assert config.notebooks["13_generated_queries"]["queries_appended"] == [0, 2]
    assert check.main([str(file), "--config", *given[:1]]) == 0 and "2 x train" in capsys.readouterr().out
    assert check.main([str(file), "--config", "seeds=[0"]) == 2
    assert capsys.readouterr().err.startswith("config mine: seeds must be list[int], found '[0' (str)")
