"""What the tests of the sweep share: a small valid config, and its plan."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gdmtl_lib.sweep.config import Config, read_config
from gdmtl_lib.sweep.jobs import Job, plan

PROJECT = Path(__file__).parents[2]
TURNS = [f"{session}_{turn}" for session in range(31, 36) for turn in (1, 2)]
# MS MARCO's and CAsT's own files, of four passages.
MSMARCO = {
    "collection.tsv": "0\tThe Manhattan Project\n1\tblue ice\n2\tcold wind\n3\tan old king\n",
    "queries.train.tsv": "10\twho was king\n11\tnobody judged this\n", "qrels.train.tsv": "10\t0\t3\t1\n",
    "queries.dev.tsv": "20\twhy is ice blue\n", "queries.dev.small.tsv": "20\twhy is ice blue\n",
    "qrels.dev.small.tsv": "20\t0\t1\t1\n", "answers.train.tsv": "10\tLudwig\n",
    "evaluation_topics_annotated_resolved_v1.0.tsv": "".join(f"{turn}\tWhat is ice?\n" for turn in TURNS),
    "2019qrels.txt": "".join(f"{turn} Q0 MARCO_1 2\n" for turn in TURNS),
}  # fmt: skip


@pytest.fixture
def values(tmp_path) -> dict:
    """A small valid config, its results under the test's folder."""
    return {
        "collection": "sample", "train_split": "train", "splits": {"dev": 1, "cast": 2}, "systems": ["bert", "GDMTL+"],
        "seeds": [0, 1], "baseline": "bert", "depth": 5, "parameters": {"epochs": 1, "learning_rate": "1e-4"},
        "overrides": {"bert": {"epochs": 2}}, "results": str(tmp_path),
    }  # fmt: skip


@pytest.fixture
def read(values) -> Callable[..., Config]:
    """Reads the config, some of its values changed."""
    return lambda project=PROJECT, **change: read_config(values | change, "test", project)


@pytest.fixture
def planned(read) -> Callable[..., dict[str, Job]]:
    """Plans the config, some of its values changed: the jobs by their names, in their order."""
    return lambda *project, **change: {job.name: job for job in plan(read(*project, **change))}


@pytest.fixture
def changed(planned) -> Callable[..., set[str]]:
    """The names of the jobs that are repeated when values of the config change."""

    def changed(**change) -> set[str]:
        before, after = planned(), planned(**change)
        return {name for name, job in after.items() if name not in before or job.key != before[name].key}

    return changed


@pytest.fixture
def of_project() -> Callable[..., Config]:
    """Reads a config of the project, some of its values changed."""

    def of_project(name: str, **change) -> Config:
        text = (PROJECT / "papermill_runs" / "configs" / f"{name}.yaml").read_text()
        return read_config(yaml.safe_load(text) | change, name, PROJECT)

    return of_project


@pytest.fixture
def msmarco(tmp_path, monkeypatch) -> Path:
    """A folder of MS MARCO's and CAsT's own files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "msmarco"
    folder.mkdir()
    for name, text in MSMARCO.items():
        (folder / name).write_text(text)
    return folder
