"""Samples of queries, drawn by a hash of their ids: the same ones on any machine, a smaller one inside a larger one."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping

from .readers import Split, part_of


def hashed(*parts) -> int:
    """A number of 64 bits that is a function of the parts alone."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest())


def nested_sample(query_ids: Iterable[str], size: int) -> list[str]:
    """So many of the queries (all, if there are fewer), in their order: a query that is among 25 of them is among 50
    (Section 6.3, Figure 7)."""
    query_ids = list(query_ids)
    kept = set(sorted(query_ids, key=lambda query_id: hashed("sample", query_id))[:size])
    return [query_id for query_id in query_ids if query_id in kept]


def nested_share(query_ids: Iterable[str], fraction: float) -> list[str]:
    """The share `fraction` of the queries, at least one, nested as `nested_sample`."""
    query_ids = list(query_ids)
    return nested_sample(query_ids, max(1, round(fraction * len(query_ids))))


def split_name(name: str) -> tuple[str, dict[str, int]]:
    """A collection's name and the samples it asks for: `squad:qa.json?test=1000&dev=200` becomes `squad:qa.json` and
    `{"test": 1000, "dev": 200}`.

    Raises ValueError for a sample of no queries and for a split named twice.
    """
    match = re.fullmatch(r"(.+)\?([\w.-]+=\d+(?:&[\w.-]+=\d+)*)", name)
    if match is None:
        return name, {}
    pairs = [part.split("=") for part in match[2].split("&")]
    sizes = {split: int(size) for split, size in pairs}
    if len(sizes) < len(pairs) or min(sizes.values()) < 1:
        raise ValueError(f"collection {name!r}: after the ? expected each split once, with at least one query")
    return match[1], sizes


class SampledSplits(Mapping[str, Split]):
    """The splits of a collection, some of them with a sample of their queries alone; passages stay as they are.

    splits: read when first used, if they are so themselves. sizes: queries to keep, by split.
    """

    def __init__(self, splits: Mapping[str, Split], sizes: Mapping[str, int]):
        self._splits, self._sizes = splits, sizes
        self._sampled: dict[str, Split] = {}
        for name in ("fingerprint", "advice"):  # what large collections say of themselves
            if hasattr(splits, name):
                setattr(self, name, getattr(splits, name))

    def __getitem__(self, name: str) -> Split:
        if name not in self._sizes:
            return self._splits[name]
        if name not in self._sampled:
            split = self._splits[name]
            self._sampled[name] = part_of(split, nested_sample(split.queries["query_id"], self._sizes[name]))
        return self._sampled[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)
