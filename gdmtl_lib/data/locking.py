"""Locks between processes: who writes into a folder, and that nobody else does meanwhile.

A lock is one of the operating system on an open file (flock), so it ends with the process that holds it, however that
ends.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def locked(file: IO, wait: bool = False) -> bool:
    """Lock an open file, until it is closed or its process ends. Without waiting, False where another has locked it.

    Where the system (Windows) or the file system (some of clusters) has no flock nothing is locked.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
    return True


@contextmanager
def alone(lock: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone runs the block. With `wait` it waits until it does.

    lock: the file that is locked meanwhile; it says the process that holds it, and is removed at the end. What a
        killed process has left of it locks nothing.
    """
    while True:
        with open(lock, "a+", encoding="utf-8") as file:
            if not locked(file, wait):
                yield False
                return
            if not _is_same(file, lock):
                continue  # whoever held it has removed it between our opening and our locking
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield True
            finally:
                lock.unlink(missing_ok=True)
            return


@contextmanager
def held(lock: str | os.PathLike, what: str) -> Iterator[None]:
    """Hold a lock file as long as the block runs; a new folder of its own that is left empty is removed with it.

    what: the beginning of the sentence, as `the run is being written already`.

    Raises RuntimeError, naming the process, where another one (or another call of this one) holds it.
    """
    lock = Path(lock)
    is_new = not lock.parent.exists()
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with alone(lock) as is_mine:
            if not is_mine:
                raise RuntimeError(f"{what}, by process {_holder(lock)}: let it end, or end it")
            yield
    finally:
        if is_new and lock.parent.is_dir() and not any(lock.parent.iterdir()):
            lock.parent.rmdir()


def _holder(lock: Path) -> str:
    try:
        return lock.read_text(encoding="utf-8") or "unknown"
    except FileNotFoundError:  # it has ended in this very moment
        return "unknown"


def _is_same(file: IO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
