"""A file of passages too large for memory, `doc_id<TAB>text` a line: read where it lies, through an index of offsets.

The index is one numpy file in the cache folder, two columns of 64-bit integers sorted by the first: a hash of a
passage's id, and where its line starts. It is found by the file's path, size and time of change.
"""

import hashlib
import mmap
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from tqdm.auto import tqdm

from .files import as_path, cache_folder, decode_line, read_lines, replace_file, split_line
from .readers import check_id


class PassageFile(Mapping[str, str]):
    """The passages of a file by doc_id: looked up on disk, never all in memory.

    path: UTF-8, not compressed, an id without white space and a text a line. cache_dir: the folder that gets the index;
    `gdmtl/offsets` in the user's cache folder unless given. Raises FileNotFoundError where there is no such file; when
    first used, ValueError, naming file and line, for a malformed one.
    """

    def __init__(self, path: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None):
        self.path = as_path(path).resolve()
        self.cache_dir = cache_folder("offsets") if cache_dir is None else as_path(cache_dir, "cache_dir")
        if not self.path.is_file():
            raise FileNotFoundError(f"no file {self.path}")

    def __getitem__(self, doc_id: str) -> str:
        if not isinstance(doc_id, str):
            raise KeyError(doc_id)
        begin, (hashes, starts) = f"{doc_id}\t".encode(), self._index
        wanted = np.uint64(_hash(begin[:-1]))
        same = slice(*(np.searchsorted(hashes, wanted, side) for side in ("left", "right")))
        for start in starts[same].tolist():  # two ids of one hash stand side by side
            if self._content[start : start + len(begin)] == begin:
                end = self._content.find(b"\n", start)
                text = self._content[start + len(begin) : end if end >= 0 else len(self._content)]
                return text.removesuffix(b"\r").decode()
        raise KeyError(doc_id)

    def __len__(self) -> int:
        return self._index.shape[1]

    def __iter__(self) -> Iterator[str]:
        return (doc_id for doc_id, _ in self.items())

    def items(self) -> Iterator[tuple[str, str]]:
        """In the file's order."""
        self._index  # noqa: B018  the pass that makes it is the one that checks the lines
        for _, line in read_lines(self.path):
            doc_id, _, text = line.partition("\t")
            yield doc_id, text

    def first_unknown(self, doc_ids: Iterable[str]) -> str | None:
        """The first of the ids that is not in the file, or None: faster than asking for one after the other."""
        doc_ids = list(doc_ids)
        hashes = np.fromiter((_hash(doc_id.encode()) for doc_id in doc_ids), np.uint64, len(doc_ids))
        places = np.minimum(np.searchsorted(self._index[0], hashes), len(self) - 1)
        unknown = np.flatnonzero(self._index[0][places] != hashes)
        return doc_ids[unknown[0]] if len(unknown) else None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file, 64 hexadecimal digits; taken when the index is made."""
        return self._index_path.stem.rpartition("-")[2]

    @cached_property
    def _content(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def _index(self) -> np.ndarray:
        return open_memmap(self._index_path, mode="r")  # which never unpickles

    @cached_property
    def _index_path(self) -> Path:
        """The index of the file as it is now: found, or made."""
        state = self.path.stat()
        name = f"{_digest(str(self.path))}-{_digest(f'{state.st_size} {state.st_mtime_ns}')}"
        for found in self.cache_dir.glob(f"{_digest(str(self.path))}-*.npy"):
            if found.name.startswith(name):
                with suppress(ValueError, OSError, EOFError):  # it is damaged
                    open_memmap(found, mode="r")
                    return found
            found.unlink(missing_ok=True)
        index, content = self._make(state.st_size)
        made = self.cache_dir / f"{name}-{content}.npy"
        with replace_file(made) as unfinished, unfinished.open("wb") as file:
            np.save(file, index)
        return made

    def _make(self, size: int) -> tuple[np.ndarray, str]:
        """The index, [2, n] uint64, and the SHA-256 of the file, in one pass in which every line is checked."""
        hashes, starts = array("Q"), array("Q")
        content, start = hashlib.sha256(), 0
        with (
            self.path.open("rb") as file,
            tqdm(total=size, unit="B", unit_scale=True, desc=f"indexing {self.path.name}") as bar,
        ):
            for number, raw in enumerate(file, 1):
                content.update(raw)
                doc_id, _ = split_line(self.path, number, decode_line(self.path, number, raw), "doc_id, text")
                check_id(f"{self.path}, line {number}", "doc_id", doc_id)
                hashes.append(_hash(doc_id.encode()))
                starts.append(start + raw.index(doc_id.encode()))  # behind a byte-order mark
                start += len(raw)
                if number % 10_000 == 0:
                    bar.update(start - bar.n)
            bar.update(start - bar.n)
        if not hashes:
            raise ValueError(f"{self.path} is empty")
        order = np.argsort(hashes, kind="stable")
        index = np.stack([np.array(column)[order] for column in (hashes, starts)])
        self._refuse_repeated_ids(index, order)
        return index, content.hexdigest()

    def _refuse_repeated_ids(self, index: np.ndarray, order: np.ndarray) -> None:
        same = np.flatnonzero(index[0][1:] == index[0][:-1])
        for place in same:  # none, or the file is wrong, or (once in a million such files) two ids have one hash
            starts = index[1][place : place + 2].tolist()
            first, second = (self._content[start : self._content.find(b"\t", start)] for start in starts)
            if first == second:
                where = f"{self.path}, line {order[place + 1] + 1}"
                raise ValueError(f"{where}: doc_id {second.decode()!r} stood before: ids must be unique")


def _hash(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
