import json
import os
import re
import time
from argparse import Namespace
from dataclasses import asdict
from urllib.parse import unquote

import pytest

from gdmtl_lib.data.files import hold_lock
from gdmtl_lib.sweep.jobs import Job
from gdmtl_lib.sweep.page import _shortened, announced, write_page


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
    write(half[0], {"tables/effectiveness.cast.csv": "system,MRR@10\nBM25,0.5\n"})
    text = write_page(half[0]).read_text()
    assert text.count("Interim: systems are still missing") == 1  # dev's; cast's final one is there
    assert text.index("Effectiveness: dev</a>") < text.index("Effectiveness: cast</a>")


def test_the_page_concludes_and_puts_the_papers_number_beside_ours(folder):
    write(folder, {
        "tables/effectiveness.dev.csv": "system,MRR@10\nBM25,0.610\nBERT,0.700 ▲\nGDMTL+,0.690 ▽\n",
        "tables/differences.dev.csv": "measure,system,mean,difference,low,high\nMRR@10,GDMTL+,0.69,-0.01,-0.02,-0.005\n",
        "tables/win_tie_loss.dev.csv": "baseline,system,win,tie,loss\nBM25,BERT,3,2,1\nBM25,GDMTL+,4,1,1\nBERT,GDMTL+,0,5,1\n",
    })  # fmt: skip
    text = write_page(folder).read_text()
    assert "Which system ranks best? On dev BERT, with an MRR@10 of 0.700; BM25 alone has 0.610." in text
    assert "On dev, in MRR@10: GDMTL+ against BERT -0.010 (-0.020 to -0.005): is worse." in text
    assert "<td>BERT</td><td>0.700 ▲</td><td>0.384</td>" in text and "those of MS MARCO dev" in text
    assert "<th>baseline</th><th>BERT</th><th>GDMTL+</th>" in text and "<td>BERT</td><td></td><td>0 / 5 / 1</td>" in text
    assert "better or worse than BERT with p &lt; 0.01" in text


def test_a_gain_of_systems_below_bm25_is_called_so(folder):
    write(folder, {
        "tables/effectiveness.dev.csv": "system,MRR@10\nBM25,0.610\nBERT,0.200\nGDMTL,0.350\n",
        "tables/differences.dev.csv": "measure,system,mean,difference,low,high\nMRR@10,GDMTL,0.35,0.15,0.1,0.2\n",
    })  # fmt: skip
    assert "GDMTL against BERT, both below BM25, +0.150 (+0.100 to +0.200): is better." in write_page(folder).read_text()


def test_without_a_system_and_its_twin_nothing_is_concluded_of_generating(folder):
    write(folder, {"tables/differences.dev.csv": "measure,system,mean,difference,low,high\nMRR@10,BM25,0.6,-0.1,-0.2,0.0\n"})
    assert "Does generating help" not in write_page(folder).read_text()


def test_what_is_being_written_is_left_out(folder):
    (folder / "tables" / "collection.csv").write_text("")
    assert "Collection<" not in write_page(folder).read_text()


def test_a_call_says_at_its_start_what_it_will_do(half):
    folder, jobs = half
    config = Namespace(name="sample", folder=str(folder))
    assert announced(config, jobs) == (
        "sample: 6 jobs, 2 of them done. To do: 3 trainings, 1 notebook; about 16 minutes on this machine, alone. The page "
        f"{folder}/index.html says how far it is and shows what there is."
    )


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
    assert "<td>&lt;b&gt;</td><td>1</td><td>2</td>" in text
    assert "a &lt;folder&gt;" in text and "dev (relevant from grade 1), cast (relevant from grade 2)" in text
    assert text.index("Effectiveness: dev<") < text.index("Collection<")
    assert "GDMTL+, seed 0<" in text and "GDMTL+, seed 0, rotation 0<" in text
    assert text.index("A b<") < text.index("Changed heads: test0, rotation 0<")


@pytest.mark.parametrize(
    ("value", "shown"),
    [("0.61234567", "0.612"), ("-0.0123456", "-0.012"), ("1.9504521e-18", "2.0e-18"), ("9.0", "9.0"), ("170", "170"),
     ("1.2.3", "1.2.3")],
)  # fmt: skip
def test_numbers_are_shortened(value, shown):
    assert _shortened(value) == shown


def test_of_a_long_table_the_first_rows_are_shown(folder):
    (folder / "tables" / "collection.csv").write_text("n\n" + "".join(f"row {n}\n" for n in range(1000)))
    text = write_page(folder).read_text()
    assert "row 14<" in text and "row 15<" not in text and "and 985 more rows" in text


def test_of_what_is_not_there_nothing_is_shown(folder):
    for path in [*folder.glob("**/figures/*"), *folder.glob("**/tables/*")]:
        path.unlink()
    text = write_page(folder).read_text()
    assert "Figures" not in text and "Tables" not in text and "Executed notebooks" in text
