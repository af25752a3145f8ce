"""A job of a sweep, and the stamp that says what it made.

The stamp, `.jobs/<name>.<key>` in the results folder, is named by a hash of everything the job is made from. So what
has changed is a stamp that is not there, modification times mean nothing, and no job is repeated without reason.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gdmtl_lib.data.locking import held
from gdmtl_lib.data.trec import file_hash, write_lines

LARGE = 16 * 2**20  # bytes; of larger files the size alone is kept


@dataclass(frozen=True)
class Job:
    """One step of a sweep.

    name: unique in the sweep. key: hash of everything it is made from, its needs' keys among it.
    run: does it, and returns the files that were made. gpus: how many GPUs it takes; without any it takes the
    whole machine.
    """

    name: str
    key: str
    folder: Path
    run: Callable[[], list[Path]]
    needs: tuple["Job", ...] = ()
    gpus: int = 0

    @property
    def stamp(self) -> Path:
        """There is this file when the job is done; it lists what the job made."""
        return self.folder / ".jobs" / f"{self.name}.{self.key[:16]}"

    def is_done(self) -> bool:
        """Whether the stamp is there and all that the job made is as it was."""
        try:
            made = json.loads(self.stamp.read_text(encoding="utf-8"))
            return all(_state(self.folder / path) == state for path, state in made.items())
        except (OSError, ValueError):
            return False

    def execute(self) -> None:
        """Run the job and write its stamp, in place of those of earlier inputs.

        Raises RuntimeError where another process is running it: one that a killed sweep has left, or another sweep.
        """
        with held(self.stamp.with_name(f".{self.name}.lock"), f"{self.name} is being run already"):
            for stale in self.stamp.parent.glob(f"{self.name}.*"):
                stale.unlink()
            made = {os.path.relpath(path, self.folder): _state(path) for path in sorted(self.run())}
            write_lines(self.stamp, [json.dumps(made, indent=1) + "\n"])


def content_of(path: Path) -> str | int:
    """What a file is known by: its hash, its size if it is large."""
    size = path.stat().st_size
    return size if size > LARGE else file_hash(path)


def _state(path: Path) -> str | int:
    """What a stamp remembers of a file; of what anybody may draw anew, only that it is there."""
    if path.suffix in (".ipynb", ".png", ".pdf", ".tex") or path.parent.name == "tables":
        path.stat()  # raises where it has gone
        return "there"
    return content_of(path)
