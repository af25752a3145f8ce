import json
import re
from urllib.parse import unquote

import pytest

from gdmtl_lib.sweep.page import _shortened, write_page


@pytest.fixture
def folder(tmp_path):
    config = {
        "name": "sample", "collection": "a <folder>", "train_split": "train", "splits": {"dev": 1, "cast": 2},
        "systems": ["bert", "gdmtl_plus"], "seeds": [0], "depth": 20,
    }  # fmt: skip
    files = {
        "config.json": json.dumps(config),
        "tables/effectiveness.dev.csv": "system,MRR@10,RBP0.5\nBM25,0.61234567,0.177 +0.823\n<b>,1,2\n",
        "tables/effectiveness.dev.tex": "x",
        "tables/collection.csv": "split,queries\ndev,170\n",
        "figures/effectiveness.dev.png": "x", "figures/effectiveness.dev.pdf": "x",
        "figures/a b.png": "x",
        "notebooks/04_rerank_and_evaluate_dev.ipynb": "{}",
        "gdmtl_plus/seed0/03_train.ipynb": "{}",
        "gdmtl_plus/seed0/training_curves.png": "x",
        "gdmtl/seed0/training_curves.png": "of another config",
        "folds/0/gdmtl_plus/seed0/training_curves.png": "x",
        "folds/0/figures/changed_heads.test0.png": "x",
        "folds/0/tables/attention_moved.test0.csv": "layer\n1\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_figure_table_and_notebook_is_linked_and_every_link_leads_somewhere(folder):
    page = write_page(folder)
    assert page == folder / "index.html"
    text = page.read_text()
    linked = {unquote(link) for link in re.findall(r'(?:href|srcset)="([^" ]+)(?: 2x)?"', text)}
    assert all((folder / link).is_file() for link in linked)
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
