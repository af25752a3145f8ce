"""What the runs of a config left behind, measured and kept, found and read: the hand-over from training to analyses.

A config's folder holds `FILES` in `<system>/seed<k>/` for each neural system, and in `bm25/` for the first stage, which
knows no seed. The record holds hashes of the other two and of what they were made from: they are used again only while
none has changed. Nothing is remembered between calls.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from gdmtl_lib.data.candidates import first_stage_candidates
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.splits import cross_validated_epochs, cross_validated_run, join_parts, kfold
from gdmtl_lib.data.files import as_path, file_hash, read_table, write_lines
from gdmtl_lib.data.provenance import differences, made_from
from gdmtl_lib.data.trec import canonical_order, read_run, write_ordered
from gdmtl_lib.evaluation.comparison import rank_shifts
from gdmtl_lib.evaluation.measures import PAPER_NAMES, evaluate, read_values, write_values
from gdmtl_lib.systems import FIRST_STAGE, LABELS, system_name
from .metadata import write_metadata
from .notebook import indexes_folder, results_folder

# What measuring a split leaves: a run, its per-query values, and their record.
FILES = ("run.{split}.trec.gz", "per_query.{split}.csv", "run.{split}.json")
# What LaTeX's text fonts lack: the paper's marks of significance, and the dot before a relevant passage.
_LATEX_MARKS = {
    "●": r"$\bullet$",
    "▲": r"$^{\blacktriangle}$", "△": r"$^{\vartriangle}$",
    "▼": r"$^{\blacktriangledown}$", "▽": r"$^{\triangledown}$",
}  # fmt: skip


def _p(value: float) -> str:
    """A p value in LaTeX."""
    return "$<$0.001" if value < 0.0005 else f"{value:.3f}"


class Results:
    """The results of a config.

    config_or_folder: a config's name, whose results lie in `papermill_runs/<config>`, or the folder itself.
    Attributes: `folder`, where they lie, and `output`, where figures and tables go: of a config that was asked for by its
    name, as by hand, `by_hand/` in it, so that what the sweep has drawn stays.
    seeds: the others are left out, with a warning; those of the folder's config when None, and where there is none, all.
    """

    def __init__(self, config_or_folder: str | os.PathLike, seeds: Iterable[int] | None = None):
        by_name, by_path = places = (results_folder(str(config_or_folder)), as_path(config_or_folder, "results"))
        self.folder = next((place for place in places if place.is_dir()), None)
        if self.folder is None:
            raise FileNotFoundError(
                f"no results of {str(config_or_folder)!r}: expected a folder {by_name} or {by_path}; "
                "train with notebook 03 or run `make figures` first"
            )
        self.output = self.folder / "by_hand" if self.folder == by_name else self.folder
        config = self.folder / "config.json"
        self.config = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        self.known_seeds = self.config.get("seeds") if seeds is None else list(seeds)
        if self.known_seeds:
            homes = (home for system in LABELS for seed, home in self._all_homes(system).items() if not self._counts(seed))
            if others := [str(home.relative_to(self.folder)) for home in homes]:
                warnings.warn(f"left out of {self.folder}, whose config has other seeds: {', '.join(others)}", stacklevel=2)

    def __repr__(self) -> str:
        return f"<results in {self.folder}>"

    @property
    def figures(self) -> Path:
        return self.output / "figures"

    def check_as_planned(
        self, split: str, depth: int, relevance_level: int, first_stage: Mapping[str, object], away: str | None = None
    ) -> None:
        """Raises ValueError where the folder's config measures this split with another depth, grade or first stage: what is
        measured now would take the place of the sweep's results. away: the other collection whose split it is."""
        planned = {each["split"]: each["level"] for each in self.config.get("transfer", []) if each["collection"] == away}
        planned = planned if away else self.config.get("splits", {})
        if split not in planned:
            return
        own = {"depth": self.config.get("depth"), "relevance_level": planned[split]}
        given = {"depth": depth, "relevance_level": relevance_level}
        if not away:  # elsewhere BM25 has its usual k1 and b
            of_config = {"run": None, "k1": 0.9, "b": 0.4, "enriched": None} | self.config.get("first_stage", {})
            if of_config.pop("tune", None):
                of_config |= json.loads((self.folder / FIRST_STAGE / "tuned.json").read_text(encoding="utf-8"))
            own, given = own | of_config, given | first_stage
        if others := [name for name in given if given[name] != own[name]]:
            theirs, asked = (", ".join(f"{name} {of[name]}" for name in others) for of in (own, given))
            raise ValueError(
                f"{self.folder} holds the results of a sweep of {split} with {theirs}, and asked for is {asked}, which would replace "
                "them: give the notebook what the sweep has, or another results_dir"
            )

    def name(self, system: str) -> str:
        """A system's name here, however it was written. Raises ValueError for an unknown one."""
        return system_name(system)

    def pair(
        self, baseline: str | None, system: str | None = None, systems: Iterable[str] | None = None
    ) -> tuple[str, str]:
        """The names of two systems to compare: those given, else BERT and GDMTL, as in the paper, or the first and the last
        of `systems` where these are not among them. Raises ValueError for one system given as both."""
        among = map(self.name, systems or ("bert", "gdmtl"))
        return self._pair(baseline, system, sorted(among, key=lambda name: (name == "gdmtl") - (name == "bert")))

    def _pair(self, baseline: str | None, system: str | None, among: Iterable[str]) -> tuple[str, str]:
        first, last = (name and self.name(name) for name in (baseline, system))
        if first and first == last:
            raise ValueError(f"expected two systems to compare, found {first} as baseline and as system; give another one")
        start, *_, end = [*dict.fromkeys(among)] * 2
        first = first or (start if start != last else end)
        return first, last or (end if end != first else start)

    def systems(self, split: str) -> list[str]:
        """The systems measured on a split, in the paper's order, BM25 first."""
        return [name for name in LABELS if self._homes(name, f"per_query.{split}.csv")]

    def chosen(self, split: str, systems: Sequence[str] | None = None, *needed: str) -> list[str]:
        """The systems to look at: those asked for, in that order, or all that were measured on the split when None.
        needed: systems that have to be among them, together with at least one other; a baseline, for example.

        Raises FileNotFoundError for a system without values, ValueError for a needed one that was not asked for and
        where there is no other.
        """
        chosen, needed = self.systems(split), [self.name(system) for system in needed]
        if systems is not None:
            chosen = list(dict.fromkeys(map(self.name, systems)))
        for system in [*(chosen or [FIRST_STAGE]), *needed]:
            self._found(system, f"per_query.{split}.csv")
        if missing := [system for system in needed if system not in chosen]:
            raise ValueError(f"systems: expected {missing[0]} among them, found {', '.join(chosen)}; add it")
        if needed and len(chosen) < 2:
            raise ValueError(f"systems: expected others to compare {chosen[0]} with, found none; add or train one")
        return chosen

    def seeds(self, system: str, split: str | None = None) -> list[int]:
        """The seeds a system was trained with, or those measured on a split; none for BM25."""
        file = f"per_query.{split}.csv" if split else ""
        return [seed for seed in self._homes(self.name(system), file) if seed is not None]

    def home(self, system: str, seed: int | None = None) -> Path:
        """The folder that a training of a system was made into; BM25 has one for all seeds."""
        system = self.name(system)
        return self.folder / system if system == FIRST_STAGE else self.folder / system / f"seed{seed}"

    def trainings(self, system: str) -> list[Path]:
        """The folders that a system was trained into: one a seed; where the results are those of folds, joined, one a
        rotation and seed."""
        here = list(self._homes(self.name(system)).values())
        rotations = sorted(self.folder.glob("folds/*/"), key=lambda path: (len(path.name), path.name))
        of_folds = [home for place in rotations for home in Results(place, self.known_seeds)._homes(self.name(system)).values()]
        return here if any((home / "checkpoint").is_dir() for home in here) else of_folds or here

    def common_seeds(self, *systems: str, split: str | None = None) -> list[int | None]:
        """The seeds that all of these systems were trained with, or measured on a split, by which pairs are compared. BM25
        goes with every seed; by itself it gives `[None]`. Raises ValueError where there is none."""
        seeds = {name: set(self.seeds(name, split)) for name in map(self.name, systems) if name != FIRST_STAGE}
        common = set.intersection(*seeds.values()) if seeds else {None}
        if not common:
            found = "; ".join(f"{name} has {', '.join(map(str, sorted(of))) or 'none'}" for name, of in seeds.items())
            raise ValueError(f"expected a seed that all systems were trained with, found none ({found}); train one")
        return sorted(common)

    def run(self, system: str, split: str, seed: int | None = None) -> pd.DataFrame:
        """A system's run of a split: `query_id, doc_id, score, rank`. Without a seed it is the lowest one's. Raises
        FileNotFoundError, naming what there is; ValueError for a file that is not as it was measured."""
        home, *_ = self._found(system, f"run.{split}.trec.gz", seed)
        return read_run(as_measured(home / f"run.{split}.trec.gz", split))

    def values(self, system: str, split: str, seed: int | None = None) -> pd.DataFrame:
        """A system's per-query values of a split: `query_id, measure, value, residual`. Without a seed they are the
        means over all seeds. Raises as `run`, and ValueError where seeds were measured differently."""
        name, key = f"per_query.{split}.csv", ["query_id", "measure"]
        paths = [as_measured(home / name, split) for home in self._found(system, name, seed)]
        frames = [read_values(path) for path in paths]
        measured = [set(map(tuple, values[key].to_numpy())) for values in frames]
        for path, what in zip(paths, measured):
            if what != measured[0]:
                raise ValueError(f"{path}: expected the queries and measures of {paths[0]}, found others; evaluate both anew")
        return pd.concat(frames).groupby(key, sort=False, as_index=False)[["value", "residual"]].mean()

    def values_by_system(self, split: str, systems: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
        """Per-query values of some systems, or of all, means over seeds, by their names: what `compare` takes."""
        return {system: self.values(system, split) for system in self.chosen(split, systems)}

    def means_by_seed(self, split: str, systems: Sequence[str]) -> pd.DataFrame:
        """What each training reached: `measure, system, seed, mean`, a row for each measure, system and seed."""
        rows = [
            (measure, system, seed, mean) for system in systems for seed in self.seeds(system, split)
            for measure, mean in self.values(system, split, seed).groupby("measure", sort=False)["value"].mean().items()
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=["measure", "system", "seed", "mean"]).astype({"mean": float})

    def rank_shifts(
        self, baseline: str, system: str, split: str, qrels: pd.DataFrame, depth: int = 10, relevance_level: int = 1
    ) -> pd.DataFrame:
        """`comparison.rank_shifts` of a pair of systems, seed by seed, under one another: `seed, rank, baseline,
        system, change`."""
        tables = []
        for seed in self.common_seeds(baseline, system, split=split):
            runs = (self.run(name, split, seed) for name in (baseline, system))
            tables.append(rank_shifts(*runs, qrels, depth, relevance_level).assign(seed=seed))
        return pd.concat(tables, ignore_index=True)[["seed", "rank", "baseline", "system", "change"]]

    def save_table(self, table: pd.DataFrame, name: str) -> None:
        """Write a table as CSV and LaTeX into `tables/`; the LaTeX takes booktabs, multirow and amssymb. Its index
        is written where it says something: one with a name does, plain row numbers do not."""
        folder = self.output / "tables"
        folder.mkdir(parents=True, exist_ok=True)
        index = any(name is not None for name in table.index.names)
        table.to_csv(folder / f"{name}.csv", index=index)
        small = {column: _p for column in table if column in ("p", "p_corrected")}
        latex = table.to_latex(index=index, escape=True, float_format="%.3f", na_rep="", formatters=small)
        for mark, command in _LATEX_MARKS.items():
            latex = latex.replace(mark, command)
        latex = re.sub(r"^[\[*]", r"{\g<0>}", latex, flags=re.MULTILINE)  # or the line's end before it would read it
        (folder / f"{name}.tex").write_text(latex, encoding="utf-8")

    def _counts(self, seed: int | None) -> bool:
        """Whether trainings of a seed are looked at."""
        return not self.known_seeds or seed in (None, *self.known_seeds)

    def _homes(self, system: str, file: str = "") -> dict[int | None, Path]:
        """The folders of a system by seed, those of the seeds that count that have the file."""
        return {seed: home for seed, home in self._all_homes(system, file).items() if self._counts(seed)}

    def _all_homes(self, system: str, file: str = "") -> dict[int | None, Path]:
        """The folders of a system by seed, those that have the file; BM25 has one, without a seed."""
        seeds = [None]
        if system != FIRST_STAGE:
            names = (re.fullmatch(r"seed(\d+)", path.name) for path in (self.folder / system).glob("seed*"))
            seeds = sorted(int(name[1]) for name in names if name)
        return {seed: home for seed in seeds if ((home := self.home(system, seed)) / file).exists()}

    def _found(self, system: str, file: str, seed: int | None = None) -> list[Path]:
        """The folders of a system that have the file, of all seeds or of one."""
        system = self.name(system)
        homes = self._homes(system, file)
        if seed is not None and system != FIRST_STAGE:
            homes = {seed: homes[seed]} if seed in homes else {}
        if not homes:
            there = sorted(str(path.relative_to(self.folder).parent) for path in self.folder.glob(f"**/{file}"))
            raise FileNotFoundError(
                f"{LABELS[system]} has no {file}: expected it in {self.home(system, '<k>' if seed is None else seed)}, "
                f"found it in {', '.join(there) or 'no folder'}; "
                + ("notebook 02 measures it" if system == FIRST_STAGE else f"train {system} with notebook 03")
            )
        return list(homes.values())


def measure_first_stage(
    results_dir: str | os.PathLike, collection: Collection, split: str, depth: int, relevance_level: int = 1,
    **first_stage,
) -> pd.DataFrame:  # fmt: skip
    """The first stage's candidates for a split, to be re-ranked, as `first_stage_candidates` finds them; they and their
    values are kept in `<results_dir>/bm25/`."""
    candidates = first_stage_candidates(collection, split, depth=depth, index_dir=indexes_folder(), **first_stage)
    values = evaluate(candidates, collection.qrels(split), relevance_level=relevance_level)
    run = _keep(Path(results_dir) / FIRST_STAGE, split, candidates, values, FIRST_STAGE)
    write_metadata(run, FIRST_STAGE, collection.name, **first_stage)
    return candidates


def trained_on(home: Path) -> tuple[dict, dict]:
    """What a training's settings.json says, and the settings in it. Raises FileNotFoundError, ValueError, naming it."""
    path = home / "settings.json"
    try:
        training = json.loads(path.read_text(encoding="utf-8"))["training"]
        return training, dict(training["settings"])
    except FileNotFoundError:
        raise FileNotFoundError(f"expected {path}, which says what was trained; train it with notebook 03") from None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): train it anew with notebook 03") from None


def measure_system(
    folder: str | os.PathLike, collection: Collection, candidates: pd.DataFrame, split: str, relevance_level: int = 1,
    device: str = "auto", model=None, progress: bool = True, output_dir: str | os.PathLike | None = None,
    processes: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """Re-rank a split with the trained system of a folder, in its training's precision, measure it, and keep both.

    folder: where `train` left its `checkpoint/`. model: that checkpoint, where it is loaded already.
    device, progress, processes: as for `rerank`. output_dir: where to keep them; the folder when None.

    Returns the per-query values, those kept if they were made from the same. Raises FileNotFoundError where there is
    no checkpoint.
    """
    folder = Path(folder)
    output = folder if output_dir is None else Path(output_dir)
    weights = folder / "checkpoint" / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(f"{folder} holds no trained system: expected {weights}; train it with notebook 03")
    qrels = collection.qrels(split)
    precision = trained_on(folder)[1].get("precision", "auto")
    record = made_from(weights.parent, collection, candidates, precision, qrels=qrels, relevance_level=relevance_level)
    path, values, note = measured_files(output, split)
    if is_kept(note, record, path, values):
        return read_values(values)

    # torch, which measuring alone does without
    from gdmtl_lib.inference.rerank import rerank
    from gdmtl_lib.pretrained import load_model

    model = load_model(weights.parent) if model is None else model
    how = dict(output=path, precision=precision, device=device, progress=progress, processes=processes)
    run = rerank(model, collection, candidates, **how)
    values = evaluate(run, qrels, relevance_level=relevance_level)
    _keep(output, split, run, values, model.system.name, record)
    write_metadata(path, model.system.name, collection.name)
    return values


def join_folds(
    parts: Iterable[tuple[str | os.PathLike, str]], output_dir: str | os.PathLike, split: str, system: str
) -> pd.DataFrame:
    """A cross-validation's runs and values as those of one split: every query with the model that never saw its
    session. They are kept in a folder, as `measure_system` keeps those of one model.

    parts: for each rotation, the folder of its model and the split that it was tested on, both measured.
    split: the name of the whole. Returns the per-query values. Raises ValueError for a query that was tested twice.
    """
    paths = [[as_measured(path, tested) for path in measured_files(folder, tested)[:2]] for folder, tested in parts]
    run = canonical_order(join_parts(read_run(run) for run, _ in paths))
    values = join_parts(read_values(values) for _, values in paths)
    _keep(Path(output_dir), split, run, values, system, {"parts": [file_hash(run) for run, _ in paths]})
    return values


def join_epochs(
    folder: str | os.PathLike, collection: Collection, split: str, system: str, relevance_level: int = 1, folds: int = 5
) -> pd.DataFrame:
    """The validation split as Section 5.2 measures it: the queries of each fold by the epoch that is best on the other
    folds, joined. They are kept in the training's folder in place of those of the one epoch whose weights are kept.

    folder: of a training with `keep_epoch_runs`. folds: one a query where there are fewer. Returns per-query values.
    """
    folder = Path(folder)
    by_query = read_table(folder / "validation_queries.csv", text=["query_id"])
    queries = by_query["query_id"].unique()
    chosen = cross_validated_epochs(by_query, kfold(queries, min(folds, len(queries))))
    paths = {epoch: folder / "epoch_runs" / f"epoch{epoch}.trec.gz" for epoch in sorted(chosen["epoch"].unique())}
    run = cross_validated_run(chosen, lambda epoch: read_run(paths[epoch]))
    values = evaluate(run, collection.qrels(split), relevance_level=relevance_level)
    made = {path.name: file_hash(path) for path in paths.values()}
    _keep(folder, split, run, values, system, {"epochs": made, "folds": folds})
    return values


def as_measured(path: Path, split: str) -> Path:
    """The path of a run or of values, if `run.<split>.json` beside it (where there is one) still holds its hash."""
    record = path.with_name(f"run.{split}.json")
    if record.exists() and _record(record).get("files", {}).get(path.name) != file_hash(path):
        raise ValueError(
            f"{path} is not as it was measured: its SHA-256 is not the one in {record.name}; run notebook 03 again "
            "for this system, which measures it anew, or delete both"
        )
    return path


def seed_spread(means: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds of what `Results.means_by_seed` returns, as `0.384 ±0.005`: a row a system
    that was trained more than once, a column a measure under the paper's name."""
    grouped = means.groupby(["system", "measure"], sort=False)["mean"]
    table = grouped.agg(["mean", "std", "size"]).query("size > 1")
    text = table["mean"].map("{:.3f}".format) + table["std"].map(" ±{:.3f}".format)
    return text.unstack(sort=False).rename(columns=PAPER_NAMES).rename_axis(columns=None)


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the systems' labels for their names, in its columns `baseline`, `twin` and `system`."""
    columns = table.columns.intersection(["baseline", "twin", "system"])
    return table.assign(**{column: table[column].replace(LABELS) for column in columns})


def measured_files(folder: str | os.PathLike, split: str) -> list[Path]:
    """Where the `FILES` of a split lie: its run, its values and their record."""
    return [Path(folder) / name.format(split=split) for name in FILES]


def _keep(
    folder: Path, split: str, run: pd.DataFrame, values: pd.DataFrame, tag: str, made: Mapping | None = None
) -> Path:
    """Write the three files; returns the run's path."""
    *paths, note = measured_files(folder, split)
    write_ordered(run, paths[0], tag=tag)
    write_values(values, paths[1])
    record_of(note, made, *paths)
    return paths[0]


def record_of(note: Path, made: Mapping | None, *paths: Path) -> None:
    """Write beside files what they were made from, and their hashes."""
    kept = {"made_from": made, "files": {path.name: file_hash(path) for path in paths}}
    write_lines(note, [json.dumps(kept, indent=2) + "\n"])


def is_kept(note: Path, made: Mapping, *paths: Path) -> bool:
    """Whether files are there and unchanged that were made from the same, as their record says."""
    kept = _record(note)
    if not kept.get("made_from") or kept["files"] != {path.name: file_hash(path) for path in paths if path.is_file()}:
        return False
    there = dict(kept["made_from"])
    if weights := there.pop("checkpoint", None):  # as the first version wrote it: two hashes, and no versions
        there["model"] = hashlib.sha256(f"{there['model']} {weights}".encode()).hexdigest()
        there["versions"] = made["versions"]
    if "epochs" in there:  # joined of the training's own runs: the run of one epoch does not take its place
        runs = {name: note.parent / "epoch_runs" / name for name in there["epochs"]}
        return there["epochs"] == {name: file_hash(run) for name, run in runs.items() if run.is_file()}
    return not differences(there, made)


def _record(note: Path) -> dict:
    """What is recorded; nothing where that is gone or damaged."""
    try:
        record = json.loads(note.read_text(encoding="utf-8"))
        return record if isinstance(record["files"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
