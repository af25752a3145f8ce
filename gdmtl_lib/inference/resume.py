"""The scores of a re-ranking that is not finished, kept on disk: an interrupted one goes on where it was."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np


class PartialScores:
    """The scores of the chunks that are finished: a line of JSON each, with its own hash.

    The first line says of what; a file of another model, or of other candidates, is written anew.

    chunks: float32 scores by the chunk's number, those that the file holds.
    """

    def __init__(self, file: Path, key: Mapping):
        self.file, self.chunks = file, {}
        self._head, self._good = _checked(key), 0  # bytes
        if not file.exists():
            return
        with file.open("rb") as lines:
            if next(lines, b"") != self._head:
                return
            self._good = len(self._head)
            for line in lines:
                text, _, _ = line.partition(b"\t")
                try:
                    number, scores = json.loads(text)
                except (ValueError, TypeError):
                    return
                if line != _checked([number, scores]):
                    return  # cut off by the interruption, or damaged
                self.chunks[number] = np.array(scores, dtype=np.float32)
                self._good += len(line)

    def append(self, number: int, scores: np.ndarray) -> None:
        """Keep the scores of one more chunk. scores: float32."""
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

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)


def _checked(content) -> bytes:
    """A line of JSON that ends with its own hash."""
    text = json.dumps(content)
    return f"{text}\t{hashlib.sha256(text.encode()).hexdigest()[:16]}\n".encode()
