"""The first stage's candidates, wherever they come from; those of a large training split in a form that fits in memory.

For 503,000 queries and 1,000 passages each a frame takes 34 GB. Training needs no scores, only which passages a query
has, best first: 32-bit numbers, 2 GB, which stay on disk and are read where they are needed.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap
from tqdm.auto import tqdm

from .bm25 import QUERIES_AT_ONCE, QUIET_SECONDS, check_found, check_parameters, index_key, indexes_at
from .bm25 import open_index
from .collection import Collection
from .files import as_path, checksums, file_hash, replace_file, replace_folder, try_lock, write_lines
from .trec import frame_hash, read_run

OWN_CANDIDATES = "collection"  # says that the candidates are the collection's own


def first_stage_candidates(
    collection: Collection, split: str, depth: int = 100, run: str | None = None, **bm25
) -> pd.DataFrame:
    """The best candidates of every query of a split: BM25's, or those of a run that is there already.

    run: None for BM25, whose candidates are searched once, and found again beside the index by whoever asks for the
    same; `collection` for the collection's own candidates (`candidates.<split>.trec`, or MS MARCO's `top1000.<split>`);
    else the path of a TREC run, in which `{split}` stands for the split. bm25: what else `bm25_candidates` takes; not
    looked at where there is a run.

    Returns, raises: as `bm25_candidates`. Queries of others are left out of a run; a warning says how many
    of the split's it lacks. ValueError also where there are no such candidates, none of the split's queries has any, or
    a passage is not the collection's.
    """
    query_ids = collection.queries(split)["query_id"]
    if run is None:
        searched = _stored(collection, split, depth, scores=True, **bm25)
        check_found(collection, split, query_ids, set(searched.query_ids))
        return searched.frame()
    check_parameters(depth)
    as_path(run, "run")  # refuses what is none
    run = os.fspath(run)
    whose = f"the candidates of {collection.name!r}" if run == OWN_CANDIDATES else run.replace("{split}", split)
    found = collection.candidates(split) if run == OWN_CANDIDATES else read_run(whose)
    found = found[(found["rank"] <= depth) & found["query_id"].isin(query_ids)].reset_index(drop=True)
    if missing := len(query_ids) - found["query_id"].nunique():
        what = f"{whose} has none of {missing} of {len(query_ids)} queries of {split!r}"
        if found.empty:
            raise ValueError(f"{what}: is it another split's?")
        warnings.warn(f"{what}: they have no candidates", stacklevel=2)
    collection.text(found["doc_id"].unique())  # refuses an unknown one
    return found


def training_candidates(
    collection: Collection, split: str, depth: int = 100, run: str | None = None, **bm25
) -> "Candidates":
    """The same candidates, of the same arguments, in the compact form, and without scores, which take as much memory
    again."""
    if run is not None:
        return Candidates.of_frame(first_stage_candidates(collection, split, depth, run))
    return _stored(collection, split, depth, **bm25)


def _stored(
    collection: Collection, split: str, depth: int, scores: bool = False, k1: float = 0.9, b: float = 0.4, **index
) -> "Candidates":
    """BM25's candidates, stored beside the indexes. A search that was interrupted goes on; a second process waits."""
    check_parameters(depth, k1, b)
    queries, depth = collection.queries(split), int(depth)
    key = index_key(collection, split, index.get("enriched"))
    of = [key, frame_hash(queries[["query_id", "text"]]), depth, float(k1), float(b), *(["scores"] if scores else [])]
    home = indexes_at(index.get("index_dir")) / "candidates" / hashlib.sha256(json.dumps(of).encode()).hexdigest()
    if (home / "made_from.json").is_file():  # nothing is written then, and the folder may be another's
        return Candidates.open(home)
    home.parent.mkdir(parents=True, exist_ok=True)
    with try_lock(home.with_suffix(".lock"), wait=True):
        if (home / "made_from.json").is_file():  # another process has searched meanwhile
            return Candidates.open(home)
        texts = dict(zip(queries["query_id"], queries["text"], strict=True))
        with open_index(collection, split, **index) as opened:
            return _search(collection, split, opened, texts, depth, (k1, b), home, of, scores)


def _search(
    collection: Collection, split: str, index: Any, texts: dict[str, str], depth: int, k1_b: tuple, home: Path, of: list,
    scores: bool,
) -> "Candidates":
    """Search a chunk of queries at a time, each a file as soon as it is known; then put them together."""
    parts = home.with_suffix(".parts")
    parts.mkdir(exist_ok=True)
    names = _names(collection.doc_ids(split))
    query_ids, files = list(texts), []
    starts = range(0, len(query_ids), QUERIES_AT_ONCE)
    for first in tqdm(starts, desc="BM25's training candidates", delay=QUIET_SECONDS):
        files.append(parts / f"{first}.npz")
        if files[-1].is_file():
            continue
        chunk = query_ids[first : first + QUERIES_AT_ONCE]
        run = index.search({query_id: texts[query_id] for query_id in chunk}, depth, *k1_b)  # in the order of the chunk
        counts = run["query_id"].value_counts().reindex(chunk, fill_value=0).to_numpy()
        with replace_file(files[-1]) as unfinished, unfinished.open("wb") as file:
            columns = {"scores": run["score"]} if scores else {}
            np.savez(file, counts=counts, numbers=_numbers(names, run["doc_id"]), **columns)
    counts = np.concatenate([np.load(file)["counts"] for file in files])
    found = [query_id for query_id, count in zip(query_ids, counts, strict=True) if count]
    if not found:
        check_found(collection, split, query_ids, found)
    with replace_folder(home, home.with_suffix(".unfinished")) as unfinished:
        np.save(unfinished / "names.npy", names)
        np.save(unfinished / "starts.npy", np.append(0, np.cumsum(counts[counts > 0])))
        write_lines(unfinished / "queries.txt", (f"{query_id}\n" for query_id in found))
        for name, kind in (("numbers", np.int32), *((("scores", np.float32),) if scores else ())):
            whole, place = open_memmap(unfinished / f"{name}.npy", "w+", kind, (int(counts.sum()),)), 0
            for file in files:
                part = np.load(file)[name]
                whole[place : (place := place + len(part))] = part
            whole.flush()
        digest, files = Candidates.open(unfinished, check=False).hash(), checksums(unfinished)
        made_from = {"collection": collection.name, "split": split, "of": of, "hash": digest, "files": files}
        write_lines(unfinished / "made_from.json", [json.dumps(made_from, indent=2) + "\n"])
    shutil.rmtree(parts)
    return Candidates.open(home)


@dataclass(eq=False)
class Candidates:
    """Which passages each query has, best first, as numbers.

    query_ids: those with at least one. starts: int64 [queries + 1], `numbers[starts[i] : starts[i + 1]]` are query i's.
    numbers: int32 [rows], places in `names`. names: the passages' ids as bytes, sorted. scores: float32 [rows], or None
    where nobody needs them. folder: where it is stored.
    """

    query_ids: list[str]
    starts: np.ndarray
    numbers: np.ndarray
    names: np.ndarray
    scores: np.ndarray | None = None
    folder: Path | None = None
    known_hash: str | None = None

    @classmethod
    def of_frame(cls, run: pd.DataFrame) -> "Candidates":
        """Those of a frame in canonical order, `query_id, doc_id`; a query's rows need not stand together."""
        names = _names(run["doc_id"].unique())
        codes, query_ids = pd.factorize(run["query_id"])
        rows = np.argsort(codes, kind="stable")
        starts = np.append(0, np.cumsum(np.bincount(codes)))
        return cls(query_ids.tolist(), starts, _numbers(names, run["doc_id"])[rows], names)

    @classmethod
    def open(cls, folder: str | os.PathLike, check: bool = True) -> "Candidates":
        """Those of a folder, which are read where they are needed. Raises ValueError where a file is not as it was
        written: two gigabytes are hashed in some seconds."""
        folder = Path(folder)
        try:
            made = json.loads((folder / "made_from.json").read_text(encoding="utf-8")) if check else {"files": {}}
            for name, expected in made["files"].items():
                if file_hash(folder / name) != expected:
                    raise ValueError(f"{name} is not what was written")
            columns = ["starts", "numbers", "names", *(["scores"] if (folder / "scores.npy").is_file() else [])]
            starts, *arrays = [open_memmap(folder / f"{name}.npy", mode="r") for name in columns]
            query_ids = (folder / "queries.txt").read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = f"{folder} holds no whole candidates ({error}): delete it, and they are searched anew"
            raise ValueError(what) from error
        return cls(query_ids, np.array(starts), *arrays, folder=folder, known_hash=made.get("hash"))

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {query_id: place for place, query_id in enumerate(self.query_ids)}

    def rows(self, query_id: str) -> slice:
        """Where a query's numbers stand. Raises KeyError for a query without candidates."""
        place = self._places[query_id]
        return slice(int(self.starts[place]), int(self.starts[place + 1]))

    def doc_ids(self, query_id: str) -> list[str]:
        """A query's passages, best first. Raises KeyError for a query without candidates."""
        return [name.decode() for name in self.names[self.numbers[self.rows(query_id)]].tolist()]

    def frame(self, query_ids: Iterable[str] | None = None) -> pd.DataFrame:
        """Columns query_id, doc_id, score (float32; without scores minus the rank), rank: of some queries, or of all."""
        query_ids = self.query_ids if query_ids is None else list(query_ids)
        lists = [self.doc_ids(query_id) for query_id in query_ids]
        ranks = np.concatenate([np.arange(1, len(found) + 1) for found in lists] or [np.zeros(0, np.int64)])
        columns = {
            "query_id": np.repeat(np.array(query_ids, dtype=object), [len(found) for found in lists]),
            "doc_id": list(chain.from_iterable(lists)),
        }
        of = [] if self.scores is None else [self.scores[self.rows(query_id)] for query_id in query_ids]
        scores = np.concatenate(of) if of else -ranks.astype(np.float32)
        return pd.DataFrame(columns, dtype=str).assign(score=scores, rank=ranks)

    def numbers_of(self, doc_ids: pd.Series) -> np.ndarray:
        """Places of passages' ids in `names`, int32; -1 for one that no query has."""
        return _numbers(self.names, doc_ids, unknown=-1)

    def hash(self) -> str:
        """`frame_hash` of `query_id, doc_id`: the same whether candidates are a frame or stored."""
        if self.known_hash is None:
            digest = hashlib.sha256(b"query_id,doc_id\n")
            for first in range(0, len(self.query_ids), QUERIES_AT_ONCE):
                part = self.frame(self.query_ids[first : first + QUERIES_AT_ONCE])
                digest.update(part[["query_id", "doc_id"]].to_csv(index=False, header=False).encode())
            self.known_hash = digest.hexdigest()
        return self.known_hash


def _names(doc_ids: Iterable[str]) -> np.ndarray:
    """Ids as bytes of one width, sorted; some at a time, for Python's own strings take ten times as much."""
    ids, parts = iter(doc_ids), []
    while part := [doc_id.encode() for doc_id in islice(ids, 100_000)]:
        parts.append(np.array(part))
    return np.sort(np.concatenate(parts))


def _numbers(names: np.ndarray, doc_ids: pd.Series, unknown: int | None = None) -> np.ndarray:
    """Places of ids in `names`, int32; that of one that is not there is `unknown`."""
    if not len(doc_ids):
        return np.zeros(0, np.int32)
    wanted = np.array([doc_id.encode() for doc_id in doc_ids.tolist()])
    places = np.minimum(np.searchsorted(names, wanted), len(names) - 1).astype(np.int32)
    return places if unknown is None else np.where(names[places] == wanted, places, np.int32(unknown))
