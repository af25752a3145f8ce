"""The trainings of a sweep: every execution of 03_train that a config asks for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gdmtl_lib.data.collection import rotations_name
from .config import Config
from gdmtl_lib.systems import LABELS


@dataclass(frozen=True)
class Training:
    """One execution of 03_train.

    name: unique in the sweep. title: what its progress is called. home: where it goes, `<results>/<system>/seed<k>`,
    `<results>/folds/<i>/<system>/seed<k>` or `<results>/studies/<study>/<variant>/<system>/seed<k>`.
    given: the notebook's parameters.
    """

    name: str
    title: str
    system: str
    seed: int
    home: Path
    given: dict


def trainings(config: Config, study: str | None = None) -> Iterator[Training]:
    """The trainings of the config's systems, or those of one of its studies; where the config has folds, one a
    rotation, of a system and seed under one another."""
    folder, validation = Path(config.folder), next(iter(config.splits))
    seeds, variants = config.seeds, {"": config.parameters}
    if study:
        folder = folder / "studies" / study
        seeds, variants = config.studies[study]["seeds"], config.studies[study]["variants"]
    for seed in seeds:
        for variant, parameters in variants.items():
            for system in parameters:
                home = folder / variant / system / f"seed{seed}"
                given = parameters[system] | {
                    "model": system, "collection": config.collection, "train_split": config.train_split,
                    "validation_split": validation, "relevance_level": config.splits[validation],
                    "depth": config.depth, "seed": seed, "output_dir": str(home),
                }  # fmt: skip
                name = "_".join(filter(None, (study, variant, system, f"seed{seed}")))
                title = f"{LABELS[system]}, seed {seed}" + (f", {study} {variant}" if study else "")
                training = Training(name, title, system, seed, home, given)
                yield from _rotated(config, training) if config.folds else [training]


def part(name: str, rotation: int) -> str:
    """The split of a rotation: `test3`."""
    return f"{name}{rotation}"


def look_into(config: Config, rotation: int) -> dict:
    """What a notebook is given to look into the models of a rotation, on the queries that they were tested on: sessions
    that they have not seen."""
    return {
        "collection": rotations_name(config.collection, config.train_split, config.folds),
        "train_split": part("train", rotation), "split": part("test", rotation),
        "results_dir": str(_folder(config, rotation)),
    }  # fmt: skip


def with_rotations(config: Config, found: Sequence[Training]) -> list[list[Training]]:
    """The trainings of a system and seed together: one each without folds, one a rotation with them."""
    size = config.folds or 1
    return [list(found[first : first + size]) for first in range(0, len(found), size)]


def _rotated(config: Config, training: Training) -> Iterator[Training]:
    """A training once a rotation: three folds of five train, one validates, one tests (Section 5.2)."""
    for rotation in range(config.folds):
        home = _folder(config, rotation) / training.system / f"seed{training.seed}"
        given = training.given | {
            "collection": rotations_name(config.collection, config.train_split, config.folds),
            "train_split": part("train", rotation), "validation_split": part("validate", rotation),
            "output_dir": str(home),
        }  # fmt: skip
        name, title = f"{training.name}_fold{rotation}", f"{training.title}, rotation {rotation}"
        yield Training(name, title, training.system, training.seed, home, given)


def _folder(config: Config, rotation: int) -> Path:
    return Path(config.folder) / "folds" / str(rotation)
