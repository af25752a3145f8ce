"""A config of runs that are there: refused, planned, hashed, executed and shown as those that train."""

import re
from urllib.parse import unquote

import pytest
from tests import warm

from gdmtl_lib.sweep.check import missing
from gdmtl_lib.sweep.config import read_config
from gdmtl_lib.sweep.jobs import prepare

from .conftest import PROJECT

NAMES = ["theirs", "mine $v2 & co_1"]


@pytest.fixture
def given(tmp_path) -> dict:
    """Two tools' runs of eight queries of two kinds; what is relevant stands first in the second one more often."""
    docs, files = ["d0", "d1", "d2", "d3"], {"qrels": "", "queries": "", "categories": "", "0": "", "1": ""}
    for i in range(8):
        files["qrels"] += f"q{i} 0 d{i % 4} 1\n"
        files["queries"] += f"q{i}\twhat is number {i}\n"
        files["categories"] += f"q{i}\t{'when?' if i % 2 else 'costs $x_{$'}\n"
        for run, order in (("0", docs), ("1", sorted(docs, key=lambda doc: doc != f"d{i % 3}"))):
            files[run] += "".join(f"q{i} Q0 {doc} {rank} {-rank} some_tool\n" for rank, doc in enumerate(order))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = {name: str(tmp_path / name) for name in ("qrels", "queries", "categories")}
    return {"runs": {NAMES[0]: str(tmp_path / "0"), NAMES[1]: str(tmp_path / "1")}, "results": str(tmp_path / "results")} | paths


def read(given, **change):
    return read_config(given | change, "mine", PROJECT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"systems": ["bert"], "depth": 5}, "config mine: expected runs that are there or systems to train, found runs and "
         "systems, depth; give each a config of its own"),
        ({"qrel": "x"}, "config mine: unknown key 'qrel' (did you mean 'qrels'?): a config of runs has runs, qrels, queries, "),
        ({"runs": {}}, "config mine: expected a run or more and a relevance_level of 1 or more, found 0 and 1"),
        ({"runs": ["a.run"]}, "config mine: runs must be dict[str, str], found ['a.run'] (list)"),
        ({"runs": {"a": "nowhere.run"}}, f"config mine: a: no file nowhere.run; paths start from {PROJECT}"),
        ({"queries": "nowhere.tsv"}, f"config mine: queries: no file nowhere.tsv; paths start from {PROJECT}"),
        ({"baseline": "their"}, "config mine: unknown baseline 'their' (did you mean 'theirs'?): runs are theirs, mine $v2"),
        ({"notebooks": {"05_score_distributions": {"runs": {}}}}, "config mine, notebooks, 05_score_distributions: runs is set by "),
        ({"relevance_level": 0}, "config mine: expected a run or more and a relevance_level of 1 or more, found 2 and 0"),
    ],
)  # fmt: skip
def test_a_wrong_config_of_runs_is_refused_in_a_sentence(given, change, message):
    with pytest.raises(ValueError) as error:
        read(given, **change)
    assert str(error.value).startswith(message)


def test_a_config_of_runs_needs_judgments(given):
    del given["qrels"]
    with pytest.raises(ValueError, match="^config mine lacks qrels: add it to the file"):
        read(given)


def test_paths_may_start_in_ones_home(given, tmp_path, monkeypatch):
    expected = [job.key for job in prepare(read(given))]
    monkeypatch.setenv("HOME", str(tmp_path))
    home = {"runs": {name: f"~/{number}" for number, name in enumerate(NAMES)}} | {name: f"~/{name}" for name in ("qrels", "queries", "categories")}
    assert len([job.key for job in prepare(read(given, **home))]) == len(expected)
    with pytest.raises(ValueError, match="qrels: no file ~/nowhere"):
        read(given, qrels="~/nowhere")


def test_a_changed_run_is_looked_at_again_and_nothing_is_looked_at_twice(given, tmp_path):
    keys = [job.key for job in prepare(read(given))]
    assert keys == [job.key for job in prepare(read(given))] and len(keys) == len(set(keys)) == 5
    (tmp_path / "1").write_text((tmp_path / "0").read_text())
    changed = prepare(read(given))
    assert not set(keys) & {job.key for job in changed}
    assert [job.name[:2] for job in prepare(read(given, categories=None))] == ["04", "05", "06", "07"]
    bins = {"05_score_distributions": {"bins": 10}}
    other = {job.name for job, key in zip(prepare(read(given, notebooks=bins)), [job.key for job in changed]) if job.key != key}
    assert other == {"05_score_distributions"}
    alone = {name: given["runs"][name] for name in NAMES[:1]}
    assert [job.name for job in prepare(read(given, runs=alone))] == ["04_rerank_and_evaluate"]  # the others compare
    assert list(missing(read(given))) == []
    (tmp_path / "qrels").write_text("damaged\n")
    with pytest.raises(ValueError, match="qrels, line 1: expected 4 columns"):
        prepare(read(given))


def test_the_notebooks_draw_the_runs_and_the_page_shows_them(given, tmp_path):
    printed = tmp_path / "printed.txt"
    assert warm.forked(warm.sweep, "mine", given, cwd=PROJECT, printed=printed) == 0, printed.read_text()
    assert all(job.is_done() for job in prepare(read(given)))
    page = tmp_path / "results" / "mine" / "index.html"
    text = page.read_text("utf-8")
    linked = {unquote(link) for link in re.findall(r'(?:href|srcset)="([^"# ]+)(?: 2x)?"', text)}
    assert all((page.parent / link).is_file() for link in linked)
    figures = ("effectiveness", "differences", "score_distributions", "win_tie_loss", "query_deltas", "rank_shifts", "categories")
    assert {f"figures/{name}.runs.png" for name in figures} <= linked
    assert "Which run ranks best? mine $v2 &amp; co_1, with an MRR@10 of 0.583." in text
    assert "Which run differs from theirs, in MRR@10? " in text and "mine $v2 &amp; co_1 against theirs +0.062 (" in text
    assert "the paper" not in text.lower() and "<dt>qrels</dt>" in text
