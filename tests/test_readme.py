"""The README as code: its examples run, its links lead somewhere, its picture is what the library computes."""

import gzip
import importlib.util
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests import warm

from gdmtl_lib.masks import bidirectional_mask, mixed_attention_mask
from gdmtl_lib.systems import LABELS

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")
PAGES = {path: path.read_text(encoding="utf-8") for path in (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))}


def section(title):
    [text] = re.findall(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", "\n".join(PAGES.values()), re.MULTILINE | re.DOTALL)
    return text


def code(title):
    return re.findall(r"```python\n(.*?)```", section(title), re.DOTALL)


def test_every_link_within_the_project_leads_somewhere():
    links = [(path, link) for path, text in PAGES.items() for link in re.findall(r"\]\(([^)]+)\)", text)]
    local = [(path, link) for path, link in links if not link.startswith("http")]
    assert len(local) > 10
    assert [(path.name, link) for path, link in local if not (path.parent / link).exists()] == []


def test_the_readme_is_read_in_a_minute():
    assert len(README.splitlines()) < 200
    unfolded = re.sub(r"<details>.*?</details>|```.*?```", "", README.partition("## Licences")[0], flags=re.DOTALL)
    assert len([word for word in unfolded.split() if re.search(r"\w", word)]) < 790  # a table's bars are none


def test_every_notebook_is_in_the_table_and_every_system_in_its_own():
    for path in (PROJECT / "notebooks").glob("*.ipynb"):
        where = section("Start" if path.stem == "00_index" else "The notebooks")
        assert f"](notebooks/{path.name})" in where
    for name in LABELS:
        assert f"`{name}`" in section("The systems")


def test_the_commands_are_targets_of_make():
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE)) | set(re.findall(r"`make ([a-z]+)", README))
    assert {"figures", "test", "lab"} <= named <= targets


def runs_of_two_tools(folder):
    """What the example on own runs reads: PyTerrier's and Pyserini's forms, judgments, queries."""
    ranked = {f"q{i}": [f"d{(i + j) % 4}" for j in range(4)] for i in range(6)}
    with open(folder / "a.run", "w") as mine, gzip.open(folder / "b.run.gz", "wt") as theirs:
        for query, docs in ranked.items():
            mine.writelines(f"{query} Q0 {doc} {i} {4 - i} pyterrier\n" for i, doc in enumerate(docs))
            theirs.writelines(f"{query} Q0 {doc} {i} {4 - i:.6f} Anserini\n" for i, doc in enumerate(docs[::-1], 1))
    (folder / "qrels.txt").write_text("".join(f"{query} 0 d2 1\n" for query in ranked))
    (folder / "queries.tsv").write_text("".join(f"{query}\twhat is {query}\n" for query in ranked))


@pytest.mark.parametrize("title", ["Your own runs", "Add a system", "Add a task", "Add a ranking loss", "Add a collection"])
def test_what_can_be_added_takes_ten_lines_and_works(title, tmp_path):
    [example] = code(title)
    lines = [line for line in example.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(lines) <= 10
    runs_of_two_tools(tmp_path)
    check = {
        "Your own runs": "from pathlib import Path; assert Path('query_deltas.png').stat().st_size > 5000 and len(values) == 2",
        "Add a system": "assert model.system.rank_loss == 'pointwise' and model.system.generative_tasks",
        "Add a task": "assert set(history) >= {'rank_loss', 'blind_answer_loss'} and history.notna().all(axis=None)",
        "Add a ranking loss": "assert history['rank_loss'].notna().all() and history['rank_loss'].iloc[-1] < 3",
        "Add a collection": "assert len(candidates) > 0 and values['value'].max() == 1",
    }[title]
    script = tmp_path / "example.py"
    script.write_text(f"{example}\n{check}\nprint('it works')\n", encoding="utf-8")
    status = warm.forked(warm.script, script, cwd=tmp_path, printed=tmp_path / "printed.txt")
    printed = (tmp_path / "printed.txt").read_text()
    assert status == 0, printed
    assert "it works\n" in printed


def test_the_gallery_is_small_and_its_picture_of_results_is_that_of_the_table():
    """What the script reads of the README's table now stands in the picture, too, since it was drawn."""
    drawn = importlib.util.spec_from_file_location("draw_gallery", PROJECT / "docs" / "draw_gallery.py")
    script = importlib.util.module_from_spec(drawn)
    drawn.loader.exec_module(script)
    pictures = sorted((PROJECT / "docs" / "gallery").glob("*.png"))
    page = (PROJECT / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert all(f"](gallery/{path.name})" in page for path in pictures)
    assert len(pictures) == 3 + len(script.TRAINED) and {path.stem for path in pictures} > set(script.TRAINED)
    assert sum(path.stat().st_size for path in pictures) <= 400_000
    for notebook in sorted((PROJECT / "notebooks").glob("[01][1-9]_*.ipynb")) + sorted((PROJECT / "notebooks").glob("10_*.ipynb")):
        assert "](gallery/" in page.partition(f"](../notebooks/{notebook.name})")[2].partition("](../notebooks/")[0], notebook.name
    table = script.measured()
    assert len(table) == section("Results").count("` to `") == 10
    with Image.open(PROJECT / "docs" / "gallery" / "results.png") as picture:
        assert picture.text["table"] == table.to_csv(), "python docs/draw_gallery.py draws it anew"


def test_the_picture_shows_the_masks_of_the_library():
    """Squares of one colour are allowed, of the palest are not; rows and columns by their places."""
    svg = (PROJECT / "notebooks" / "mixed_attention.svg").read_text(encoding="utf-8")
    squares = [
        (int(x), int(y), fill != "#eef1f4")
        for x, y, fill in re.findall(r'<rect x="(\d+)" y="(\d+)" width="22" height="22" rx="3" fill="(#\w+)"', svg)
    ]
    left, right = [s for s in squares if s[0] < 500], [s for s in squares if s[0] >= 500]
    segments = torch.tensor([[0] * 7 + [1] * 2])
    for drawn, mask in (
        (left, bidirectional_mask(torch.ones(1, 10, dtype=torch.bool))),
        (right, mixed_attention_mask(segments, torch.ones_like(segments, dtype=torch.bool))),
    ):
        size = mask.shape[-1]
        columns, rows = sorted({x for x, _, _ in drawn}), sorted({y for _, y, _ in drawn})
        assert len(columns) == len(rows) == size and len(drawn) == size**2
        found = torch.zeros(size, size, dtype=torch.bool)
        for x, y, may in drawn:
            found[rows.index(y), columns.index(x)] = may
        assert torch.equal(found, mask[0])
