"""The cosines of a finished training's gradients: those it logged, or measured on the weights that are left of it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.files import read_table
from gdmtl_lib.pretrained import load_model
from gdmtl_lib.settings import TrainingSettings
from gdmtl_lib.training.gradients import gradients_now


def cosines(
    folder: str | os.PathLike, collection: Collection, candidates: Callable[[], pd.DataFrame],
    start: Callable[[], object] | None = None, batches: int = 4, columns: int = 12,
) -> tuple[pd.DataFrame, str, str]:
    """How the tasks' gradients of one training lie to each other: read where its folder has `gradients.csv`, its steps
    gathered into at most so many columns; else measured on the first batches of its first epoch, at the weights it
    ended with and at those it started from.

    candidates, start: give, where it is needed, what it was trained on and the model it started from (or None).

    Returns the table (`task, layer, cosine` and the next), the name of the column that says when, and a sentence that
    says which of the two it is. Raises FileNotFoundError without a checkpoint; ValueError for one that writes nothing.
    """
    folder = Path(folder)
    if (folder / "gradients.csv").is_file():
        table = read_table(folder / "gradients.csv", text=("task", "layer"))
        steps = np.sort(table["step"].unique())
        starts = steps[:: -(-len(steps) // columns)]
        first = starts[np.searchsorted(starts, table["step"], side="right") - 1]
        said = f"logged at {len(steps)} steps of the training, before each was made"
        return table.assign(step=first), "step", said
    trained = load_model(folder / "checkpoint")
    if not trained.system.generative_tasks:
        raise ValueError(f"{trained.system.name} learns to rank only: expected a system that also learns to write")
    file = folder / "settings.json"
    try:
        settings = TrainingSettings(**json.loads(file.read_text(encoding="utf-8"))["training"]["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not say how this system was trained: train it anew with notebook 03") from error
    arguments = collection, candidates(), settings, batches
    tables = [
        gradients_now(model, *arguments).assign(weights=name)
        for name, model in (("start", start and start()), ("trained", trained))
        if model is not None
    ]
    said = f"not logged by the training: measured here on {batches} of its batches, on the weights named"
    return pd.concat(tables, ignore_index=True), "weights", said
