"""What an import costs: nothing until a name is used, and no torch for measuring runs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gdmtl_lib as gdmtl

LIBRARY = Path(gdmtl.__file__).parent


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=LIBRARY.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_library_is_instant_and_loads_nothing():
    code = """
import sys, time
start = time.perf_counter()
import gdmtl_lib
seconds = time.perf_counter() - start
heavy = {"torch", "numpy", "pandas", "transformers", "ir_measures", "accelerate"} & set(sys.modules)
print(seconds, sorted(heavy), [name for name in sys.modules if name.startswith("gdmtl_lib")])
"""
    seconds, rest = run(code).split(maxsplit=1)
    assert rest == "[] ['gdmtl_lib']"
    assert float(seconds) < 0.3


def test_measuring_works_where_there_is_no_torch():
    """A machine for analysis alone: no torch, no transformers; runs are measured all the same."""
    code = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
import pandas as pd
import gdmtl_lib as gdmtl
gdmtl.runs, gdmtl.comparison
run = pd.DataFrame({"query_id": ["q", "q"], "doc_id": ["a", "b"], "score": [2.0, 1.0]})
qrels = pd.DataFrame({"query_id": ["q"], "doc_id": ["b"], "relevance": [1]})
print(gdmtl.evaluate(run, qrels, ["RR@10", "nDCG@10", "RBP(p=0.5)"])["value"].round(3).tolist())
"""
    assert run(code) == "[0.5, 0.631, 0.25]"


def test_evaluation_never_imports_torch():
    code = """
import sys
import gdmtl_lib.evaluation.measures, gdmtl_lib.evaluation.comparison, gdmtl_lib.data.trec
print(sorted({"torch", "transformers", "accelerate"} & set(sys.modules)))
"""
    assert run(code) == "[]"


# These know nothing of the library but each other, and the systems' names and labels.
BASE = {"masks", "losses", "whole_files", "runs", "evaluation", "comparison", "plots"}


@pytest.mark.parametrize("module", sorted(module for module in BASE if (LIBRARY / f"{module}.py").exists()))
def test_the_base_of_the_library_stands_alone(module):
    imported = set()
    for node in ast.walk(ast.parse((LIBRARY / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            path = (node.module or "").split(".")
            if node.level or path[0] == "gdmtl_lib":
                path = path if node.level else path[1:]
                imported |= {path[0]} if path and path[0] else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            imported |= {
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("gdmtl_lib.")
            }
    assert imported <= BASE | {"systems"}


NAMES = {
    "load_collection", "bm25_candidates", "build_model", "load_model", "TrainingSettings", "train", "rerank",
    "rerank_texts", "generate", "PAPER_MEASURES", "evaluate", "compare", "SYSTEMS",
}  # fmt: skip


def test_every_public_name_is_there():
    assert NAMES <= set(dir(gdmtl))
    assert all(getattr(gdmtl, name) is not None for name in NAMES)
    assert gdmtl.masks.mixed_attention_mask and gdmtl.losses.UncertaintyWeighting
    assert gdmtl.evaluate is gdmtl.evaluation.evaluate


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="^module 'gdmtl_lib' has no attribute 'trian'$"):
        gdmtl.trian  # noqa: B018
