"""The scores of a re-ranking that is not finished, kept on disk: an interrupted one goes on where it was."""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gdmtl_lib.data.provenance import differences


class PartialScores:
    """The scores of the chunks that are finished: a line of JSON each, with its own hash.

    record: what they depend on (`provenance.made_from`), the file's first line, versions and all: scores of one run
        are not rounded in two ways. A file of another one is written anew, and a warning says what differed.

    chunks: float32 scores by the chunk's number, those that the file holds.
    """

    def __init__(self, file: Path, record: Mapping):
        self.file, self.chunks = file, {}
        self._head, self._good = _checked(record), 0  # bytes
        if not file.exists():
            return
        with file.open("rb") as lines:
            if (first := next(lines, b"")) != self._head:
                if isinstance(there := _content(first), dict):
                    what = "; ".join(differences(there, record, with_versions=True))
                    warnings.warn(
                        f"{file} holds the scores of another re-ranking and is written anew: {what}", stacklevel=3
                    )
                return
            self._good = len(self._head)
            for line in lines:
                if (content := _content(line)) is None:
                    return
                number, scores = content
                self.chunks[number] = np.array(scores, dtype=np.float32)
                self._good += len(line)

    def append(self, number: int, scores: np.ndarray) -> None:
        """Keep the scores of one more chunk, float32."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as file:
            if self._good is not None:  # the first time: nothing but what was good stays in the file
                file.truncate(self._good)
                if not self._good:
                    file.write(self._head)
                self._good = None
            file.write(_checked([number, scores.tolist()]))
            file.flush()
            os.fsync(file.fileno())


def _checked(content) -> bytes:
    """A line of JSON that ends with its own hash."""
    text = json.dumps(content)
    return f"{text}\t{hashlib.sha256(text.encode()).hexdigest()[:16]}\n".encode()


def _content(line: bytes):
    """What `_checked` made a line of; None for one that is cut off or damaged."""
    try:
        content = json.loads(line.partition(b"\t")[0])
    except ValueError:
        return None
    return content if _checked(content) == line else None
