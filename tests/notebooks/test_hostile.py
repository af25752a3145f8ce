"""The analysis notebooks on a collection that wants to be misread: what they show and write is what is in the data."""

import html
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from gdmtl_lib.data.trec import canonical_order, read_run, write_run
from gdmtl_lib.evaluation.measures import evaluate, read_values, write_values
from gdmtl_lib.experiments.notebook import notebook_parameters
from gdmtl_lib.pretrained import build_model

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
TEXTS = [
    "costs $5,000 or 10% of $2,000", "<script>alert('x')</script> & <b>bold</b>", "[SEP] [CLS] rank: sum: [MASK]",
    "\u202bמה צבע הקרח\u202c ما لون الجليد", "👩‍🔬🧊 ice 🇫🇷", "x_{$ \\frac{a}{b} ^~#_&", "=1+1 \"quoted\" 'single' `back`",
    "plain words about blue ice",
]  # fmt: skip
IDS = ["007", "7", "1e5", "100000", "a/b", "../c", "nan", "NULL", "-0", "TRUE", "1_000", "０７", "d:e", "x,y"]
CATEGORIES = ["$a$ & $b$", "<i>once</i>", *(f"kind {number}" for number in range(40))]


def lines(path, rows):
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """14 passages; 48 training queries, 84 of dev, one of `one`; its candidates are there, all passages a query. The
    category with the tags occurs once."""
    folder = tmp_path_factory.mktemp("hostile") / "collection"
    folder.mkdir()
    lines(folder / "passages.tsv", ((doc, f"{TEXTS[i % 8]} {i}") for i, doc in enumerate(IDS)))
    for split, count, base in (("train", 48, 100), ("dev", 84, 200), ("one", 1, 300)):
        ids = [f"{split}/{IDS[i % 14]}:{i}" if i % 3 else f"0{base + i}" if i else f"{base}e0" for i in range(count)]
        lines(folder / f"queries.{split}.tsv", ((query, f"{TEXTS[i % 8]}? {i}") for i, query in enumerate(ids)))
        lines(folder / f"qrels.{split}.tsv", ((query, 0, IDS[i % 14], 1) for i, query in enumerate(ids)))
        kinds = [CATEGORIES[1] if i == 1 else CATEGORIES[0] if i < 4 else CATEGORIES[2 + i % 40] for i in range(count)]
        lines(folder / f"categories.{split}.tsv", zip(ids, kinds))
        ranked = pd.DataFrame([(query, doc, float(-(i + k) % 14)) for i, query in enumerate(ids) for k, doc in enumerate(IDS)],
                              columns=["query_id", "doc_id", "score"])  # fmt: skip
        write_run(canonical_order(ranked), folder / f"candidates.{split}.trec")
    return folder


@pytest.fixture(scope="module")
def results(collection):
    """Runs of two systems with random scores."""
    from gdmtl_lib.data.collection import load_collection

    opened, folder, draw = load_collection(collection), collection.parent / "results", np.random.default_rng(0)
    for split in ("dev", "one"):
        candidates = read_run(collection / f"candidates.{split}.trec")
        for system in ("bert", "gdmtl"):
            run = canonical_order(candidates[["query_id", "doc_id"]].assign(score=draw.normal(size=len(candidates))))
            write_run(run, folder / system / "seed0" / f"run.{split}.trec.gz")
            write_values(evaluate(run, opened.qrels(split)), folder / system / "seed0" / f"per_query.{split}.csv")
    return folder


@pytest.fixture
def executed():
    """Executes a notebook's cells with parameters, in this process, and returns all HTML that it shows."""
    main = sys.modules["__main__"]  # which a shell replaces by its own namespace
    shell = InteractiveShell.instance()

    def execute(name: str, **given: object) -> str:
        shell.reset()
        known = notebook_parameters(NOTEBOOKS / f"{name}.ipynb")
        given = {parameter: value for parameter, value in given.items() if parameter in known}
        injected = "# Parameters\n" + "\n".join(f"{parameter} = {value!r}" for parameter, value in given.items())
        cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        shown = []
        for source in [sources[0], injected, *sources[1:]]:
            with capture_output() as output:
                cell = shell.run_cell(source, store_history=True)
            cell.raise_error()
            last = shell.display_formatter.format(cell.result)[0]
            shown += [data.get("text/html", "") for data in [*(each.data for each in output.outputs), last]]
        return "\n".join(shown)

    yield execute
    InteractiveShell.clear_instance()
    sys.modules["__main__"] = main


@pytest.mark.parametrize("split", ["dev", "one"])
def test_the_analyses_show_the_data_and_nothing_else(collection, results, executed, split):
    given = {
        "collection": str(collection), "results_dir": str(results), "split": split, "splits": [split], "relevance_levels": [1],
        "run": "collection", "depth": 14,
    }  # fmt: skip
    names = ["02_collection_and_candidates", "04_rerank_and_evaluate", "05_score_distributions", "06_win_tie_loss",
             "07_rank_shifts", "08_query_categories"]  # fmt: skip
    shown = {name: executed(name, **given) for name in names}
    for name, text in shown.items():
        assert "<script>alert" not in text and "<i>once" not in text and "<b>bold" not in text, name
        assert text.count("<table") == text.count("mathjax_ignore") > 0, name  # a price is no formula
    asked = pd.read_csv(collection / f"queries.{split}.tsv", sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)

    def table(name):
        return pd.read_csv(results / "tables" / f"{name}.csv", dtype=str, keep_default_na=False)

    values = read_values(results / "bert" / "seed0" / f"per_query.{split}.csv")
    assert set(values["query_id"]) == set(asked[0])
    shared = table("shared_information_needs")
    assert set(shared["test_query_id"]) == set(asked[0]) and set(shared["doc_id"]) <= set(IDS)
    assert set(shared["test_query"]) == set(asked[1])
    counts = table(f"win_tie_loss.{split}")[["win", "tie", "loss"]].astype(int)
    assert (counts.sum(axis=1) == len(asked)).all()
    extremes = table(f"query_extremes.{split}")
    assert set(extremes["query"]) <= set(asked[1])
    assert all(html.escape(query) in shown["06_win_tie_loss"] for query in extremes["query"] if "'" not in query)
    kinds = pd.read_csv(collection / f"categories.{split}.tsv", sep="\t", header=None, dtype=str)[1]
    found = table(f"categories.{split}")
    assert set(found["category"]) == set(kinds)
    assert found.query("system == 'GDMTL'").set_index("category")["queries"].astype(int).to_dict() == kinds.value_counts().to_dict()
    assert {"BM25", "BERT", "GDMTL"} == set(table(f"effectiveness.{split}")["system"])


@pytest.fixture
def runs(results, collection, tmp_path):
    """Of the two systems and BM25 by any names, as parameters."""
    def named(*names):
        files = [*(results / name / "seed0" / "run.dev.trec.gz" for name in ("bert", "gdmtl")), collection / "candidates.dev.trec"]
        return {"runs": dict(zip(names, map(str, files))), "qrels": str(collection / "qrels.dev.tsv"), "results_dir": str(tmp_path)}

    return named


@pytest.mark.parametrize("names", [("baseline", "rank"), ("query_id", "difference")])
def test_a_run_may_be_called_like_a_column(runs, executed, names):
    given = runs(*names)
    executed("06_win_tie_loss", **given)
    table = pd.read_csv(Path(given["results_dir"]) / "tables" / "query_extremes.runs.csv", dtype=str, keep_default_na=False)
    assert list(table.columns[-3:]) == ["difference", *(f"{name} first" for name in names)]
    assert table.iloc[:, -2:].isin([*IDS, *(f"● {doc}" for doc in IDS)]).all(axis=None)


def test_what_was_not_asked_for_is_not_looked_at(runs, executed):
    given = runs("mine", "theirs", "third") | {"systems": ["theirs", "mine"]}
    folder = Path(given["results_dir"]) / "tables"
    executed("04_rerank_and_evaluate", **given)
    assert pd.read_csv(folder / "effectiveness.runs.csv")["system"].tolist() == ["theirs", "mine"]
    executed("06_win_tie_loss", **given)
    assert pd.read_csv(folder / "win_tie_loss.runs.csv")[["baseline", "system"]].values.tolist() == [["theirs", "mine"]]
    with pytest.raises(ValueError, match="^systems: expected third among them, found theirs, mine; add it$"):
        executed("04_rerank_and_evaluate", **given, baseline="third")


def test_a_baseline_that_is_not_there_is_refused(collection, results, executed):
    given = {"collection": str(collection), "results_dir": str(results), "run": "collection", "depth": 14}
    with pytest.raises(FileNotFoundError, match="^BART_S has no per_query.dev.csv: .* train bart_s with notebook 03$"):
        executed("04_rerank_and_evaluate", **given, baseline="bart_s")
    with pytest.raises(ValueError, match="^relevance_levels: expected one for each of splits"):
        executed("02_collection_and_candidates", **given, splits=["dev"])


def test_what_a_system_writes_is_shown_as_text(collection, results, executed, toy_bert_folder):
    """One query to learn from: what is relevant to a training query is kept apart, and that would be all passages."""
    build_model("gdmtl", checkpoint=toy_bert_folder).save_pretrained(results / "gdmtl" / "seed0" / "checkpoint")
    trained = {"collection": "", "settings": {"precision": "fp32"}}
    (results / "gdmtl" / "seed0" / "settings.json").write_text(json.dumps({"training": trained}))
    given = {
        "collection": str(collection), "results_dir": str(results), "split": "dev", "train_split": "one", "depth": 14,
        "run": "collection", "systems": ["gdmtl"], "max_tokens": 6, "queries_appended": [0, 1], "passages_read": 4, "precision": "fp32", "device": "cpu",
    }  # fmt: skip
    executed("04_rerank_and_evaluate", **given, splits=["dev"], relevance_levels=[1])  # measures BM25
    for name in ("12_query_likelihood", "13_generated_queries"):
        shown = executed(name, **given)
        assert "<script>alert" not in shown and shown.count("<table") == shown.count("mathjax_ignore") > 0
