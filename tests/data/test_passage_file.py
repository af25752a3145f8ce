"""Passages looked up on disk: what is found, what the index costs, and when it is made anew."""

import os
import re
import tracemalloc
from pathlib import Path

import pytest

from gdmtl_lib.data import passage_file
from gdmtl_lib.data.passage_file import PassageFile

TEXT = "7\tblue ice\n0\tan old king\r\né😀\twater 😀 of the river\n70\tthe last line"
PASSAGES = {"7": "blue ice", "0": "an old king", "é😀": "water 😀 of the river", "70": "the last line"}


@pytest.fixture
def make(tmp_path):
    def make(content: str | bytes = TEXT, name: str = "collection.tsv") -> PassageFile:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return PassageFile(path, tmp_path / "cache")

    return make


@pytest.fixture
def made(monkeypatch) -> list[Path]:
    """The files whose index is made from here on."""
    files: list[Path] = []
    make = PassageFile._make
    monkeypatch.setattr(PassageFile, "_make", lambda self, size: files.append(self.path) or make(self, size))
    return files


def test_it_is_a_mapping_of_the_files_lines(make):
    passages = make()
    assert list(passages.items()) == list(PASSAGES.items()) and list(passages) == list(PASSAGES)
    assert len(passages) == 4
    assert {doc_id: passages[doc_id] for doc_id in PASSAGES} == PASSAGES
    for unknown in ("1", "", "00", "7\tblue", "blue ice", 7):
        assert unknown not in passages
        with pytest.raises(KeyError):
            passages[unknown]
    assert passages.first_unknown(["70", "7"]) is None
    assert passages.first_unknown(["7", "8", "9"]) == "8"


def test_a_byte_order_mark_is_no_part_of_the_first_id(make):
    passages = make(b"\xef\xbb\xbf" + TEXT.encode())
    assert passages["7"] == "blue ice" and passages["70"] == "the last line"
    assert next(iter(passages)) == "7"


def test_ids_of_one_hash_are_told_apart(make, monkeypatch):
    monkeypatch.setattr(passage_file, "_hash", lambda key: len(key) % 2)
    passages = make()
    assert {doc_id: passages[doc_id] for doc_id in PASSAGES} == PASSAGES
    assert "8" not in passages and "71" not in passages


def test_the_index_is_made_once_and_anew_when_the_file_has_changed(make, made, tmp_path):
    first = make()
    fingerprint = first.fingerprint
    assert re.fullmatch("[0-9a-f]{64}", fingerprint)
    state = os.stat(first.path)
    again = PassageFile(first.path, tmp_path / "cache")
    assert again["0"] == "an old king" and again.fingerprint == fingerprint and len(made) == 1
    changed = make(TEXT.replace("blue", "grey"))  # of the same size
    os.utime(changed.path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert changed["7"] == "grey ice" and changed.fingerprint != fingerprint and len(made) == 2
    assert len(list((tmp_path / "cache").iterdir())) == 1
    other = make(name="other.tsv")
    assert other.fingerprint == fingerprint and len(made) == 3  # of the content, wherever it lies
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_damaged_index_is_made_anew(make, made, tmp_path):
    assert len(make()) == 4
    [index] = (tmp_path / "cache").iterdir()
    for content in (index.read_bytes()[:-8], b"", b"not numpy"):
        index.write_bytes(content)
        assert PassageFile(tmp_path / "collection.tsv", tmp_path / "cache")["7"] == "blue ice"
    assert len(made) == 4


def test_an_index_that_cannot_be_written_leaves_nothing(make, tmp_path, monkeypatch):
    def fail(file, index):
        file.write(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(passage_file.np, "save", fail)
        with pytest.raises(OSError, match="No space left on device"):
            make()["7"]
    assert list((tmp_path / "cache").iterdir()) == []
    assert make()["7"] == "blue ice"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", " is empty"),
        ("1\ta\n2\n", ", line 2: expected 2 fields separated by tabs (doc_id, text), found 1"),
        ("doc_id\ttext\n1\ta\n", ", line 1: expected values, found a row of names (doc_id text): remove it"),
        ("1\ta\0b\n", ", line 1: holds a NUL or carriage-return character: remove it"),
        ("1\ta\tb\n", ", line 1: expected 2 fields separated by tabs (doc_id, text), found 3"),
        ("1\ta\n\tb\n", ", line 2: doc_id '' is empty or holds white space, which TREC files cannot carry"),
        ("1\ta\n2\tb\n3\tc\n2\td\n", ", line 4: doc_id '2' stood before: ids must be unique"),
        (b"1\ta\n2\tcaf\xe9\n", ", line 2: not UTF-8 (byte 0xe9 at position 6): convert the file to UTF-8"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(make, tmp_path, content, message):
    for call in (len, list, lambda passages: passages.get("1")):
        with pytest.raises(ValueError) as caught:
            call(make(content))
        assert str(caught.value) == f"{tmp_path / 'collection.tsv'}{message}"
    assert not list(tmp_path.glob("cache/*"))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="^no file /.*/collection.tsv$"):
        PassageFile(tmp_path / "collection.tsv")


def test_the_users_cache_folder_is_the_default(make, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert len(PassageFile(make().path)) == 4
    assert len(list((tmp_path / "home" / "gdmtl" / "offsets").iterdir())) == 1


def test_looking_up_passages_takes_no_memory_that_grows_with_the_file(make, tmp_path):
    """Of 20 MB of texts the index keeps 16 bytes a passage, on disk; a lookup takes the passage alone."""
    make("".join(f"{number}\t{'word ' * 200}\n" for number in range(20_000)))["0"]
    passages = PassageFile(tmp_path / "collection.tsv", tmp_path / "cache")
    tracemalloc.start()
    try:
        assert all(passages[str(number)] == "word " * 200 for number in range(0, 20_000, 7))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
