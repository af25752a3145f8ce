"""Executing a job of the plan, and its stamp."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from gdmtl_lib.backbones.checkpoints import revision_of
from gdmtl_lib.backbones.gpus import own_gpus
from gdmtl_lib.data.candidates import first_stage_candidates, training_candidates
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.data.files import hold_lock, write_lines
from gdmtl_lib.evaluation.measures import effectiveness_table, read_values
from gdmtl_lib.experiments.notebook import indexes_folder, notebook_parameters
from gdmtl_lib.experiments.results import (
    Results, join_epochs, join_folds, measure_first_stage, measure_system, measured_files,
)  # fmt: skip
from gdmtl_lib.experiments.transfer import short_name
from gdmtl_lib.systems import FIRST_STAGE, LABELS

from .config import TRAINING, Config
from .jobs import Job, notebook_of, state_of
from .trainings import Training, first_stage_of, rotations, tune


def execute(config: Config, jobs: Sequence[Job], job: Job, refresh: Callable[[], object] = lambda: None) -> None:
    """Run a job of a plan and write its stamp, in place of those of earlier inputs. refresh: called when it begins and
    when it has ended, to tell those who watch. Raises RuntimeError where another process is running it."""
    with hold_lock(job.stamp.with_name(f".{job.name}.lock"), f"{job.name} is being run already"):
        for stale in job.stamp.parent.glob(f"{job.name}.{'[0-9a-f]' * 16}"):
            stale.unlink()
        job.failure.unlink(missing_ok=True)
        refresh()
        files = sorted(KINDS[job.kind](config, **job.given))
        if job.measures and job.measures[0] in config.splits:
            _show_so_far(config, jobs, job)
        made = {os.path.relpath(path, job.folder): state_of(path) for path in files}
        write_lines(job.stamp, [json.dumps(made, indent=1) + "\n"])
    refresh()


def _measure(config: Config, away: str | None = None, split: str = "", level: int = 1) -> list[Path]:
    """BM25 on every split of the config, or on one of another collection, where it has its usual k1 and b."""
    folder, levels = Path(config.folder), config.splits
    if away:
        folder, levels = folder / "transfer" / short_name(away), {split: level}
    given = {} if away else first_stage_of(config)  # which may be tuned at the same time
    collection, made = load_collection(away or config.collection), []
    for split, level in levels.items():
        measure_first_stage(folder, collection, split, config.depth, level, **given)
        made += measured_files(folder / FIRST_STAGE, split)
    return made


def _search(config: Config, split: str, depth: int) -> list[Path]:
    given = {"depth": depth, "index_dir": indexes_folder()} | first_stage_of(config)
    found = training_candidates(load_collection(config.collection), split, **given)
    return sorted(Path(found.folder).glob("*.json"))  # of the large ones it holds the hashes


def _train(config: Config, training: Mapping, inputs: str) -> list[Path]:
    from .notebooks import execute_notebook  # papermill, slow to import, which other jobs do without

    training = Training(**training)
    folder, split = Path(training.home), training.given["validation_split"]
    _make_room(folder, inputs, training.title, training.given.get("checkpoint"))
    try:
        with own_gpus(training.given):
            given, executed = training.given | first_stage_of(config), folder / f"{TRAINING}.ipynb"
            execute_notebook(notebook_of(config, TRAINING), executed, given, config.project, training.title)
    except RuntimeError as error:
        if "holds another training" in str(error):
            error.add_note(f"  the sweep keeps what it did not make: move {folder} away, and start it again")
        raise
    if config.selection_folds:
        level = training.given["relevance_level"]
        join_epochs(folder, load_collection(config.collection), split, training.system, level, config.selection_folds)
    return _left_in(folder, split)


def _left_in(folder: Path, split: str | None = None) -> list[Path]:
    """What a training has left, but for its times, what it hides and, where it has a split, what is of others."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "timing.csv" and path.name[0] != "."]
    ours = "run.", "per_query."
    return [path for path in files if not split or not path.name.startswith(ours) or path.name.split(".")[1] == split]


def _make_room(folder: Path, inputs: str, title: str, checkpoint: str | None) -> None:
    """Prepare the folder of a training: one of other inputs that the sweep itself made is replaced, one that somebody
    else made never (`train` says what differs), and what is left of an interrupted training of these inputs goes on."""
    record = folder / "inputs.json"
    if record.is_file() and json.loads(record.read_text(encoding="utf-8"))["inputs"] != inputs:
        print(f"{title}: its inputs have changed, it is trained anew", flush=True)
        outdated = folder.with_name(f".{folder.name}.outdated")
        shutil.rmtree(outdated, ignore_errors=True)
        folder.rename(outdated)
        shutil.rmtree(outdated)
    if not (folder / "settings.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_lines(record, [json.dumps({"inputs": inputs, "checkpoint": revision_of(checkpoint)}) + "\n"])


def _denoise(config: Config, training: Mapping, inputs: str) -> list[Path]:
    from gdmtl_lib.training.pretraining import denoised_start  # torch, which most jobs do without

    given, seed = training["given"], training["seed"]
    folder = Path(given["denoised_dir"])
    _make_room(folder, inputs, f"denoising, seed {seed}", given.get("checkpoint"))
    how = {name: given[name] for name in ("checkpoint", "layers", "precision", "device") if name in given}
    with own_gpus({"device": given.get("device")}):  # one, however many the training will have
        denoised_start(load_collection(config.collection), training["system"], given["denoising_steps"], folder, seed=seed, **how)
    return _left_in(folder)


def _rerank(
    config: Config, training: Mapping, split: str, level: int, away: str | None = None, output: str | None = None
) -> list[Path]:
    given = training["given"]
    collection = load_collection(away or given["collection"])
    first_stage = {} if away else first_stage_of(config)
    candidates = first_stage_candidates(collection, split, depth=config.depth, index_dir=indexes_folder(), **first_stage)
    how = {name: given[name] for name in ("device", "processes") if name in given} | {"progress": sys.stderr.isatty()}
    with own_gpus(given):
        measure_system(training["home"], collection, candidates, split, level, output_dir=output, **how)
    return measured_files(output or training["home"], split)


def _join(config: Config, training: Mapping) -> list[Path]:
    """The test queries of all rotations as one split, where the analyses look for a system's results."""
    [split], whole = config.splits, Training(**training)
    tested = [(each.home, f"test{number}") for number, each in enumerate(rotations(config, whole))]
    join_folds(tested, whole.home, split, whole.system)
    return measured_files(whole.home, split)


def _analyse(config: Config, notebook: str, name: str, parameters: Mapping, computes: bool) -> list[Path]:
    from .notebooks import execute_notebook  # see _train

    source, executed = notebook_of(config, notebook), Path(config.folder) / "notebooks" / f"{name}.ipynb"
    drawn_into = Path(parameters["results_dir"])  # a rotation's own, where its models are looked into
    if "transfer_collection" not in parameters:  # where BM25 has its usual k1 and b
        declared = notebook_parameters(source)
        parameters = parameters | {key: value for key, value in first_stage_of(config).items() if key in declared}
    executed.parent.mkdir(parents=True, exist_ok=True)
    started = executed.with_suffix(".started")
    started.touch()  # the file system's own clock, to tell which figures and tables are new
    try:
        with own_gpus({} if computes else {"device": "cpu"}):
            execute_notebook(source, executed, parameters, config.project, name)
        drawn = [path for part in ("figures", "tables") for path in (drawn_into / part).glob("*")]
        return [executed, executed.with_suffix(".html"), *(path for path in drawn if path.stat().st_mtime_ns >= started.stat().st_mtime_ns)]
    finally:
        started.unlink()


# What each kind of job does; it returns the files that were made.
KINDS = {
    "tune": tune, "measure": _measure, "search": _search, "denoise": _denoise, "train": _train, "rerank": _rerank, "join": _join,
    "analyse": _analyse,
}  # fmt: skip


def _show_so_far(config: Config, jobs: Sequence[Job], now: Job) -> None:
    """Print and keep the table of what is finished, so that nobody has to wait for the last system; what earlier
    sweeps of other inputs left is not shown. now: the job that has just measured a system."""
    split, folder = now.measures[0], Path(config.folder)
    done = [job.measures[1:] for job in jobs if job.measures and job.measures[0] == split and (job == now or job.stamp.exists())]
    values = {}
    for system, label in LABELS.items():
        homes = [FIRST_STAGE] if system == FIRST_STAGE else [f"{system}/seed{seed}" for name, seed in done if name == system]
        paths = [folder / home / f"per_query.{split}.csv" for home in homes]
        if paths and (system != FIRST_STAGE or paths[0].exists()):
            values[label] = pd.concat(map(read_values, paths))
    table = effectiveness_table(values)
    Results(folder).save_table(table, f"effectiveness.{split}")
    print(f"\n{config.collection}, {split}, so far:\n{table.to_string()}\n", flush=True)
