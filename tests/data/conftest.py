"""What the tests of collections share: a small folder, MS MARCO's answers as they are published, and how rows are told."""

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

PASSAGES = "d1\tblue glacier ice\nd2\tan old king\nd3\twater of the river 😀\n"
FOLDER = {
    "passages.tsv": PASSAGES,
    "queries.train.tsv": "q1\twhy is ice blue\nq2\twho was king\n",
    "qrels.train.tsv": "q1 0 d1 1\nq2 0 d2 1\nq2 0 d3 0\n",
    "answers.train.tsv": "q1\tIce absorbs red light.\n",
    "queries.dev.tsv": "q3\triver water\nq4\tice\n",
    "qrels.dev.tsv": "q3 0 d3 2\n",
    "categories.dev.tsv": "q4\tdescription\nq3\tentity\n",
    "sessions.dev.tsv": "q3\tnature\nq4\tnature\n",
    "candidates.dev.trec": "q3 Q0 d1 2 1.5 bm25\nq3 Q0 d3 1 2.5 bm25\nq4 Q0 d1 1 3 bm25\n",
}
HEADER = "QuestionID\tQuestion\tDocumentID\tDocumentTitle\tSentenceID\tSentence\tLabel\r\n"


def write(folder: Path, **changes: str | bytes | None) -> Path:
    """Write FOLDER, with some files' content replaced, or left out for None; `__` stands for a dot."""
    content = FOLDER | {name.replace("__", "."): text for name, text in changes.items()}
    for name, text in content.items():
        if text is not None:
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def rows(frame: pd.DataFrame) -> list[tuple]:
    return list(frame.itertuples(index=False, name=None))


def refuses(call, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == message


# By row: query_id, kind, answers, well-formed ones. The number must not be cut where a piece ends.
QNA = [
    ("q3", "DESCRIPTION", ["It is wet.", "Water."], ["Water is very wet indeed.", "Water is wet."]),
    ("q4", "ENTITY", ["No Answer Present."], "[]"),
    (1102432, "NUMERIC", ["  forty\n\ttwo "], "[]"),
    ("q7", "PERSON", ["", "Ödön \"the\" king 😀"], [""]),
    ("q8", "LOCATION", [], []),
]

def write_qna(path: Path, rows=QNA) -> Path:
    """The file as it is published: columns in alphabetical order, a passages column among them that is not wanted."""
    columns = {
        "answers": {str(i): row[2] for i, row in enumerate(rows)},
        "passages": {str(i): [{"is_selected": 0, "passage_text": "} ] \\", "url": "x"}] * 3 for i, _ in enumerate(rows)},
        "query": {str(i): "a query" for i, _ in enumerate(rows)},
        "query_id": {str(i): row[0] for i, row in enumerate(rows)},
        "query_type": {str(i): row[1] for i, row in enumerate(rows)},
        "wellFormedAnswers": {str(i): row[3] for i, row in enumerate(rows)},
    }
    path.write_bytes(gzip.compress(json.dumps(columns).encode()))
    return path
