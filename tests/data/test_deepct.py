"""DeepCT's weighted passages: what is indexed, and that nothing else is read for them."""

import gzip
import json
import re
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.deepct import enriched_fingerprint, enriched_passages
from gdmtl_lib.data.bm25 import bm25_candidates
from gdmtl_lib.data.splits import Split

PASSAGES = {"1": "a long text about ice", "2": "wind and ice", "3": "nothing of that"}
WEIGHTED = {"1": "ice text", "2": "wind wind wind wind ice", "3": "that ice ice ice ice ice ice"}


@pytest.fixture
def collection() -> Collection:
    queries = pd.DataFrame({"query_id": ["q"], "text": ["ice"]})
    return Collection("toy", PASSAGES, {"dev": Split(queries)})


def write(path: Path, weighted: dict[str, str] = WEIGHTED) -> Path:
    lines = "".join(json.dumps({"id": doc_id, "contents": text}) + "\n" for doc_id, text in weighted.items())
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


def test_the_weighted_passages_are_searched_and_the_original_ones_read(collection, tmp_path):
    """Passage 3 does not hold the word at all; its weighted text holds little else."""
    path = write(tmp_path / "weighted.jsonl")
    plain = bm25_candidates(collection, "dev", index_dir=tmp_path / "indexes")
    weighted = bm25_candidates(collection, "dev", index_dir=tmp_path / "indexes", enriched=path)
    assert list(plain["doc_id"]) == ["2", "1"]
    assert weighted["doc_id"][0] == "3" and set(weighted["doc_id"]) == set(PASSAGES)
    assert collection.text(["3"]) == ["nothing of that"]
    assert len(list((tmp_path / "indexes").iterdir())) == 2
    again = bm25_candidates(collection, "dev", index_dir=tmp_path / "indexes", enriched=path)
    pd.testing.assert_frame_equal(again, weighted)
    write(path, WEIGHTED | {"3": "that"})  # other weights are another index
    changed = bm25_candidates(collection, "dev", index_dir=tmp_path / "indexes", enriched=path)
    assert set(changed["doc_id"]) == {"1", "2"} and len(list((tmp_path / "indexes").iterdir())) == 3


def test_a_folder_of_files_is_one_after_the_other(collection, tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()
    write(parts / "doc_00.json", {"1": WEIGHTED["1"]})
    write(parts / "doc_01.jsonl.gz", {doc_id: WEIGHTED[doc_id] for doc_id in "23"})
    (parts / "README.md").write_text("not read")
    assert dict(enriched_passages(collection, "dev", parts)) == WEIGHTED
    before = enriched_fingerprint(parts)
    assert before == enriched_fingerprint(parts) != enriched_fingerprint(parts / "doc_00.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "1", "contents": "a"}\n{"id": "1", "contents": "b"}\n',
         ", line 2: passage '1' stood before: each is expected once"),
        ('{"id": "1", "contents": "a"}\n{"id": "9", "contents": "b"}\n',
         ", line 2, or one of the 2 passages up to it: collection 'toy' has no passage '9'"),
        ('{"id": "1", "contents": "a"}\n',
         " holds 1 passages, and 'dev' of 'toy' searches 3: the enriched passages must be all of them, and no others"),
        ('{"id": 1, "contents": "a"}\n', ", line 1: expected an object with the texts 'id' and 'contents'"),
        ("[]\n", ", line 1: expected an object with the texts 'id' and 'contents'"),
        ("[" * 100_000 + "\n", ", line 1: not JSON (maximum recursion depth exceeded while decoding a JSON array from a unicode "
         "string)"),
        ('{"id": "1", "contents": "a"}\n{"id": "2", "contents": "\\ud800"}\n',
         ", line 2: not JSON ('utf-8' codec can't encode character '\\ud800' in position 1: surrogates not allowed)"),
        ("1\ta\n", ", line 1: not JSON (Extra data: line 1 column 3 (char 2))"),
    ],
)  # fmt: skip
def test_passages_that_are_not_the_collections_are_refused(collection, tmp_path, content, message):
    path = tmp_path / "weighted.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError) as caught:
        bm25_candidates(collection, "dev", index_dir=tmp_path / "indexes", enriched=path)
    assert str(caught.value) == f"{path}{message}"
    assert list((tmp_path / "indexes").iterdir()) == []


def test_files_that_are_not_there_or_damaged(collection, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        bm25_candidates(collection, "dev", index_dir=tmp_path, enriched=tmp_path / "none")
    assert str(caught.value) == (
        f"no enriched passages at {tmp_path}/none: expected a file of JSON lines, or a folder or a zip file of them"
    )
    path = tmp_path / "weighted.jsonl.gz"
    path.write_bytes(b"plain")
    with pytest.raises(ValueError, match="is damaged or not gzip-compressed, as its name says it is"):
        list(enriched_passages(collection, "dev", path))


def test_weights_that_come_zipped_are_read_as_they_are(collection, tmp_path):
    """One archive of a folder with files of JSON lines, one of them compressed once more."""
    plain = write(tmp_path / "a.jsonl", {doc_id: WEIGHTED[doc_id] for doc_id in "12"})
    packed = write(tmp_path / "b.json.gz", {"3": WEIGHTED["3"]})
    archive = tmp_path / "weights.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in (plain, packed):
            file.write(path, f"deepct/{path.name}")
        file.writestr("deepct/README", "not read")
    assert dict(enriched_passages(collection, "dev", archive)) == WEIGHTED
    assert re.fullmatch("[0-9a-f]{64}", enriched_fingerprint(archive))
    content = archive.read_bytes()
    for damaged in (b"plain", content[:40] + bytes(8) + content[48:]):
        archive.write_bytes(damaged)
        with pytest.raises(ValueError, match="weights.zip.* is damaged or not "):
            list(enriched_passages(collection, "dev", archive))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("deepct/README", "not read")
    with pytest.raises(ValueError, match=r"weights.zip holds no file of JSON lines \(.json or .jsonl\)$"):
        list(enriched_passages(collection, "dev", archive))
