"""MS MARCO's published answers: what is taken, whatever pieces the file is read in, and what a damaged one says."""

import gzip
import json
from pathlib import Path

import pytest

from tests.data.conftest import write_qna

from gdmtl_lib.data import answers
from gdmtl_lib.data.answers import read_answers

READ = {
    "q3": ("DESCRIPTION", "Water is wet."), "q4": ("ENTITY", ""), "1102432": ("NUMERIC", "forty two"),
    "q7": ("PERSON", 'Ödön "the" king 😀'), "q8": ("LOCATION", ""),
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    read_answers.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gdmtl" / "answers"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])
def test_the_shortest_well_formed_answer_else_the_first(tmp_path, monkeypatch, size):
    monkeypatch.setattr(answers, "_READ_AT_ONCE", size)
    assert read_answers(write_qna(tmp_path / "dev_v2.1.json.gz")) == READ


def test_the_file_is_read_once(tmp_path, cache, monkeypatch):
    path = write_qna(tmp_path / "dev_v2.1.json.gz")
    assert read_answers(path) == READ
    assert len(list(cache.iterdir())) == 1
    read_answers.cache_clear()
    monkeypatch.setattr(answers, "_rows", None)
    assert read_answers(path) == READ


def test_a_file_without_rows_or_with_other_columns(tmp_path):
    path = tmp_path / "dev_v2.1.json.gz"
    for content in ({}, {"answers": {}}, {"query_id": {"0": 1}, "query_type": {"1": "X"}}):
        path.write_bytes(gzip.compress(json.dumps(content).encode()))
        with pytest.raises(ValueError, match="dev_v2.1.json.gz is not MS MARCO's .* fetch it anew from https://"):
            read_answers(path)


def test_white_space_is_one_space_and_what_no_file_can_hold_is_refused_at_once(tmp_path, cache):
    path = tmp_path / "dev_v2.1.json.gz"
    rows = {"query_id": {"0": 1}, "query_type": {"0": "A\tB"}, "wellFormedAnswers": {"0": "[]"}}
    for answer in ("\0", "\ud800"):
        path.write_bytes(gzip.compress(json.dumps({"answers": {"0": [f"a{answer}b"]}, **rows}).encode()))
        with pytest.raises(ValueError, match="dev_v2.1.json.gz is not MS MARCO's .* or is damaged"):
            read_answers(path)
    assert not cache.exists() or not list(cache.iterdir())
    path.write_bytes(gzip.compress(json.dumps({"answers": {"0": ["a  b"]}, **rows}).encode()))
    assert read_answers(path) == {"1": ("A B", "a b")}


def test_a_damaged_file_is_refused_wherever_it_is_cut(tmp_path, cache):
    whole = write_qna(tmp_path / "whole.json.gz").read_bytes()
    text = gzip.decompress(whole)
    contents = [whole[:-20], b"plain", gzip.compress(b"[]"), gzip.compress(b'{"answers": 3}'), gzip.compress(b"\xff\xfe")]
    contents += [gzip.compress(text[:size]) for size in range(0, len(text) - 1, 41)]
    path = tmp_path / "dev_v2.1.json.gz"
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="dev_v2.1.json.gz is not MS MARCO's .* or is damaged"):
            read_answers(path)
    assert not cache.exists() or not list(cache.iterdir())
