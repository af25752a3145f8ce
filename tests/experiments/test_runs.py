"""Runs of other tools under the analyses, and the command line over them."""

import gzip
import os
import random
import subprocess
import sys
import warnings

import pandas as pd
import pytest

import gdmtl_lib as gdmtl
from gdmtl_lib.__main__ import main
from gdmtl_lib.experiments.runs import open_results, open_runs
from gdmtl_lib.widgets.results import explore_categories, explore_queries, explore_rank_shifts, explore_scores

QUERIES = [f"q{i}" for i in range(12)]
RUN = pd.DataFrame({"query_id": QUERIES, "doc_id": "d3", "score": 1.0})
JUDGED, TEXTS = RUN[["query_id", "doc_id"]].assign(relevance=1), pd.DataFrame({"query_id": QUERIES, "text": "ice"})
# How each tool writes a line of a run: PyTerrier counts ranks from 0, Pyserini writes six digits, ranx puts tabs.
FORMS = {
    "pyterrier.res": lambda q, d, rank, score: f"{q} Q0 {d} {rank - 1} {score} pyterrier\n",
    "pyserini.run": lambda q, d, rank, score: f"{q} Q0 {d} {rank} {score:.6f} Anserini\n",
    "ranx.run.gz": lambda q, d, rank, score: f"{q}\tQ0\t{d}\t{rank}\t{score}\tranx\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three tools' runs of twelve queries, of which d3 is relevant; the later ones find it more often."""
    monkeypatch.chdir(tmp_path)
    generator = random.Random(0)
    for strength, (name, line) in enumerate(FORMS.items()):
        rows = []
        for query in QUERIES:
            scores = {f"d{i}": generator.random() + strength * (i == 3) / 2 for i in range(8)}
            ranked = sorted(scores.items(), key=lambda item: -item[1])
            rows += [line(query, doc, rank, score) for rank, (doc, score) in enumerate(ranked, 1)]
        write = gzip.open if name.endswith(".gz") else open
        with write(tmp_path / name, "wt") as file:
            file.writelines(rows)
    (tmp_path / "qrels.txt").write_text("".join(f"{query} 0 d3 1\n{query} 0 d5 0\n" for query in QUERIES))
    (tmp_path / "queries.tsv").write_text("".join(f"{query}\twhat is {query}\n" for query in QUERIES))
    (tmp_path / "passages.tsv").write_text("".join(f"d{i}\ttext of {i}\n" for i in range(8)))
    (tmp_path / "categories.tsv").write_text("".join(f"{query}\tkind {i % 2}\n" for i, query in enumerate(QUERIES)))
    return tmp_path


@pytest.fixture
def opened(folder):
    runs = dict(zip(("mine", "theirs", "bert"), FORMS))
    return open_runs(runs, "qrels.txt", "queries.tsv", "passages.tsv", "categories.tsv")


def test_every_tools_run_is_read_and_measured(opened):
    assert opened.systems() == opened.chosen("runs", None, "mine") == ["mine", "theirs", "bert"]
    assert repr(opened) == "<runs mine, theirs, bert on 12 judged queries>" and opened.lacks == []
    values = opened.values_by_system()
    pd.testing.assert_frame_equal(values["theirs"], gdmtl.evaluate(opened.run("theirs"), opened.collection.qrels("runs")))
    assert list(gdmtl.compare(values, "mine")["system"].unique()) == ["mine", "theirs", "bert"]
    assert set(opened.run("mine")["rank"]) == set(range(1, 9))


def test_a_run_that_was_cut_short_is_said_to_be(folder, capsys):
    lines = (folder / "pyserini.run").read_text().splitlines(keepends=True)
    (folder / "cut.run").write_text("".join(lines[: 3 * 8]))
    main(["evaluate", "pyserini.run", "cut.run", "--qrels", "qrels.txt"])
    assert capsys.readouterr().err == "cut lacks 9 of 12 judged queries: they count as 0.\n"
    open_results("sample", "dev", None, {"a": "cut.run"}, qrels="qrels.txt")
    assert "a lacks 9 of 12 judged queries" in capsys.readouterr().out


def test_the_interface_is_that_of_results(opened):
    assert opened.pair(None) == ("mine", "bert") and opened.pair("bert") == ("bert", "mine")
    assert opened.pair("theirs", "mine") == ("theirs", "mine") and opened.pair(None, "mine") == ("bert", "mine")
    assert opened.pair(None, None, ["mine", "theirs"]) == ("mine", "theirs") == opened.pair(None, "theirs", ["mine", "theirs"])
    with pytest.raises(ValueError, match="^expected two systems to compare, found mine as baseline and as system"):
        opened.pair("mine", "mine")
    assert opened.pair(None, None, ["mine", "theirs", "mine"]) == ("mine", "theirs")
    assert opened.seeds("mine") == [] and opened.common_seeds("mine", "theirs") == [None]
    shifts = opened.rank_shifts("mine", "bert", "runs", opened.collection.qrels("runs"))
    assert shifts["change"].sum() == 0 and opened.systems("dev") == []
    opened.save_table(shifts, "shifts")
    assert (opened.folder / "tables" / "shifts.csv").is_file() and opened.folder.name == "runs"


@pytest.mark.parametrize(
    "explore",
    [
        lambda of: explore_scores(of, of.collection, "runs"),
        lambda of: explore_queries(of, of.collection, "runs", "mine"),
        lambda of: explore_rank_shifts(of, of.collection, "runs", "theirs"),
        lambda of: explore_categories(of, of.collection, "runs", "mine"),
    ],
)
def test_explorers_take_them_under_the_names_given(opened, explore):
    explorer = explore(opened)
    assert "<img" in explorer.view
    assert ("mine", "mine") in explorer.controls["system"].options and ("BERT", "bert") in explorer.controls["system"].options


def test_what_is_not_given_is_said_and_ids_stand_for_texts(folder):
    opened = open_runs({"mine": "pyterrier.res", "theirs": "pyserini.run"}, "qrels.txt")
    assert [sentence.split(" were given")[0] for sentence in opened.lacks] == ["No queries", "No categories", "No passages"]
    view = explore_queries(opened, opened.collection, "runs", "mine").view
    assert "“q" in view and "d3" in view
    assert "categories: expected query_id, category" in explore_categories(opened, opened.collection, "runs", "mine").view


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": {}}, 'runs: expected files by name, such as {"mine": "a.run", "theirs": "b.run"}, or a list of files, found none'),
        ({"runs": {"mine": "nothing.run"}}, "nothing.run"),
        ({"queries": "passages.tsv"}, "queries: expected every judged query, but 'q0' is not there (12 missing)"),
        ({"qrels": "queries.tsv"}, "queries.tsv, line 1"),
        ({"runs": RUN}, "or a list of files, found a frame with query_id, doc_id, score"),
        ({"runs": [RUN, RUN]}, 'runs: a list has files alone, and frames need names: give {"mine": frame, ...}'),
        ({"runs": [None]}, "runs: expected a path, found None"),
        ({"runs": ["ranx.run.gz", "./ranx.run.gz"]}, "expected each run once, found ranx.run.gz twice"),
        ({"runs": {1: RUN, "1": RUN}}, "runs: 1 and 1 would both be shown as 1: give one another name"),
        ({"queries": TEXTS.rename(columns={"query_id": "qid", "text": "query"})},
         "queries: expected the columns query_id, text, found qid, query; add query_id, text"),
        ({"queries": TEXTS[["query_id"]]}, "queries: expected the columns query_id, text, found query_id; add text"),
        ({"queries": pd.concat([TEXTS, TEXTS[3:4]])}, "queries: query 'q3' stands a second time; keep one of the two"),
        ({"queries": {"q1": "ice"}}, "queries: expected a path, found a dict of q1"),
        ({"queries": 5}, "queries: expected a path, found 5"),
        ({"categories": TEXTS}, "categories: expected a path, found a frame with query_id, text"),
        ({"qrels": 5}, "qrels: expected a path, found 5"),
        ({"qrels": JUDGED.rename(columns={"query_id": "qid"})},
         "qrels: expected the columns query_id, doc_id, relevance, found qid, doc_id, relevance; add query_id"),
        ({"qrels": JUDGED[:0]}, "qrels: expected at least one row, found none"),
        ({"qrels": JUDGED.assign(relevance="1")},
         "qrels, row 1: expected an integer within ±1,000,000 as relevance, found '1'"),
        ({"qrels": JUDGED.assign(relevance=float("nan"))},
         "qrels, row 1: expected an integer within ±1,000,000 as relevance, found nan"),
    ],
)  # fmt: skip
def test_what_cannot_be_opened_is_said(folder, change, message):
    given = {"runs": {"mine": "pyterrier.res"}, "qrels": "qrels.txt"} | change
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        open_runs(**given).values_by_system()
    assert message in str(error.value)


def test_an_unknown_run_is_refused_with_the_closest(opened):
    with pytest.raises(ValueError, match=r"unknown run 'mien' \(did you mean 'mine'\?\): there are mine, theirs, bert"):
        opened.values("mien")


def test_a_notebook_opens_a_config_or_runs(folder, write_random_results, capsys):
    write_random_results(folder / "papermill_runs" / "sample", {"bm25": (None,)}, ["dev"])
    results, collection, split = open_results("sample", "dev")
    assert results.systems("dev") == ["bm25"] and (collection.name, split) == ("sample", "dev")
    given = dict(runs={"mine": "pyterrier.res"}, qrels="qrels.txt", queries=None, passages=None)
    results, collection, split = open_results("sample", "dev", "here", **given)
    assert split == "runs" and results.folder.name == "here" and collection is results.collection
    assert "their ids are shown" in capsys.readouterr().out
    with pytest.raises(ValueError, match="qrels: expected a file of judgments or irds:<id> beside runs, found none"):
        open_results("sample", "dev", runs={"mine": "pyterrier.res"})


def test_compare_prints_marks_and_intervals_and_writes_tables(folder, capsys):
    main(["compare", *FORMS, "--qrels", "qrels.txt", "--measures", "RR@10", "AP", "--output", "out"])
    said = capsys.readouterr().out
    assert "<runs pyterrier, pyserini, ranx on 12 judged queries>; marks and differences are against pyterrier" in said
    table = pd.read_csv(folder / "out" / "tables" / "effectiveness.csv", index_col="system")
    assert list(table.index) == ["pyterrier", "pyserini", "ranx"] and list(table.columns) == ["MRR@10", "AP"]
    assert table["MRR@10"]["ranx"].endswith("▲") and table["MRR@10"]["ranx"] in said
    differences = pd.read_csv(folder / "out" / "tables" / "differences.csv")
    assert {"low", "high", "p_corrected"} <= set(differences.columns) and len(differences) == 4
    assert (folder / "out" / "tables" / "differences.tex").is_file()


def test_evaluate_prints_the_papers_measures(folder, capsys):
    main(["evaluate", "pyserini.run", "--qrels", "qrels.txt"])
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[1:] == ["MRR@10", "MRR@100", "NDCG@10", "NDCG@20", "RBP0.5", "RBP0.8"] and row.startswith("pyserini")


def test_rerank_and_generate_are_those_of_the_library(folder, toy_bert_folder, capsys):
    model = gdmtl.build_model("gdmtl", checkpoint=toy_bert_folder)
    model.save_pretrained(folder / "model")
    collection = gdmtl.load_collection("sample")
    docs = list(collection.doc_ids())[:3]
    query = collection.queries("dev")["query_id"][0]
    (folder / "bm25.run").write_text("".join(f"{query} Q0 {doc} 1 {-i} x\n" for i, doc in enumerate(docs)))
    main(["rerank", "model", "--candidates", "bm25.run", "--collection", "sample", "--output", "a.run", "--precision", "fp32"])
    expected = gdmtl.rerank_texts(model, collection.query_texts([query])[0], collection.text(docs))
    found = gdmtl.runs.read_run(folder / "a.run").set_index("doc_id")["score"]
    assert found[docs].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    with pytest.raises(SystemExit):
        main(["rerank", "model", "--candidates", "bm25.run", "--collection", "sample", "--output", "bm25.run"])
    assert "output: expected another file than that of the candidates, found 'bm25.run'" in capsys.readouterr().err
    (folder / "texts.txt").write_text("\ufeffthe ice\u2028is blue\r\n\nold king", newline="")
    capsys.readouterr()
    main(["generate", "model", "texts.txt"])
    main(["generate", "model", "texts.txt", "-n", "2"])
    lines = capsys.readouterr().out.splitlines()
    first, second = gdmtl.generate(model, ["the ice\u2028is blue", "old king"])
    assert lines[:3] == [first, "", second]  # a line a line
    assert [len(line.split("\t")) for line in lines[3:]] == [2, 1, 2]


@pytest.mark.parametrize(("arguments", "words"), [
    (["compare", "nothing.run", "--qrels", "qrels.txt"], "no file nothing.run"),
    (["compare", "pyserini.run", "pyserini.run", "--qrels", "qrels.txt"], "expected each run once, found pyserini.run twice"),
    (["compare", "pyserini.run", "--qrels", "qrels.txt", "--output", "qrels.txt"], "qrels.txt is a file: give a folder for"),
    (["compare", "pyserini.run", "--qrels", "qrels.txt"], "one run: there is nothing to compare it with; `evaluate` measures"),
    (["compare", "pyserini.run", "pyterrier.res", "--qrels", "qrels.txt", "--output", ""], "folder: expected a path, found ''"),
    (["evaluate", "pyserini.run", "--qrels", "qrels.txt", "--level", "2"],
     "relevance_level: expected a grade of the judgments, at most 1, found 2"),
    (["evaluate", "pyserini.run", "--qrels", "qrels.txt", "--measures", "RBP0.5"],
     "measures: expected ir-measures' notation, found 'RBP0.5'; did you mean RBP(p=0.5)?"),
    (["evaluate", "pyserini.run", "--qrels", "qrels.txt", "--measures", "RR@10", "MRR@10"],
     "measures: expected each measure once, found 'MRR@10' a second time (as 'RR@10')"),
    (["evaluate", "pyserini.run", "--qrels", "qrels.txt", "--measures", "P@0"], "measures: expected a cutoff and a rel that"),
    (["evaluate", "pyserini.run", "--qrels", "."], "no file ."),
    (["generate", "nothing", "qrels.txt"], "no checkpoint folder nothing"),
    (["generate", "nothing", "qrels.txt", "-n", "0"], "n must be at least 1, found 0"),
])  # fmt: skip
def test_the_command_line_says_what_is_wrong_in_a_sentence(folder, capsys, arguments, words):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith(f"python -m gdmtl_lib: {words}")


def test_measures_may_be_called_as_they_are_printed(folder):
    opened = open_runs({"a": "pyserini.run"}, "qrels.txt", measures=["MRR@10", "NDCG@10", "AP"])
    values = opened.values("a")
    assert list(values["measure"].unique()) == ["MRR@10", "NDCG@10", "AP", "RR@100", "nDCG@20", "RBP(p=0.5)", "RBP(p=0.8)"]


def test_what_a_run_lacks_is_warned_of_once_and_by_name(folder):
    lines = (folder / "pyserini.run").read_text().splitlines(keepends=True)
    (folder / "cut.run").write_text("".join(lines[:24]))
    opened = open_runs({"whole": "pyserini.run", "cut": "cut.run"}, "qrels.txt")
    with pytest.warns(UserWarning, match="^cut lacks 9 of 12 judged queries: they count as 0.$"):
        opened.values_by_system()
    opened = open_runs({"whole": "pyserini.run", "cut": "cut.run"}, "qrels.txt")
    assert opened.gaps() == ["cut lacks 9 of 12 judged queries: they count as 0."]
    with warnings.catch_warnings(action="error"):
        opened.values_by_system()


def test_two_names_that_are_shown_alike_are_refused(folder):
    with pytest.raises(ValueError, match="^runs: bert and BERT would both be shown as BERT: give one another name$"):
        open_runs({"bert": "pyserini.run", "BERT": "pyterrier.res"}, "qrels.txt")


def test_names_that_are_numbers_are_texts_everywhere(folder):
    opened = open_runs({1: RUN, 2: "pyserini.run"}, JUDGED, TEXTS)
    assert repr(opened) == "<runs 1, 2 on 12 judged queries>" and opened.pair(None) == ("1", "2")
    assert opened.values("1").query("measure == 'RR@10'")["value"].tolist() == [1.0] * 12
    tests = gdmtl.compare(opened.values_by_system(), "1")
    assert len(gdmtl.plots.effectiveness(tests, "1").axes) == 6
    assert "<img" in explore_scores(opened, opened.collection, "runs").view


def test_a_single_run_is_drawn_and_has_no_differences(folder):
    tests = gdmtl.compare(open_runs({"a": "pyserini.run"}, "qrels.txt").values_by_system(), "a")
    assert len(gdmtl.plots.effectiveness(tests, "a").axes) == 6
    with pytest.raises(ValueError, match="^differences: expected a system beside 'a' in the table, found none$"):
        gdmtl.plots.differences(tests, "a", ["RR@10"])


def test_a_run_with_ir_metadatas_header(folder):
    header, plain = "# ir_metadata.start\n# platform:\n#   hardware: {}\n# ir_metadata.end\n", (folder / "pyserini.run").read_text()
    (folder / "annotated.run").write_text(header + plain)
    pd.testing.assert_frame_equal(gdmtl.read_run("annotated.run"), gdmtl.read_run("pyserini.run"))
    (folder / "three.run").write_text(header + "q b 1\nq a 2\n")  # MS MARCO's columns
    assert gdmtl.read_run("three.run")["doc_id"].tolist() == ["b", "a"]
    for content, problem in (
        (header, " has no rows"), (header.rpartition("# ir")[0] + plain, " has no rows"),
        (header + plain + "q 1\n", ", line 101: expected 6 columns "), (plain + header, ", line 97: expected 6 columns "),
    ):  # fmt: skip
        (folder / "bad.run").write_text(content)
        with pytest.raises(ValueError, match=f"^bad.run{problem}"):
            gdmtl.read_run("bad.run")
    (folder / "ranx.json").write_text('{"q1": {"d1": 1.0}}\n')
    with pytest.raises(ValueError, match="^ranx.json, line 1: expected 6 columns .* found 3; this looks like JSON$"):
        gdmtl.read_run("ranx.json")


def test_the_command_line_in_pipes(folder):
    """A run comes through one, and whoever reads the table has seen enough of it."""
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    call = f"{sys.executable} -m gdmtl_lib compare <(cat pyserini.run) pyterrier.res --qrels <(cat qrels.txt) --baseline pyterrier.res"
    done = subprocess.run(["bash", "-c", f"{call} | head -1; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, env=here)
    assert done.stderr == "" and done.stdout.endswith("judged queries>; marks and differences are against pyterrier\n0\n")
    assert pd.read_csv("tables/differences.csv")["baseline"].unique().tolist() == ["pyterrier"]
