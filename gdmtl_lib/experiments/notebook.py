"""What a notebook needs around its two or three calls: checked parameters, and where its files lie.

papermill only warns about a parameter that a notebook does not have, so `-p modle gdmtl` would silently run the
defaults. `resolve_parameters` refuses it.
"""

import ast
import json
import os
import re
import types
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from itertools import chain
from pathlib import Path

from gdmtl_lib.settings import PRECISIONS
from gdmtl_lib.systems import get_system, unknown_name

INJECTED = "# Parameters"  # the first line of the cell that papermill injects
_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}
# What the numbers of a parameter are at least, and what else it has to be; whole numbers that are not here are at least 1.
_LEAST = {"bins": 2, "most_queries": 2} | dict.fromkeys(
    ("seed", "denoising_steps", "generation_head_warmup_steps", "gradient_cosines_every", "timed_pairs", "queries_appended",
     "most_passages", "passages_shown", "queries_shown", "attribution_pairs", "tolerance"), 0)  # fmt: skip
_FITS = {
    "queries_appended": ("0 and other numbers of at least 1", lambda counts: 0 in counts and max(counts) > 0),
    "drawn": ("one system or more", lambda names: names and all(map(get_system, names))),
    "precision": (f"one of {', '.join(PRECISIONS)}", PRECISIONS.__contains__),
}


def resolve_parameters(cells: Sequence[str], values: MutableMapping[str, object]) -> dict[str, object]:
    """The notebook's parameters with the values they have, checked: name -> value in the order declared.

    cells: the sources executed so far, IPython's `In`. The first that declares `name: type = value` is the parameters
    cell; one that begins with papermill's own line holds what was given on the command line.
    values: the notebook's `globals()`; a text that stands for a number becomes that number there.
    """
    declared = next((found for cell in cells if (found := _declarations(cell))), None)
    if declared is None:
        raise ValueError("no parameters cell has been run: run the notebook from its first cell")
    given = [name for cell in cells if cell.startswith(INJECTED) for name in _assigned(cell)]
    for name in given:
        if name not in declared and not name.startswith("PAPERMILL_"):  # its own, by --inject-paths
            raise ValueError(unknown_name("parameter", name, declared, "this notebook has"))
    # A collection that a later cell has opened stands for its name: the cell can be run again.
    found = {name: os.fspath(values[name]) if isinstance(values[name], os.PathLike) else values[name] for name in declared}
    for name, annotation in declared.items():
        if annotation == "bool" or "float" in annotation:
            values[name] = found[name] = number_of(found[name], annotation)
        try:
            check_value(f"parameter {name}", found[name], annotation, name)
        except ValueError as error:
            if "str" in annotation and isinstance(found[name], (int, float)):  # papermill's -p makes a number of it
                raise ValueError(f"{error}; to papermill, a text that looks like a number is -r {name} {found[name]}") from None
            raise
    return found


def notebook_parameters(notebook: Path) -> dict[str, tuple[str, object]]:
    """The parameters that a notebook declares, name -> (type, default), without running it."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    [cell] = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    lines = ast.parse("".join(cell["source"])).body
    return {line.target.id: (ast.unparse(line.annotation), ast.literal_eval(line.value)) for line in lines}


def number_of(value: object, annotation: str) -> object:
    """What a text stands for, where a number, true, false or null is expected: YAML 1.1 takes 1e-4 for a text, and
    Snakemake's `--config` whatever stands in brackets, lists of it too; papermill knows True and not true."""
    if isinstance(value, list) and (of := re.search(r"list\[(\w+)\]", annotation)):
        return [number_of(each, of[1]) for each in value]
    if value == "null" and "None" in annotation:
        return None
    if not isinstance(value, str):
        return value
    if annotation == "bool" and value in ("true", "false"):
        return value == "true"
    if "int" in annotation and re.fullmatch(r"[+-]?\d+", value):
        return int(value)
    is_number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value)
    return float(value) if "float" in annotation and is_number else value


def check_value(what: str, value: object, annotation: str, parameter: str = "") -> None:
    """Refuse a value that is not of the type declared (an int does for a float) with ValueError, naming what it is; and one
    that notebooks can do nothing with as this parameter."""
    kinds = eval(annotation.replace(" or ", " | "), {"__builtins__": {}}, _TYPES)  # noqa: S307, the notebook's own text
    if not _fits(value, kinds):
        raise ValueError(f"{what} must be {annotation}, found {value!r} ({type(value).__name__})")
    least = _LEAST.get(parameter, 1 if parameter and "int" in annotation else float("-inf"))
    numbers = [number for number in (value if isinstance(value, list) else [value]) if isinstance(number, (int, float))]
    expected, fits = _FITS.get(parameter, (f"at least {least}", lambda _: True))
    if not all(number >= least for number in numbers) or not fits(value):
        raise ValueError(f"{what} must be {expected}, found {value!r}")


def project_folder() -> Path:
    """The working folder or the nearest above it that holds `notebooks` and `papermill_runs`; the working folder itself
    outside of the project."""
    here = Path.cwd()
    parts = ("notebooks", "papermill_runs")
    return next((each for each in (here, *here.parents) if all((each / part).is_dir() for part in parts)), here)


def results_folder(config: str | os.PathLike[str]) -> Path:
    """Where the results of a config (by default a collection's name) lie: `papermill_runs/<config>`."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in os.fspath(config)).strip("-.")
    return project_folder() / "papermill_runs" / name


def indexes_folder() -> Path:
    """Where the first stage keeps its indexes: `papermill_runs/indexes`, for all configs."""
    return project_folder() / "papermill_runs" / "indexes"


def parameters_table(parameters: Mapping[str, object]):
    """The resolved parameters as a table to show, folded. From here on no table that a notebook shows is read as mathematics
    (two prices in a text are no formula between dollars), and texts of usual length stand there whole."""
    import pandas as pd
    from IPython.display import HTML

    pd.set_option("display.html.use_mathjax", False, "styler.html.mathjax", False, "display.max_colwidth", 160)
    table = pd.DataFrame({"value": {name: repr(value) for name, value in parameters.items()}}).to_html()
    return HTML(f"<details><summary>parameters, as they are used</summary>{table}</details>")


def _declarations(cell: str) -> dict[str, str]:
    try:
        body = ast.parse(cell).body
    except SyntaxError:  # a cell of magics
        return {}
    if not body or not all(isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) for line in body):
        return {}
    return {line.target.id: ast.unparse(line.annotation) for line in body}


def _assigned(cell: str) -> list[str]:
    lines = (line for line in ast.parse(cell).body if isinstance(line, ast.Assign))
    return [target.id for line in lines for target in line.targets if isinstance(target, ast.Name)]


def _fits(value, kinds) -> bool:
    if isinstance(kinds, types.UnionType):
        return any(_fits(value, kind) for kind in kinds.__args__)
    if isinstance(kinds, types.GenericAlias):
        items = chain(*value.items()) if isinstance(value, dict) else value
        return isinstance(value, kinds.__origin__) and all(_fits(item, kinds.__args__[0]) for item in items)
    if isinstance(value, bool):
        return kinds is bool
    return isinstance(value, (int, float) if kinds is float else kinds or types.NoneType)
