"""Do the tasks help each other or fight? The cosine between the ranking loss's gradient and a generative task's, layer
by layer: above 0 a step for the one is a step for the other, below 0 they pull apart.

It is measured without dropout, in a pass of its own that leaves gradients and random state as they were.
"""

import re

import pandas as pd
import torch
from torch import Tensor, nn

from gdmtl_lib.data.candidates import Candidates
from gdmtl_lib.data.trec import canonical_order
from gdmtl_lib.joint import JointLoss
from gdmtl_lib.packing import PackedBatch
from gdmtl_lib.settings import TrainingSettings

from .batches import Batches

EMBEDDINGS = "embeddings"


def layers(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The weights that all tasks share, by layer: `embeddings`, `encoder 1`, ..., `decoder 1`, ... Heads are left out.
    (The word embeddings are also the output of the language-model heads: a generative task reaches them from both
    ends.)
    """
    found: dict[str, list[nn.Parameter]] = {EMBEDDINGS: []}
    for name, parameter in model.base_model.named_parameters():
        if match := re.match(r"(?:(encoder|decoder)\.)?layers?\.(\d+)\.", name):
            found.setdefault(f"{match[1] or 'encoder'} {int(match[2]) + 1}", []).append(parameter)
        elif "embed" in name or name.startswith("shared."):
            found[EMBEDDINGS].append(parameter)
    return found


def gradient_cosines(joint: JointLoss, batch: PackedBatch) -> list[dict]:
    """The cosines on one batch, a row for each generative task and layer: `task, layer, cosine, rank_norm, task_norm`,
    rounded to six digits; the cosine is NaN where a gradient is 0 (a hinge whose pairs all keep their margin has none).
    """
    groups = layers(joint.model)
    parameters = [parameter for group in groups.values() for parameter in group]
    was_training = joint.model.training
    joint.model.eval()  # without dropout
    try:
        with torch.enable_grad():
            losses = joint(batch) / joint.counts(batch).to(batch.input_ids.device).clamp(min=1)
            gradients = [
                torch.autograd.grad(loss, parameters, retain_graph=number < len(losses) - 1, materialize_grads=True)
                for number, loss in enumerate(losses)
            ]
    finally:
        joint.model.train(was_training)
    rows, first = [], 0
    for layer, group in groups.items():
        rank, *others = (each[first : first + len(group)] for each in gradients)
        first += len(group)
        for task, other in zip(joint.tasks[1:], others):
            norms = _dot(rank, rank).sqrt(), _dot(other, other).sqrt()
            cosine = _dot(rank, other) / (norms[0] * norms[1])
            # Six digits survive the way through a CSV, bit for bit.
            values = {"cosine": cosine, "rank_norm": norms[0], "task_norm": norms[1]}
            rows.append({"task": task, "layer": layer} | {name: float(f"{float(v):.6g}") for name, v in values.items()})
    return rows


def gradients_now(
    model, collection, candidates: pd.DataFrame | Candidates, settings: TrainingSettings, batches: int = 4
) -> pd.DataFrame:
    """`gradient_cosines` of a model as it is, on the first batches that `train` would make of these arguments: `batch`
    and the columns there."""
    candidates = canonical_order(candidates) if isinstance(candidates, pd.DataFrame) else candidates
    made = Batches(model, collection, candidates, settings)
    joint, device = JointLoss(model, settings), next(model.parameters()).device
    return pd.DataFrame([
        {"batch": number} | row
        for number in range(min(batches, made.steps_per_epoch))
        for row in gradient_cosines(joint, made.packed(*made.chosen(number)).to(device))
    ])  # fmt: skip


def _dot(a, b) -> Tensor:
    kind = torch.float32 if a[0].device.type == "mps" else torch.float64  # which MPS does not know
    return torch.stack([(x.to(kind) * y.to(kind)).sum() for x, y in zip(a, b)]).sum()
