"""DeepCT: passages whose words are repeated by their weight, to be indexed in place of the passages themselves.

Published as JSON lines, `{"id": ..., "contents": ...}` a passage, in a zip file. BM25 over them finds what the models
then read in the original (Section 5.1).
"""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from .collection import Collection
from .files import as_path, file_hash, read_lines

_CHECKED_AT_ONCE = 10_000
_JSON_LINES = re.compile(r"(?<!/)\.jsonl?(\.gz)?$")


def enriched_passages(collection: Collection, split: str, path: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """Pairs of doc_id and the text to index, of each passage that a split searches once.

    path: a file of JSON lines, a folder of such files (`.json`, `.jsonl`, `.gz` after it), or a zip file of them.
    Raises FileNotFoundError where there is none, ValueError, naming file and line, where a line is no such JSON, a
    passage is not the collection's or stands twice, or some are missing.
    """
    hashes: set[bytes] = set()  # eight bytes a passage, not the id
    lines = ((file, *line) for whole in enriched_files(path) for file in _members(whole) for line in read_lines(file))
    while batch := list(islice(lines, _CHECKED_AT_ONCE)):
        passages = []
        for file, number, line in batch:
            doc_id, text = _entry(where := f"{file}, line {number}", line)
            if (key := hashlib.blake2b(doc_id.encode(), digest_size=8).digest()) in hashes:
                raise ValueError(f"{where}: passage {doc_id!r} stood before: each is expected once")
            hashes.add(key)
            passages.append((doc_id, text))
        try:
            collection.text(doc_id for doc_id, _ in passages)
        except ValueError as error:
            raise ValueError(f"{where}, or one of the {len(batch)} passages up to it: {error}") from None
        yield from passages
    if len(hashes) != (expected := sum(1 for _ in collection.doc_ids(split))):
        raise ValueError(
            f"{os.fspath(path)} holds {len(hashes)} passages, and {split!r} of {collection.name!r} searches "
            f"{expected}: the enriched passages must be all of them, and no others"
        )


def enriched_fingerprint(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the enriched passages' files, in order."""
    digest = hashlib.sha256()
    for file in enriched_files(path):
        digest.update(bytes.fromhex(file_hash(file)))
    return digest.hexdigest()


def enriched_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files on disk: the path itself, or those of its folder. Raises FileNotFoundError where there is none."""
    path = as_path(path)
    files = [path] if path.is_file() else sorted(file for file in path.glob("*") if _JSON_LINES.search(file.name))
    if not files:
        raise FileNotFoundError(
            f"no enriched passages at {path}: expected a file of JSON lines, or a folder or a zip file of them"
        )
    return files


def _members(file: Path) -> list[Path | zipfile.Path]:
    """The file itself, or the files of JSON lines in it."""
    if file.suffix != ".zip":
        return [file]
    try:
        names = sorted(name for name in zipfile.ZipFile(file).namelist() if _JSON_LINES.search(name))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{file} is damaged or not a zip file, as its name says it is: {error}") from error
    if not names:
        raise ValueError(f"{file} holds no file of JSON lines (.json or .jsonl)")
    return [zipfile.Path(file, name) for name in names]


def _entry(where: str, line: str) -> tuple[str, str]:
    try:
        entry = json.loads(line)
        is_entry = isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("id", "contents"))
        if is_entry:
            (entry["id"] + entry["contents"]).encode()  # refuses half of a surrogate pair
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error})") from None
    if not is_entry:
        raise ValueError(f"{where}: expected an object with the texts 'id' and 'contents'")
    return entry["id"], entry["contents"]
