"""Files that are there whole or not at all: written beside their place, then moved into it."""

import glob
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FORGOTTEN = 3600.0  # seconds without a write: then it is what a killed process has left


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A path to write a file to, which takes the place of `path` at the end of the block; after an error, a full disk
    or a kill, what was there before still is. The file's folder is made when it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path, FORGOTTEN)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())  # else a power failure could leave the new name with nothing in it
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(path: Path, age: float = 0.0) -> None:
    """Remove what killed processes have left of a file that they were writing. age: seconds since the last write."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.unfinished"):
        with suppress(FileNotFoundError):  # another process has removed it meanwhile
            if time.time() - left.stat().st_mtime >= age:
                left.unlink()
