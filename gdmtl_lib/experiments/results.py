"""What the runs of a config left behind, found and read: the hand-over from training to every analysis.

A config's folder holds `<system>/seed<k>/run.<split>.trec.gz` and `per_query.<split>.csv` for each neural system, and
the same two files in `bm25/` for the first stage, which knows no seed. Nothing is remembered between calls: what is
read is what lies there.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from gdmtl_lib.evaluation.comparison import rank_shifts
from gdmtl_lib.evaluation.measures import read_values
from .notebook import results_folder
from gdmtl_lib.data.trec import file_hash, read_run
from gdmtl_lib.systems import FIRST_STAGE, LABELS, system_name

# What LaTeX's text fonts lack: the paper's marks of significance, and the dot before a relevant passage.
_LATEX_MARKS = {
    "●": r"$\bullet$",
    "▲": r"$^{\blacktriangle}$", "△": r"$^{\vartriangle}$",
    "▼": r"$^{\blacktriangledown}$", "▽": r"$^{\triangledown}$",
}  # fmt: skip


class Results:
    """The results of a config.

    config_or_folder: a config's name (by default that is its collection's), whose results lie in
        `papermill_runs/<config>`, or the folder itself.

    Raises FileNotFoundError where neither is there.
    """

    def __init__(self, config_or_folder: str | os.PathLike):
        places = (results_folder(os.fspath(config_or_folder)), Path(config_or_folder))
        found = [place for place in places if place.is_dir()]
        if not found:
            raise FileNotFoundError(
                f"no results of {str(config_or_folder)!r}: expected a folder {places[0]} or {places[1]}; "
                "train with notebook 03 or run `make figures` first"
            )
        self.folder = found[0]

    def __repr__(self) -> str:
        return f"<results in {self.folder}>"

    def systems(self, split: str) -> list[str]:
        """The systems measured on a split, in the paper's order, BM25 first."""
        return [name for name in LABELS if self._homes(name, f"per_query.{split}.csv")]

    def chosen(self, split: str, systems: Sequence[str] | None = None, *needed: str) -> list[str]:
        """The systems to look at: those asked for, in that order, or all that were measured on the split when None.

        needed: systems that have to be among them, together with at least one other; a baseline, for example.

        Raises FileNotFoundError for a system without values, ValueError for a needed one that was not asked for,
        where there is no other, and for an unknown name.
        """
        there = self.systems(split)
        chosen = there if systems is None else [system_name(system) for system in systems]
        for system in chosen or [FIRST_STAGE]:
            self._found(system, f"per_query.{split}.csv", None)
        for system in map(system_name, needed):
            if system not in chosen:
                self._found(system, f"per_query.{split}.csv", None)
                raise ValueError(f"systems: expected {system} among them, found {', '.join(chosen)}; add it")
        if needed and len(chosen) < 2:
            raise ValueError(f"systems: expected others to compare {chosen[0]} with, found none; add or train one")
        return chosen

    def seeds(self, system: str) -> list[int]:
        """The seeds a system was trained with; none for BM25."""
        return [seed for seed in self._homes(system_name(system)) if seed is not None]

    def trainings(self, system: str) -> list[Path]:
        """The folders that a system was trained into: one a seed; where the results are those of folds, joined, one a
        rotation and seed."""
        system = system_name(system)
        here = list(self._homes(system).values())
        if any((home / "checkpoint").is_dir() for home in here):
            return here
        rotations = sorted(self.folder.glob("folds/*"), key=lambda path: (len(path.name), path.name))
        return [home for place in rotations for home in self._homes(system, place=place).values()] or here

    def common_seeds(self, *systems: str) -> list[int | None]:
        """The seeds that all of these systems were trained with: run against run, a pair of systems is compared seed
        by seed. BM25 goes with every seed; by itself it gives `[None]`.

        Raises ValueError where the systems have no seed in common.
        """
        seeds = {name: set(self.seeds(name)) for name in map(system_name, systems) if name != FIRST_STAGE}
        common = set.intersection(*seeds.values()) if seeds else {None}
        if not common:
            found = "; ".join(f"{name} has {', '.join(map(str, sorted(of))) or 'none'}" for name, of in seeds.items())
            raise ValueError(f"expected a seed that all systems were trained with, found none ({found}); train one")
        return sorted(common)

    def run(self, system: str, split: str, seed: int | None = None) -> pd.DataFrame:
        """A system's run of a split: `query_id, doc_id, score, rank`. Without a seed it is the lowest one's; BM25 has
        one for all seeds.

        Raises FileNotFoundError, naming what there is; ValueError for a file that is not as it was measured.
        """
        homes = self._found(system, f"run.{split}.trec.gz", seed)
        return read_run(as_measured(next(iter(homes.values())) / f"run.{split}.trec.gz", split))

    def values(self, system: str, split: str, seed: int | None = None) -> pd.DataFrame:
        """A system's per-query values of a split: `query_id, measure, value, residual`. Without a seed they are the
        means over all seeds; BM25 has one for all.

        Raises FileNotFoundError, naming what there is; ValueError where two seeds were measured on different queries
        or with different measures, and for a file that is not as it was measured.
        """
        name = f"per_query.{split}.csv"
        paths = [as_measured(home / name, split) for home in self._found(system, name, seed).values()]
        frames = {path: read_values(path) for path in paths}
        (first, expected), *others = frames.items()
        key = ["query_id", "measure"]
        for path, values in others:
            if set(map(tuple, values[key].to_numpy())) != set(map(tuple, expected[key].to_numpy())):
                raise ValueError(
                    f"{path}: expected the queries and measures of {first}, found others; evaluate both anew"
                )
        return pd.concat(frames.values()).groupby(key, sort=False, as_index=False)[["value", "residual"]].mean()

    def values_by_system(self, split: str, systems: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
        """Per-query values of several systems, means over seeds, by the systems' names: what `compare` takes.

        systems: which ones, in this order; all that there are when None.

        Raises as `chosen` and `values`.
        """
        return {system: self.values(system, split) for system in self.chosen(split, systems)}

    def rank_shifts(
        self, baseline: str, system: str, split: str, qrels: pd.DataFrame, depth: int = 10, relevance_level: int = 1
    ) -> pd.DataFrame:
        """`comparison.rank_shifts` of a pair of systems, seed against the same seed, under one another: `seed, rank,
        baseline, system, change`."""
        tables = [
            rank_shifts(
                self.run(baseline, split, seed), self.run(system, split, seed), qrels, depth, relevance_level
            ).assign(seed=seed)
            for seed in self.common_seeds(baseline, system)
        ]
        return pd.concat(tables, ignore_index=True)[["seed", "rank", "baseline", "system", "change"]]

    def save_figure(self, figure, name: str) -> None:
        """Write a figure as PNG and PDF into `figures/`."""
        from gdmtl_lib.figures.results import save_figure

        save_figure(figure, self.folder / "figures", name)

    def save_table(self, table: pd.DataFrame, name: str) -> None:
        """Write a table as CSV and LaTeX into `tables/`; the LaTeX takes booktabs, multirow and amssymb."""
        folder = self.folder / "tables"
        folder.mkdir(parents=True, exist_ok=True)
        table.to_csv(folder / f"{name}.csv", index=_named(table.index))
        latex = table.to_latex(index=_named(table.index), escape=True, float_format="%.3f", na_rep="")
        for mark, command in _LATEX_MARKS.items():
            latex = latex.replace(mark, command)
        (folder / f"{name}.tex").write_text(latex, encoding="utf-8")

    def _homes(self, system: str, file: str = "", place: Path | None = None) -> dict[int | None, Path]:
        """The folders of a system by seed, those that have the file; BM25 has one, without a seed. place: where they are
        looked for; the folder itself when None."""
        place = place or self.folder
        if system == FIRST_STAGE:
            homes = {None: place / system}
        else:
            homes = {
                int(match[1]): home
                for home in (place / system).glob("seed*")
                if (match := re.fullmatch(r"seed(\d+)", home.name))
            }
        return {seed: homes[seed] for seed in sorted(homes) if (homes[seed] / file).exists()}

    def _found(self, system: str, file: str, seed: int | None) -> dict[int | None, Path]:
        system = system_name(system)
        homes = self._homes(system, file)
        if seed is not None and system != FIRST_STAGE:
            homes = {seed: homes[seed]} if seed in homes else {}
        if not homes:
            place = FIRST_STAGE if system == FIRST_STAGE else f"{system}/seed{'<k>' if seed is None else seed}"
            there = sorted(str(path.relative_to(self.folder).parent) for path in self.folder.glob(f"**/{file}"))
            raise FileNotFoundError(
                f"{LABELS[system]} has no {file}: expected it in {self.folder / place}, "
                f"found it in {', '.join(there) or 'no folder'}; train {system} with notebook 03"
            )
        return homes


def as_measured(path: Path, split: str) -> Path:
    """The path of a run or of values, if `run.<split>.json` beside it (where there is one) still holds its hash."""
    record = path.with_name(f"run.{split}.json")
    if record.exists():
        try:
            expected = json.loads(record.read_text(encoding="utf-8"))["files"][path.name]
        except (ValueError, KeyError, TypeError):
            expected = None
        if file_hash(path) != expected:
            raise ValueError(
                f"{path} is not as it was measured: its SHA-256 is not the one in {record.name}; run notebook 03 again "
                "for this system, which measures it anew, or delete both"
            )
    return path


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the systems' labels for their names, in its columns `baseline` and `system`."""
    columns = table.columns.intersection(["baseline", "system"])
    return table.assign(**{column: table[column].replace(LABELS) for column in columns})


def _named(index: pd.Index) -> bool:
    """Whether an index says something: one with a name does, plain row numbers do not."""
    return any(name is not None for name in index.names)
