"""Collections: what each kind gives, and the sentence that each piece of bad input gets."""

import gzip
import json
import os
import re
import warnings
from pathlib import Path

import pandas as pd
import pytest

from tests.data.conftest import FOLDER, HEADER, PASSAGES, refuses, rows, write

from gdmtl_lib.data.bm25 import java
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.data.readers import read_squad

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"

# --- folders ------------------------------------------------------------------------------------------------


def test_folder_gives_every_part(tmp_path):
    collection = load_collection(write(tmp_path))
    assert collection.name == os.fspath(collection) == str(tmp_path)
    assert load_collection(collection) is collection
    assert collection.splits == ("dev", "train")
    assert rows(collection.queries("train")) == [("q1", "why is ice blue"), ("q2", "who was king")]
    dev = collection.queries("dev")
    assert list(dev.columns) == ["query_id", "text", "category", "session"]
    assert rows(dev) == [("q3", "river water", "entity", "nature"), ("q4", "ice", "description", "nature")]
    assert rows(collection.qrels("train")) == [("q1", "d1", 1), ("q2", "d2", 1), ("q2", "d3", 0)]
    assert rows(collection.answers("train")) == [("q1", "Ice absorbs red light.")]
    assert rows(collection.candidates("dev")) == [
        ("q3", "d3", 2.5, 1),
        ("q3", "d1", 1.5, 2),
        ("q4", "d1", 3.0, 1),
    ]
    assert collection.text(["d3", "d1", "d3"]) == [
        "water of the river 😀",
        "blue glacier ice",
        "water of the river 😀",
    ]
    assert list(collection.doc_ids()) == list(collection.doc_ids("dev")) == ["d1", "d2", "d3"]
    assert list(collection.passages("train"))[1] == ("d2", "an old king")
    assert repr(collection) == f"<collection {str(tmp_path)!r} with splits dev, train>"


def test_lookup_by_id_crosses_splits(tmp_path):
    collection = load_collection(write(tmp_path))
    assert collection.query_texts(["q4", "q1", "q4"]) == ["ice", "why is ice blue", "ice"]
    assert sorted(rows(collection.qrels_of(["q2", "q3"]))) == [
        ("q2", "d2", 1),
        ("q2", "d3", 0),
        ("q3", "d3", 2),
    ]
    qrels = collection.qrels_of(["q2"])
    assert qrels.dtypes.equals(collection.qrels("train").dtypes)
    assert rows(collection.answers_of(["q1", "q2", "q3"])) == [("q1", "Ice absorbs red light.")]
    nothing = collection.answers_of(["q3"])
    assert list(nothing.columns) == ["query_id", "text"] and nothing.empty


def test_frames_are_copies(tmp_path):
    collection = load_collection(write(tmp_path))
    queries, qrels = collection.queries("dev"), collection.qrels("dev")
    queries["text"] = "changed"
    qrels["relevance"] = 9
    assert collection.query_texts(["q3"]) == ["river water"]
    assert rows(collection.qrels("dev")) == [("q3", "d3", 2)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.queries("test"), "collection 'c' has no split 'test': its splits are dev, train"),
        (lambda c: c.answers("dev"), "collection 'c' has no answers for the split 'dev'"),
        (lambda c: c.candidates("train"), "collection 'c' has no candidates for the split 'train'"),
        (lambda c: c.text(["d1", "d9"]), "collection 'c' has no passage 'd9'"),
        (lambda c: c.text(None), "collection 'c' has no passage None"),
        (lambda c: c.text([["d1"]]), "collection 'c' has no passage ['d1']"),
        (lambda c: c.query_texts(None), "collection 'c' has no query None (1 unknown) in its splits dev, train"),
        (lambda c: c.query_texts([["a"]]), "collection 'c' has no query ['a'] (1 unknown) in its splits dev, train"),
        (lambda c: c.qrels_of(["q1", 5]), "collection 'c' has no query 5 (1 unknown) in its splits dev, train"),
        (
            lambda c: c.query_texts(["q8", "q1", "q9"]),
            "collection 'c' has no query 'q8' (2 unknown) in its splits dev, train",
        ),
        (
            lambda c: c.qrels_of(["q9"]),
            "collection 'c' has no query 'q9' (1 unknown) in its splits dev, train",
        ),
    ],
)
def test_what_is_not_there(tmp_path, call, message):
    collection = load_collection(write(tmp_path))
    collection.name = "c"
    refuses(lambda: call(collection), ValueError, message)


def test_gzip_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path):
    plain, other = tmp_path / "plain", tmp_path / "other"
    plain.mkdir()
    other.mkdir()
    for name, text in FOLDER.items():
        (other / f"{name}.gz").write_bytes(
            gzip.compress(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
        )
    one, two = load_collection(write(plain)), load_collection(other)
    for split in one.splits:
        pd.testing.assert_frame_equal(one.queries(split), two.queries(split))
        pd.testing.assert_frame_equal(one.qrels(split), two.qrels(split))
    pd.testing.assert_frame_equal(one.candidates("dev"), two.candidates("dev"))
    assert list(one.passages()) == list(two.passages())
    assert one.fingerprint() == two.fingerprint()


def test_last_line_may_lack_its_end_and_unknown_files_are_not_read(tmp_path):
    collection = load_collection(write(tmp_path, passages__tsv=PASSAGES.rstrip("\n"), README__md=b"\xff"))
    assert len(list(collection.doc_ids())) == 3


@pytest.mark.parametrize(("name", "form"), [
    ("passages.txt", "passages.tsv"), ("queries.dev.small.tsv", "queries.<split>.tsv"), ("qrels.dev.txt", "qrels.<split>.tsv"),
    ("candidates.dev.run.gz", "candidates.<split>.trec"), ("top1000.dev", "candidates.<split>.trec"),
    ("candidates.dev.ir-metadata.yml", None),
])  # fmt: skip
def test_a_file_that_is_called_otherwise_is_not_left_out_without_a_word(tmp_path, name, form):
    write(tmp_path)
    (tmp_path / name).touch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_collection(tmp_path)
    expected = [f"{tmp_path / name} is not read: expected {form} (or .gz, and no dot in a split's name): rename it"] if form else []
    assert [str(warning.message) for warning in caught] == expected


def test_fingerprints_tell_contents_apart(tmp_path):
    def fingerprints(name: str, **changes: str) -> tuple[str, str]:
        (tmp_path / name).mkdir()
        collection = load_collection(write(tmp_path / name, **changes))
        return collection.fingerprint(), collection.passages_fingerprint("dev")

    first = fingerprints("first")
    assert all(re.fullmatch("[0-9a-f]{64}", fingerprint) for fingerprint in first)
    reordered = "".join(sorted(PASSAGES.splitlines(keepends=True), reverse=True))
    assert fingerprints("reordered", passages__tsv=reordered) == first
    for name, passages in (("word", PASSAGES.replace("old", "odd")), ("longer", PASSAGES + "d4\ta\n")):
        everything, of_passages = fingerprints(name, passages__tsv=passages)
        assert everything != first[0] and of_passages != first[1]
    for name in ("queries.dev.tsv", "answers.train.tsv"):
        everything, of_passages = fingerprints(name, **{name: FOLDER[name].replace("\n", "!\n")})
        assert everything != first[0] and of_passages == first[1]


BAD_FOLDERS = [
    # A file with its bad content; what follows the file's name in the message.
    ("passages.tsv", "d1\n", ", line 1: expected 2 fields separated by tabs (doc_id, text), found 1"),
    (
        "passages.tsv",
        "d1\ta\nd2\tb\tc\n",
        ", line 2: expected 2 fields separated by tabs (doc_id, text), found 3",
    ),
    (
        "passages.tsv",
        PASSAGES + "\n",
        ", line 4: expected 2 fields separated by tabs (doc_id, text), found 1",
    ),
    ("passages.tsv", PASSAGES + "d1\tagain\n", ", line 4: doc_id 'd1' stood before: ids must be unique"),
    ("passages.tsv", "d1\t \n", ", line 1: the text of 'd1' is empty"),
    ("passages.tsv", "", " is empty"),
    (
        "passages.tsv",
        "d 1\ta\n",
        ", line 1: doc_id 'd 1' is empty or holds white space, which TREC files cannot carry",
    ),
    (
        "passages.tsv",
        "\ta\n",
        ", line 1: doc_id '' is empty or holds white space, which TREC files cannot carry",
    ),
    ("passages.tsv", "d1\ta\0b\n", ", line 1: holds a NUL or carriage-return character: remove it"),
    ("passages.tsv", "d1\ta\rd2\tb\n", ", line 1: holds a NUL or carriage-return character: remove it"),
    (
        "passages.tsv",
        b"d1\ta\nd2\tcaf\xe9\n",
        ", line 2: not UTF-8 (byte 0xe9 at position 7): convert the file to UTF-8",
    ),
    (
        "passages.tsv",
        "d1\ta\n".encode("utf-16"),
        ", line 1: not UTF-8 (byte 0xff at position 1): convert the file to UTF-8",
    ),
    ("queries.dev.tsv", "q3\t\n", ", line 1: the text of 'q3' is empty"),
    ("queries.dev.tsv", "q3\ta\nq3\tb\n", ", line 2: query_id 'q3' stood before: ids must be unique"),
    ("queries.dev.tsv", "", " is empty"),
    ("queries.dev.tsv", "qid\tquery\nq3\ta\n", ", line 1: expected values, found a row of names (qid query): remove it"),
    ("answers.train.tsv", "query_id\tanswer\nq1\ta\n",
     ", line 1: expected values, found a row of names (query_id answer): remove it"),
    (
        "queries.train.tsv",
        "q1\ta\nq2\tb\nq4\tc\n",
        ", line 3: query id 'q4' is in queries.dev.tsv too: a query id belongs to one split",
    ),
    (
        "qrels.dev.tsv",
        "q3 0 d3 1\nq3 0 d0 1\n",
        ", line 2: doc_id 'd0' is not in passages.tsv: add it there, or remove the line",
    ),
    (
        "qrels.dev.tsv",
        "q3 0 0 1\n",
        ", line 1: doc_id '0' is not in passages.tsv: add it there, or remove the line",
    ),
    (
        "qrels.dev.tsv",
        "q1 0 d1 1\n",
        ", line 1: query id 'q1' is not in queries.dev.tsv: add it there, or remove the line",
    ),
    (
        "answers.train.tsv",
        "q1\ta\nq9\tb\n",
        ", line 2: query id 'q9' is not in queries.train.tsv: add it there, or remove the line",
    ),
    ("answers.train.tsv", "q1\t\n", ", line 1: the text of 'q1' is empty"),
    (
        "categories.dev.tsv",
        "q3\ta\nq4\tb\nq5\tc\n",
        ", line 3: query id 'q5' is not in queries.dev.tsv: add it there, or remove the line",
    ),
    ("categories.dev.tsv", "q3\ta\n", " has no line for query id 'q4' (1 missing): every query needs one"),
    ("sessions.dev.tsv", "q4\ta\n", " has no line for query id 'q3' (1 missing): every query needs one"),
    (
        "candidates.dev.trec",
        "q3 Q0 d1 1 2 t\nq3 Q0 d2 2 1 t\nq3 Q0 2 3 0 t\n",
        ", line 3: doc_id '2' is not in passages.tsv: add it there, or remove the line",
    ),
    (
        "qrels.test.tsv",
        "q3 0 d3 1\n",
        " has no queries.test.tsv beside it: add it, or rename the file to one of the splits dev, train",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FOLDERS)
def test_bad_folder(tmp_path, name, content, message):
    write(tmp_path, **{name: content})
    refuses(lambda: load_collection(tmp_path), ValueError, f"{tmp_path}/{name}{message}")


def test_malformed_judgments_name_file_and_line(tmp_path):
    write(tmp_path, qrels__dev__tsv="q3 0 d3 1\nq3 0 d1\n")
    with pytest.raises(ValueError, match=r"qrels\.dev\.tsv, line 2: "):
        load_collection(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"d1\tplain text",
        gzip.compress(PASSAGES.encode(), mtime=0)[:-12],
        gzip.compress(PASSAGES.encode(), mtime=0)[:15] + b"\xff" * 30,
    ],
)
def test_damaged_gzip(tmp_path, content):
    write(tmp_path, passages__tsv=None, passages__tsv__gz=content)
    with pytest.raises(
        ValueError, match=r"passages\.tsv\.gz is damaged or not gzip-compressed, as its name says it is: "
    ):
        load_collection(tmp_path)


def test_file_that_stands_twice(tmp_path):
    write(tmp_path, passages__tsv__gz=gzip.compress(b"d1\ta\n"))
    refuses(
        lambda: load_collection(tmp_path),
        ValueError,
        f"{tmp_path} holds both passages.tsv and passages.tsv.gz: keep one of them",
    )


def test_missing_files(tmp_path):
    write(tmp_path, passages__tsv=None)
    refuses(
        lambda: load_collection(tmp_path),
        FileNotFoundError,
        f"{tmp_path} holds no passages.tsv (or passages.tsv.gz)",
    )
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "passages.tsv").write_text(PASSAGES)
    refuses(
        lambda: load_collection(tmp_path / "new"),
        FileNotFoundError,
        f"{tmp_path}/new holds no queries.<split>.tsv, for example queries.dev.tsv",
    )


@pytest.mark.parametrize("name", ["sampel", "/no/such/folder", "beir:scifact"])
def test_unknown_name_lists_the_kinds(name):
    refuses(
        lambda: load_collection(name),
        FileNotFoundError,
        f"no collection {name!r}, and no folder of that name; a collection is one of: sample (the embedded "
        "collection); <folder> (a folder with passages.tsv, queries.<split>.tsv, ..., or with MS MARCO's own "
        "collection.tsv); irds:<id> (a data set of ir_datasets); wikiqa:<folder> (WikiQA as it is distributed); "
        "squad:<file>.json (a file in SQuAD's format); sentences:<folder> (sentences and the questions they answer, "
        "src-<split>.txt and tgt-<split>.txt); folds:<split>:<collection> (the rotations of a split's sessions, five "
        "folds)",
    )


# --- WikiQA -------------------------------------------------------------------------------------------------

WIKIQA = (
    HEADER
    + "Q1\thow cold is ice\tD1\tIce\tD1-0\tIce is water.\t0\r\n"
    + "Q1\thow cold is ice\tD1\tIce\tD1-1\tIt freezes at 0 °C.\t1\r\n"
    + 'Q2\twho is "it"\tD2\tIt\tD2-0\t"It" is a pronoun.\t0\r\n'
)


def test_wikiqa_rules(tmp_path):
    """Q2 has no correct sentence: no query, but its sentence stays. A split searches its own sentences."""
    (tmp_path / "WikiQA-dev.tsv").write_text(WIKIQA, newline="")
    train = HEADER + "Q7\twhat is ice\tD1\tIce\tD1-0\tIce is water.\t1\r\n"
    (tmp_path / "WikiQA-train.tsv.gz").write_bytes(gzip.compress(train.encode()))
    (tmp_path / "WikiQA.tsv").write_text("all of it, which is not read")
    collection = load_collection(f"wikiqa:{tmp_path}")
    assert collection.splits == ("dev", "train")
    assert rows(collection.queries("dev")) == [("Q1", "how cold is ice")]
    assert rows(collection.qrels("dev")) == [("Q1", "D1-0", 0), ("Q1", "D1-1", 1)]
    assert list(collection.doc_ids("dev")) == ["D1-0", "D1-1", "D2-0"]
    assert list(collection.doc_ids("train")) == ["D1-0"]
    assert collection.text(["D2-0"]) == ['"It" is a pronoun.']
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "WikiQA-dev.tsv").write_text(WIKIQA, newline="")
    assert load_collection(f"wikiqa:{alone}").passages_fingerprint("dev") == collection.passages_fingerprint(
        "dev"
    )
    assert collection.passages_fingerprint("train") != collection.passages_fingerprint("dev")


LINE = "Q1\tq\tD1\tt\tD1-0\ts\t1\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            LINE,
            ", line 1: expected the header QuestionID Question DocumentID DocumentTitle SentenceID "
            "Sentence Label, separated by tabs",
        ),
        (HEADER + "Q1\tq\tD1\tt\tD1-0\ts\n", ", line 2: expected 7 fields separated by tabs (QuestionID, Question, "
         "DocumentID, DocumentTitle, SentenceID, Sentence, Label), found 6"),
        (HEADER + LINE.replace("\t1", "\t2"), ", line 2: expected the Label 0 or 1, found '2'"),
        (
            HEADER + LINE + LINE[:-2] + {"0": "1", "1": "0"}[LINE[-2]] + "\n",
            ", lines 2 and 3: passage 'D1-0' is judged 1 and 0 for query 'Q1': keep one of the two",
        ),
        (
            HEADER + LINE + "Q2\tq\tD1\tt\tD1-0\tother\t1\n",
            ", line 3: 'D1-0' has another text than where it stood before",
        ),
        (
            HEADER + LINE + "Q1\tother\tD1\tt\tD1-1\ts\t1\n",
            ", line 3: 'Q1' has another text than where it stood before",
        ),
        (HEADER + "Q1\t\tD1\tt\tD1-0\ts\t1\n", ", line 2: the text of 'Q1' is empty"),
        (
            HEADER + "Q 1\tq\tD1\tt\tD1-0\ts\t1\n",
            ", line 2: id 'Q 1' is empty or holds white space, which TREC files cannot carry",
        ),
        (
            HEADER + LINE.replace("\t1", "\t0"),
            ": no question has a correct sentence (Label 1), so the split has no queries",
        ),
    ],
)
def test_bad_wikiqa(tmp_path, content, message):
    (tmp_path / "WikiQA-dev.tsv").write_text(content, newline="")
    refuses(lambda: load_collection(f"wikiqa:{tmp_path}"), ValueError, f"{tmp_path}/WikiQA-dev.tsv{message}")


def test_wikiqa_question_in_two_splits_or_file_twice(tmp_path):
    (tmp_path / "WikiQA-dev.tsv").write_text(HEADER + LINE)
    (tmp_path / "WikiQA-train.tsv").write_text(HEADER + LINE)
    refuses(
        lambda: load_collection(f"wikiqa:{tmp_path}"),
        ValueError,
        f"{tmp_path}/WikiQA-train.tsv, line 2: query id 'Q1' is in WikiQA-dev too",
    )
    (tmp_path / "WikiQA-dev.tsv.gz").write_bytes(gzip.compress((HEADER + LINE).encode()))
    refuses(
        lambda: load_collection(f"wikiqa:{tmp_path}"),
        ValueError,
        f"{tmp_path} holds both WikiQA-dev.tsv and WikiQA-dev.tsv.gz, WikiQA of 'dev': keep one of them",
    )


def test_missing_wikiqa(tmp_path):
    refuses(
        lambda: load_collection(f"wikiqa:{tmp_path}"),
        FileNotFoundError,
        f"{tmp_path} holds no WikiQA-<split>.tsv, for example WikiQA-dev.tsv.gz",
    )
    refuses(lambda: load_collection("wikiqa:/no/such"), FileNotFoundError, "no folder /no/such")


@pytest.mark.skipif(not (DATA / "wikiqa").is_dir(), reason="WikiQA is not here")
def test_real_wikiqa():
    collection = load_collection(f"wikiqa:{DATA / 'wikiqa'}")
    counts = {
        split: (
            len(collection.queries(split)),
            len(list(collection.doc_ids(split))),
            int(collection.qrels(split)["relevance"].sum()),
        )
        for split in collection.splits
    }
    assert counts == {"dev": (126, 2708, 140), "train": (873, 18841, 1040)}
    assert collection.query_texts(["Q11"]) == ["how big is bmc software in houston, tx"]


# --- SQuAD --------------------------------------------------------------------------------------------------


def squad(articles: int = 10) -> dict:
    """A small SQuAD file: in each article one paragraph with one question, which an answer has twice."""
    return {
        "version": "1.1",
        "data": [
            {
                "title": f"t{a}",
                "paragraphs": [
                    {
                        "context": f"Paragraph\n number {a}.",
                        "qas": [
                            {
                                "id": f"q{a}",
                                "question": f" Which number {a}? ",
                                "answers": [{"text": f"first {a}"}, {"text": "second"}],
                            }
                        ],
                    }
                ],
            }
            for a in range(articles)
        ],
    }


def test_squad_paragraph_question_first_answer(tmp_path):
    content = squad()
    content["data"][3]["paragraphs"][0]["qas"].append(
        {"id": "no", "question": "Unanswerable?", "answers": []}
    )
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content))
    collection = load_collection(f"squad:{path}")
    assert [len(collection.queries(split)) for split in collection.splits] == [8, 1, 1]
    assert collection.splits == ("train", "dev", "test")
    assert list(collection.doc_ids("dev")) == [f"A{a}-P1" for a in range(1, 11)]
    assert collection.text(["A4-P1"]) == ["Paragraph number 3."]
    assert collection.query_texts(["q3"]) == ["Which number 3?"]
    assert rows(collection.qrels_of(["q3"])) == [("q3", "A4-P1", 1)]
    assert rows(collection.answers_of(["q3"])) == [("q3", "first 3")]


def test_squad_split_is_by_article_seed_and_shares(tmp_path):
    content = squad(20)
    for article in content["data"]:
        article["paragraphs"].append({"context": "More.", "qas": [dict(article["paragraphs"][0]["qas"][0])]})
        article["paragraphs"][1]["qas"][0]["id"] += "b"
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content))

    def queries(seed: int) -> dict[str, set[str]]:
        _, splits = read_squad(path, seed, {"train": 0.5, "dev": 0.25, "test": 0.25})
        return {name: set(split.queries["query_id"]) for name, split in splits.items()}

    first = queries(0)
    assert {split: len(ids) for split, ids in first.items()} == {"train": 20, "dev": 10, "test": 10}
    for ids in first.values():  # both questions of an article are in one split
        assert {query_id.removesuffix("b") for query_id in ids if query_id.endswith("b")} == {
            query_id for query_id in ids if not query_id.endswith("b")
        }
    assert len(set.union(*first.values())) == 40
    assert queries(0) == first != queries(1)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({}, "expected positive shares of the articles that add up to 1, found {}"),
        (
            {"train": 0.9, "dev": 0.2},
            "expected positive shares of the articles that add up to 1, found {'train': 0.9, 'dev': 0.2}",
        ),
        (
            {"train": 1.0, "dev": 0.0},
            "expected positive shares of the articles that add up to 1, found {'train': 1.0, 'dev': 0.0}",
        ),
        (
            {"train": float("nan")},
            "expected positive shares of the articles that add up to 1, found {'train': nan}",
        ),
        (
            {"train": 0.99, "dev": 0.01},
            "{path}: 10 articles leave no question for the split 'dev' (share 0.01): raise its share or "
            "leave it out",
        ),
    ],
)
def test_bad_shares(tmp_path, shares, message):
    path = tmp_path / "s.json"
    path.write_text(json.dumps(squad()))
    refuses(
        lambda: read_squad(path, shares=shares),
        ValueError,
        message.replace("{path}", str(path)),
    )


def change(keys: list, value: object) -> str:
    content = squad()
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return json.dumps(content)


PARAGRAPH = ["data", 3, "paragraphs", 0]
QUESTION = [*PARAGRAPH, "qas", 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", " is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[]", ": has no 'data', as SQuAD files do (list)"),
        ('{"data": {}}', ": has no 'data', as SQuAD files do (list)"),
        (change(["data", 3], []), ": data[3] has no 'paragraphs', as SQuAD files do (list)"),
        (
            change([*PARAGRAPH, "context"], None),
            ": data[3].paragraphs[0] has no 'context', as SQuAD files do (str)",
        ),
        (change([*PARAGRAPH, "context"], " "), ": data[3].paragraphs[0]: the text of 'A4-P1' is empty"),
        (
            change([*PARAGRAPH, "context"], "\ud800"),
            ": data[3].paragraphs[0]: the text of 'A4-P1' holds a NUL or half of a surrogate pair: remove it",
        ),
        (
            change([*QUESTION, "question"], "a\0b"),
            ": data[3].paragraphs[0].qas[0]: the text of 'q3' holds a NUL or half of a surrogate pair: "
            "remove it",
        ),
        (change([*QUESTION, "question"], ""), ": data[3].paragraphs[0].qas[0]: the text of 'q3' is empty"),
        (change([*QUESTION, "id"], 3), ": data[3].paragraphs[0].qas[0] has no 'id', as SQuAD files do (str)"),
        (
            change([*QUESTION, "id"], "q 3"),
            ": data[3].paragraphs[0].qas[0]: question id 'q 3' is empty or holds white space, which TREC "
            "files cannot carry",
        ),
        (
            change([*QUESTION, "id"], "q0"),
            ": data[3].paragraphs[0].qas[0]: question id 'q0' stood before: ids must be unique",
        ),
        (
            change([*QUESTION, "answers"], ["first"]),
            ": data[3].paragraphs[0].qas[0].answers[0] has no 'text', as SQuAD files do (str)",
        ),
    ],
)
def test_bad_squad(tmp_path, content, message):
    path = tmp_path / "s.json"
    path.write_text(content)
    refuses(lambda: load_collection(f"squad:{path}"), ValueError, f"{path}{message}")


def test_deeply_nested_json(tmp_path):
    """Beside Java, too, whose own limit of the stack ends Python 3.13 with a segmentation fault."""
    java()
    path = tmp_path / "s.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"s\.json is not JSON: "):
        load_collection(f"squad:{path}")


def test_missing_squad():
    refuses(lambda: load_collection("squad:/no/such.json"), FileNotFoundError, "no file /no/such.json")


@pytest.mark.skipif(not (DATA / "xquad").is_dir(), reason="XQuAD is not here")
def test_real_xquad():
    """48 articles, 240 paragraphs, 1,190 questions; no article in two splits."""
    collection = load_collection(f"squad:{DATA / 'xquad' / 'xquad.en.json'}")
    assert len(list(collection.doc_ids())) == 240
    assert sum(len(collection.queries(split)) for split in collection.splits) == 1190
    articles = [
        set(collection.qrels(split)["doc_id"].str.partition("-")[0]) for split in ("train", "dev", "test")
    ]
    assert [len(part) for part in articles] == [38, 5, 5]
    assert len(set.union(*articles)) == 48
    assert collection.answers_of(["56beb4343aeaaa14008c925b"])["text"].tolist() == ["308"]


# --- sentences and their questions ----------------------------------------------------------------------------


def write_sentences(folder, **files):
    for name, text in files.items():
        (folder / f"{name.replace('_', '-')}.txt").write_text(text)


def test_sentences_rules(tmp_path):
    write_sentences(tmp_path, src_dev="Ice floats .\nSalt melts it .\nIce floats .\n",
                    tgt_dev="does ice float ?\nwhat melts ice ?\nwhat floats ?\n",
                    src_test="Ice floats .\n", tgt_test="why ?\n")  # fmt: skip
    collection = load_collection(f"sentences:{tmp_path}")
    assert collection.splits == ("dev", "test")
    assert dict(collection.passages("dev")) == {"dev-S1": "Ice floats .", "dev-S2": "Salt melts it ."}
    assert dict(collection.passages("test")) == {"test-S1": "Ice floats ."}
    assert collection.queries("dev")["query_id"].tolist() == ["dev-Q1", "dev-Q2", "dev-Q3"]
    assert collection.qrels("dev")["doc_id"].tolist() == ["dev-S1", "dev-S2", "dev-S1"]
    assert set(collection.qrels("dev")["relevance"]) == {1}


@pytest.mark.parametrize(
    ("files", "kind", "message"),
    [
        ({}, FileNotFoundError, "{0} holds no src-<split>.txt and tgt-<split>.txt, for example src-dev.txt"),
        ({"src_dev": "a\n"}, FileNotFoundError, "{0}/src-dev.txt has no tgt-dev.txt beside it"),
        ({"src_dev": "a\n", "tgt_dev": "b\nc\n"}, ValueError, "{0}/tgt-dev.txt has 2 lines and {0}/src-dev.txt has 1: "
         "line i of one belongs to line i of the other"),
        ({"src_dev": "a\n\n", "tgt_dev": "b\nc\n"}, ValueError, "{0}/src-dev.txt, line 2: the text of 'dev-S2' is empty"),
        ({"src_dev": "a\nb\n", "tgt_dev": "b\n \n"}, ValueError, "{0}/tgt-dev.txt, line 2: the text of 'dev-Q2' is empty"),
    ],
)  # fmt: skip
def test_bad_sentences(tmp_path, files, kind, message):
    write_sentences(tmp_path, **files)
    refuses(lambda: load_collection(f"sentences:{tmp_path}"), kind, message.format(tmp_path))


def test_missing_sentences(tmp_path):
    refuses(
        lambda: load_collection("sentences:/no/such"), FileNotFoundError, "no folder /no/such"
    )
    write_sentences(tmp_path, src_dev="a\n", tgt_dev="b\n")
    (tmp_path / "src-dev.txt.gz").write_bytes(gzip.compress(b"a\n"))
    refuses(
        lambda: load_collection(f"sentences:{tmp_path}"),
        ValueError,
        f"{tmp_path} holds both src-dev.txt and src-dev.txt.gz, src of 'dev': keep one of them",
    )


@pytest.mark.skipif(not (DATA / "squad-sentences").is_dir(), reason="the SQuAD sentences are not here")
def test_real_sentences():
    collection = load_collection(f"sentences:{DATA / 'squad-sentences'}?test=1000")
    assert len(collection.queries("dev")) == 10_570 and len(collection.queries("test")) == 1000
    assert sum(1 for _ in collection.doc_ids("dev")) == 6795
    assert sum(1 for _ in collection.doc_ids("test")) == 6652
