"""What a config's systems are trained on and how: BM25's settings, and every execution of 03_train that it asks for."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gdmtl_lib.data.candidates import OWN_CANDIDATES
from gdmtl_lib.data.collection import load_collection, rotations_name
from gdmtl_lib.data.deepct import enriched_files
from gdmtl_lib.data.files import as_path, file_hash, write_lines
from gdmtl_lib.data.bm25 import tune_bm25
from gdmtl_lib.experiments.notebook import indexes_folder
from gdmtl_lib.experiments.results import Results
from gdmtl_lib.systems import FIRST_STAGE, LABELS, SYSTEMS

from .config import Config

LARGE = 16 * 2**20  # bytes; of larger files the size alone is kept


@dataclass(frozen=True)
class Training:
    """One execution of 03_train. title: what its progress is called. home: where it goes, `<results>/<system>/seed<k>`,
    `<results>/folds/<i>/<system>/seed<k>` or `<results>/studies/<study>/<variant>/<system>/seed<k>`."""

    name: str
    title: str
    system: str
    seed: int
    home: str
    given: dict


def trainings(config: Config, study: str | None = None) -> Iterator[Training]:
    """The trainings of the config's systems, or of one of its studies; with folds each stands for its `rotations`."""
    folder, validation = Path(config.folder), next(iter(config.splits))
    seeds, variants = config.seeds, {"": config.parameters}
    if study:
        folder = folder / "studies" / study
        seeds, variants = config.studies[study]["seeds"], config.studies[study]["variants"]
    for seed in seeds:
        for variant, parameters in variants.items():
            for system in parameters:
                home = str(folder / variant / system / f"seed{seed}")
                given = parameters[system] | {
                    "model": system, "collection": config.collection, "train_split": config.train_split,
                    "validation_split": validation, "relevance_level": config.splits[validation],
                    "depth": config.depth, "seed": seed, "output_dir": home,
                }  # fmt: skip
                if SYSTEMS[system].backbone == "encoder":  # to which denoising is nothing
                    given.pop("denoising_steps", None)
                elif steps := given.get("denoising_steps"):
                    given["denoised_dir"] = str(Path(config.folder) / "denoised" / f"steps{steps}_seed{seed}")
                if config.selection_folds:
                    given |= {"keep_epoch_runs": True, "validate_every_epoch": True}
                name = "_".join(filter(None, (study, variant, system, f"seed{seed}")))
                title = f"{LABELS[system]}, seed {seed}" + (f", {study} {variant}" if study else "")
                yield Training(name, title, system, seed, home, given)


def all_trainings(config: Config) -> list[Training]:
    """The trainings of the config's systems and of its studies."""
    return [each for study in (None, *config.studies) for each in trainings(config, study)]


def look_into(config: Config, rotation: int) -> dict:
    """What a notebook is given to look into the models of a rotation, on the queries that they were tested on."""
    return {
        "collection": rotations_name(config.collection, config.train_split, config.folds),
        "train_split": f"train{rotation}", "split": f"test{rotation}",
        "results_dir": str(Path(config.folder) / "folds" / str(rotation)),
    }  # fmt: skip


def rotations(config: Config, training: Training) -> Iterator[Training]:
    """A training once a rotation: three folds of five train, one validates, one tests (Section 5.2)."""
    for rotation in range(config.folds):
        look = look_into(config, rotation)
        home = str(Path(look["results_dir"]) / training.system / f"seed{training.seed}")
        given = training.given | {
            "collection": look["collection"], "train_split": look["train_split"],
            "validation_split": f"validate{rotation}", "output_dir": home,
        }  # fmt: skip
        name, title = f"{training.name}_fold{rotation}", f"{training.title}, rotation {rotation}"
        yield Training(name, title, training.system, training.seed, home, given)


# --- the first stage: BM25's k1 and b, given or tuned, and DeepCT's passages (Section 5.1) -------------------------


def first_stage_inputs(config: Config) -> list:
    """All that decides the candidates beside the collection and the depth, for a hash."""
    enriched = config.first_stage.get("enriched")
    contents = [content_of(file) for file in enriched_files(enriched)] if enriched else []
    if (run := config.first_stage.get("run", OWN_CANDIDATES)) != OWN_CANDIDATES:
        paths = [as_path(run.replace("{split}", split)) for split in (config.train_split, *config.splits)]
        if lacking := [str(path) for path in dict.fromkeys(paths) if not path.is_file()]:
            raise FileNotFoundError(f"no file {', '.join(lacking)}: a first stage's run has all splits, `{{split}}` in its name")
        contents += [content_of(path) for path in paths]
    return [{name: value for name, value in config.first_stage.items() if name != "enriched"}, contents]


def content_of(path: Path) -> str | int:
    """What a file is known by: its hash, its size if it is large."""
    size = path.stat().st_size
    return size if size > LARGE else file_hash(path)


def first_stage_of(config: Config) -> dict:
    """`run`, `k1`, `b` and `enriched`, those of them that the config decides, as the notebooks take them."""
    chosen = {name: value for name, value in config.first_stage.items() if name != "tune"}
    if "tune" in config.first_stage:
        chosen |= json.loads(_tuned(config).read_text(encoding="utf-8"))
    return chosen


def tune(config: Config) -> list[Path]:
    """Tune k1 and b for recall on training queries; the table of all that was tried is one of the config's."""
    path, folder = _tuned(config), Path(config.folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = path.with_name("tuning.csv")
    table = tune_bm25(
        load_collection(config.collection), config.train_split, grid, depth=config.depth,
        queries=config.first_stage["tune"], index_dir=indexes_folder(), enriched=config.first_stage.get("enriched"),
    )  # fmt: skip
    best = {name: float(table[name].iloc[0]) for name in ("k1", "b")}
    write_lines(path, [json.dumps(best) + "\n"])
    Results(folder).save_table(table.set_index(["k1", "b"]), "candidate_tuning")
    print(f"\nBM25: k1 {best['k1']:g} and b {best['b']:g} find {table['recall'].iloc[0]:.1%} in the first {config.depth}")
    return [grid, path, folder / "tables" / "candidate_tuning.csv"]


def _tuned(config: Config) -> Path:
    return Path(config.folder) / FIRST_STAGE / "tuned.json"
