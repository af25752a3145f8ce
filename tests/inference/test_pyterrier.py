"""The transformer of docs/pyterrier.md, against PyTerrier's data model; with the package where it is installed."""

import importlib.util
import re
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import gdmtl_lib as gdmtl

PAGE = Path(__file__).parents[2] / "docs" / "pyterrier.md"


@pytest.fixture
def transformer(toys, tmp_path, monkeypatch):
    if importlib.util.find_spec("pyterrier") is None:  # its base class, of which nothing else is used
        monkeypatch.setitem(sys.modules, "pyterrier", types.SimpleNamespace(Transformer=object))
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    toys["gdmtl"].save_pretrained(tmp_path / "checkpoint")
    written = {}
    exec(code, written)
    return written["GDMTL"](tmp_path / "checkpoint")


def test_results_with_texts_become_results(toys, transformer):
    texts = ["ice", "old king of the north", "blue ice water", "river"]
    results = pd.DataFrame({
        "qid": ["2", "2", "10", "10", "2"], "query": ["ice"] * 2 + ["who was king"] * 2 + ["ice"],
        "docno": list("abcda"), "text": [*texts, "food"], "score": 0.0, "rank": 0,
    })  # fmt: skip
    results.loc[4, "docno"] = "e"
    found = transformer.transform(results)
    assert sorted(found["docno"]) == list("abcde") and set(results.columns) == set(found.columns)
    for qid, rows in found.groupby("qid"):
        assert rows["rank"].tolist() == list(range(len(rows))) and rows["score"].is_monotonic_decreasing
        scores = gdmtl.rerank_texts(toys["gdmtl"], rows["query"].iloc[0], rows["text"])
        np.testing.assert_allclose(rows["score"], scores, atol=1e-5)
    run = found.rename(columns={"qid": "query_id", "docno": "doc_id"})
    qrels = pd.DataFrame({"query_id": ["2"], "doc_id": ["a"], "relevance": [1]})
    assert gdmtl.evaluate(run, qrels, ["RR@10"])["value"].tolist() == [1 / (1 + found.query("docno == 'a'")["rank"].item())]


def test_no_results_stay_none(transformer):
    empty = pd.DataFrame(columns=["qid", "query", "docno", "text"], dtype=str)
    assert transformer.transform(empty).empty
