"""The cosines of a finished training's gradients: those it logged, or measured on the weights that are left of it."""

import json

import numpy as np
import pandas as pd

from .attention import Models
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.files import read_table
from gdmtl_lib.data.bm25 import bm25_candidates
from gdmtl_lib.pretrained import load_model
from gdmtl_lib.experiments.notebook import indexes_folder
from gdmtl_lib.experiments.results import Results
from gdmtl_lib.settings import TrainingSettings
from gdmtl_lib.training.gradients import gradients_now


def cosines(
    results: Results, system: str, seed: int, collection: Collection, train_split: str, depth: int, batches: int = 4,
    columns: int = 12,
) -> tuple[pd.DataFrame, str, str]:
    """How the tasks' gradients of one training lie to each other.

    Where it has `gradients.csv` that is read, its steps gathered into at most so many columns. Elsewhere the cosines
    are measured on the first batches of its first epoch, at the weights it ended with and at those it started from,
    where these are known (MiniLM's, all layers, seed 0).

    Returns the table (`task, layer, cosine` and the next), the name of the column that says when, and a sentence that
    says which of the two it is. Raises FileNotFoundError without a checkpoint; ValueError for one that writes nothing.
    """
    home = results.folder / system / f"seed{seed}"
    if (home / "gradients.csv").is_file():
        table = read_table(home / "gradients.csv", text=("task", "layer"))
        steps = np.sort(table["step"].unique())
        starts = steps[:: -(-len(steps) // columns)]
        first = starts[np.searchsorted(starts, table["step"], side="right") - 1]
        said = f"logged at {len(steps)} steps of the training, before each was made"
        return table.assign(step=first), "step", said
    trained = load_model(home / "checkpoint")
    if not trained.system.generative_tasks:
        raise ValueError(f"{system} learns to rank only: expected a system that also learns to write")
    start = Models(results.folder).before_training(system) if seed == 0 else None
    settings = json.loads((home / "settings.json").read_text(encoding="utf-8"))["training"]["settings"]
    settings = TrainingSettings(**settings)
    candidates = bm25_candidates(collection, train_split, depth=depth, index_dir=indexes_folder())
    tables = [
        gradients_now(model, collection, candidates, settings, batches).assign(weights=name)
        for name, model in (("start", start), ("trained", trained))
        if model is not None
    ]
    said = f"not logged by the training: measured here on {batches} batches of {train_split}, on the weights named"
    return pd.concat(tables, ignore_index=True), "weights", said
