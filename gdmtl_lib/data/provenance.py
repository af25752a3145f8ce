"""What a result was made from: one record, written beside every result and compared before any is used again."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from gdmtl_lib import __version__

from .files import file_hash
from .trec import frame_hash

COMPUTED_BY = ("torch", "transformers")  # what decides the last bits of a result


def made_from(
    model=None, collection=None, candidates: pd.DataFrame | None = None, precision: str | None = None, **more
) -> dict:
    """The record of a result, as JSON gives it back: hashes of what decides it, and the versions that computed it.

    model: one in memory, whose weights are hashed; or the folder of a checkpoint, whose files are: the two do not
    compare. candidates: their pairs in their order. precision: as it was picked, not `auto`. more: whatever else
    decides the result; frames are hashed. What is None is left out.
    """
    if isinstance(model, str | os.PathLike):
        # The weights may be in parts: those of the ranking path, of the heads, shards.
        files = [file_hash(path) for path in (Path(model) / "config.json", *sorted(Path(model).glob("*.safetensors")))]
        model = hashlib.sha256(" ".join(files).encode()).hexdigest()
    elif model is not None:
        model = fingerprint_of(model)
    record = {
        "model": model,
        "texts": None if collection is None else collection.fingerprint(),
        "candidates": None if candidates is None else candidates[["query_id", "doc_id"]],
        "precision": precision,
        "versions": versions(),
    } | more  # fmt: skip
    given = {key: value for key, value in record.items() if value is not None}
    hashed = {key: frame_hash(value) if isinstance(value, pd.DataFrame) else value for key, value in given.items()}
    return json.loads(json.dumps(hashed, default=str))


def versions(names: Sequence[str] = COMPUTED_BY) -> dict[str, str]:
    """Of this library and of those that compute for it, or of others, as far as they are installed."""
    found = {"gdmtl": __version__}
    for name in names:
        with suppress(PackageNotFoundError):  # a machine for analysis alone
            found[name] = version(name)
    return found


def differences(there: Mapping, here: Mapping, with_versions: bool = False) -> list[str]:
    """In words, what differs between two records. Other versions of libraries only round differently: they are looked
    at where all bits have to be computed alike."""
    found = []
    for key in sorted(there.keys() | here.keys()):
        a, b = there.get(key), here.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            if key != "versions" or with_versions:
                found += [f"{key}.{difference}" for difference in differences(a, b, with_versions)]
        elif a != b:
            found.append(f"{key} is {a!r} there and {b!r} here")
    return found


def fingerprint_of(model, gdmtl: Mapping | None = None) -> str:
    """SHA-256 of the weights of a model in memory and of what else decides its scores. gdmtl: that, other than it is."""

    def hashed(parameter) -> str:
        return hashlib.sha256(parameter.detach().float().cpu().contiguous().numpy()).hexdigest()

    names, parameters = zip(*model.named_parameters())
    with ThreadPoolExecutor() as pool:  # of a model of BERT's size it takes a noticeable time
        weights = dict(zip(names, pool.map(hashed, parameters)))
    return hashlib.sha256(json.dumps([gdmtl or model.config.gdmtl, weights], sort_keys=True).encode()).hexdigest()

