"""A file that is replaced is whole at every moment, and what a killed writer leaves does not stay."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from gdmtl_lib.data.files import FORGOTTEN, read_table, remove_unfinished, replace_file, write_lines


def test_a_file_is_replaced_at_the_end(tmp_path):
    file = tmp_path / "new folder" / "table.csv"
    for text in ("first", "second"):
        with replace_file(file) as unfinished:
            unfinished.write_text(text)
            assert file.exists() == (text == "second")
        assert file.read_text() == text and os.listdir(file.parent) == ["table.csv"]


def test_after_an_error_the_old_file_is_there_alone(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), replace_file(file) as unfinished:
        unfinished.write_text("new")
        raise RuntimeError("half way")
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]


def test_what_a_link_leads_to_is_replaced_and_a_pipe_is_written_itself(tmp_path):
    link, pipe = tmp_path / "latest.run", tmp_path / "pipe"
    link.symlink_to(tmp_path / "target.run")
    for text in ("first", "second"):
        write_lines(link, [text])
        assert link.is_symlink() and (tmp_path / "target.run").read_text() == text
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    write_lines(pipe, ["to whoever reads"])
    assert reader.communicate(timeout=60)[0] == "to whoever reads" and pipe.is_fifo()


def test_writers_of_one_file_do_not_meet_whatever_their_process_is_called(tmp_path):
    """Two containers number their processes alike: here one process writes a file twice at a time."""
    file = tmp_path / "table.csv"
    with replace_file(file) as first, replace_file(file) as second:
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first" and os.listdir(tmp_path) == [file.name]


def test_what_a_killed_writer_leaves_is_removed_once_nobody_can_be_writing_it(tmp_path):
    file, code = tmp_path / "a[1].csv", (
        "import os, signal, sys; from gdmtl_lib.data.files import replace_file\n"
        "with replace_file(sys.argv[1]) as unfinished:\n"
        "    unfinished.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code, file], env=environment).returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    with replace_file(file) as unfinished:
        unfinished.write_text("whole")
    assert left.exists() and file.read_text() == "whole"  # so young, somebody may be writing it
    long_ago = time.time() - FORGOTTEN
    os.utime(left, (long_ago, long_ago))
    other = tmp_path / ".b.csv.7.unfinished"
    other.touch()
    with replace_file(file) as unfinished:
        unfinished.write_text("whole")
    assert not left.exists() and other.exists()
    remove_unfinished(tmp_path / "b.csv")
    assert os.listdir(tmp_path) == [file.name]


def test_a_tables_numbers_come_back_exactly(tmp_path):
    """Whatever pandas' own reader makes of them: 3.0.6 reads 0.0003333333333333 for the first."""
    floats = [1 / 3000, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, float("inf"), float("nan")]
    table = pd.DataFrame(
        {"query_id": ["007", "", "nan", "1e5", "a,b", '"', "é"], "epoch": range(7), "value": floats, "whole": [1.0] * 7}
    )
    path = tmp_path / "table.csv"
    write_lines(path, [table.to_csv(index=False)])
    found = read_table(path, text=["query_id"])
    pd.testing.assert_frame_equal(found, table, check_exact=True)
    assert found["value"].to_numpy().tobytes() == table["value"].to_numpy().tobytes()
    path.write_bytes("\ufeffa,b\r\n1,\r\n".encode())
    assert read_table(path).to_dict("list") == {"a": [1], "b": [pytest.approx(float("nan"), nan_ok=True)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", " is empty"),
        (b"a,b\n1,2\n1,2,3\n", ", line 3: expected 2 fields, found 3; make it anew"),
        (b"a,b\n1,2\n1\n", ", line 3: expected 2 fields, found 1; make it anew"),
        (b"a,b\n1,two\n", ", line 2: could not convert string to float: 'two'; make it anew"),
        (b'a,b\n1,"2\n', ", line 2: unexpected end of data; make it anew"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(tmp_path, content, message):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_table(path)
    assert str(caught.value) == f"{path}{message}"
