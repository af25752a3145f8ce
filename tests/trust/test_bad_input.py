"""One table of what a user can give that is wrong, and the sentence that each must produce; and what is unusual but
right, which must pass.

What stands in tests/test_bad_input.py, a notebook's whole way from a folder to values, is not repeated here.
"""

import gzip
import warnings

import numpy as np
import pandas as pd
import pytest
from tests.data.test_collection import FOLDER, HEADER, write

import gdmtl_lib as gdmtl
from gdmtl_lib.data import trec as runs
from gdmtl_lib.experiments import notebook
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.evaluation.measures import read_values
from gdmtl_lib.settings import TrainingSettings

RUN = pd.DataFrame({"query_id": ["q", "q"], "doc_id": ["a", "b"], "score": [2.0, 1.0]})
QRELS = pd.DataFrame({"query_id": ["q"], "doc_id": ["a"], "relevance": [1]})
VALUES = pd.DataFrame({"query_id": ["q", "r"], "measure": "RR@10", "value": [0.5, 1.0]})


class Folder:
    """The good collection folder in a temporary one, and calls that spoil something of it and use it."""

    def __init__(self, path):
        self.path = path

    def file(self, name, content):
        path = self.path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def load(self, **changes):
        return load_collection(write(self.path, **changes))

    def run(self, content, name="run.trec"):
        return runs.read_run(self.file(name, content))

    def qrels(self, content):
        return runs.read_qrels(self.file("qrels.txt", content))

    def values(self, content):
        return read_values(self.file("per_query.csv", content))

    def wikiqa(self, content):
        self.file("WikiQA-dev.tsv", content)
        return load_collection(f"wikiqa:{self.path}")

    def squad(self, content):
        return load_collection(f"squad:{self.file('s.json', content)}")


def parameter(annotation, value):
    return notebook.resolve_parameters([f"x: {annotation} = None  # a parameter"], {"x": value})


FILES = [
    # Text that is no text.
    (lambda f: f.load(passages__tsv=b"d1\tice\nd2\tcaf\xe9\n"),
     "{}/passages.tsv, line 2: not UTF-8 (byte 0xe9 at position 7): convert the file to UTF-8"),
    (lambda f: f.load(queries__dev__tsv="q3\triver\nq4\tice\n".encode("utf-16")),
     "{}/queries.dev.tsv, line 1: not UTF-8 (byte 0xff at position 1): convert the file to UTF-8"),
    (lambda f: f.load(passages__tsv=b"d1\tice\0\n"),
     "{}/passages.tsv, line 1: holds a NUL or carriage-return character: remove it"),
    (lambda f: f.load(passages__tsv="d1\tice\rd2\tking\r"),
     "{}/passages.tsv, line 1: holds a NUL or carriage-return character: remove it"),
    (lambda f: f.load(passages__tsv="d1\tblue\tice\n"),
     "{}/passages.tsv, line 1: expected 2 fields separated by a tab (doc_id, text), found 3"),
    (lambda f: f.load(passages__tsv="d1\tblue\nice\n"),
     "{}/passages.tsv, line 2: expected 2 fields separated by a tab (doc_id, text), found 1"),
    (lambda f: f.load(passages__tsv="d1\tice\n\nd2\tking\n"),
     "{}/passages.tsv, line 2: expected 2 fields separated by a tab (doc_id, text), found 1"),
    (lambda f: f.load(passages__tsv=""), "{}/passages.tsv is empty"),
    (lambda f: f.load(passages__tsv="\ufeff"),
     "{}/passages.tsv, line 1: expected 2 fields separated by a tab (doc_id, text), found 1"),
    (lambda f: f.load(passages__tsv="d1\t\u00a0\u2003\n"), "{}/passages.tsv, line 1: the text of 'd1' is empty"),
    # Ids.
    (lambda f: f.load(passages__tsv="d 1\tice\n"),
     "{}/passages.tsv, line 1: doc_id 'd 1' is empty or holds white space, which TREC files cannot carry"),
    (lambda f: f.load(queries__dev__tsv="q\u00a03\tice\n"),
     "{}/queries.dev.tsv, line 1: query_id 'q\\xa03' is empty or holds white space, which TREC files cannot carry"),
    (lambda f: f.load(passages__tsv="\tice\n"),
     "{}/passages.tsv, line 1: doc_id '' is empty or holds white space, which TREC files cannot carry"),
    # Compressed files.
    (lambda f: f.load(passages__tsv=None, passages__tsv__gz=FOLDER["passages.tsv"]),
     "{}/passages.tsv.gz is damaged or not gzip-compressed, as its name says it is: Not a gzipped file (b'd1')"),
    (lambda f: f.load(passages__tsv=None, passages__tsv__gz=gzip.compress(FOLDER["passages.tsv"].encode())[:-9]),
     "{}/passages.tsv.gz is damaged or not gzip-compressed, as its name says it is: Compressed file ended before the "
     "end-of-stream marker was reached"),
    (lambda f: f.load(passages__tsv=gzip.compress(b"d1\tice\n", mtime=0)),
     "{}/passages.tsv, line 1: not UTF-8 (byte 0x8b at position 2): name it .gz, for it is compressed"),
    (lambda f: f.load(passages__tsv__gz=gzip.compress(b"d1\tice\n")),
     "{} holds both passages.tsv and passages.tsv.gz: keep one of them"),
    # Files that do not belong together.
    (lambda f: f.load(qrels__test__tsv="q3 0 d1 1\n"),
     "{}/qrels.test.tsv has no queries.test.tsv beside it: add it, or rename the file to one of the splits dev, train"),
    (lambda f: f.load(categories__dev__tsv="q3\tentity\n"),
     "{}/categories.dev.tsv has no line for query id 'q4' (1 missing): every query needs one"),
    (lambda f: f.load(answers__train__tsv="q9\tblue\n"),
     "{}/answers.train.tsv, line 1: query id 'q9' is not in queries.train.tsv: add it there, or remove the line"),
    (lambda f: f.load(qrels__dev__tsv="q3 0 d3\n"),
     "{}/qrels.dev.tsv, line 1: expected 4 columns (query_id 0 doc_id relevance), found 3"),
    (lambda f: f.load(qrels__dev__tsv="q3 0 d3 high\n"),
     "{}/qrels.dev.tsv, line 1: expected an integer as relevance, found 'high'"),
    (lambda f: f.load(qrels__dev__tsv="query_id 0 doc_id relevance\nq3 0 d3 1\n"),
     "{}/qrels.dev.tsv, line 1: expected an integer as relevance, found 'relevance'"),
    (lambda f: f.load(candidates__dev__trec="q3 Q0 d3 1 2.5\n"),
     "{}/candidates.dev.trec, line 1: expected 6 columns (query_id Q0 doc_id rank score tag), found 5"),
    # Runs, judgments, values.
    (lambda f: f.run(""), "{}/run.trec is empty"),
    (lambda f: f.run("q Q0 a 1 nan tag\n"),
     "{}/run.trec, line 1: expected a score that is finite as float32, found nan"),
    (lambda f: f.run("q Q0 a 1 1e39 tag\n"),
     "{}/run.trec, line 1: expected a score that is finite as float32, found 1e+39"),
    (lambda f: f.run("q Q0 a 1 2,5 tag\n"), "{}/run.trec, line 1: expected a number as score, found '2,5'"),
    (lambda f: f.run("q Q0 a 1 2 t\nq Q0 b 2 1 t\nq Q0 a 3 0 t\n"),
     "{}/run.trec, line 3: passage 'a' stands a second time for query 'q'; keep one of the two"),
    (lambda f: f.run("q Q0 a 1 2 my run\n"),
     "{}/run.trec, line 1: expected 6 columns (query_id Q0 doc_id rank score tag), found 7"),
    (lambda f: f.run("q Q0 a 1 2 t\n", "run.trec.gz"),
     "{}/run.trec.gz is damaged or not gzip-compressed, as its name says it is: Not a gzipped file (b'q ')"),
    (lambda f: f.qrels("q 0 a 1.0\n"), "{}/qrels.txt, line 1: expected an integer as relevance, found '1.0'"),
    (lambda f: f.qrels("q 0 a 9999999999\n"),
     "{}/qrels.txt, line 1: expected an integer within ±1,000,000 as relevance, found 9999999999"),
    (lambda f: f.values("query,measure,value\nq,RR@10,1\n"),
     "{}/per_query.csv, line 1: expected the columns ['query_id', 'measure', 'value', 'residual'], found ['query', "
     "'measure', 'value']; measure anew"),
    (lambda f: f.values("query_id,measure,value,residual\nq,RR@10,one,\n"),
     "{}/per_query.csv, line 2: could not convert string to float: 'one'; measure anew"),
    (lambda f: f.values(""),
     "{}/per_query.csv, line 1: expected the columns ['query_id', 'measure', 'value', 'residual'], found []; measure anew"),
    (lambda f: f.values("query_id,measure,value,residual\nq,RR@10,1,\n0,q,RR@10,1,\n"),
     "{}/per_query.csv, line 3: expected 4 fields, found 5; measure anew"),
    (lambda f: f.values("query_id,measure,value,residual\nq,RR@10,1,\nr,RR@10\n"),
     "{}/per_query.csv, line 3: expected 4 fields, found 2; measure anew"),
    (lambda f: runs.read_run(f.path), "no file {}"),
    # Other formats.
    (lambda f: f.wikiqa("Q1\twhy\n"),
     "{}/WikiQA-dev.tsv, line 1: expected the header QuestionID Question DocumentID DocumentTitle SentenceID Sentence "
     "Label, separated by tabs"),
    (lambda f: f.wikiqa(HEADER + "Q1\twhy\tD1\tIce\tD1-0\tNo.\t0\n"),
     "{}/WikiQA-dev.tsv: no question has a correct sentence (Label 1), so the split has no queries"),
    (lambda f: f.squad('{"data": [{"paragraphs": [{"context": "ice", "qas": [], }]}]}'),
     "{}/s.json is not JSON: "),
    (lambda f: f.squad('{"data": []}'),
     "{}/s.json: 0 articles leave no question for the split 'train' (share 0.8): raise its share or leave it out"),
    (lambda f: load_collection(f"squad:{f.path}"), "no file {}"),
    (lambda f: load_collection("sample", seed=1),
     "seed and shares split a squad:<file>.json, and nothing else: leave them out for 'sample'"),
]  # fmt: skip
FRAMES = [
    (lambda: runs.validate_run(RUN.drop(columns="score")),
     "run: expected the columns query_id, doc_id, score, found query_id, doc_id; add score"),
    (lambda: runs.validate_run(RUN.head(0)), "run: expected at least one row, found none"),
    (lambda: runs.validate_run(RUN.assign(score=["2", "1"])),
     "run, row 0: expected a column of numbers as score, found the dtype str"),
    (lambda: runs.validate_run(RUN.assign(score=[1.0, float("inf")])),
     "run, row 1: expected a score that is finite as float32, found inf"),
    (lambda: runs.validate_run(RUN.assign(query_id=[1, 1])),
     "run, row 0: expected query_id to be a string without white space or NUL, found 1"),
    (lambda: runs.validate_run(RUN.assign(doc_id=["a", None])),
     "run, row 1: expected doc_id to be a string without white space or NUL, found nan"),
    (lambda: runs.write_run(RUN, "/nowhere/run.trec", tag="my run"),
     "tag: expected a name without white space, found 'my run'"),
    (lambda: gdmtl.evaluate(RUN, QRELS.assign(relevance=[0.5])),
     "qrels, row 0: expected an integer within ±1,000,000 as relevance, found 0.5"),
    (lambda: gdmtl.evaluate(RUN, QRELS.assign(query_id="other")),
     "run and qrels: expected queries with judgments in the run, found none (the run has query 'q', the qrels 'other'); "
     "take both from the same split"),
    (lambda: gdmtl.evaluate(RUN, QRELS, relevance_level=0),
     "relevance_level: expected an integer of at least 1, found 0"),
    (lambda: gdmtl.evaluate(RUN, QRELS, ["MRR at 10"]), "measures: expected ir-measures' notation, found 'MRR at 10' ("),
    (lambda: gdmtl.evaluate(RUN, QRELS, "RR@10"), "measures: expected a list of names such as "),
    (lambda: gdmtl.compare({"a": VALUES, "b": VALUES.head(1)}, "a"),
     "RR@10: expected a and b to be measured on the same queries, found that only a has 1 query (r); evaluate both with "
     "the same qrels"),
    (lambda: gdmtl.compare({"a": VALUES}, "b"), "baseline: expected one of a, found 'b'"),
    (lambda: gdmtl.compare({"a": VALUES, "b": VALUES.assign(value=[0.5, np.nan])}, "a"),
     "b: expected a number as RR@10, found NaN for 1 query (r)"),
]  # fmt: skip
PARAMETERS = [
    (lambda: TrainingSettings(epochs=0), "epochs must be at least 1, found 0"),
    (lambda: TrainingSettings(epochs=1.5), "epochs must be a whole number, found 1.5"),
    (lambda: TrainingSettings(learning_rate=float("nan")), "learning_rate must be a number, found nan"),
    (lambda: TrainingSettings(learning_rate="1e-4"), "learning_rate must be a number, found '1e-4'"),
    (lambda: TrainingSettings(learning_rate=-1e-4), "learning_rate must be more than 0, found -0.0001"),
    (lambda: TrainingSettings(margin=float("inf")), "margin must be a number, found inf"),
    (lambda: TrainingSettings(batch_size=True), "batch_size must be a whole number, found True"),
    (lambda: TrainingSettings(seed=-1), "seed must be 0 or more, found -1"),
    (lambda: TrainingSettings(device="gpu"), "device must be one of auto, cuda, mps, cpu, found 'gpu'"),
    (lambda: TrainingSettings(loss_weighting="0.1"),
     "loss_weighting must be 'uncertainty' or a number above 0, without quotes, found '0.1'"),
    (lambda: TrainingSettings(max_length=10**6), "max_length must be between 16 and 4096, found 1000000"),
    (lambda: gdmtl.bm25_candidates(None, "dev", depth=-1), "expected depth to be an integer of 1 or more, found -1"),
    (lambda: gdmtl.bm25_candidates(None, "dev", depth=2.0), "expected depth to be an integer of 1 or more, found 2.0"),
    (lambda: gdmtl.bm25_candidates(None, "dev", k1=float("nan")), "expected k1 to be a number of 0 or more, found nan"),
    (lambda: gdmtl.bm25_candidates(None, "dev", b=1.1), "expected b to be a number from 0 to 1, found 1.1"),
    (lambda: parameter("int", "3"), "parameter x must be int, found '3' (str)"),
    (lambda: parameter("int", True), "parameter x must be int, found True (bool)"),
    (lambda: parameter("str or None", 3), "parameter x must be str or None, found 3 (int)"),
    (lambda: parameter("list[str]", "bert"), "parameter x must be list[str], found 'bert' (str)"),
    (lambda: parameter("list[int]", [1, "2"]), "parameter x must be list[int], found [1, '2'] (list)"),
]  # fmt: skip


def test_the_table_holds_what_was_promised():
    assert len(FILES) + len(FRAMES) + len(PARAMETERS) >= 40


@pytest.mark.parametrize(("call", "message"), FILES)
def test_bad_files(tmp_path, call, message):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        call(Folder(tmp_path))
    refused(error.value, message.replace("{}", str(tmp_path)))


@pytest.mark.parametrize(("call", "message"), [*FRAMES, *PARAMETERS])
def test_bad_frames_and_parameters(call, message):
    with pytest.raises(ValueError) as error:
        call()
    refused(error.value, message)


def refused(error, message):
    """The whole sentence; only the beginning where the rest is another library's. One of our exceptions, no kin."""
    assert type(error) in (ValueError, FileNotFoundError)
    found = str(error)
    assert found.startswith(message) if message.endswith((" ", "(")) else found == message


# --- unusual, and right


TEXTS = {
    "a megabyte": "ice " * 250_000,
    "one word of a megabyte": "i" * 1_000_000,
    "right to left": "\u202eקרח כחול\u202c ice",
    "combining": "i\u0301c\u0327e\u0308\u0301\u0302 ice",
    "emoji": "ice 😀👩‍👩‍👧‍👦🏳️‍🌈",
    "controls": "ice \x01\x02\x1b[31m\x7f",
    "line separators": "ice\u2028blue\u2029ice\x85ice\x0bice\x0cice",
    "special tokens": "ice [CLS] [SEP] [PAD] [MASK] <s> </s>",
    "no letter": "!?… ice",
    "an unassigned character": "ice \U000e0fff\ufffe",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_unusual_texts_are_indexed_retrieved_and_scored(tmp_path, toy_bert_folder, name):
    """As passage and as query, from the file to the measure."""
    text = TEXTS[name]
    write(
        tmp_path, passages__tsv=f"d1\t{text}\nd2\tan old king\nd3\twater\n", queries__dev__tsv=f"q3\t{text}\nq4\tice\n",
        qrels__dev__tsv="q3 0 d1 1\nq4 0 d1 1\n",
    )  # fmt: skip
    collection = load_collection(tmp_path)
    assert collection.text(["d1"]) == collection.query_texts(["q3"]) == [text]
    model = gdmtl.build_model("bert", checkpoint=toy_bert_folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a query that is cut, or finds nothing
        candidates = gdmtl.bm25_candidates(collection, "dev", depth=3, index_dir=tmp_path / "indexes")
        run = gdmtl.rerank(model, collection, candidates, progress=False)
    assert np.isfinite(run["score"]).all()
    if name != "one word of a megabyte":  # which "ice" is not
        values = gdmtl.evaluate(run, collection.qrels("dev"), ["RR@10"])
        assert values.set_index("query_id")["value"]["q4"] == 1.0


def test_windows_line_ends_a_byte_order_mark_and_no_last_line_end(tmp_path):
    expected = load_collection(write(tmp_path)).fingerprint()
    for name, text in FOLDER.items():
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.rstrip("\n").replace("\n", "\r\n").encode())
    assert load_collection(tmp_path).fingerprint() == expected
