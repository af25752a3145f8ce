"""The models of a config's results, opened to look into them."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from gdmtl_lib import pretrained
from gdmtl_lib.systems import get_system


class Models:
    """The models to look into: trained where there is a checkpoint, otherwise as they start, from MiniLM. A model is
    opened when it is first asked for, and kept.

    results: the folder of a config, whose `<system>/seed<k>/checkpoint` are looked for, of its lowest seed that is there.
    checkpoint_dir: a trained encoder that generates, which comes first for its own system, then the `main` one; without
    it, `gdmtl` is, or `gdmtl_plus` where that one alone is trained.
    """

    def __init__(self, results: str | os.PathLike, checkpoint_dir: str | os.PathLike | None = None):
        self.results, self._opened = Path(results), {}
        self.main = next((name for name in ("gdmtl", "gdmtl_plus") if self._checkpoint(name).is_dir()), "gdmtl")
        if checkpoint_dir is not None:
            model = pretrained.load_model(checkpoint_dir)
            if model.system.backbone != "encoder" or not model.system.generative_tasks:
                raise ValueError(
                    f"checkpoint_dir must hold an encoder that generates, gdmtl or gdmtl_plus, "
                    f"but {checkpoint_dir} holds {model.system.name}"
                )
            self.main = model.system.name
            self._opened[self.main] = _Opened(model, f"{model.system.label}, trained: {checkpoint_dir}", True)

    def __call__(self, system: str):
        return self._open(system).model

    def describe(self, system: str) -> str:
        """What that model is and where it comes from."""
        return self._open(system).description

    def label(self, system: str) -> str:
        """That model for a title: the system's label, and whether it is trained."""
        opened = self._open(system)
        return f"{opened.model.system.label} {'trained' if opened.trained else 'before training'}"

    def before_training(self, system: str):
        """The untrained start of a trained model from MiniLM; None for one that is not trained or is of another family
        or size, so that it must have started from other weights."""
        if not self._open(system).trained:
            return None
        model, start = self(system), pretrained.build_model(system)
        sizes = "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads"
        is_alike = all(getattr(model.config, size) == getattr(start.config, size) for size in sizes)
        return start if is_alike else None

    def _checkpoint(self, system: str) -> Path:
        """That of the config's lowest seed; of 0, where there is none."""
        config, place = self.results / "config.json", self.results / system
        known = json.loads(config.read_text(encoding="utf-8")).get("seeds") if config.is_file() else None
        there = (path.parent.name.removeprefix("seed") for path in place.glob("seed*/checkpoint"))
        seeds = [int(seed) for seed in there if seed.isdigit() and (known is None or int(seed) in known)]
        return place / f"seed{min(seeds, default=0)}" / "checkpoint"

    def _open(self, system: str) -> "_Opened":
        system = get_system(system)
        if system.name not in self._opened:
            folder = self._checkpoint(system.name)
            is_there = folder.is_dir()
            model = pretrained.load_model(folder) if is_there else pretrained.build_model(system.name)
            before = f" before training, MiniLM with new heads (trained ones are looked for in {folder})"
            words = system.label + (f", trained: {folder}" if is_there else before)
            self._opened[system.name] = _Opened(model, words, is_there)
        return self._opened[system.name]


class _Opened(NamedTuple):
    model: object
    description: str
    trained: bool
