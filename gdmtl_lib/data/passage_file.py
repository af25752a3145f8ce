"""A file of passages too large for memory, `doc_id<TAB>text` a line: read where it lies, through an index of offsets.

The index is one numpy file in the cache folder, two columns of 64-bit integers sorted by the first: a hash of a
passage's id, and where its line starts. It is found by the file's path, size and time of change, made once in one
pass over the file, and appears whole or not at all.
"""

import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from tqdm.auto import tqdm

from .files import BYTE_ORDER_MARK, cache_folder, decode_line, read_lines, refuse_header, replace_file

_GROWS_BY = 1 << 20  # rows


class PassageFile(Mapping[str, str]):
    """The passages of a file by doc_id: looked up on disk, never all in memory.

    path: UTF-8, not compressed, an id without white space and a text a line.
    cache_dir: the folder that gets the index; `gdmtl/offsets` in the user's cache folder unless given.

    Raises FileNotFoundError where there is no such file. When first used, ValueError for a malformed file; the
    message names file and line.
    """

    def __init__(self, path: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None):
        self.path = Path(path).resolve()
        self.cache_dir = cache_folder("offsets") if cache_dir is None else Path(cache_dir)
        if not self.path.is_file():
            raise FileNotFoundError(f"no file {self.path}")

    def __getitem__(self, doc_id: str) -> str:
        line = self._find(doc_id)
        if line is None:
            raise KeyError(doc_id)
        return line.partition(b"\t")[2].removesuffix(b"\r").decode()

    def __contains__(self, doc_id: object) -> bool:
        return isinstance(doc_id, str) and self._find(doc_id) is not None

    def __len__(self) -> int:
        return self._index.shape[1]

    def __iter__(self) -> Iterator[str]:
        return (doc_id for doc_id, _ in self.items())

    def items(self) -> Iterator[tuple[str, str]]:
        """Pairs of doc_id and text, in the file's order."""
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

    def _find(self, doc_id: str) -> bytes | None:
        """The line of a passage, without its end."""
        key, (hashes, starts) = doc_id.encode(), self._index
        wanted = np.uint64(_hash(key))
        place = int(np.searchsorted(hashes, wanted))
        while place < len(hashes) and hashes[place] == wanted:  # two ids of one hash stand side by side
            start = int(starts[place])
            end = self._content.find(b"\n", start)
            line = self._content[start : end if end >= 0 else len(self._content)]
            if line.startswith(key + b"\t"):
                return line
            place += 1
        return None

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
        for found in self.cache_dir.glob(f"{name}-*.npy"):
            try:
                open_memmap(found, mode="r")
                return found
            except (ValueError, OSError, EOFError):  # damaged
                found.unlink(missing_ok=True)
        index, content = self._make(state.st_size)
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        for outdated in self.cache_dir.glob(f"{_digest(str(self.path))}-*.npy"):
            outdated.unlink(missing_ok=True)
        made = self.cache_dir / f"{name}-{content}.npy"
        with replace_file(made) as unfinished, unfinished.open("wb") as file:
            np.save(file, index)
        return made

    def _make(self, size: int) -> tuple[np.ndarray, str]:
        """One pass over the file: every line checked, its id's hash and its start noted. Returns the index, [2, n]
        uint64, and the SHA-256 of the file."""
        hashes, starts = np.empty(_GROWS_BY, np.uint64), np.empty(_GROWS_BY, np.uint64)
        content, start, number = hashlib.sha256(), 0, 0
        with (
            self.path.open("rb") as file,
            tqdm(total=size, unit="B", unit_scale=True, desc=f"indexing {self.path.name}") as bar,
        ):
            for number, raw in enumerate(file, 1):
                content.update(raw)
                mark = len(BYTE_ORDER_MARK) if number == 1 and raw.startswith(BYTE_ORDER_MARK) else 0
                if number > len(hashes):
                    hashes = np.append(hashes, np.empty(_GROWS_BY, np.uint64))
                    starts = np.append(starts, np.empty(_GROWS_BY, np.uint64))
                hashes[number - 1] = _hash(self._checked_id(number, raw))
                starts[number - 1] = start + mark
                start += len(raw)
                if number % 10_000 == 0:
                    bar.update(start - bar.n)
            bar.update(start - bar.n)
        if number == 0:
            raise ValueError(f"{self.path} is empty")
        order = np.argsort(hashes[:number], kind="stable")
        index = np.stack([hashes[:number][order], starts[:number][order]])
        self._refuse_repeated_ids(index, order)
        return index, content.hexdigest()

    def _checked_id(self, number: int, raw: bytes) -> bytes:
        fields = decode_line(self.path, number, raw).split("\t")
        where = f"{self.path}, line {number}"
        if len(fields) != 2:
            raise ValueError(
                f"{where}: expected 2 fields separated by a tab (doc_id, text), found {len(fields)}"
            )
        if number == 1:
            refuse_header(self.path, fields)
        if fields[0].split() != [fields[0]]:
            raise ValueError(
                f"{where}: doc_id {fields[0]!r} is empty or holds white space, which TREC files cannot carry"
            )
        return fields[0].encode()

    def _refuse_repeated_ids(self, index: np.ndarray, order: np.ndarray) -> None:
        same = np.flatnonzero(index[0][1:] == index[0][:-1])
        for place in same:  # none, or the file is wrong, or (once in a million such files) two ids have one hash
            starts = index[1][place : place + 2].tolist()
            ids = [self._content[start : self._content.find(b"\t", start)] for start in starts]
            if ids[0] == ids[1]:
                raise ValueError(
                    f"{self.path}, line {order[place + 1] + 1}: doc_id {ids[1].decode()!r} stood before: "
                    "ids must be unique"
                )


def _hash(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
