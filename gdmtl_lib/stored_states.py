"""Passages' states on disk: computed once, read by every later run of the same model.

One file a passage, in bf16, named by the hash of all that its states are a function of: the model's weights, the
precision it computed in, the passage's tokens. So another model's states are never read. A file appears whole or not at
all and holds a checksum: what is spoiled nonetheless is computed anew.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .inputs import Sequence
from .locking import alone
from .reranking import fingerprint_of
from .source_states import Source, encode_sources

FORMAT = "passages' states, 1"


@dataclass(frozen=True)
class StoredStates:
    """A folder that keeps passages' states, and how large it may get.

    limit_gb: 10^9 bytes, over all models; 0 stores nothing, only reads. A passage of 80 tokens takes 3 MB with a model of BERT-base's size. When the
    limit is reached no more are stored: if old ones made room for new ones, a run through more passages than fit would
    throw out each before it comes to it again.
    """

    folder: str | os.PathLike
    limit_gb: float = 10.0


@contextmanager
def opened(states: str | os.PathLike | StoredStates | None, model, precision: str) -> Iterator["ModelStates | None"]:
    """The states of one model, in a folder or None. Of several processes the first one stores, the others only read.

    Raises ValueError for a limit below 0 and for a path that is no folder.
    """
    if states is None:
        yield None
        return
    states = states if isinstance(states, StoredStates) else StoredStates(states)
    folder = Path(states.folder)
    if states.limit_gb < 0:
        raise ValueError(f"limit_gb must be 0 or more, found {states.limit_gb}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder for the passages' states")
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / ".lock") as is_mine:
        if is_mine:
            for unfinished in folder.glob("*/*.tmp"):
                unfinished.unlink()
        yield ModelStates(folder, model, precision, int(states.limit_gb * 1e9) if is_mine else 0)


class ModelStates:
    """What `opened` gives. limit: bytes that the whole folder may take."""

    def __init__(self, folder: Path, model, precision: str, limit: int):
        self._model, self._limit = model, limit
        self._key = hashlib.sha256(json.dumps([FORMAT, fingerprint_of(model), precision]).encode())
        self._folder = folder / self._key.hexdigest()[:16]
        self._size = sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))

    def sources(self, sequences: list[Sequence]) -> list[Source]:
        """As `encode_sources`, in bf16: each read where it is stored, else computed and, within the limit, stored."""
        keys = [self._key_of(sequence) for sequence in sequences]
        found = [self._read(key) for key in keys]
        missing = [i for i, tensors in enumerate(found) if tensors is None]
        computed = encode_sources(self._model, [sequences[i] for i in missing]) if missing else []
        for i, source in zip(missing, computed):
            found[i] = {
                name: part.to(torch.bfloat16).contiguous() for name, part in vars(source).items() if part is not None
            }
            self._write(keys[i], found[i])
        device = next(self._model.parameters()).device
        sources = [Source(**{name: part.to(device) for name, part in tensors.items()}) for tensors in found]
        for source in sources:
            source.states = source.states.float()  # beside those of the target, which are fp32
        return sources

    def _key_of(self, sequence: Sequence) -> str:
        digest = self._key.copy()
        digest.update(np.array(sequence.input_ids, dtype="<i8"))
        return digest.hexdigest()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"

    def _read(self, key: str) -> dict[str, Tensor] | None:
        """A passage's states; None where they are not stored, or not as they were written."""
        try:
            with safetensors.safe_open(self._path(key), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                return tensors if file.metadata() == _described(key, tensors) else None
        except (FileNotFoundError, safetensors.SafetensorError):
            return None

    def _write(self, key: str, tensors: dict[str, Tensor]) -> None:
        size = sum(part.nbytes for part in tensors.values())
        if self._size + size > self._limit:
            if self._limit:
                warnings.warn(
                    f"{self._folder.parent} has reached its limit of {self._limit / 1e9:g} GB: more passages' states are "
                    f"computed but not stored; raise limit_gb, or delete the folders of models that are no longer used",
                    stacklevel=2,
                )
            return
        path = self._path(key)
        unfinished = path.with_suffix(".tmp")
        before = path.stat().st_size if path.exists() else 0  # a spoiled file is replaced
        self._folder.mkdir(exist_ok=True)
        try:
            safetensors.torch.save_file(
                {name: part.cpu() for name, part in tensors.items()}, unfinished, _described(key, tensors)
            )
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        self._size += path.stat().st_size - before


def _described(key: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Whose states these are, and a checksum: the sum of their 64-bit words, which a cut or a flipped bit changes and
    which takes no longer than to read them."""
    total = 0
    for part in tensors.values():
        words = part.cpu().flatten().view(torch.int16).numpy()
        whole = len(words) // 4 * 4
        total += int(words[:whole].view(np.int64).sum()) + int(words[whole:].sum(dtype=np.int64))
    return {"key": key, "sum": str(total)}
