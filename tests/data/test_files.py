"""A file that is replaced is whole at every moment, and what a killed writer leaves does not stay."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gdmtl_lib.data.files import FORGOTTEN, remove_unfinished, replacing


def test_a_file_is_replaced_at_the_end(tmp_path):
    file = tmp_path / "new folder" / "table.csv"
    for text in ("first", "second"):
        with replacing(file) as unfinished:
            unfinished.write_text(text)
            assert file.exists() == (text == "second")
        assert file.read_text() == text and os.listdir(file.parent) == ["table.csv"]


def test_after_an_error_the_old_file_is_there_alone(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), replacing(file) as unfinished:
        unfinished.write_text("new")
        raise RuntimeError("half way")
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]


def test_what_a_killed_writer_leaves_is_removed_once_nobody_can_be_writing_it(tmp_path):
    file, code = tmp_path / "a[1].csv", (
        "import os, signal, sys; from gdmtl_lib.data.files import replacing\n"
        "with replacing(sys.argv[1]) as unfinished:\n"
        "    unfinished.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code, file], env=environment).returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    with replacing(file) as unfinished:
        unfinished.write_text("whole")
    assert left.exists() and file.read_text() == "whole"  # so young, somebody may be writing it
    long_ago = time.time() - FORGOTTEN
    os.utime(left, (long_ago, long_ago))
    other = tmp_path / ".b.csv.7.unfinished"
    other.touch()
    with replacing(file) as unfinished:
        unfinished.write_text("whole")
    assert not left.exists() and other.exists()
    remove_unfinished(tmp_path / "b.csv")
    assert os.listdir(tmp_path) == [file.name]
