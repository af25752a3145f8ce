"""pyproject.toml, constraints.txt, environment.yml and the imports tell one story."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {
    extra: [Requirement(line) for line in lines] for extra, lines in PROJECT["optional-dependencies"].items()
}
PIN_LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in PIN_LINES}



def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def third_party_imports(folder: str) -> dict[str, Path]:
    """Top-level modules that the folder's files import from elsewhere, each with a file that does."""
    found = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            else:
                continue
            for module in modules:
                found.setdefault(module.partition(".")[0], file.relative_to(ROOT))
    ours = {"gdmtl_lib", "tests", *(file.stem for file in (ROOT / "tests").rglob("*.py"))}
    return {module: file for module, file in found.items() if module not in sys.stdlib_module_names | ours}


def undeclared(folder: str, declared: set[str]) -> dict[str, Path]:
    distributions = metadata.packages_distributions()
    return {
        module: file
        for module, file in third_party_imports(folder).items()
        if not declared & {canonicalize_name(name) for name in distributions.get(module, [module])}
    }


def closure(roots: list[Requirement]) -> set[str]:
    """Every installed distribution that the roots need, themselves included."""
    seen: set[tuple[str, str]] = set()
    queue = [(requirement.name, extra) for requirement in roots for extra in ("", *requirement.extras)]
    while queue:
        name, extra = queue.pop()
        if (key := (canonicalize_name(name), extra)) in seen:
            continue
        seen.add(key)
        for line in metadata.requires(name) or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                queue += [(need.name, wanted) for wanted in ("", *need.extras)]
    return {name for name, _ in seen}


def test_a_pin_is_a_name_and_a_version():
    for line in PIN_LINES:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9]+(\.[0-9]+)*", line), line
    assert PIN_LINES == sorted(PIN_LINES, key=str.lower)
    assert len(PINS) == len(PIN_LINES)


@pytest.mark.parametrize(
    "requirement", RUNTIME + [one for group in EXTRAS.values() for one in group], ids=str
)
def test_every_dependency_is_pinned_to_a_version_it_allows(requirement):
    assert requirement.url is None
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])
    # pip 23, which Python 3.11 brings, leaves out an extra that is spelled another way and only warns.
    assert requirement.extras == {canonicalize_name(extra) for extra in requirement.extras}


@pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info[:2] != (3, 11),
    reason="the pins are those of Python 3.11 on Linux",
)
def test_everything_that_gets_installed_is_pinned_and_nothing_else():
    needed = closure(RUNTIME + EXTRAS["offline"] + EXTRAS["test"])
    # setuptools comes with the virtual environment; a torch for GPUs brings its own CUDA packages.
    needed = {
        name
        for name in needed
        if name != "setuptools" and not name.startswith(("nvidia-", "cuda-", "triton"))
    }
    assert needed == set(PINS)
    installed = {name: Version(metadata.version(name)).public for name in PINS}
    assert installed == PINS


@pytest.mark.parametrize("requirement", RUNTIME + [one for group in EXTRAS.values() for one in group], ids=str)
def test_every_dependency_has_a_lowest_version_that_is_no_newer_than_the_pin(requirement):
    """`make oldest` installs it; without one, it would be whatever was published first."""
    [lowest] = [each.version for each in requirement.specifier if each.operator == ">="]
    assert Version(lowest) <= Version(PINS[canonicalize_name(requirement.name)])
    assert all(Version(each.version) > Version(lowest) for each in requirement.specifier if each.operator == "<")


@pytest.mark.parametrize(("name", "version"), [("torch", "2.11.0"), ("transformers", "5.17.0")])
def test_the_versions_of_gpu_machines_are_allowed(name, version):
    requirement = next(requirement for requirement in RUNTIME if requirement.name == name)
    assert requirement.specifier.contains(version)


def test_the_conda_environment_is_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    assert environment["dependencies"] == [
        "python=3.11",
        "pip",
        {"pip": ["-c constraints.txt", "-e .[offline,test]"]},
    ]
    assert "-c constraints.txt -e '.[offline,test]'" in (ROOT / "Makefile").read_text()


def test_the_library_declares_what_it_imports():
    assert undeclared("gdmtl_lib", names(RUNTIME)) == {}


def test_the_tests_declare_what_they_import():
    assert undeclared("tests", names(RUNTIME + EXTRAS["test"])) == {}


def test_nothing_is_declared_that_is_not_used():
    distributions = metadata.packages_distributions()
    modules = set(third_party_imports("gdmtl_lib"))
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        modules |= set(re.findall(r'"(?:import|from) (\w+)', notebook.read_text()))
    used = {canonicalize_name(name) for module in modules for name in distributions.get(module, [])}
    for file in (ROOT / "Makefile", ROOT / "papermill_runs" / "Snakefile"):
        if file.exists():
            used |= set(re.findall(r"\b(jupyterlab|papermill|snakemake) ", file.read_text()))
    assert names(RUNTIME) - used == set()


def test_one_version_is_cited():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "MIT"
    paper = citation["preferred-citation"]
    assert (paper["year"], paper["doi"]) == (2021, "10.1145/3442381.3449863")
    assert [author["family-names"] for author in paper["authors"]] == ["Liu", "Zamani", "Lu", "Culpepper"]


def make(tree: Path, *arguments: str) -> subprocess.CompletedProcess:
    # As from a shell: the variables and the terminal of a `make test` around this one do not count.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    return subprocess.run(["make", *arguments], cwd=tree, env=environment, capture_output=True, text=True)


@pytest.fixture
def fresh_tree(tmp_path) -> Path:
    """What `make` needs of a clone, and nothing installed."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("found", ["false", "no-such-python"])
def test_make_names_the_python_it_needs(fresh_tree, found):
    done = make(fresh_tree, "test", f"PYTHON={found}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "gdmtl needs Python 3.11 or newer: install it, or name one: make PYTHON=/path/to/python3.11"
    )
    assert not (fresh_tree / ".venv").exists()


def test_make_installs_once(fresh_tree):
    commands = fresh_tree / ".venv" / "bin"
    commands.mkdir(parents=True)
    log = fresh_tree / "log"
    for command in ("python", "pip"):
        (commands / command).write_text(f'#!/bin/sh\necho "{command} $*" >> {log}\n')
        (commands / command).chmod(0o755)

    def calls() -> list[str]:
        log.write_text("")
        done = make(fresh_tree, "test", "ARGS=-x", f"PYTHON={sys.executable}")
        assert done.returncode == 0, done.stderr
        return log.read_text().splitlines()

    install = (
        "python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e .[offline,test]"
    )
    tests = "python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -x"
    assert calls() == [install, tests]
    assert calls() == [tests]
    (fresh_tree / "pyproject.toml").write_text((fresh_tree / "pyproject.toml").read_text())
    assert calls() == [install, tests]


def test_make_tries_the_oldest_versions(fresh_tree):
    """Resolved anew at every call, for what the lowest versions need may have changed; torch as it is pinned."""
    log = fresh_tree / "log"
    for command in ("python", "pip", "../uv/bin/uv", "../oldest/bin/python"):
        path = fresh_tree / ".venv" / "bin" / command
        path.parent.resolve().mkdir(parents=True, exist_ok=True)
        path.resolve().write_text(f'#!/bin/sh\necho "{path.resolve().parent.parent.name} {path.name} $*" >> {log}\n')
        path.resolve().chmod(0o755)
    (fresh_tree / ".venv" / ".installed").touch()
    done = make(fresh_tree, "oldest", "ARGS=", f"PYTHON={sys.executable}")
    assert done.returncode == 0, done.stderr
    compiled, _, synced, ours, tested = log.read_text().splitlines()
    assert "--resolution lowest-direct" in compiled and "--override .venv/oldest.pins" in compiled
    assert (fresh_tree / ".venv" / "oldest.pins").read_text() == f"torch=={PINS['torch']}\n"
    assert synced.endswith(".venv/oldest/bin/python .venv/oldest.txt") and ours.endswith("--no-deps --editable .")
    paths = [word for word in tested.split() if word.startswith("tests/")]
    assert len(paths) > 5 and all((ROOT / path).exists() for path in paths)
    assert make(fresh_tree, "oldest", "ARGS=tests/data", f"PYTHON={sys.executable}").returncode == 0
    assert log.read_text().splitlines()[-1] == "oldest python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/data"
