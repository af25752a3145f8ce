"""Studies: the same systems trained under varied parameters, and what each variant reached.

A config's folder holds them in `studies/<study>/<variant>/`, each laid out like the config's own results. What a
variant is stands in the settings.json of its trainings, never in the name of its folder. The config's own trainings are
one variant more: those on all training queries, for Figure 7.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from gdmtl_lib.data.files import read_table
from gdmtl_lib.data.rounding import difference
from gdmtl_lib.data.splits import nested_share
from gdmtl_lib.evaluation.comparison import compare, mean_interval, twin_of, with_marks
from gdmtl_lib.evaluation.measures import PAPER_NAMES
from gdmtl_lib.evaluation.tables import WEIGHTING as WEIGHTING, by_weighting
from gdmtl_lib.systems import FIRST_STAGE, LABELS, TASK_LABELS, system_name, unknown_name
from .results import Results, trained_on

OWN = ""  # the variant of the config's own trainings
SIZE = "train_fraction"
DENOISING = "denoising_steps"
# How notebook 03 trains one variant of a study, for a message.
_EXAMPLES = {
    "training_size": "-p train_fraction 0.25",
    "loss_weighting": "-p loss_weighting uncertainty -p generation_head_warmup_steps 100",
    "denoising": "-p model bart_s -p denoising_steps 300",
    "choices": "-p max_gradient_norm None",
}


class Study:
    """The variants of a study, by its name in the config, that were measured on a split. Raises FileNotFoundError where
    there is none, saying how to get it."""

    def __init__(self, results: Results, name: str, split: str):
        self.name, self.split = name, split
        folder = results.folder / "studies" / name
        planned = results.config.get("studies", {}).get(name, {})  # else what an earlier config had would be looked at, too
        usual = results.config.get("parameters", {})
        self.planned = {  # which systems a variant trains: one that would repeat the config's own training stands for it
            variant: [system for system, given in of.items() if given != usual.get(system)]
            for variant, of in planned.get("variants", {}).items()
        }
        homes = [home for home in sorted(folder.glob("*/")) if not planned or home.name in planned["variants"]]
        variants = {home.name: Results(home, planned.get("seeds")) for home in homes}
        self.variants = {variant: of for variant, of in variants.items() if self._systems(of)}
        self._places = self.variants | {OWN: results}
        self.values = cache(self.values)
        if not self.variants:
            home = folder / "<variant>" / "<system>" / "seed<k>"
            found = sorted({path.name for path in folder.glob("*/*/*/per_query.*.csv")})
            raise FileNotFoundError(
                f"no study {name!r} on {split}: expected {home / f'per_query.{split}.csv'}, found "
                f"{', '.join(found) or 'none'}; name it under `studies` in the config and run `make figures`, or train "
                f"variants yourself: papermill notebooks/03_train.ipynb out.ipynb -p model gdmtl "
                f"{_EXAMPLES.get(name, '-p <parameter> <value>')} -p output_dir {home}"
            )

    def __repr__(self) -> str:
        return f"<study {self.name}: {', '.join(self.variants)}>"

    def systems(self) -> list[str]:
        """The systems of the study, in the paper's order."""
        there = {system for variant in self.variants.values() for system in self._systems(variant)}
        return [system for system in LABELS if system in there]

    def trainings(self, studied: Sequence[str], systems: Sequence[str] | None = None) -> pd.DataFrame:
        """Every training of the study, and of the config's own those of the same systems that it does not repeat:
        `variant, system, seed`, a column for each setting of settings.json, and `collection`, the hash of what it was
        trained on.

        studied: the settings in which variants differ; a training is another one if one of them is, or the seed.
        """
        there = self.systems()
        chosen = there if systems is None else list(map(system_name, systems))
        if missing := [LABELS[system] for system in chosen if system not in there]:
            raise FileNotFoundError(
                f"study {self.name!r} has no {', '.join(missing)} on {self.split}, only {', '.join(map(LABELS.get, there))}; "
                "add it to the study's systems in the config"
            )
        rows = [row for system in chosen for variant in self._places for row in self._trainings(variant, system)]
        return pd.DataFrame(rows).drop_duplicates(["system", "seed", *studied], ignore_index=True)

    def own_trainings(self, system: str) -> pd.DataFrame:
        """The config's own trainings of a system, in the study or not, as `trainings` has them."""
        self._places[OWN].values(system, self.split)  # or a message that says what is missing
        return pd.DataFrame(self._trainings(OWN, system))

    def values(self, variant: str, system: str, seed: int) -> dict[str, pd.Series]:
        """The values of one training by measure, indexed by query_id; `OWN` for one of the config's own. Read once."""
        values = self._places[variant].values(system, self.split, seed).set_index("query_id")
        return dict(iter(values.groupby("measure", sort=False)["value"]))

    def mean_values(self, trainings: pd.DataFrame, measure: str) -> pd.DataFrame:
        """One measure's per-query values, means over some trainings: `query_id, measure, value`."""
        first, *others = (values.get(measure, pd.Series(dtype=float)) for values in self._each(trainings))
        if first.empty or any(set(other.index) != set(first.index) for other in others):
            raise ValueError(
                f"study {self.name!r}: expected the {measure} of the same queries from every training of "
                f"{', '.join(trainings['system'].unique())}, found others; evaluate them anew"
            )
        mean = sum((other.reindex(first.index) for other in others), first) / (1 + len(others))
        return pd.DataFrame({"query_id": first.index, "measure": measure, "value": mean.to_numpy()})

    def means(self, trainings: pd.DataFrame, measure: str | None = None) -> pd.DataFrame:
        """What each training reached: its row with `measure, mean`, a row for each measure, or for this one. Raises ValueError
        for a measure that there are no values of."""
        rows = [
            {**training, "measure": name, "mean": of_queries.mean()}
            for training, values in zip(trainings.to_dict("records"), self._each(trainings))
            for name, of_queries in values.items()
            if measure in (None, name)
        ]
        if not rows:
            known = dict.fromkeys(name for values in self._each(trainings) for name in values)
            raise ValueError(unknown_name("measure", measure, known, "there are values of"))
        return pd.DataFrame(rows)

    def histories(self, trainings: pd.DataFrame) -> list[pd.DataFrame]:
        """The history.csv of each training, a row an optimiser step."""
        homes = (self._places[row.variant].home(row.system, row.seed) for row in trainings.itertuples())
        return [read_table(home / "history.csv") for home in homes]

    def _each(self, trainings: pd.DataFrame) -> Iterable[dict[str, pd.Series]]:
        return (self.values(row.variant, row.system, row.seed) for row in trainings.itertuples())

    def _trainings(self, variant: str, system: str) -> list[dict]:
        place = self._places[variant]
        return [
            {"variant": variant, "system": system, "seed": seed, **_described(place.home(system, seed))}
            for seed in place.seeds(system, self.split)
        ]

    def _systems(self, place: Results) -> list[str]:
        return [system for system in place.systems(self.split) if system != FIRST_STAGE]


def shared_seeds(trainings: pd.DataFrame, studied: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The trainings of the seeds that every system has in every variant, so that only what is studied differs, and a
    sentence for each system that had more. Raises ValueError where no seed is shared."""
    groups = {key: set(rows["seed"]) for key, rows in trainings.groupby(["system", *studied], sort=False)}
    shared = set.intersection(*groups.values())
    if not shared:
        found = "; ".join(f"{' '.join(map(str, key))}: {_listed(seeds)}" for key, seeds in groups.items())
        raise ValueError(f"expected a seed that all trainings of the study share, found none ({found}); train one")
    left_out = trainings[~trainings["seed"].isin(shared)]
    notes = [
        f"{LABELS[system]}: left out are the seeds that not every variant of every system has: {_listed(seeds)}"
        for system, seeds in left_out.groupby("system", sort=False)["seed"]
    ]
    return trainings[trainings["seed"].isin(shared)].reset_index(drop=True), notes


def denoised_folder(results: Results, steps: int, seed: int | None = None) -> Path:
    """The folder of a config's denoised start; of the lowest of the config's seeds that is there when None. Raises
    FileNotFoundError where there is none."""
    folder = results.folder / "denoised"
    found = {path.name.rpartition("seed")[2]: path for path in folder.glob(f"steps{steps}_seed*")}
    found = {int(number): path for number, path in found.items() if number.isdigit()}
    wanted = [seed] if seed is not None else sorted(set(found).intersection(results.known_seeds or found))
    if not wanted or wanted[0] not in found:
        which = f"steps{steps}_seed{'<k>' if seed is None else seed}"
        raise FileNotFoundError(f"no denoised start {folder / which}: run `make figures` with a study of denoising_steps first")
    return found[wanted[0]]


def other_differences(trainings: pd.DataFrame, studied: Sequence[str]) -> list[str]:
    """A sentence for each system whose trainings differ in more than the studied settings and the seed."""
    settings = trainings.columns.drop(["variant", "system", "seed", *studied])
    notes = []
    for system, rows in trainings.groupby("system", sort=False):
        if different := [name for name in settings if rows[name].nunique(dropna=False) > 1]:
            notes.append(f"{LABELS[system]}: trainings differ in {', '.join(different)} too, not only in what is studied")
    return notes


def training_queries(qrels: pd.DataFrame, share: float) -> int:
    """How many queries a share of the training queries is; those with nothing relevant teach nothing and do not
    count."""
    return len(nested_share(qrels.loc[qrels["relevance"] > 0, "query_id"].unique(), share))


def training_size(study: Study, trainings: pd.DataFrame, baseline: str, measure: str) -> pd.DataFrame:
    """Figure 7 as a table: each system on each share of the training queries, against the baseline on the same share,
    by paired t-tests over queries, on means over seeds, Holm-Bonferroni corrected over all rows of the table.

    trainings: what `Study.trainings` returns, with the same seeds for all.

    Returns `share`, `system`, `seeds` (how many), `mean`, `spread` (standard deviation over seeds), `difference`,
    `low`, `high` (its 95% interval, uncorrected), `p`, `p_corrected`, `mark`, and `difference_spread`, that of the
    differences seed against the same seed. Spreads of one seed are NaN.
    """
    if baseline not in set(trainings["system"]):
        found = ", ".join(trainings["system"].unique())
        raise ValueError(f"systems: expected {baseline} among them, found {found}; add it")
    by_seed = study.means(trainings, measure)
    parts = []
    for share, rows in trainings.groupby(SIZE):
        values = {system: study.mean_values(of, measure) for system, of in rows.groupby("system", sort=False)}
        if baseline not in values:
            raise ValueError(f"expected {LABELS[baseline]} on {share:.1%} of the training queries, found none; train it")
        means = by_seed[by_seed[SIZE] == share].pivot(index="seed", columns="system", values="mean")[list(values)]
        tests = compare(values, baseline, [measure]).set_index("system")
        tests = tests.assign(share=share, seeds=means.count(), spread=means.std())
        parts.append(tests.assign(difference_spread=means.sub(means[baseline], axis=0).std()).reset_index())
    table = with_marks(pd.concat(parts, ignore_index=True))
    table.loc[table["system"] == baseline, "difference_spread"] = np.nan
    return table[
        ["share", "system", "seeds", "mean", "spread", "difference", "low", "high", "p", "p_corrected", "mark",
         "difference_spread"]
    ]  # fmt: skip


def by_steps(results: Results, systems: Iterable[str]) -> pd.DataFrame:
    """How well the config's own trainings ranked after each of their epochs: `system, seed, steps` (made by then), `measure,
    value`. No row is there of a training that was not validated after every epoch."""
    rows = []
    for system in systems:
        for home in results.trainings(system):
            if (home / "validation.csv").is_file():
                of_one = read_table(home / "validation.csv", text=("measure",)).assign(system=system, seed=home.name.removeprefix("seed"))
                rows.append(of_one.assign(steps=of_one["step"] + 1))
    columns = ["system", "seed", "steps", "measure", "value"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def loss_weighting(
    study: Study, trainings: pd.DataFrame, reference: pd.DataFrame, measures: Sequence[str]
) -> pd.DataFrame:
    """A row for each weighting of the losses: what it reached, and how far each loss came down. Indexed by `weighting`
    and `head warm-up` (steps); `seeds` (how many), each measure's mean under the paper's name, `spread` over seeds, `each
    seed` (in order), and every task's mean loss in the last epoch.

    trainings: what `Study.trainings` returns, of one system. reference: those of the system that learns to rank alone,
    the first row. measures: the first with its spread and every seed, the others as means.
    """
    alone = f"ranking alone ({LABELS[reference['system'].iloc[0]]})"
    rows = [{"weighting": alone, "head warm-up": "", **_reached(study, reference, measures)}]
    for weighting, steps, of in by_weighting(trainings):
        rows.append({"weighting": weighting, "head warm-up": str(steps), **_reached(study, of, measures)})
    return pd.DataFrame(rows).set_index(["weighting", "head warm-up"])


def learned_sigmas(study: Study, trainings: pd.DataFrame) -> pd.DataFrame:
    """The uncertainty of each task over the steps, means over seeds, of the trainings that learn it (Eq. 6):
    `steps` (of the heads' warm-up), `step`, `task`, `sigma2`; empty where all weights are fixed."""
    parts = []
    for row, history in zip(trainings.itertuples(), study.histories(trainings)):
        sigmas = history.columns[history.columns.str.startswith("sigma2_")]
        part = history.melt("step", sigmas, "task", "sigma2").replace({"task": r"^sigma2_"}, "", regex=True)
        parts.append(part.assign(steps=row.generation_head_warmup_steps))
    return pd.concat(parts).groupby(["steps", "step", "task"], as_index=False)["sigma2"].mean()


def choices(study: Study, measure: str) -> pd.DataFrame:
    """What each choice is worth: every variant against the config's own trainings of the same system, seed against the
    same seed; and whether it changes what generating is worth: system minus single-task twin under the choice, minus the
    same under the defaults. A twin that the variant does not have is one that the choice does not concern; of one that is planned
    and not there yet nothing is said.

    Returns a row for each choice and system, the choice that gains most on average first: `choice`, `system`, `twin`
    (empty: against the default; else: of the gain over it), `seeds` (how many), `difference`, `low`, `high` (its
    interval over queries), `p`, `p_corrected`, `mark` (Holm over each of the two questions) and `by_seed`, a list.
    """
    rows, own = [], {system: set(study.own_trainings(system)["seed"]) for system in study.systems()}
    for choice, place in study.variants.items():
        there = {system: place.seeds(system, study.split) for system in own}
        seeds = {system: sorted(own[system].intersection(of)) for system, of in there.items() if of}
        changes = {system: _changes(study, choice, system, seeds[system], measure) for system in seeds}
        rows += [(choice, system, "", change) for system, change in changes.items()]
        for system, twin in ((system, twin_of(system)) for system in changes):
            shared = changes[system].columns.intersection(changes.get(twin, changes[system]).columns)
            waits = twin not in changes and twin in study.planned.get(choice, ())
            if twin in own and len(shared) and not waits:
                rows.append((choice, system, twin, changes[system][shared].sub(changes.get(twin, 0))[shared]))
    table = pd.DataFrame([row[:3] for row in rows], columns=["choice", "system", "twin"])
    table["seeds"] = [change.shape[1] for *_, change in rows]
    tests = [mean_interval(change.mean(axis=1)) for *_, change in rows]
    table[["difference", "low", "high", "p"]] = tests
    table = with_marks(table, table["twin"] == "")
    table["by_seed"] = [change.mean().tolist() for *_, change in rows]
    worth = table[table["twin"] == ""].groupby("choice")["difference"].mean()
    return table.sort_values("choice", key=lambda names: -names.map(worth), kind="stable", ignore_index=True)


def _changes(study: Study, choice: str, system: str, seeds: Sequence[int], measure: str) -> pd.DataFrame:
    """What a choice changes, query by query: a column for each seed, of those that the config's own trainings share."""
    if not seeds:
        raise ValueError(f"{choice}: expected a seed of {LABELS[system]} that the config's own trainings share; train one")
    changes = {}
    for seed in seeds:
        chosen, default = (study.values(variant, system, seed).get(measure) for variant in (choice, OWN))
        if chosen is None or default is None or set(chosen.index) != set(default.index):
            raise ValueError(
                f"{choice}, {LABELS[system]}, seed {seed}: expected the {measure} of the queries that the config's own "
                "training was measured on, found others; evaluate both anew"
            )
        changes[seed] = pd.Series(difference(chosen.reindex(default.index), default), default.index)
    return pd.DataFrame(changes)


def _reached(study: Study, trainings: pd.DataFrame, measures: Sequence[str]) -> dict[str, object]:
    means = study.means(trainings).pivot(index="seed", columns="measure", values="mean")
    first, *others = measures
    reached = {"seeds": len(means), PAPER_NAMES.get(first, first): means[first].mean(), "spread": means[first].std()}
    reached["each seed"] = ", ".join(f"{mean:.3f}" for mean in means[first])
    reached |= {PAPER_NAMES.get(measure, measure): means[measure].mean() for measure in others}
    histories = study.histories(trainings)
    last = pd.DataFrame([history[history["epoch"] == history["epoch"].max()].mean() for history in histories]).mean()
    losses = [column for column in last.index if column.endswith("_loss")]
    return reached | {f"{TASK_LABELS[column.removesuffix('_loss')]} loss": last[column] for column in losses}


def _described(home: Path) -> dict[str, object]:
    """The settings of a training, and what it was trained on; the seed stands in the folder's name."""
    training, settings = trained_on(home)
    settings = {name: value for name, value in settings.items() if name != "seed"}
    return settings | {DENOISING: training.get(DENOISING) or 0, "collection": training.get("collection")}


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(seeds))))
