"""What a training leaves on disk, and how it goes on from there.

    settings.json               what is trained: the settings and the hashes of everything it depends on
    history.csv, timing.csv     a row an optimiser step; the first a function of the seed, the second of the machine
    validation.csv              a row an epoch
    validation_queries.csv      a row an epoch and query, for choosing the epoch by cross-validation (see `folds`)
    gradients.csv               where asked for: how the tasks' gradients lie to each other, at every n-th step
    epoch_runs/epoch<k>.trec.gz where asked for: the validation's run after every epoch, from 0
    training_state.safetensors  weights and optimiser while the training runs; gone when it is finished
    checkpoint/                 the weights to keep
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import nn

from gdmtl_lib.data.files import as_path, hold_lock, read_table, remove_unfinished, replace_file, write_lines
from gdmtl_lib.data.provenance import differences

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class Progress:
    """How far a training has come: steps done, the best validation so far, and the rows of its tables."""

    step: int = 0
    best_epoch: int | None = None
    best_value: float | None = None
    scaler: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    validation: list[dict] = field(default_factory=list)
    validation_queries: list[dict] = field(default_factory=list)
    timing: list[dict] = field(default_factory=list)
    gradients: list[dict] = field(default_factory=list)


TABLES = ("history", "validation", "validation_queries", "timing", "gradients")
_AS_TEXT = ("query_id", "measure", "task", "layer")  # whatever they look like


class TrainingFolder:
    """The folder of one training. description: all that decides its outcome. defaults: of the settings in it, for
    trainings of before there were all of them."""

    def __init__(self, folder: str | os.PathLike, description: dict, defaults: dict | None = None):
        self.folder, self.description = as_path(folder, "output_dir"), json.loads(json.dumps(description))
        if self.folder.is_file():
            raise ValueError(f"output_dir: expected a folder, found the file {self.folder}")
        self._defaults, self.checkpoint = defaults or {}, self.folder / "checkpoint"
        self._settings_file, self._state_file = self.folder / "settings.json", self.folder / "training_state.safetensors"

    def epoch_run(self, epoch: int) -> Path:
        return self.folder / "epoch_runs" / f"epoch{epoch}.trec.gz"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other trainings out while a block runs; RuntimeError, naming the process, where another one is in. Of
        processes that were launched together (torchrun) the first one holds the folder too, with a lock of its own:
        they may outlive whoever launched them."""
        taken = f"{self.folder} is being trained into already"
        together = self.folder / ".processes.lock"
        if torch.distributed.is_torchelastic_launched():
            with hold_lock(together, taken) if os.environ["RANK"] == "0" else nullcontext():
                yield
        else:
            with hold_lock(self.folder / ".lock", taken):
                with hold_lock(together, taken):  # none is left of a launch that was killed
                    pass
                yield

    def open(self, resume: bool) -> bool:
        """Take the folder for this training; True if it already holds this very training, finished. With resume=False
        what an earlier one left is removed; otherwise ValueError says in what it differs, or that nothing says what it
        is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # What a killed process was writing.
        tables = [self.folder / f"{table}.csv" for table in TABLES]
        for pattern in ("checkpoint.tmp[0-9]*", "checkpoint.old[0-9]*"):
            for leftover in self.folder.glob(pattern):
                shutil.rmtree(leftover)
        for path in (self._settings_file, self._state_file, *tables):
            remove_unfinished(path)
        written = [path for path in (self._settings_file, self._state_file, self.checkpoint, *tables) if path.exists()]
        if written and resume:
            return self._is_finished(written)
        self._state_file.unlink(missing_ok=True)
        self._describe(finished=None)
        for table in tables:
            table.unlink(missing_ok=True)
        for left in (self.checkpoint, self.epoch_run(0).parent):
            shutil.rmtree(left, ignore_errors=True)
        return False

    def _is_finished(self, written: list[Path]) -> bool:
        instead = "choose another output_dir, or resume=False to replace it"
        if self._settings_file not in written:
            names = ", ".join(path.name for path in written)
            raise ValueError(f"{self.folder} holds {names}, but no settings.json that says of what: {instead}")
        try:
            found = json.loads(self._settings_file.read_text(encoding="utf-8"))
            training, finished = found["training"], found["finished"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{self._settings_file} is damaged ({error!r}): {instead}") from None
        settings = self.description.get("settings", {})
        came_later = {name: self._defaults[name] for name in settings if name in self._defaults}
        training = {"model": self.description.get("model")} | training | {"settings": came_later | training.get("settings", {})}
        different = differences(training, self.description, with_versions=True)
        if len(different) == 1 and different[0].startswith("initial_weights"):
            raise ValueError(
                f"{self.folder} holds this very training, begun from other weights: a model that has been trained, be it "
                f"a few steps, is not what it was. Build the model anew (build_model) to go on with it; or {instead}"
            )
        if different:
            raise ValueError(f"{self.folder} holds another training: {'; '.join(different[:4])}; {instead}")
        return finished is not None and (self.checkpoint / "model.safetensors").is_file()

    def save(self, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._write_tables(progress)
        tensors = {}
        for name, parameter in model.named_parameters():
            tensors[f"parameter/{name}"] = parameter.detach().contiguous()
            for moment in MOMENTS:
                if moment in optimizer.state.get(parameter, {}):
                    tensors[f"{moment}/{name}"] = torch.as_tensor(optimizer.state[parameter][moment]).contiguous()
        scalars = {name: value for name, value in asdict(progress).items() if name not in TABLES}
        metadata = {"progress": json.dumps(scalars), "sha256": _digest(tensors, progress)}
        with replace_file(self._state_file) as fresh:
            safetensors.torch.save_file(tensors, str(fresh), metadata=metadata)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Put the last saved state into model and optimiser; a fresh Progress where there is none."""
        if not self._state_file.is_file():
            return Progress()
        try:
            with safetensors.safe_open(self._state_file, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            progress = Progress(**json.loads(metadata["progress"]))
            for table in TABLES:
                rows = self._read_table(table)
                setattr(progress, table, [row for row in rows if row["step"] < progress.step])
            if [row["step"] for row in progress.history] != list(range(progress.step)):
                raise ValueError(f"history.csv does not hold the {progress.step} steps that were made")
            for name, parameter in model.named_parameters():
                parameter.data.copy_(tensors[f"parameter/{name}"])
                if f"step/{name}" in tensors:
                    # The step too: where it is not, a GPU's fused AdamW reads what is not its own.
                    state = {moment: tensors[f"{moment}/{name}"].to(parameter.device) for moment in MOMENTS}
                    optimizer.state[parameter] = state
            if _digest(tensors, progress) != metadata["sha256"]:
                raise ValueError("its content, or that of the tables beside it, is not what was saved")
        except (safetensors.SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self._state_file} is damaged ({error}): delete it to start this training anew"
            ) from None
        return progress

    def finish(self, progress: Progress) -> None:
        self._write_tables(progress)
        self._describe(finished={"best_epoch": progress.best_epoch, "best_value": progress.best_value})
        self._state_file.unlink(missing_ok=True)

    def history(self) -> pd.DataFrame:
        return pd.DataFrame(self._read_table("history"))

    def _describe(self, finished: dict | None) -> None:
        text = json.dumps({"training": self.description, "finished": finished}, indent=2) + "\n"
        write_lines(self._settings_file, [text])

    def _write_tables(self, progress: Progress) -> None:
        for table in TABLES:
            if rows := getattr(progress, table):
                write_lines(self.folder / f"{table}.csv", [pd.DataFrame(rows).to_csv(index=False)])

    def _read_table(self, table: str) -> list[dict]:
        file = self.folder / f"{table}.csv"
        return read_table(file, text=_AS_TEXT).to_dict("records") if file.exists() else []


def _digest(tensors: dict[str, torch.Tensor], progress: Progress) -> str:
    """SHA-256 of all that a state holds: a bit that flips on the disk would otherwise be trained on."""
    rows = {table: pd.DataFrame(getattr(progress, table)).to_csv(index=False) for table in TABLES}
    digest = hashlib.sha256(json.dumps(asdict(progress) | rows).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
