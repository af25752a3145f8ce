"""Does a gain stay a gain elsewhere (RQ3, Tables 8 and 9)? Systems measured at home, on queries of the kind they were
trained on, and away, on another split or collection, without further training.

Away, a query may ask what a training query asked: their relevant passage is then the same (Table 9).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from gdmtl_lib.data.collection import Collection
from gdmtl_lib.evaluation.comparison import by_category, compare, shared_information_needs
from gdmtl_lib.evaluation.tables import shortened
from .results import Results, measure_first_stage, measure_system
from gdmtl_lib.systems import FIRST_STAGE, LABELS, system_name

PLACES = ("home", "away")
SHARED, OWN = "shares a passage", "shares none"


def measure_away(
    home: Results, collection: Collection, split: str, depth: int, relevance_level: int = 1,
    systems: Sequence[str] | None = None, name: str | None = None, device: str = "auto", progress: bool = True,
    first_stage: Mapping[str, object] | None = None,
) -> Results:  # fmt: skip
    """Re-rank a split with every trained system of a config, as it is, and measure it: the results away.

    What was made from the same checkpoint, candidates, texts and judgments is used again; a system whose checkpoint is
    gone keeps what it has. systems: which ones; all that were trained when None.
    name: another collection's, whose results go into `transfer/<short name>` of the config's folder; None for the
    collection that the systems were trained on. first_stage: as for `first_stage_candidates`. Raises as `Results.check_as_planned`.
    """
    home.check_as_planned(split, depth, relevance_level, first_stage or {}, name)
    folder = home.folder if name is None else home.folder / "transfer" / short_name(name)
    candidates = measure_first_stage(folder, collection, split, depth, relevance_level, **first_stage or {})
    for system in LABELS if systems is None else map(system_name, systems):
        for seed in home.seeds(system):
            where = home.home(system, seed)
            if (where / "checkpoint").is_dir():
                how = dict(progress=progress, output_dir=folder / system / f"seed{seed}")
                measure_system(where, collection, candidates, split, relevance_level, device, **how)
    return Results(folder, home.known_seeds)


def short_name(collection: str) -> str:
    """A collection's name for files: of a path only its last part, `wikiqa-WikiQA` for `wikiqa:/data/WikiQA`; an
    ir_datasets id whole."""
    kind, colon, rest = collection.rpartition(":")
    if kind != "irds":
        rest = Path(rest).name
    return re.sub(r"[^\w.-]+", "-", kind + colon + rest).strip("-.")


def common_systems(
    home: Results, away: Results, splits: tuple[str, str], systems: Sequence[str] | None, baseline: str
) -> list[str]:
    """The systems measured in both places, BM25 first; of those asked for, where some are. splits: home's and away's."""
    chosen = home.chosen(splits[0], systems, baseline)
    if systems is None:
        chosen = [system for system in chosen if system in away.systems(splits[1])]
    away.chosen(splits[1], chosen, baseline)
    return chosen


def differences(
    home: dict[str, pd.DataFrame], away: dict[str, pd.DataFrame], baseline: str, measures: Sequence[str] | None = None
) -> pd.DataFrame:
    """Every system's difference to the baseline in both places: `place` (home, away), then as `comparison.compare` of
    per-query values. Marks are corrected over the systems of one measure in one place."""
    tables = [compare(values, baseline, measures).assign(place=place) for place, values in zip(PLACES, (home, away))]
    table = pd.concat(tables, ignore_index=True)
    return table[["place", *table.columns.drop("place")]]


def seed_differences(
    home: Results, away: Results, splits: tuple[str, str], systems: Sequence[str], baseline: str
) -> pd.DataFrame:
    """What each training gains in both places: `measure, system, seed, home, away`, differences of means to the
    baseline of the same seed. What has no seed in common with the baseline has no row, nor has BM25."""
    tables = [pd.DataFrame(columns=["measure", "system", "seed", *PLACES])]
    for system in (each for each in systems if each not in (baseline, FIRST_STAGE)):
        measured = (set(place.seeds(each, split)) for place, split in zip((home, away), splits) for each in (system, baseline))
        for seed in sorted(set.intersection(*measured)):
            gains = {}
            for place, results, split in zip(PLACES, (home, away), splits):
                values = (results.values(name, split, seed).groupby("measure")["value"].mean() for name in (system, baseline))
                gains[place] = next(values) - next(values)
            tables.append(pd.DataFrame(gains).reset_index().assign(system=system, seed=seed))
    return pd.concat(tables[1:] or tables, ignore_index=True)[tables[0].columns]


def shared_needs(
    training: Collection, train_split: str, collection: Collection, split: str, levels: tuple[int, int] = (1, 1)
) -> pd.DataFrame:
    """Table 9: the queries of a split that have a relevant passage in common with a training query.

    Across collections a passage is the same where id and text are; the same text under another id is not found.
    levels: the lowest relevant grade in training and in the split.
    Returns `test_query_id, train_query_id, doc_id, test_query, train_query, passage`, the last three texts.
    """
    shared = shared_information_needs(training.qrels(train_split), collection.qrels(split), levels)
    texts = training.text(shared["doc_id"])
    if collection is not training:
        same = [here == there for here, there in zip(collection.text(shared["doc_id"]), texts, strict=True)]
        shared, texts = shared[same], [text for text, kept in zip(texts, same) if kept]
    return shared.assign(
        test_query=collection.query_texts(shared["test_query_id"]),
        train_query=training.query_texts(shared["train_query_id"]),
        passage=texts,
    ).reset_index(drop=True)


def shared_examples(shared: pd.DataFrame, count: int = 5, width: int = 140) -> pd.DataFrame:
    """Table 9's form: `test query, training query, shared passage` of what `shared_needs` returns, one row each for
    `count` test queries taken evenly from all. width: passages are cut to so many characters."""
    one_each = shared.drop_duplicates("test_query_id")
    rows = one_each.iloc[:: max(1, len(one_each) // count)].head(count).reset_index(drop=True)
    rows["shared passage"] = [shortened(text, width) for text in rows["passage"]]
    rows = rows.rename(columns={"test_query": "test query", "train_query": "training query"})
    return rows[["test query", "training query", "shared passage"]]


def by_sharing(
    values_by_system: dict[str, pd.DataFrame], shared: pd.DataFrame, baseline: str, measure: str
) -> pd.DataFrame:
    """Is what is gained away gained on queries that training has answered already? Systems against the baseline on the
    queries that share a relevant passage with a training query (`SHARED`), and on those that share none (`OWN`).
    values_by_system: per-query values away. shared: what `shared_needs` returns. Returns as `comparison.by_category`."""
    measured = values_by_system[baseline]["query_id"].unique() if baseline in values_by_system else []
    sharing = set(shared["test_query_id"])
    groups = [SHARED if query in sharing else OWN for query in measured]
    return by_category(values_by_system, pd.DataFrame({"query_id": measured, "category": groups}), baseline, measure)
