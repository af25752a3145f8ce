"""The sweep: one config, and the notebooks executed for every system, seed and split of it.

A config becomes a list of jobs, in the order they should be run; `papermill_runs/Snakefile` hands them to Snakemake.
What a job is made from is in its key (see `job`), so that no job is repeated without reason.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import pandas as pd

from gdmtl_lib import __version__
from gdmtl_lib.data.collection import Collection, load_collection
from gdmtl_lib.evaluation.measures import effectiveness_table, read_values
from gdmtl_lib.data.bm25 import bm25_candidates
from gdmtl_lib.backbones.gpus import own_gpus, visible_gpus
from .job import Job
from gdmtl_lib.experiments.measuring import join_folds, measure_first_stage, measure_system
from gdmtl_lib.experiments.notebook import indexes_folder, notebook_parameters
from .page import write_page
from gdmtl_lib.experiments.results import Results
from gdmtl_lib.data.trec import file_hash, frame_hash
from .config import TRAINING, Config
from .first_stage import first_stage_inputs, first_stage_of, tune
from .trainings import Training, look_into, part, trainings, with_rotations
from gdmtl_lib.systems import FIRST_STAGE, LABELS, SYSTEMS

__all__ = ["Job", "Training", "jobs", "main", "prepare", "trainings", "visible_gpus"]

OVERVIEW = "02_collection_and_candidates"
# The notebooks that look at results, and on which splits of the config: `every`, the `validation` split, those with
# `categories`, all at `once`, from the validation split to `another`; the systems that are `generating` beside the
# baseline on the validation split.
ANALYSES = {
    "04_rerank_and_evaluate": "every",
    "05_score_distributions": "every",
    "06_win_tie_loss": "every",
    "07_rank_shifts": "every",
    "08_query_categories": "categories",
    "10_transfer": "another",
    "11_architectures": "validation",
    "01_attention_masks": "once",
    "12_query_likelihood": "generating",
    "13_generated_queries": "generating",
    "14_what_changes_inside": "generating",
}
# With folds there is no single checkpoint of a system: these look into the first rotation's, on the turns that it was
# tested on. Left out is what asks for more than that: a second split to take a system to, and turns enough to choose a
# weight on one half and measure on the other (a rotation tests a fifth of them, in some four sessions).
OF_ONE_ROTATION = ("once", "generating")
NOT_OF_FOLDS = ("10_transfer", "12_query_likelihood")
# Those that look at a study of the config.
STUDIES = {"training_size": "09_training_size", "loss_weighting": "15_loss_weighting"}
PAGE = "page"


def jobs(config: Config) -> list[Job]:
    """All steps of a sweep, each after those it needs, the cheapest first.

    Opens the collection, and raises ValueError or FileNotFoundError where it lacks a split, its judgments, or what a
    system learns from, and where the passages that BM25 is to search are not there.
    """
    collection = load_collection(config.collection)
    splits = [config.train_split, *config.splits]
    data = {split: _split_hash(collection, split) for split in dict.fromkeys(splits)}
    if config.folds:
        rotations = collection.by_session(config.train_split, config.folds)
        data |= {split: _split_hash(rotations, split) for split in rotations.splits}
    first_stage = first_stage_inputs(config)
    every = [*trainings(config), *(each for study in config.studies for each in trainings(config, study))]
    if any(SYSTEMS[training.system].needs_answers for training in every):
        collection.answers(config.train_split)  # refuses where there are none
    folder, validation = Path(config.folder), next(iter(config.splits))
    compared = [name for name in LABELS if name in (FIRST_STAGE, *config.systems)]
    generating = [
        name for name in config.systems
        if SYSTEMS[name].generative_tasks and config.baseline not in (name, FIRST_STAGE)
    ]  # fmt: skip
    away = [split for split in config.splits if split != validation][-1:]
    parameters = {
        "collection": config.collection, "train_split": config.train_split, "splits": list(config.splits),
        "relevance_levels": list(config.splits.values()), "depth": config.depth, "results_dir": config.folder,
        "baseline": config.baseline, "split": validation, "relevance_level": config.splits[validation],
    } | {
        name: value for split in away
        for name, value in (("transfer_split", split), ("transfer_relevance_level", config.splits[split]))
    }  # fmt: skip
    fingerprint, weights = collection.fingerprint(), cache(_weights)
    defaults = {name: default for name, (_, default) in notebook_parameters(_notebook(config, TRAINING)).items()}

    def analysis(
        notebook: str, split: str | None, needs: list[Job], systems: Sequence[str] = compared,
        rotation: Mapping | None = None,
    ) -> Job:
        given = parameters | {"systems": systems, "system": _compared_with(config.baseline, systems)} | (rotation or {})
        if split in config.splits:
            given |= {"split": split, "relevance_level": config.splits[split]}
        given = {name: given[name] for name in notebook_parameters(_notebook(config, notebook)) if name in given}
        name = notebook if split is None else f"{notebook}_{split}"
        key = _hash([_code(config, notebook), given, data, first_stage, [need.key for need in needs]])
        return Job(name, key, folder, partial(_analyse, config, notebook, name, given), tuple(needs))

    def train(training: Training, measured: Sequence[tuple[str, int, Job]] | None) -> Job:
        settings = defaults | training.given
        learned, validated = (data[settings[split]] for split in ("train_split", "validation_split"))
        inputs = _hash([__version__, fingerprint, learned, first_stage,
                        *_decides_training(settings, validated, weights(settings["checkpoint"]))])  # fmt: skip
        key = _hash([inputs, settings, validated, _code(config, TRAINING)])
        run = partial(_train, config, training, inputs, measured)
        return Job(f"train_{training.name}", key, folder, run, tuned, training.given.get("processes", 1))

    def rerank(training: Training, trained: Job, name: str, split: str, level: int, measured) -> Job:
        key = _hash([trained.key, data[split], level])
        run = partial(_rerank, config, training, split, level, measured)
        return Job(f"rerank_{name}", key, folder, run, (trained,), trained.gpus)

    tuned: tuple[Job, ...] = ()
    if "tune" in config.first_stage:
        key = _hash([fingerprint, data[config.train_split], first_stage, config.depth])
        tuned = (Job("tune_bm25", key, folder, partial(tune, config)),)
    key = _hash([__version__, fingerprint, [data[split] for split in config.splits], first_stage, parameters["relevance_levels"],
                 config.depth])  # fmt: skip
    bm25 = Job("measure_bm25", key, folder, partial(_measure_first_stage, config), tuned)
    made = [*tuned, bm25, analysis(OVERVIEW, None, [bm25])]
    # Filled while the jobs are made; each has what was measured before it when it runs.
    first = look_into(config, 0) if config.folds else {"split": validation}
    measured: dict[str, list[tuple[str, int, Job]]] = {split: [] for split in (*config.splits, first["split"])}
    for group in with_rotations(config, list(trainings(config))):
        system, seed = group[0].system, group[0].seed
        if config.folds:
            tested = []
            for rotation, each in enumerate(group):
                made.append(trained := train(each, None))
                level = config.splits[validation]
                made.append(rerank(each, trained, each.name, part("test", rotation), level, None))
                tested.append(made[-1])
            measured[first["split"]].append((system, seed, tested[0]))
            key = _hash([job.key for job in tested])
            run = partial(_join, config, group, measured[validation])
            made.append(Job(f"join_{system}_seed{seed}", key, folder, run, tuple(tested)))
            measured[validation].append((system, seed, made[-1]))
            continue
        [each] = group
        made.append(trained := train(each, measured[validation]))
        measured[validation].append((system, seed, trained))
        for split, level in list(config.splits.items())[1:]:
            made.append(rerank(each, trained, f"{each.name}_{split}", split, level, measured[split]))
            measured[split].append((system, seed, made[-1]))
    for notebook, which in ANALYSES.items():
        if config.folds and notebook in NOT_OF_FOLDS:
            continue
        rotation = first if config.folds and which in OF_ONE_ROTATION else None
        looked_at = {
            "every": list(config.splits), "validation": [validation], "once": [None], "another": [None] * len(away),
            "categories": [split for split in config.splits if "category" in collection.queries(split)],
            "generating": [first["split"]] if generating else [],
        }  # fmt: skip
        systems = generating if which == "generating" else compared
        for split in looked_at[which]:
            of_split = split or first["split"]
            needed = measured if which == "another" else {of_split: measured[of_split]}
            needs = [bm25, *(job for found in needed.values() for _, _, job in found)]
            made.append(analysis(notebook, split, needs, systems, rotation))
    for study in config.studies:
        of_study = [train(each, None) for each in trainings(config, study)]
        made += of_study
        if study in STUDIES:
            needs = [bm25, *(job for _, _, job in measured[validation]), *of_study]
            made.append(analysis(STUDIES[study], None, needs, config.studies[study]["systems"]))
    return made


def _compared_with(baseline: str, systems: Sequence[str]) -> str:
    """The system that a notebook about one pair puts beside the baseline: GDMTL, or the last one where it cannot be."""
    others = [system for system in systems if system != baseline]
    return "gdmtl" if "gdmtl" in others else others[-1]


def prepare(config: Config) -> list[Job]:
    """The jobs of a sweep, with `config.json` written for them and the stamps removed of those whose files have gone
    or changed.

    Raises as `jobs`, and FileNotFoundError, naming all of them, for pretrained weights that a training needs and that
    are neither here nor to be had.
    """
    with chdir(config.project):  # what relative paths in a config are relative to
        made = jobs(config)
        _require_weights(config, {job.name for job in made if not job.is_done()})
    folder = Path(config.folder)
    (folder / ".jobs").mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(config), indent=2) + "\n"
    record = folder / "config.json"
    if not record.is_file() or record.read_text(encoding="utf-8") != text:
        record.write_text(text, encoding="utf-8")
    for job in made:
        if job.stamp.exists() and not job.is_done():
            job.stamp.unlink()
    return made


def _require_weights(config: Config, undone: set[str]) -> None:
    """Refuse to start where the weights that trainings of these jobs begin with cannot be had. Nothing is downloaded."""
    from gdmtl_lib.backbones.checkpoints import require_checkpoint  # asks the hub's client, which is slow to import

    every = [*trainings(config), *(each for study in config.studies for each in trainings(config, study))]
    needed = [each.given.get("checkpoint") for each in every if f"train_{each.name}" in undone]
    missing = []
    for checkpoint in dict.fromkeys(needed):
        try:
            require_checkpoint(checkpoint)
        except FileNotFoundError as error:
            missing.append(str(error))
    if missing:
        raise FileNotFoundError("\n".join(missing))


def _measure_first_stage(config: Config) -> list[Path]:
    collection = load_collection(config.collection)
    for split, level in config.splits.items():
        measure_first_stage(config.folder, collection, split, config.depth, level, **first_stage_of(config))
    return [path for split in config.splits for path in _measured_files(Path(config.folder) / FIRST_STAGE, split)]


def _train(
    config: Config, training: Training, inputs: str, measured: Sequence[tuple[str, int, Job]] | None
) -> list[Path]:
    folder, split = training.home, training.given["validation_split"]
    record = folder / "inputs.json"
    # A training of other inputs that the sweep itself made is replaced. One that somebody else made never is: there
    # `train` says what differs. What is left of an interrupted training of these inputs goes on.
    if record.is_file() and json.loads(record.read_text(encoding="utf-8"))["inputs"] != inputs:
        print(f"{training.title}: its inputs have changed, it is trained anew", flush=True)
        outdated = folder.with_name(f".{folder.name}.outdated")
        shutil.rmtree(outdated, ignore_errors=True)
        folder.rename(outdated)
        shutil.rmtree(outdated)
    if not (folder / "settings.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"inputs": inputs}) + "\n", encoding="utf-8")
    from .execute import execute_notebook  # slow to import, and planning does without

    with own_gpus(training.given):
        try:
            execute_notebook(
                _notebook(config, TRAINING), folder / f"{TRAINING}.ipynb", training.given | first_stage_of(config),
                config.project, training.title,
            )
        except RuntimeError as error:
            if "holds another training" in str(error):
                error.add_note(f"  the sweep keeps what it did not make: move {folder} away, and start it again")
            raise
    if measured is not None:
        _show_so_far(config, split, measured, (training.system, training.seed))
    return [
        path for path in folder.rglob("*")
        if path.is_file() and path.name != "timing.csv" and path.name[0] != "." and not _is_of_another_split(path, split)
    ]  # fmt: skip


def _is_of_another_split(path: Path, split: str) -> bool:
    return path.name.startswith(("run.", "per_query.")) and path.name.split(".")[1] != split


def _rerank(
    config: Config, training: Training, split: str, level: int, measured: Sequence[tuple[str, int, Job]] | None
) -> list[Path]:
    collection, folder = load_collection(training.given["collection"]), training.home
    candidates = bm25_candidates(
        collection, split, depth=config.depth, index_dir=indexes_folder(), **first_stage_of(config)
    )
    with own_gpus(training.given):
        measure_system(
            folder, collection, candidates, split, level, training.given.get("device", "auto"),
            progress=sys.stderr.isatty(), processes=training.given.get("processes", 1),
        )
    if measured is not None:
        _show_so_far(config, split, measured, (training.system, training.seed))
    return _measured_files(folder, split)


def _join(config: Config, rotations: Sequence[Training], measured: Sequence[tuple[str, int, Job]]) -> list[Path]:
    """The test queries of all rotations as one split, where the analyses look for a system's results."""
    [split] = config.splits
    system, seed = rotations[0].system, rotations[0].seed
    folder = Path(config.folder) / system / f"seed{seed}"
    join_folds([(each.home, part("test", number)) for number, each in enumerate(rotations)], folder, split, system)
    _show_so_far(config, split, measured, (system, seed))
    return _measured_files(folder, split)


def _measured_files(folder: Path, split: str) -> list[Path]:
    return [folder / f"run.{split}.trec.gz", folder / f"per_query.{split}.csv", folder / f"run.{split}.json"]


def _analyse(config: Config, notebook: str, name: str, given: dict) -> list[Path]:
    from .execute import execute_notebook

    folder, declared = Path(config.folder), notebook_parameters(_notebook(config, notebook))
    drawn_into = Path(given["results_dir"])  # a rotation's own, where its models are looked into
    given = given | {key: value for key, value in first_stage_of(config).items() if key in declared}
    executed = folder / "notebooks" / f"{name}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    started = executed.with_suffix(".started")
    started.touch()  # the file system's own clock, to tell which figures and tables are new
    try:
        execute_notebook(_notebook(config, notebook), executed, given, config.project, name)
        drawn = [path for part in ("figures", "tables") for path in (drawn_into / part).glob("*")]
        return [executed, *(path for path in drawn if path.stat().st_mtime_ns >= started.stat().st_mtime_ns)]
    finally:
        started.unlink()


def _show_so_far(
    config: Config, split: str, measured: Sequence[tuple[str, int, Job]], now: tuple[str, int]
) -> None:
    """Print and keep the table of what is finished, so that nobody has to wait for the last system. now: the system
    and seed that have just been measured; what earlier sweeps of other inputs left is not shown."""
    folder, name = Path(config.folder), f"per_query.{split}.csv"
    done = [(system, seed) for system, seed, job in measured if (system, seed) == now or job.stamp.exists()]
    homes = {FIRST_STAGE: [folder / FIRST_STAGE]} if (folder / FIRST_STAGE / name).exists() else {}
    for system, seed in done:
        homes.setdefault(system, []).append(folder / system / f"seed{seed}")
    table = effectiveness_table(
        {
            LABELS[system]: pd.concat([read_values(home / name) for home in homes[system]])
            for system in LABELS
            if system in homes
        }
    )
    Results(folder).save_table(table, f"effectiveness.{split}")
    print(f"\n{config.collection}, {split}, so far:\n{table.to_string()}\n", flush=True)


def _decides_training(settings: Mapping, validation: str, weights: str | None) -> list:
    """Those of 03_train's parameters and data that change what is trained, not only what is shown of it."""
    if settings["validate_every_epoch"]:
        left_out = set()
    else:
        left_out, validation = {"validation_split", "relevance_level"}, ""
    left_out |= {"output_dir", "resume", "device", "processes", "collection", "gradient_cosines_every"}
    kept = {name: value for name, value in settings.items() if name not in left_out}
    return [kept, validation, weights]


def _split_hash(collection: Collection, split: str) -> str:
    """SHA-256 of all that a split holds and of the passages it searches."""
    frames = [frame_hash(collection.queries(split)), frame_hash(collection.qrels(split))]
    try:
        frames.append(frame_hash(collection.answers(split)))
    except ValueError:  # most splits have none
        pass
    return _hash([*frames, collection.passages_fingerprint(split)])


def _weights(checkpoint: str | None) -> str | None:
    """The hash of the weights in a local folder; what has a name elsewhere is known by it."""
    weights = Path(checkpoint or "") / "model.safetensors"
    return file_hash(weights) if weights.is_file() else checkpoint


def _notebook(config: Config, name: str) -> Path:
    return Path(config.project) / "notebooks" / f"{name}.ipynb"


def _code(config: Config, notebook: str) -> str:
    """Hash of a notebook's code, whatever its prose and metadata."""
    cells = json.loads(_notebook(config, notebook).read_text(encoding="utf-8"))["cells"]
    return _hash(["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"])


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """`python -m gdmtl_lib.sweep.jobs <results folder>/config.json <stamp>`, as the Snakefile calls it: run the job of that
    stamp. `page` instead of a stamp writes the page of all figures and tables and names its folder."""
    parser = argparse.ArgumentParser(prog="python -m gdmtl_lib.sweep.jobs")
    parser.add_argument("config", type=Path)
    parser.add_argument("stamp")
    chosen = parser.parse_args(arguments)
    config = Config(**json.loads(chosen.config.read_text(encoding="utf-8")))
    os.chdir(config.project)
    if chosen.stamp == PAGE:
        print(f"\nResults: {config.folder}\nAll figures and tables: {write_page(config.folder)}", flush=True)
        return 0
    try:
        job = next((job for job in jobs(config) if job.stamp.name == chosen.stamp), None)
        if job is None:
            raise RuntimeError(f"the inputs of {chosen.stamp} have changed since the sweep was started: start it again")
        job.execute()
    except (RuntimeError, ValueError, OSError) as error:
        if not isinstance(error, RuntimeError):  # which is a sentence of our own already
            error = f"{chosen.stamp.rpartition('.')[0]} failed. {type(error).__name__}: {error}"
        print("", error, *getattr(error, "__notes__", []), "", sep="\n", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
