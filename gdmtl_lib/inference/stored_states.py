"""Passages' states on disk: computed once, read by every later run of the same model.

One file a passage, in bf16, named by the hash of all that its states are a function of: the model's weights, the
precision, the passage's tokens. A file appears whole or not at all; what is spoiled nonetheless is computed anew.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from gdmtl_lib.inputs import TokenSequence
from gdmtl_lib.data.files import as_path, try_lock
from gdmtl_lib.data.provenance import made_from
from gdmtl_lib.settings import is_number
from .prefix_cache import Source, encode_sources

FORMAT = "passages' states, 3"
# Of a configuration, what a model's states do not depend on: it may change when a checkpoint is saved and opened.
NOT_OF_STATES = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
WORDS = 64  # of 8 bytes, a disk's sector, that a checksum adds up


@dataclass(frozen=True)
class StoredStates:
    """A folder that keeps passages' states, and how large it may get.

    limit_gb: 10^9 bytes, over all models; 0 stores nothing, only reads. A passage of 80 tokens takes 3 MB with a model
    of BERT-base's size. At the limit no more are stored.
    """

    folder: str | os.PathLike
    limit_gb: float = 10.0


@contextmanager
def open_states(states: str | os.PathLike | StoredStates | None, model, precision: str) -> Iterator["ModelStates | None"]:
    """The states of one model, in a folder or None. Of several processes the first one stores, the others only read.

    Raises ValueError for a limit below 0 and for a path that is no folder.
    """
    if states is None:
        yield None
        return
    states = states if isinstance(states, StoredStates) else StoredStates(states)
    folder = as_path(states.folder, "states")
    if not is_number(states.limit_gb) or states.limit_gb < 0:
        raise ValueError(f"limit_gb must be a number of 0 or more, found {states.limit_gb!r}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder for the passages' states")
    folder.mkdir(parents=True, exist_ok=True)
    with try_lock(folder / ".lock") as is_mine:
        if is_mine:
            for unfinished in folder.glob("*/*.tmp"):
                unfinished.unlink()
        yield ModelStates(folder, model, precision, int(states.limit_gb * 1e9) if is_mine else 0)


class ModelStates:
    """What `open_states` gives. limit: bytes that the whole folder may take."""

    def __init__(self, folder: Path, model, precision: str, limit: int):
        self._limit = limit
        config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_OF_STATES}
        record = made_from(model, precision=precision, config=config, format=FORMAT)
        self._record = json.dumps(record, indent=2, sort_keys=True)
        self._key = hashlib.sha256(self._record.encode())
        self._folder = folder / self._key.hexdigest()[:16]
        self._size = sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))

    def sources(self, model, sequences: list[TokenSequence]) -> list[Source]:
        """As `encode_sources`, in bf16: each read where it is stored, else computed and, within the limit, stored.

        model: what `in_precision` makes of the one that these states belong to.
        """
        keys = []
        for sequence in sequences:
            digest = self._key.copy()
            digest.update(np.array(sequence.input_ids, dtype="<i8"))
            keys.append(digest.hexdigest())
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            found = list(pool.map(self._read, keys))
        missing = [i for i, tensors in enumerate(found) if tensors is None]
        computed = encode_sources(model, [sequences[i] for i in missing]) if missing else []
        for i, source in zip(missing, computed):
            found[i] = {
                name: part.to(torch.bfloat16).contiguous() for name, part in vars(source).items() if part is not None
            }
            self._write(keys[i], found[i])
        device = next(model.parameters()).device
        sources = [Source(**{name: part.to(device) for name, part in tensors.items()}) for tensors in found]
        for source in sources:
            source.states = source.states.to(model.get_input_embeddings().weight.dtype)  # as those of the target
        return sources

    def _read(self, key: str) -> dict[str, Tensor] | None:
        """A passage's states; None where they are not stored, or not as they were written."""
        try:
            with safetensors.safe_open(self._folder / f"{key}.safetensors", framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                return tensors if file.metadata() == _described(key, tensors) else None
        except (OSError, safetensors.SafetensorError):
            return None

    def _write(self, key: str, tensors: dict[str, Tensor]) -> None:
        path = self._folder / f"{key}.safetensors"
        content = safetensors.torch.save({name: part.cpu() for name, part in tensors.items()}, _described(key, tensors))
        more = len(content) - (path.stat().st_size if path.exists() else 0)  # a spoiled file is replaced
        if self._size + more > self._limit:
            if self._limit:
                warnings.warn(
                    f"{self._folder.parent} has reached its limit of {self._limit / 1e9:g} GB: more passages' states "
                    f"are computed but not stored; raise limit_gb, or delete the folders of models no longer used",
                    stacklevel=2,
                )
            return
        unfinished = path.with_suffix(".tmp")
        if not self._folder.is_dir():
            self._folder.mkdir()
            (self._folder / "made_from.json").write_text(self._record, encoding="utf-8")  # for whoever tidies up
        try:
            unfinished.write_bytes(content)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        self._size += more


def _described(key: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Whose states these are, and a checksum: the hash of the sums of all their sectors, which takes no longer than to
    read them."""
    digest = hashlib.sha256()
    for name, part in sorted(tensors.items()):
        digest.update(f"{name} {part.dtype} {list(part.shape)}".encode())
        content = part.cpu().contiguous().flatten().view(torch.uint8).numpy()
        whole = content.size // (8 * WORDS) * 8 * WORDS
        digest.update(content[:whole].view(np.int64).reshape(-1, WORDS).sum(axis=1))
        digest.update(content[whole:])
    return {"key": key, "sum": digest.hexdigest()}
