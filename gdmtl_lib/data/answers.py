"""MS MARCO's answers and kinds of queries, from its question answering data v2.1 as they are published.

One JSON object of columns (answers, passages, query, query_id, query_type, wellFormedAnswers), each an object by row,
a gigabyte of it compressed: read value by value, never as a whole.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TextIO

from .files import cache_folder, read_lines, write_lines

FILES = {"train": "train_v2.1.json.gz", "dev": "dev_v2.1.json.gz"}
URL = "https://msmarco.z22.web.core.windows.net/msmarco/"
NO_ANSWER = "No Answer Present."
_COLUMNS = ("query_type", "query_id", "answers", "wellFormedAnswers")
_SPACE = re.compile(r"\s*")
_READ_AT_ONCE, _LARGEST_VALUE = 1 << 20, 1 << 26  # characters


def part_of_split(split: str) -> str | None:
    """Which of the two files has a split's queries, `dev` for `dev-small`, or None."""
    return next((part for part in FILES if part in split.split("-")), None)


def how_to_get(part: str, folder: Path) -> str:
    """The end of a sentence that says that answers are missing."""
    return (
        f": GDMTL+ alone needs them; fetch them with `curl --create-dirs -o {folder / FILES[part]} "
        f"{URL}{FILES[part]}`"
    )


@lru_cache(maxsize=2)
def read_answers(path: Path) -> dict[str, tuple[str, str]]:
    """The kind (DESCRIPTION, NUMERIC, ENTITY, LOCATION, PERSON) and the answer of every query, by query_id: the
    shortest well-formed one, else the first that people wrote; "" where they found none; its white space normalised.

    What is found is kept in the cache folder. Raises ValueError for a file that is damaged or another.
    """
    state = path.stat()
    key = sha256(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()
    kept = cache_folder("answers") / f"{key}.tsv"
    if not kept.is_file():
        write_lines(kept, ("\t".join(fields) + "\n" for fields in _rows(path)))
    return {query_id: (kind, answer) for query_id, kind, answer in (line.split("\t") for _, line in read_lines(kept))}


def _rows(path: Path) -> list[tuple[str, str, str]]:
    columns: dict[str, dict[str, str]] = {name: {} for name in _COLUMNS}
    refusal = f"{path} is not MS MARCO's {' or '.join(FILES.values())}, or is damaged"
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for column, row, value in _Cells(file):
                if column in ("answers", "wellFormedAnswers"):
                    # Without a well-formed answer the column holds the text "[]".
                    texts = [" ".join(text.split()) for text in value] if isinstance(value, list) else []
                    texts = [text for text in texts if text and text != NO_ANSWER]
                    value = min(texts, key=len, default="") if column != "answers" else next(iter(texts), "")
                if column in columns:
                    columns[column][row] = cell = " ".join(str(value).split())
                    if b"\0" in cell.encode():  # which refuses half of a surrogate pair
                        raise ValueError(f"{column} of row {row} holds a NUL")
    except (ValueError, TypeError, AttributeError, EOFError, OSError, zlib.error, RecursionError) as error:
        raise ValueError(f"{refusal} ({error}): fetch it anew from {URL}") from error
    kinds, ids, answers, well_formed = columns.values()
    if not ids or set(ids) != set(kinds):
        raise ValueError(f"{refusal} (query_id and query_type are not of the same rows): fetch it anew from {URL}")
    return [(query_id, kinds[row], well_formed.get(row) or answers.get(row, "")) for row, query_id in ids.items()]


class _Cells:
    """The cells of an object of columns, each an object by row: column, row, value, in the file's order."""

    def __init__(self, file: TextIO):
        self._file, self._text, self._at = file, "", 0
        self._decode = json.JSONDecoder().raw_decode

    def __iter__(self) -> Iterator[tuple[str, str, object]]:
        more_columns = self._symbol("{")
        while more_columns != "}":
            column = self._value()
            self._symbol(":")
            more_rows = self._symbol("{")
            while more_rows != "}":
                row = self._value()
                self._symbol(":")
                yield column, row, self._value()
                more_rows = self._symbol(",}")
            more_columns = self._symbol(",}")

    def _symbol(self, expected: str) -> str:
        self._skip()
        found = self._text[self._at]
        if found not in expected:
            raise ValueError(f"expected {' or '.join(expected)}, found {found!r}")
        self._at += 1
        return found

    def _value(self) -> object:
        self._skip()
        while len(self._text) - self._at < _LARGEST_VALUE:
            try:
                value, end = self._decode(self._text, self._at)
                if end < len(self._text):  # else a number could go on
                    self._at = end
                    return value
            except ValueError:  # for now: it goes on in what is read next
                pass
            self._more()
        raise ValueError(f"found no end of a value of {_LARGEST_VALUE:,} characters")

    def _skip(self) -> None:
        while (at := _SPACE.match(self._text, self._at).end()) == len(self._text):
            self._more()
        self._at = at

    def _more(self) -> None:
        if not (chunk := self._file.read(_READ_AT_ONCE)):
            raise ValueError("it ends too early")
        self._text, self._at = self._text[self._at :] + chunk, 0
