"""Files: lines of text in and out, tables of numbers, hashes, and locks between processes.

A file that is written is there whole or not at all. A file that a user gives is UTF-8, `.gz` or not; a byte-order mark
and Windows line ends are taken, and what is wrong is refused with file and line.
"""

import csv
import errno
import glob
import gzip
import hashlib
import io
import os
import re
import secrets
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

FORGOTTEN = 3600.0  # seconds without a write: then it is what a killed process has left
BYTE_ORDER_MARK = "\ufeff"
# What files begin with that are compressed in other ways than a `.gz` is read.
_COMPRESSED = {b"\x1f\x8b": "name it .gz", b"PK\x03\x04": "unpack it", b"(\xb5/\xfd": "unpack it",
               b"\xfd7zXZ": "unpack it", b"BZh91AY&SY": "unpack it"}  # fmt: skip


def kind_of(value: object) -> str:
    """What a value is, in a few words of a message."""
    if hasattr(value, "columns"):
        return f"a frame with {', '.join(map(str, value.columns)) or 'no column':.100}"
    if isinstance(value, dict) and value:
        return f"a dict of {', '.join(map(str, value)):.100}"
    return f"{value!r:.200}" if isinstance(value, str) or len(repr(value)) <= 60 else f"a {type(value).__name__}"


def as_path(given: str | os.PathLike, name: str = "path") -> Path:
    """The path that a user gives, `~` being his own folder. Raises ValueError, naming the parameter, for none."""
    is_path = isinstance(given, str | os.PathLike) and given != ""
    if not is_path or any(len(part.encode(errors="replace")) > 255 for part in Path(given).parts):  # what stands in a file, say
        raise ValueError(f"{name}: expected a path, found {kind_of(given)}")
    return Path(os.path.expanduser(given))  # which, unlike Path's own, lets a file be called `~a`


def read_lines(path: str | os.PathLike | zipfile.Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file, or of one in a zip file, without their ends, with their numbers from 1; at least one.

    Raises FileNotFoundError where there is none, ValueError where it is empty, not UTF-8, holds a NUL or a carriage
    return within a line, is compressed in another way, or is named `.gz` and is damaged or something else.
    """
    path, number = path if isinstance(path, zipfile.Path) else as_path(path), 0
    if not path.exists() or path.is_dir():  # a pipe is read as well
        raise FileNotFoundError(f"no file {path}")
    try:
        with path.open("rb") as content, gzip.open(content) if path.suffix == ".gz" else nullcontext(content) as file:
            for number, raw in enumerate(file, 1):  # binary, because only "\n" ends a line
                yield number, decode_line(path, number, raw)
    except (gzip.BadGzipFile, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or not gzip-compressed, as its name says it is: {error}") from error
    if number == 0:
        raise ValueError(f"{path} is empty")


def decode_line(path: Path | zipfile.Path, number: int, raw: bytes) -> str:
    """The text of a line as it stands in a file, without its end and the marks before it: files that were put together
    have one where each of them begins. Raises ValueError as `read_lines`."""
    if number == 1 and (remedy := next((_COMPRESSED[begin] for begin in _COMPRESSED if raw.startswith(begin)), None)):
        raise ValueError(f"{path}: it is compressed, and expected was text, or a file named .gz: {remedy}")
    try:
        line = raw.removesuffix(b"\n").removesuffix(b"\r").decode().lstrip(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, line {number}: not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start + 1}): convert "
            "the file to UTF-8"
        ) from None
    if "\0" in line or "\r" in line:
        raise ValueError(f"{path}, line {number}: holds a NUL or carriage-return character: remove it")
    return line


# What columns are called where a file has a row of names.
_NAMES = frozenset(
    "id _id qid query_id queryid query query_text docid doc_id docno doc doc_text document document_id pid passage_id "
    "passage_text corpus_id text passage title contents content body answer category session relevance rel grade label "
    "judgment score rank sim similarity tag run run_id runid run_name question topic topic_id iteration iter".split()
)


def read_rows(path: str | os.PathLike, *forms: str) -> Iterator[tuple[int, list[str]]]:
    """The lines' numbers and fields (see `split_line`), at least one line's. forms: the first is what is expected, others
    are accepted: the number of the first line's fields says which one it is."""
    first = None
    for number, line in lines_below_header(path):
        if first is None:
            fits = (form for form in forms if len(form.split()) == len(line.split()) and line.lstrip()[0] not in "{[")
            first, form = number, next(fits, forms[0])
        yield number, split_line(path, number, line, form, first)
    if first is None:
        raise ValueError(f"{path} has no rows below its header")


def lines_below_header(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """`read_lines` without a header of ir-metadata before them."""
    is_header = False
    for number, line in read_lines(path):
        is_header = is_header or number == 1 and line.strip() == "# ir_metadata.start"
        if not is_header:
            yield number, line
        is_header = is_header and line.strip() != "# ir_metadata.end"


def split_line(path: str | os.PathLike, number: int, line: str, form: str, first: int = 1) -> list[str]:
    """The fields of a line. form: its columns, `doc_id, text` where tabs separate them, `query_id 0 doc_id relevance`
    where any white space does. first: the first one's number. Raises ValueError for another number of fields, and for a
    first line of names."""
    has_tabs, count = "," in form, len(form.split())
    fields = line.split("\t") if has_tabs else line.split()
    if number == first:
        # Not the last field alone: a run may be called "run".
        ends = {field.strip(" #\"'").lower().replace("-", "_") for field in fields[:1] + fields[-2:]}
        if ends and ends <= _NAMES:
            raise ValueError(f"{path}, line {number}: expected values, found a row of names ({' '.join(fields)}): remove it")
    if len(fields) != count:
        kind = "fields separated by tabs" if has_tabs else "columns"
        why = "; this looks like JSON" if line.lstrip()[:1] in ("{", "[") else ""
        why = why or "; is there a space in an id or in the tag?" * (not has_tabs and len(fields) > count)
        raise ValueError(f"{path}, line {number}: expected {count} {kind} ({form}), found {len(fields)}{why}")
    return fields


def read_table(
    path: str | os.PathLike, text: Sequence[str] = (), columns: Sequence[str] = (), remedy: str = "make it anew"
) -> pd.DataFrame:
    """Read a CSV table as this library writes them, every number exactly: of pandas' versions some lose a last digit.

    text: the columns that are text; the others hold numbers, int64 where all of them are whole, else float64, NaN where
    a field is empty. columns: those that are expected, in order. remedy: what a message says to do.

    Raises FileNotFoundError for a missing file, ValueError, naming the line, for one that is no such table.
    """
    # Not pandas: of a line with a field too many it makes another table, and says nothing.
    lines = csv.reader([f"{line}\n" for _, line in read_lines(path)], strict=True)
    try:
        names = next(lines)
        if names != list(columns or names):
            raise ValueError(f"expected the columns {list(columns)}, found {names}")
        kinds = [str if name in text else _number for name in names]
        rows = []
        for fields in lines:
            if len(fields) != len(names):
                raise ValueError(f"expected {len(names)} fields, found {len(fields)}")
            rows.append([kind(field) for kind, field in zip(kinds, fields)])
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}, line {lines.line_num}: {error}; {remedy}") from error
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    return pd.DataFrame(
        {name: pd.Series(part, dtype=str) if name in text else np.array(part) for name, part in columns.items()}
    )


def _number(field: str) -> int | float:
    # Python's own conversion is exact; but it also reads "1_000" and other scripts' digits.
    if "_" in field or not field.isascii():
        raise ValueError(f"expected a number, found {field!r}")
    return int(field) if re.fullmatch(r"[+-]?\d{1,18}", field) else float(field or "nan")


def write_lines(path: str | os.PathLike, lines: Iterable[str]) -> None:
    """Write texts, as they are, to a file that is replaced only when all of them are written; gzip for `.gz`."""
    encoded = (line.encode() for line in lines)
    with replace_file(path) as unfinished, unfinished.open("wb") as file:
        if Path(path).suffix == ".gz":
            # Neither name nor time in the header: the bytes depend on the content alone.
            zipped = gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)
            with zipped, io.BufferedWriter(zipped, 1 << 20) as buffered:
                buffered.writelines(encoded)
        else:
            file.writelines(encoded)


@contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[Path]:
    """A path to write a file to, which takes the place of `path` at the end of the block; after an error or a kill,
    what was there before still is. The file's folder is made when it is missing; a link stays, and what it leads to is
    written; a pipe or a device is written itself."""
    path = as_path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path, FORGOTTEN)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())  # else a power failure could leave the new name with nothing in it
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def replace_folder(folder: Path, unfinished: Path) -> Iterator[Path]:
    """An empty folder to fill, `unfinished`, which takes the place of `folder` at the end of the block: whoever finds
    that one finds all of it. What a killed process has left of it is removed."""
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_unfinished(path: Path, age: float = 0.0) -> None:
    """Remove what killed processes have left of a file that they were writing. age: seconds since the last write."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.unfinished"):
        with suppress(FileNotFoundError):  # another process has removed it meanwhile
            if time.time() - left.stat().st_mtime >= age:
                left.unlink()


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path, but: Sequence[str] = ()) -> dict[str, str]:
    """The hash of every file of a folder, by its name. but: names that are left out."""
    return {path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.name not in but}


def cache_folder(kind: str) -> Path:
    """Where the user's cache keeps what can be made anew."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gdmtl" / kind


@contextmanager
def try_lock(lock: str | os.PathLike, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone runs the block; with `wait` it waits until it does.

    lock: the file that is locked meanwhile, and says which process holds it; what a killed process has left of it locks
    nothing. Where the file system has no flock (some of clusters) nothing is locked.
    """
    path, file_lock = Path(lock), FileLock(lock, timeout=-1 if wait else 0, fallback_to_soft=False)
    is_mine = True
    try:
        file_lock.acquire()
    except Timeout:
        is_mine = False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
    try:
        if is_mine:
            path.write_text(str(os.getpid()), encoding="utf-8")
        yield is_mine
    finally:
        if is_mine:
            path.unlink(missing_ok=True)
        file_lock.release()


@contextmanager
def hold_lock(lock: str | os.PathLike, what: str) -> Iterator[None]:
    """Hold a lock file as long as the block runs; a new folder of its own that is left empty is removed with it. Raises
    RuntimeError, which `what` begins, where another process (or another call of this one) holds it, and names it."""
    lock = Path(lock)
    is_new = not lock.parent.exists()
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with try_lock(lock) as is_mine:
            if not is_mine:
                holder = "unknown"
                with suppress(FileNotFoundError):  # it has ended in this very moment
                    holder = lock.read_text(encoding="utf-8") or holder
                raise RuntimeError(f"{what}, by process {holder}: let it end, or end it")
            yield
    finally:
        if is_new and lock.parent.is_dir() and not any(lock.parent.iterdir()):
            lock.parent.rmdir()
