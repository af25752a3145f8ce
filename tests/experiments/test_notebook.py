import json
from pathlib import Path

import pytest

from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.experiments.notebook import (
    check_value,
    indexes_folder,
    notebook_parameters,
    number_of,
    parameters_table,
    project_folder,
    resolve_parameters,
    results_folder,
    unknown_name,
)

DECLARED = """model: str = "gdmtl"  # a system
layers: int or None = None  # how many
rate: float = 1e-4
names: list[str] = ["a"]
weighting: str or float = 0.1
flag: bool = False"""
VALUES = {"model": "gdmtl", "layers": None, "rate": 1e-4, "names": ["a"], "weighting": 0.1, "flag": False}


def resolve(injected="", **changed):
    cells = ["", DECLARED, *([f"# Parameters\n{injected}"] if injected else []), "resolve_parameters(In, globals())"]
    return resolve_parameters(cells, {**VALUES, **changed, "other": 1})


def test_parameters_with_their_values():
    assert resolve() == VALUES
    assert list(resolve()) == list(VALUES)
    assert resolve('layers = 2\nrate = 1\nweighting = "uncertainty"', layers=2, rate=1, weighting="uncertainty") == {
        **VALUES, "layers": 2, "rate": 1, "weighting": "uncertainty",
    }  # fmt: skip
    assert resolve('flag = "true"\nrate = "1e-4"', flag="true", rate="1e-4") == {**VALUES, "flag": True}  # as papermill's -p


def test_an_unknown_parameter_is_refused_with_the_known_ones():
    with pytest.raises(ValueError) as error:
        resolve('modle = "bert"')
    assert str(error.value) == (
        "unknown parameter 'modle' (did you mean 'model'?): this notebook has model, layers, rate, names, weighting, flag"
    )
    with pytest.raises(ValueError, match="^unknown parameter 'xyz': this notebook has model"):
        resolve("xyz = 1")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layers": 0}, "parameter layers must be at least 1, found 0"),
        ({"layers": "2"}, "parameter layers must be int or None, found '2' (str)"),
        ({"layers": True}, "parameter layers must be int or None, found True (bool)"),
        ({"rate": "fast"}, "parameter rate must be float, found 'fast' (str)"),
        ({"rate": None}, "parameter rate must be float, found None (NoneType)"),
        ({"names": "a"}, "parameter names must be list[str], found 'a' (str)"),
        ({"names": ["a", 1]}, "parameter names must be list[str], found ['a', 1] (list)"),
        ({"weighting": None}, "parameter weighting must be str or float, found None (NoneType)"),
        ({"flag": 1}, "parameter flag must be bool, found 1 (int)"),
    ],
)
def test_a_value_of_another_type_is_refused(changed, message):
    with pytest.raises(ValueError) as error:
        resolve(**changed)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("cell", "good", "bad"),
    [
        ("bins: int = 40", 2, 1), ("tolerance: float = 0.1", 0, -1.0), ("tolerance: float = 0.1", 0.0, float("nan")),
        ("cascade_depths: list[int] = [2, 5]", [], [0]), ("seed: int or None = None", None, -1), ("timed_pairs: int = 32", 0, -1),
        ("queries_appended: list[int] = [0, 1]", [3, 0], [0]), ("queries_appended: list[int] = [0, 1]", [0, 1], [-1, 0, 1]),
        ("drawn: list[str] = ['gdmtl']", ["monobert", "GDMTL+"], []), ("drawn: list[str] = ['bert']", ["bert"], ["bm25"]),
        ("precision: str = 'auto'", "bf16", "fp8"), ("most_queries: int or None = None", 2, 1),
    ],
)  # fmt: skip
def test_what_no_notebook_can_do_is_refused(cell, good, bad):
    name = cell.partition(":")[0]
    assert resolve_parameters([cell], {name: good}) == {name: good}
    with pytest.raises(ValueError, match=f"^parameter {name} must be .*, found |^bm25 is the first stage and has no model"):
        resolve_parameters([cell], {name: bad})


def test_the_defaults_of_every_notebook_are_what_it_can_do():
    notebooks = [path for path in (Path(__file__).parents[2] / "notebooks").glob("*.ipynb") if "00_" not in path.name]
    assert len(notebooks) == 17
    for notebook in notebooks:
        for name, (annotation, default) in notebook_parameters(notebook).items():
            check_value(name, default, annotation, name)


def test_the_parameters_cell_has_to_be_run():
    with pytest.raises(ValueError, match="^no parameters cell has been run: run the notebook from its first cell$"):
        resolve_parameters(["", "import os", "%matplotlib inline"], {})


def test_a_text_parameter_stays_a_text():
    """What stands in a text is data, whatever it looks like."""
    text = '"; __import__("os").system("false") #'
    assert resolve(f"model = {text!r}", model=text)["model"] == text


def test_the_parameters_of_a_notebook_file(tmp_path):
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Title"]},
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": DECLARED.splitlines(keepends=True)},
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    declared = notebook_parameters(tmp_path / "a.ipynb")
    assert declared["layers"] == ("int or None", None)
    assert {name: default for name, (_, default) in declared.items()} == VALUES


def test_what_is_checked_is_named():
    check_value("seeds", [0, 1], "list[int]")
    with pytest.raises(ValueError, match=r"^seeds must be list\[int\], found 0 \(int\)$"):
        check_value("seeds", 0, "list[int]")


@pytest.mark.parametrize(
    ("value", "annotation", "number"),
    [
        ("1e-4", "float", 1e-4), ("1.5E-4", "float", 1.5e-4), ("3", "int | None", 3), (".5", "str | float", 0.5),
        ("uncertainty", "str | float", "uncertainty"), ("3", "str", "3"), ("1e-4", "int", "1e-4"), (2, "int", 2),
        ("inf", "float", "inf"), ("0x10", "int", "0x10"), ("true", "bool", True), ("false", "bool", False), ("yes", "bool", "yes"),
        ("true", "str", "true"), ("null", "float | None", None), ("null", "str", "null"), (["1", "2"], "list[int] | None", [1, 2]),
        (["1"], "list[str]", ["1"]),
    ],
)  # fmt: skip
def test_numbers_that_yaml_takes_for_texts(value, annotation, number):
    found = number_of(value, annotation)
    assert found == number and type(found) is type(number)


def test_what_papermill_itself_injects_is_no_parameter_of_ours():
    """`papermill --inject-paths`."""
    assert resolve('PAPERMILL_INPUT_PATH = "a"\nPAPERMILL_OUTPUT_PATH = "b"\nlayers = 2', layers=2)["layers"] == 2


def test_a_number_that_yaml_takes_for_a_text_becomes_one():
    """`papermill -y 'rate: 1e-4'`."""
    values = VALUES | {"rate": "1e-4"}
    assert resolve_parameters([DECLARED], values)["rate"] == 1e-4 and values["rate"] == 1e-4


def test_a_text_that_papermill_takes_for_a_number_is_refused_with_the_way_to_write_it():
    with pytest.raises(ValueError) as error:
        resolve("model = 2019", model=2019)
    assert str(error.value) == (
        "parameter model must be str, found 2019 (int); to papermill, a text that looks like a number is -r model 2019"
    )


def test_the_sentence_for_an_unknown_name():
    assert unknown_name("key", "sede", ["seeds", "depth"], "there are") == (
        "unknown key 'sede' (did you mean 'seeds'?): there are seeds, depth"
    )


@pytest.fixture
def project(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "papermill_runs").mkdir()
    return tmp_path


@pytest.mark.parametrize("folder", [".", "notebooks", "papermill_runs/sample"])
def test_the_project_is_found_from_within(project, folder, monkeypatch):
    (project / folder).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(project / folder)
    assert project_folder() == project
    assert results_folder("sample") == project / "papermill_runs" / "sample"
    assert indexes_folder() == project / "papermill_runs" / "indexes"


def test_outside_of_the_project_it_is_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project_folder() == tmp_path


@pytest.mark.parametrize(
    ("collection", "name"),
    [("wikiqa:../data/wikiqa", "wikiqa-..-data-wikiqa"), ("irds:msmarco-passage/dev", "irds-msmarco-passage-dev"), ("/a/b", "a-b")],
)
def test_any_collection_has_a_folder_of_its_own(project, monkeypatch, collection, name):
    monkeypatch.chdir(project)
    assert results_folder(collection) == project / "papermill_runs" / name


def test_the_table_of_parameters():
    page = parameters_table({"model": "<bert>", "layers": None}).data
    assert page.startswith("<details><summary>") and "<td>'&lt;bert&gt;'</td>" in page and "<td>None</td>" in page


def test_a_cell_can_be_run_again_after_the_collection_was_opened():
    cells = ["collection: str = 'sample'  # a parameter", "collection = gdmtl.load_collection(collection)"]
    assert resolve_parameters(cells, {"collection": load_collection("sample")}) == {"collection": "sample"}
