import json
import os
import re
import time
from argparse import Namespace
from dataclasses import asdict
from urllib.parse import unquote

import pandas as pd
import pytest

from gdmtl_lib.data.files import hold_lock
from gdmtl_lib.sweep.jobs import Job
from gdmtl_lib.sweep.page import _written, announced, write_page


@pytest.fixture
def folder(tmp_path):
    config = {
        "name": "sample", "collection": "a <folder>", "train_split": "train", "splits": {"dev": 1, "cast": 2},
        "systems": ["bert", "gdmtl_plus"], "seeds": [0], "depth": 20, "baseline": "bert",
    }  # fmt: skip
    files = {
        "config.json": json.dumps(config),
        "tables/effectiveness.dev.csv": "system,MRR@10,RBP0.5\nBM25,0.61234567,0.177 +0.823\n<b>,1,2\n",
        "tables/effectiveness.dev.tex": "x",
        "tables/collection.csv": "split,queries\ndev,170\n",
        "figures/effectiveness.dev.png": "x", "figures/effectiveness.dev.pdf": "x",
        "figures/a b.png": "x",
        "notebooks/04_rerank_and_evaluate_dev.ipynb": "{}", "notebooks/04_rerank_and_evaluate_dev.html": "x",
        "gdmtl_plus/seed0/03_train.ipynb": "{}",
        "gdmtl_plus/seed0/training_curves.png": "x",
        "gdmtl/seed0/training_curves.png": "of another config",
        "folds/0/gdmtl_plus/seed0/training_curves.png": "x",
        "folds/0/figures/changed_heads.test0.png": "x",
        "folds/0/tables/attention_moved.test0.csv": "layer\n1\n",
    }  # fmt: skip
    write(tmp_path, files)
    return tmp_path


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def half(folder):
    """A sweep that was stopped half-way: two jobs done, one that runs, one that failed, one that waits."""
    jobs = [Job(name, "train", "a" * 64, str(folder), {}, [], seconds=300.0) for name in ("measure_bm25", "train_a", "train_b", "train_c")]
    jobs += [Job(f"04_rerank_and_evaluate_{split}", "analyse", "a" * 64, str(folder), {}, [], seconds=30.0) for split in ("dev", "cast")]
    (folder / ".jobs").mkdir()
    (folder / "plan.json").write_text(json.dumps([asdict(job) for job in jobs]))
    for job in (jobs[0], jobs[5]):
        job.stamp.write_text("{}")
    started = folder / ".jobs" / ".started"
    started.touch()
    os.utime(started, (time.time() - 165, time.time() - 165))  # 330 planned seconds were done in 165
    jobs[2].failure.write_text("train_b failed. ValueError: <why>")
    return folder, jobs


def test_half_way_the_page_says_what_is_done_what_runs_and_how_long_the_rest_takes(half):
    folder, jobs = half
    with hold_lock(jobs[1].stamp.with_name(".train_a.lock"), "running"):
        text = write_page(folder).read_text()
    assert "Job 3 of 6, about 8 minutes left. Running: train_a. This page loads itself" in text  # 930 s at twice the pace
    assert "train_b: train_b failed. ValueError: &lt;why&gt;" in text and '<meta http-equiv="refresh"' in text
    for job in jobs:
        job.stamp.write_text("{}")
    text = write_page(folder).read_text()
    assert "All 6 jobs are done." in text and "refresh" not in text and "failed" not in text.partition("</style>")[2]


def test_interim_tables_say_so(half):
    half[1][5].stamp.write_text(json.dumps({"tables/effectiveness.cast.csv": "there"}))
    write(half[0], {"tables/effectiveness.cast.csv": "system,MRR@10\nBM25,0.5\n"})
    text = write_page(half[0]).read_text()
    assert text.count("Interim: systems are still missing") == 1  # dev's; cast's final one is there
    assert text.index('id="tables/effectiveness.dev.csv"') < text.index('id="tables/effectiveness.cast.csv"')
    assert "Effectiveness: <a" in text and ">dev</a>, <a" in text


def test_the_page_concludes_and_puts_the_papers_number_beside_ours(folder):
    write(folder, {
        "tables/effectiveness.dev.csv": "system,MRR@10\nBM25,0.610\nBERT,0.700 ▲\nGDMTL+,0.690 ▽\n",
        "tables/twins.dev.csv": "system,twin,difference,low,high,mark\ngdmtl_plus,bert,-0.01,-0.02,-0.005,▽\n",
        "tables/win_tie_loss.dev.csv": "baseline,system,win,tie,loss\nBM25,BERT,3,2,1\nBM25,GDMTL+,4,1,1\nBERT,GDMTL+,0,5,1\n",
    })  # fmt: skip
    text = write_page(folder).read_text()
    assert "Which system ranks best on dev? BERT, with an MRR@10 of 0.700; BM25 alone has 0.610." in text
    assert "Does generating help the ranking on dev, in MRR@10? Worse: GDMTL+ against BERT -0.010 (-0.020 to -0.005)." in text
    assert "<td>BERT</td><td>0.700 ▲</td><td>0.384</td>" in text and "those of MS MARCO dev" in text
    assert "<th>baseline</th><th>BERT</th><th>GDMTL+</th>" in text and "<td>BERT</td><td></td><td>0 / 5 / 1</td>" in text
    assert "better or worse than BERT with p &lt; 0.01" in text


@pytest.mark.parametrize(
    ("split", "trained", "reported"), [("cast", "train", "0.617"), ("cast", "cast", "0.544"), ("broadcast", "train", "0.384")]
)
def test_of_cast_the_papers_number_is_that_of_transfer_or_of_folds(folder, split, trained, reported):
    """Tables 8 and 6."""
    config = json.loads((folder / "config.json").read_text()) | {"train_split": trained, "splits": {split: 1}}
    table = {f"tables/effectiveness.{split}.csv": "system,MRR@10\nBERT,0.700\n"}
    write(folder, {"config.json": json.dumps(config)} | table)
    assert f"<td>BERT</td><td>0.700</td><td>{reported}</td>" in write_page(folder).read_text()


TWINS, SIZES = "system,twin,difference,low,high,mark\n", "share,queries,system,difference,low,high,mark\n"


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (  # a gain of systems below BM25 is called so
            {"effectiveness.dev": "system,MRR@10\nBM25,0.610\nBERT,0.200\nGDMTL,0.350\n",
             "twins.dev": TWINS + "gdmtl,bert,0.15,0.1,0.2,▲\n"},
            "Better: GDMTL against BERT, both below BM25, +0.150 (+0.100 to +0.200).",
        ),
        (  # the fewest queries alone would hide that it costs the ranking with more of them
            {"training_size.dev": SIZES + "0.1,42,BERT,0.0,,,\n0.1,42,GDMTL,-0.007,-0.02,0.01,\n1.0,3400,GDMTL,-0.1,-0.2,-0.05,▼\n"},
            "Does it help most where training queries are few, against BERT? Worse: GDMTL with 3,400 -0.100 (-0.200 to -0.050); "
            "these queries cannot tell: GDMTL with 42 -0.007 (-0.020 to +0.010).",
        ),
        (  # the mark decides where an interval alone would say more
            {"twins.dev": TWINS + "gdmtl_plus,bert,-0.037,-0.072,-0.001,\ngdmtl,bert,-0.05,-0.08,-0.02,▼\ngdmtl_c,bart_c,0.01,-0.02,0.04,\n"},
            "Worse: GDMTL against BERT -0.050 (-0.080 to -0.020); these queries cannot tell: GDMTL+ against BERT -0.037 "
            "(-0.072 to -0.001), GDMTL_C against BART_C +0.010 (-0.020 to +0.040).",
        ),
    ],
)  # fmt: skip
def test_what_is_concluded_from_tables(folder, tables, said):
    write(folder, {f"tables/{name}.csv": text for name, text in tables.items()})
    assert said in write_page(folder).read_text()


def test_without_a_system_and_its_twin_nothing_is_concluded_of_generating(folder):
    write(folder, {"tables/differences.dev.csv": "measure,system,mean,difference,low,high\nMRR@10,BM25,0.6,-0.1,-0.2,0.0\n"})
    assert "Does generating help" not in write_page(folder).read_text()


def test_what_is_being_written_is_left_out(folder):
    (folder / "tables" / "collection.csv").write_text("")
    assert "Collection</a>" not in write_page(folder).read_text()


def test_a_call_says_at_its_start_what_it_will_do(half):
    folder, jobs = half
    config = Namespace(name="sample", folder=str(folder), notebooks={})
    assert announced(config, jobs) == (
        "sample: 6 jobs, 2 of them done. To do: 3 trainings, 1 notebook; about 16 minutes on this machine, alone. The page "
        f"{folder}/index.html says how far it is and shows what there is."
    )
    config.notebooks = {"13_generated_queries": {"passages_read": 4}}
    assert " Of the config's `notebooks`, 13_generated_queries is none that this sweep runs. The page " in announced(config, jobs)


def test_every_figure_table_and_notebook_is_linked_and_every_link_leads_somewhere(folder):
    page = write_page(folder)
    assert page == folder / "index.html"
    text = page.read_text()
    linked = {unquote(link) for link in re.findall(r'(?:href|srcset)="([^"# ]+)(?: 2x)?"', text)}
    assert all((folder / link).is_file() for link in linked)
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(re.findall(r'id="([^"]+)"', text))
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there - linked == {"config.json", "index.html", "gdmtl/seed0/training_curves.png"}


def test_tables_are_shown_with_three_digits_and_as_text(folder):
    text = write_page(folder).read_text()
    assert "<td>0.612</td><td>0.177 +0.823</td>" in text
    assert "<td>&lt;b&gt;</td><td>1.000</td><td>2</td>" in text
    assert "a &lt;folder&gt;" in text and "dev (relevant from grade 1), cast (relevant from grade 2)" in text
    assert text.index("Effectiveness: dev<") < text.index("Collection<small")
    assert "GDMTL+, seed 0<" in text and "GDMTL+, seed 0, rotation 0<" in text
    assert text.index("A b<small") < text.index("Changed heads: test0, rotation 0<")


@pytest.mark.parametrize(
    ("column", "shown"),
    [(["0.61234567", "-0.0123456", "1.0", ""], ["0.612", "-0.012", "1.000", ""]), (["1.9e-18", "0.5"], ["0.000", "0.500"]),
     (["-13.0", "0.0"], ["-13", "0"]), (["709.487", "0.52"], ["709.5", "0.5"]), (["170", "7187158"], ["170", "7187158"]),
     (["1.2.3", "0.5"], ["1.2.3", "0.5"]), (["-0.0001", "0.5"], ["0.000", "0.500"]), (["word " * 50], ["word " * 31 + "…"])],
)  # fmt: skip
def test_a_column_of_numbers_is_written_alike(column, shown):
    assert _written(pd.Series(column)) == shown


def test_only_a_p_is_said_to_be_less_than_a_thousandth():
    texts = ["0.0003", "0.0", "0.0166"]
    assert _written(pd.Series(texts, name="p_corrected")) == ["<0.001", "<0.001", "0.017"]
    assert _written(pd.Series(["0.0003", "-0.0003", "0.0166"], name="difference")) == ["0.000", "0.000", "0.017"]


def test_what_an_earlier_sweep_left_is_called_so_and_nothing_is_concluded_from_it(half):
    folder, jobs = half
    write(folder, {
        "tables/twins.dev.csv": TWINS + "gdmtl_plus,bert,0.1,0.05,0.15,▲\n", "figures/twins.dev.png": "x", "figures/new.png": "x",
        "tables/effectiveness.cast.csv": "system,MRR@10\nBM25,0.5\nBERT,0.6\n",
    })  # fmt: skip
    text = write_page(folder).read_text()
    assert "Twins: dev (of an earlier sweep)<small" in text and "New (of an earlier sweep)<small" in text
    assert "What it says" not in text
    jobs[0].stamp.write_text(json.dumps({"figures/new.png": "there"}))
    jobs[5].stamp.write_text(json.dumps({"tables/effectiveness.cast.csv": "there"}))
    text = write_page(folder).read_text()
    assert "New<small" in text and "Effectiveness: cast<small" in text and "Which system ranks best on cast? BERT, with" in text
    assert "Does generating help" not in text


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ("BM25,0.619\nBERT,0.500\n", "BM25, with an MRR@10 of 0.619."),
        ("BM25,0.600\nBERT,0.700 ▲\nGDMTL+,0.700\n", "BERT and GDMTL+, with an MRR@10 of 0.700; BM25 alone has 0.600."),
    ],
)
def test_all_that_rank_best_are_named(folder, means, said):
    write(folder, {"tables/effectiveness.dev.csv": f"system,MRR@10\n{means}"})
    assert f"Which system ranks best on dev? {said}</li>" in write_page(folder).read_text()


def test_equal_systems_are_called_so_and_one_query_has_no_interval(folder):
    write(folder, {"tables/twins.dev.csv": TWINS + "gdmtl,bert,0.0,0.0,0.0,\ngdmtl_plus,bert,0.2,,,\n"})
    text = write_page(folder).read_text()
    assert "Equal: GDMTL against BERT; these queries cannot tell: GDMTL+ against BERT +0.200.</li>" in text


def test_a_run_may_be_called_baseline(folder):
    write(folder, {"tables/win_tie_loss.dev.csv": "baseline,system,win,tie,loss\nmine,baseline,3,2,1\n"})
    assert "<td>mine</td><td>3 / 2 / 1</td>" in write_page(folder).read_text()


@pytest.mark.parametrize("names", [("0.1", "0.10"), ("007", "1e5"), ("nan", "None"), ("1", "2.50")])
def test_names_that_look_like_numbers_stay_as_they_are(folder, names):
    write(folder, {"tables/effectiveness.dev.csv": f"system,MRR@10\n{names[0]},0.5\n{names[1]},0.25\n"})
    text = write_page(folder).read_text()
    assert f"Which system ranks best on dev? {names[0]}, with an MRR@10 of 0.500." in text
    assert all(f"<td>{name}</td><td>{mean}</td>" in text for name, mean in zip(names, ("0.500", "0.250")))


def test_a_figure_stands_above_its_table_and_what_answers_the_question_first(folder):
    write(folder, {
        "tables/twins.dev.csv": "system,twin,difference,low,high,mark\n", "figures/twins.dev.png": "x",
        "tables/texts.csv": "passage\n" + "word " * 30 + "\n",
    })  # fmt: skip
    text = write_page(folder).read_text()
    assert text.index("Which system ranks best") < text.index('srcset="figures/twins.dev.png') < text.index("Contents:")
    assert text.index('srcset="figures/effectiveness.dev.png') < text.index("<th>RBP0.5</th>")
    folded = re.findall(r'<h3 id="([^"]+)">(?:(?!<h3).)*?<details>', text, re.DOTALL)
    assert folded == ["tables/twins.dev.csv", "tables/texts.csv"]


def test_of_a_long_table_the_first_rows_are_shown(folder):
    (folder / "tables" / "collection.csv").write_text("n\n" + "".join(f"row {n}\n" for n in range(1000)))
    text = write_page(folder).read_text()
    assert "row 14<" in text and "row 15<" not in text and "and 985 more rows" in text


def test_of_what_is_not_there_nothing_is_shown(folder):
    for path in [*folder.glob("**/figures/*"), *folder.glob("**/tables/*")]:
        path.unlink()
    text = write_page(folder).read_text()
    assert "Figures and tables" not in text and "Contents" not in text and "Executed notebooks" in text
