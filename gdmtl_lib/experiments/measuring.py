"""A split re-ranked and measured, and both kept: `run.<split>.trec.gz` and `per_query.<split>.csv` in a system's folder.

What is kept is used again only while nothing it was made from has changed: `run.<split>.json` beside it holds the
hashes of the checkpoint, the candidates, the texts and the judgments, and of the two files themselves.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from gdmtl_lib.data.collection import Collection
from gdmtl_lib.evaluation.measures import PAPER_NAMES, evaluate, read_values, write_values
from gdmtl_lib.data.bm25 import bm25_candidates
from gdmtl_lib.data.folds import joined
from .notebook import indexes_folder
from .results import Results, as_measured
from gdmtl_lib.data.trec import canonical_order, file_hash, frame_hash, read_run, write_lines, write_ordered
from gdmtl_lib.systems import FIRST_STAGE


def measure_first_stage(
    results_dir: str | os.PathLike, collection: Collection, split: str, depth: int, relevance_level: int = 1,
    **first_stage,
) -> pd.DataFrame:
    """BM25's candidates for a split, to be re-ranked; they and their values are kept in `<results_dir>/bm25/`.

    Args, returns and raises: as `bm25_candidates`, whose k1, b and enriched are `first_stage`, and `evaluate`.
    """
    candidates = bm25_candidates(collection, split, depth=depth, index_dir=indexes_folder(), **first_stage)
    values = evaluate(candidates, collection.qrels(split), relevance_level=relevance_level)
    _keep(Path(results_dir) / FIRST_STAGE, split, candidates, values, FIRST_STAGE)
    return candidates


def measure_system(
    folder: str | os.PathLike, collection: Collection, candidates: pd.DataFrame, split: str, relevance_level: int = 1,
    device: str = "auto", model=None, progress: bool = True, output_dir: str | os.PathLike | None = None,
    processes: int = 1,
) -> pd.DataFrame:
    """Re-rank a split with the trained system of a folder, measure it, and keep both there.

    It is computed in the precision it was trained in.

    folder: where `train` left its `checkpoint/`. model: that checkpoint, where it is loaded already.
    device, progress, processes: as for `rerank`. relevance_level: as for `evaluate`.
    output_dir: where to keep them instead; for the split of another collection, which may have the same name.

    Returns the per-query values, those kept if they were made from the same. Raises FileNotFoundError where there is
    no checkpoint, ValueError as `rerank` and `evaluate`.
    """
    folder = Path(folder)
    output = folder if output_dir is None else Path(output_dir)
    weights = folder / "checkpoint" / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(f"{folder} holds no trained system: expected {weights}; train it with notebook 03")
    qrels = collection.qrels(split)
    precision = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["training"]["settings"]["precision"]
    made_from = {
        "checkpoint": file_hash(weights),
        "model": file_hash(weights.with_name("config.json")),
        "candidates": frame_hash(candidates[["query_id", "doc_id"]]),
        "texts": collection.fingerprint(),
        "qrels": frame_hash(qrels),
        "relevance_level": relevance_level,
        "precision": precision,
    }
    if _is_kept(output, split, made_from):
        return read_values(output / f"per_query.{split}.csv")

    from gdmtl_lib.models import load_model  # torch, which measuring alone does without
    from gdmtl_lib.inference.rerank import rerank

    model = load_model(weights.parent) if model is None else model
    path = output / f"run.{split}.trec.gz"
    run = rerank(
        model, collection, candidates, output=path, precision=precision, device=device, progress=progress,
        processes=processes,
    )
    values = evaluate(run, qrels, relevance_level=relevance_level)
    _keep(output, split, run, values, model.system.name, made_from)
    return values


def join_folds(
    parts: Iterable[tuple[str | os.PathLike, str]], output_dir: str | os.PathLike, split: str, system: str
) -> pd.DataFrame:
    """A cross-validation's runs and values as those of one split: every query with the model that never saw its
    session. They are kept in a folder, as `measure_system` keeps those of one model.

    parts: for each rotation, the folder of its model and the split that it was tested on, both measured.
    split: the name of the whole. system: the name in the run's last column.

    Returns the per-query values. Raises ValueError for a query that was tested twice, and for a file that is not as
    it was measured.
    """
    paths = [[as_measured(path, tested) for path in _paths(Path(folder), tested)] for folder, tested in parts]
    run = canonical_order(joined(read_run(run) for run, _ in paths))
    values = joined(read_values(values) for _, values in paths)
    _keep(Path(output_dir), split, run, values, system, {"parts": [file_hash(run) for run, _ in paths]})
    return values


def means_by_seed(results: Results, split: str, systems: Sequence[str]) -> pd.DataFrame:
    """What each training reached: `measure, system, seed, mean`, a row for each measure, system and seed."""
    rows = [
        {"measure": measure, "system": system, "seed": seed, "mean": mean}
        for system in systems
        for seed in results.seeds(system)
        for measure, mean in results.values(system, split, seed).groupby("measure", sort=False)["value"].mean().items()
    ]
    return pd.DataFrame(rows, columns=["measure", "system", "seed", "mean"])


def seed_spread(means: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds, as `0.384 ±0.005`: a row a system, a column a measure under the paper's
    name, for the systems that were trained more than once.

    means: what `means_by_seed` returns.
    """
    grouped = means.groupby(["system", "measure"], sort=False)["mean"]
    table = grouped.agg(["mean", "std", "size"]).query("size > 1")
    text = pd.Series([f"{mean:.3f} ±{std:.3f}" for mean, std in zip(table["mean"], table["std"])], table.index, dtype=str)
    return text.unstack(sort=False).rename(columns=PAPER_NAMES).rename_axis(columns=None)


def _keep(
    folder: Path, split: str, run: pd.DataFrame, values: pd.DataFrame, tag: str, made_from: Mapping | None = None
) -> None:
    paths = _paths(folder, split)
    write_ordered(run, paths[0], tag=tag)
    write_values(values, paths[1])
    kept = {"made_from": made_from, "files": {path.name: file_hash(path) for path in paths}}
    write_lines(folder / f"run.{split}.json", [json.dumps(kept, indent=2) + "\n"])


def _is_kept(folder: Path, split: str, made_from: Mapping) -> bool:
    try:
        kept = json.loads((folder / f"run.{split}.json").read_text(encoding="utf-8"))
        files = {path.name: file_hash(path) for path in _paths(folder, split)}
    except (OSError, ValueError):
        return False
    return kept == {"made_from": made_from, "files": files}


def _paths(folder: Path, split: str) -> tuple[Path, Path]:
    return folder / f"run.{split}.trec.gz", folder / f"per_query.{split}.csv"
