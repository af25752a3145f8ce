"""The first stage of a sweep: BM25's k1 and b, given or tuned, and DeepCT's passages (Section 5.1)."""

import json
from pathlib import Path

from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.data.deepct import enriched_files
from gdmtl_lib.data.tuning import tune_bm25
from .job import content_of
from gdmtl_lib.experiments.notebook import indexes_folder
from gdmtl_lib.experiments.results import Results
from gdmtl_lib.data.trec import write_lines
from .config import Config
from gdmtl_lib.systems import FIRST_STAGE


def first_stage_inputs(config: Config) -> list:
    """All that decides the candidates beside the collection and the depth, for a hash. Raises FileNotFoundError where
    the enriched passages are not there."""
    enriched = config.first_stage.get("enriched")
    contents = [content_of(file) for file in enriched_files(enriched)] if enriched else []
    return [{name: value for name, value in config.first_stage.items() if name != "enriched"}, contents]


def first_stage_of(config: Config) -> dict:
    """`k1`, `b` and `enriched`, those of them that the config decides, as `bm25_candidates` and the notebooks take them.

    Raises FileNotFoundError where k1 and b are to be tuned and have not been yet.
    """
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
