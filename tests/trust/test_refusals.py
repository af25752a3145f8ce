"""One table of what a user can give that is wrong, and the sentence that each must produce; and what is unusual but
right, which must pass. After a refusal nothing half-written is left behind.
"""

import gzip
import warnings

import ir_measures
import numpy as np
import pandas as pd
import pytest
import torch
from tests.data.conftest import FOLDER, HEADER, write
from tests.inference.conftest import candidates_of, collection_of

import gdmtl_lib as gdmtl
from gdmtl_lib.data import trec as runs
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.data.passage_file import PassageFile
from gdmtl_lib.evaluation.measures import read_values, write_values
from gdmtl_lib.experiments import notebook
from gdmtl_lib.experiments.results import Results
from gdmtl_lib.inference import likelihood
from gdmtl_lib.inside import attention
from gdmtl_lib.inputs import as_texts
from gdmtl_lib.inside.attribution import integrated_gradients
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


ABOVE = "# ir_metadata.start\n# tag: d9\n\n# ir_metadata.end\n"  # four lines, one of them empty


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
     "{}/passages.tsv, line 1: expected 2 fields separated by tabs (doc_id, text), found 3"),
    (lambda f: f.load(passages__tsv="d1\tblue\nice\n"),
     "{}/passages.tsv, line 2: expected 2 fields separated by tabs (doc_id, text), found 1"),
    (lambda f: f.load(passages__tsv="d1\tice\n\nd2\tking\n"),
     "{}/passages.tsv, line 2: expected 2 fields separated by tabs (doc_id, text), found 1"),
    (lambda f: f.load(passages__tsv=""), "{}/passages.tsv is empty"),
    (lambda f: f.load(passages__tsv="\ufeff"),
     "{}/passages.tsv, line 1: expected 2 fields separated by tabs (doc_id, text), found 1"),
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
     "{}/passages.tsv: it is compressed, and expected was text, or a file named .gz: name it .gz"),
    (lambda f: f.run(b"PK\x03\x04", "run.zip"),
     "{}/run.zip: it is compressed, and expected was text, or a file named .gz: unpack it"),
    (lambda f: f.qrels(b"(\xb5/\xfd\x04"),
     "{}/qrels.txt: it is compressed, and expected was text, or a file named .gz: unpack it"),
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
     "{}/qrels.dev.tsv, line 1: expected values, found a row of names (query_id 0 doc_id relevance): remove it"),
    (lambda f: f.load(queries__dev__tsv='"qid"\t"query_text"\nq3\tice\n'),
     '{}/queries.dev.tsv, line 1: expected values, found a row of names ("qid" "query_text"): remove it'),
    (lambda f: f.load(passages__tsv="#docno\tbody\nd1\tice\n"),
     "{}/passages.tsv, line 1: expected values, found a row of names (#docno body): remove it"),
    (lambda f: f.run("qid iter docno rank sim run_id\nq Q0 a 1 2 t\n"),
     "{}/run.trec, line 1: expected values, found a row of names (qid iter docno rank sim run_id): remove it"),
    (lambda f: f.load(candidates__dev__trec="q3 d9 1\n"),
     "{}/candidates.dev.trec, line 1: doc_id 'd9' is not in passages.tsv: add it there, or remove the line"),
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
     "{}/run.trec, line 1: expected 6 columns (query_id Q0 doc_id rank score tag), found 7; is there a space in an id or in the tag?"),
    (lambda f: f.run("q a 0\n"), "{}/run.trec, line 1: expected a rank from 1 to 16,777,216, found 0"),
    (lambda f: f.run("q a 9\nr a 7\nq b 9\n"),
     "{}/run.trec, line 3: rank 9 stands a second time for query 'q': scores need TREC's six columns"),
    # Below a header.
    (lambda f: f.run(ABOVE + "q Q0 a 1 2 t\nq Q0 b 2 inf t\n"),
     "{}/run.trec, line 6: expected a score that is finite as float32, found inf"),
    (lambda f: f.run(ABOVE + "q Q0 a 1 2 t\nq Q0 b 2 1 t\nq Q0 a 3 0 t\n"),
     "{}/run.trec, line 7: passage 'a' stands a second time for query 'q'; keep one of the two"),
    (lambda f: f.run(ABOVE + "q a 1\nq b 1\n"),
     "{}/run.trec, line 6: rank 1 stands a second time for query 'q': scores need TREC's six columns"),
    (lambda f: f.run(ABOVE + "qid iter docno rank sim run_id\n"),
     "{}/run.trec, line 5: expected values, found a row of names (qid iter docno rank sim run_id): remove it"),
    (lambda f: f.qrels(ABOVE + "q 0 a 1\nq 0 a 0\n"),
     "{}/qrels.txt, lines 5 and 6: passage 'a' is judged 1 and 0 for query 'q': keep one of the two"),
    (lambda f: f.qrels(ABOVE + "q 0 a 9999999999\n"),
     "{}/qrels.txt, line 5: expected an integer within ±1,000,000 as relevance, found 9999999999"),
    (lambda f: f.qrels(ABOVE), "{}/qrels.txt has no rows below its header"),
    (lambda f: f.load(candidates__dev__trec=ABOVE + "q3 Q0 d9 1 1 t\n"),
     "{}/candidates.dev.trec, line 5: doc_id 'd9' is not in passages.tsv: add it there, or remove the line"),
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
    (lambda f: f.values(""), "{}/per_query.csv is empty"),
    (lambda f: f.values("query_id,measure,value,residual\nq\0,RR@10,1,\n"),
     "{}/per_query.csv, line 2: holds a NUL or carriage-return character: remove it"),
    (lambda f: f.values("query_id,measure,value,residual\nq,RR@10,1,\n".encode("utf-16")),
     "{}/per_query.csv, line 1: not UTF-8 (byte 0xff at position 1): convert the file to UTF-8"),
    (lambda f: f.values("query_id,measure,value,residual\nq,RR@10,1_0,\n"),
     "{}/per_query.csv, line 2: expected a number, found '1_0'; measure anew"),
    (lambda f: read_values(f.path), "no file {}"),
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
    (lambda f: f.squad('{"data": ' + "9" * 5000 + "}"), "{}/s.json is not JSON: "),
    (lambda f: f.squad('{"data": []}'),
     "{}/s.json: 0 articles leave no question for the split 'train' (share 0.8): raise its share or leave it out"),
    (lambda f: load_collection(f"squad:{f.path}"), "no file {}"),
]  # fmt: skip
FRAMES = [
    (lambda: runs.validate_run(RUN.drop(columns="score")),
     "run: expected the columns query_id, doc_id, score, found query_id, doc_id; add score"),
    (lambda: runs.validate_run(RUN.head(0)), "run: expected at least one row, found none"),
    (lambda: gdmtl.evaluate({"q": {"a": 1.0}}, QRELS),
     "run: expected a frame with the columns query_id, doc_id, score, each once, found a dict of q"),
    (lambda: gdmtl.evaluate({"train": RUN, "dev": RUN}, QRELS),
     "run: expected a frame with the columns query_id, doc_id, score, each once, found a dict of train, dev"),
    (lambda: gdmtl.evaluate(RUN, pd.concat([QRELS, QRELS["relevance"]], axis=1)),
     "qrels: expected a frame with the columns query_id, doc_id, relevance, each once, found ['query_id', 'doc_id', "
     "'relevance', 'relevance']"),
    (lambda: runs.validate_run(RUN.assign(score=["2", "1"])),
     "run, row 1: expected a column of numbers as score, found the dtype str"),
    (lambda: runs.validate_run(RUN.assign(score=[1.0, float("inf")])),
     "run, row 2: expected a score that is finite as float32, found inf"),
    (lambda: runs.validate_run(RUN.assign(query_id=[1, 1])),
     "run, row 1: expected query_id to be a string without white space or NUL, found 1"),
    (lambda: runs.validate_run(RUN.assign(doc_id=["a", None])),
     "run, row 2: expected doc_id to be a string without white space or NUL, found nan"),
    (lambda: runs.write_run(RUN, "/nowhere/run.trec", tag="my run"),
     "tag: expected a name without white space, found 'my run'"),
    (lambda: gdmtl.evaluate(RUN, QRELS.assign(relevance=[0.5])),
     "qrels, row 1: expected an integer within ±1,000,000 as relevance, found 0.5"),
    (lambda: gdmtl.evaluate(RUN, QRELS.assign(query_id="other")),
     "run and qrels: expected queries with judgments in the run, found none (the run has query 'q', the qrels 'other'); "
     "take both from the same split"),
    (lambda: gdmtl.evaluate(RUN, QRELS, relevance_level=0),
     "relevance_level must be at least 1, found 0"),
    (lambda: gdmtl.evaluate(RUN, QRELS, relevance_level=True),
     "relevance_level must be a whole number, found True"),
    *[(lambda name=name: gdmtl.evaluate(RUN, QRELS, [name]),
       f"measures: expected a cutoff and a rel that are integers of at least 1, found {name!r}")
      for name in ("P@0", "RR@0", "nDCG@1.5", "RR(rel=0)", "SetP(rel=0)", "RR(rel='x')@10")],
    (lambda: gdmtl.evaluate(RUN, QRELS, ["RBP(p='x')"]), "measures: expected 0 < p < 1 in RBP, found \"RBP(p='x')\""),
    (lambda: gdmtl.evaluate(RUN, QRELS.assign(relevance=5), ["AP", "ERR@5"]), "measures: ERR@5 cannot be computed here ("),
    (lambda: gdmtl.evaluate(RUN, QRELS, ["MRR at 10"]), "measures: expected ir-measures' notation, found 'MRR at 10' ("),
    (lambda: gdmtl.evaluate(RUN, QRELS, ["Success"]),
     "measures: expected ir-measures' notation, found 'Success' (it needs cutoff)"),
    (lambda: gdmtl.evaluate(RUN, QRELS, "RR@10"), "measures: expected a list of names such as "),
    (lambda: gdmtl.compare({"a": VALUES, "b": VALUES.head(1)}, "a"),
     "RR@10: expected a and b to be measured on the same queries, found that only a has 1 query (r); evaluate both with "
     "the same qrels"),
    (lambda: gdmtl.compare({"a": VALUES}, "b"), "baseline: expected one of a, found 'b'"),
    (lambda: gdmtl.compare({"a": VALUES, "b": VALUES.assign(value=[0.5, np.nan])}, "a"),
     "b: expected a number as RR@10, found NaN for 1 query (r)"),
    (lambda: gdmtl.compare({"a": VALUES, "b": VALUES.assign(value=[0.5, np.inf])}, "a"),
     "b: expected a number as RR@10, found inf for 1 query (r)"),
    (lambda: gdmtl.compare({"a": VALUES, "b": VALUES.assign(value=["0.5", "high"])}, "a"),
     "b: expected a number as RR@10, found 'high' for 1 query (r)"),
    (lambda: gdmtl.compare({"a": VALUES}, "a", ["RR@10", "RR@10"]),
     "measures: expected a list of names, each once, found ['RR@10', 'RR@10']"),
    (lambda: gdmtl.compare({"a": "a.csv"}, "a"), "a: expected a frame with the columns query_id, measure, "
     "value, each once, found 'a.csv'"),
    (lambda: gdmtl.compare([VALUES, VALUES], "a"), "values_by_system: expected a dict of names to values, found a list"),
    (lambda: gdmtl.comparison.compare_pairs({"a": VALUES}, ["RR@10"]), "expected two systems or more, found a"),
    (lambda: gdmtl.comparison.by_category({"a": VALUES}, VALUES[["measure"]], "a"),
     "categories: expected query_id, category, found measure"),
    (lambda: gdmtl.comparison.win_tie_loss(VALUES, VALUES, "RR@10", np.inf),
     "tolerance: expected a share of at least 0, found inf"),
    (lambda: gdmtl.comparison.rank_shifts(RUN, RUN, QRELS, depth=1.5), "depth must be a whole number, found 1.5"),
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
    (lambda: TrainingSettings(seed=2**63), "seed must be below 2**63, found 9223372036854775808"),
    (lambda: TrainingSettings(device="gpu"), "device must be one of auto, cuda, mps, cpu, found 'gpu'"),
    (lambda: TrainingSettings(loss_weighting="0.1"),
     "loss_weighting must be 'uncertainty', 'generation' or a number above 0, without quotes, found '0.1'"),
    (lambda: TrainingSettings(max_length=10**6), "max_length must be between 16 and 4096, found 1000000"),
    (lambda: gdmtl.bm25_candidates(None, "dev", depth=-1), "depth must be at least 1, found -1"),
    (lambda: gdmtl.bm25_candidates(None, "dev", depth=2.0), "depth must be a whole number, found 2.0"),
    (lambda: gdmtl.bm25_candidates(None, "dev", k1=float("nan")), "expected k1 to be a number of 0 or more, found nan"),
    (lambda: gdmtl.bm25_candidates(None, "dev", k1="0.9"), "expected k1 to be a number of 0 or more, found '0.9'"),
    (lambda: gdmtl.bm25_candidates(None, "dev", b=True), "expected b to be a number from 0 to 1, found True"),
    (lambda: gdmtl.bm25_candidates(None, "dev", b=1.1), "expected b to be a number from 0 to 1, found 1.1"),
    (lambda: load_collection(None), "collection: expected a path, found None"),
    (lambda: load_collection(RUN), "collection: expected a path, found a frame with query_id, doc_id, score"),
    (lambda: load_collection({"dev": RUN}), "collection: expected a path, found a dict of dev"),
    (lambda: gdmtl.open_runs({"a": RUN}, QRELS, measures=["RR at 10"]), "measures: expected ir-measures' notation, found 'RR at 10' ("),
    (lambda: gdmtl.open_runs({"a": RUN}, QRELS, measures="RR@10"), "measures: expected a list of names such as "),
    (lambda: as_texts(pd.DataFrame({"id": ["1"], "text": ["ice"]}), "passages"),
     "expected texts as passages, found a frame: give one of its columns, id, text"),
    (lambda: gdmtl.plots.effectiveness(gdmtl.compare({"a": VALUES}, "a"), "b"),
     "effectiveness cannot draw this (table: a frame with measure, system, mean, difference, low, high, p, p_corrected, mark; "
     "baseline: 'b'): 'b'; help() says what it takes"),
    (lambda: gdmtl.plots.win_tie_loss(VALUES, "RR@10"), "win_tie_loss cannot draw this ("),
    (lambda: gdmtl.plots.rank_shifts({"a": RUN}, "b"), "rank_shifts cannot draw this ("),
    (lambda: gdmtl.plots.query_deltas("b", {"a": VALUES}, "RR@10"), "query_deltas cannot draw this (deltas: 'b'; baseline: a dict of a; measure: 'RR@10'): unhashable type: 'dict'; help() says what it takes"),
    (lambda: gdmtl.plots.differences(VALUES, "a", ["RR@10"]), "differences cannot draw this ("),
    *[(lambda loss=loss: gdmtl.losses.add_rank_loss("mine", loss), f"loss 'mine': expected one that is called with scores, float "
       f"[n, 1 + negatives], and \"sum\", and returns their scalar{found}")
      for loss, found in (
          (lambda scores, reduction: scores.relu(), ", with a gradient; it returns a tensor [2, 3]"),
          (lambda scores: scores.sum(), ", but it raises TypeError("),
          (lambda scores, reduction: 1.0, ", with a gradient; it returns 1.0"),
          (lambda scores, reduction: scores.detach().sum(), ", with a gradient; it returns a tensor []"),
          (None, ", but it raises TypeError("),
      )],
    (lambda: gdmtl.losses.add_rank_loss("listwise", lambda scores, reduction: scores.sum()),
     "there is a ranking loss 'listwise' already: choose another name"),
    (lambda: load_collection(b"sample"), "collection: expected a path, found b'sample'"),
    (lambda: load_collection("sample").queries(["dev"]), "collection 'sample' has no split ['dev']: its splits are cast, dev, train"),
    (lambda: load_collection("squad:"), "collection 'squad:': expected a path, found ''"),
    (lambda: gdmtl.evaluate("q Q0 a 1 2 t\n" * 50, QRELS), "path: expected a path, found 'q Q0 a 1 2 t\\nq Q0 "),
    (lambda: runs.read_run(3), "path: expected a path, found 3"),
    (lambda: runs.write_run(RUN, None), "path: expected a path, found None"),
    (lambda: gdmtl.load_model(None), "folder: expected a path, found None"),
    (lambda: gdmtl.load_model(3), "folder: expected a path, found 3"),
    (lambda: gdmtl.build_model("bert", checkpoint=3), "checkpoint: expected a path, found 3"),
    (lambda: gdmtl.open_runs({"a": RUN}, QRELS, folder=3), "folder: expected a path, found 3"),
    (lambda: Results(None), "results: expected a path, found None"),
    (lambda: gdmtl.train("gdmtl", "sample", RUN, TrainingSettings(), "out"),
     "model: expected what build_model returns, found 'gdmtl'"),
    (lambda: parameter("int", "3"), "parameter x must be int, found '3' (str)"),
    (lambda: parameter("int", True), "parameter x must be int, found True (bool)"),
    (lambda: parameter("str or None", 3),
     "parameter x must be str or None, found 3 (int); to papermill, a text that looks like a number is -r x 3"),
    (lambda: parameter("list[str]", "bert"), "parameter x must be list[str], found 'bert' (str)"),
    (lambda: parameter("list[int]", [1, "2"]), "parameter x must be list[int], found [1, '2'] (list)"),
]  # fmt: skip


class Models:
    """A toy of each system, a collection and candidates, for calls that a model refuses."""

    texts = ["blue glacier ice", "an old king of the north"]

    def __init__(self, toy_bert_folder):
        self.folder = toy_bert_folder

    def __call__(self, system):
        return gdmtl.build_model(system, checkpoint=self.folder)

    def generate(self, system="gdmtl", queries=None, **settings):
        return gdmtl.generate(self(system), self.texts, queries, **settings)

    def rerank(self, system="gdmtl", candidates=None, **options):
        candidates = candidates_of(collection_of()) if candidates is None else candidates
        how = {"output": "out/run.trec", "progress": False, "device": "cpu"} | options
        return gdmtl.rerank(self(system), collection_of(), candidates, **how)

    def sequence(self, system, task, mask=None):
        return attention.build_sequence(self(system), task, *self.texts, mask=mask)


CANDIDATES = candidates_of(collection_of())
MODELS = [
    # Re-ranking.
    (lambda m: m.rerank(candidates=CANDIDATES.head(0)), "run: expected at least one row, found none"),
    (lambda m: m.rerank(candidates=CANDIDATES.drop(columns="doc_id")),
     "run: expected the columns query_id, doc_id, score, found query_id, score; add doc_id"),
    (lambda m: m.rerank(candidates=pd.concat([CANDIDATES.head(3), CANDIDATES.head(1)])),
     f"run, row 4: passage '{CANDIDATES['doc_id'][0]}' stands a second time for query 'q0'; keep one of the two"),
    (lambda m: m.rerank(candidates=CANDIDATES.head(2).assign(doc_id=["d0", "d99"])),
     "collection 'toy' has no passage 'd99'"),
    (lambda m: m.rerank(candidates=CANDIDATES.head(2).assign(query_id=["q0", "q99"])),
     "collection 'toy' has no query 'q99' (1 unknown) in its splits dev"),
    (lambda m: m.rerank(precision="fp8"), "precision must be one of auto, fp32, bf16, fp16, found 'fp8'"),
    (lambda m: m.rerank(device="tpu"), "device 'tpu' is not available here: use one of auto, "),
    (lambda m: m.rerank(processes=0), "processes must be at least 1, found 0"),
    (lambda m: m.rerank(processes="2"), "processes must be a whole number, found '2'"),
    (lambda m: m.rerank(batch_tokens=0), "batch_tokens must be at least 1, found 0"),
    (lambda m: m.rerank(batch_tokens=1.5), "batch_tokens must be a whole number, found 1.5"),
    (lambda m: m.rerank(score="interpolated", weight=float("nan")), "weight must be a number, found nan"),
    (lambda m: m.rerank(output=3), "output: expected a path, found 3"),
    (lambda m: gdmtl.rerank(None, collection_of(), CANDIDATES), "folder: expected a path, found None"),
    *[(lambda m, call=call: call(torch.nn.Linear(2, 2), m),
       "model: expected what build_model returns, found Linear(in_features=2, ")
      for call in (
          lambda model, m: gdmtl.rerank(model, collection_of(), CANDIDATES),
          lambda model, m: gdmtl.generate(model, m.texts),
          lambda model, m: likelihood.query_likelihood(model, collection_of(), CANDIDATES),
          lambda model, m: gdmtl.train(model, collection_of(), CANDIDATES, SETTINGS, "out"),
      )],
    *[(lambda m, cast=cast: gdmtl.rerank_texts(getattr(m("gdmtl"), cast)(), "ice", m.texts),
       f"model: expected weights in torch.float32, found torch.{found}: call .float(), and use precision= instead")
      for cast, found in (("half", "float16"), ("bfloat16", "bfloat16"), ("double", "float64"))],
    (lambda m: m("bert").save_pretrained(None), "save_directory: expected a path, found None"),
    *[(lambda m, into=into: gdmtl.train(m("bert"), collection_of(), CANDIDATES, SETTINGS, into),
       f"output_dir: expected a path, found {into!r}") for into in (None, 3, "")],
    (lambda m: m.rerank(output="."), "output: expected a file to write the run to, found the folder '.'"),
    (lambda m: m.rerank(candidates={"q0": ["d0"]}),
     "run: expected a frame with the columns query_id, doc_id, score, each once, found a dict of q0"),
    (lambda m: gdmtl.rerank_texts(m("bert"), "ice", ["blue", "a \ud800 b"]),
     "the text ' a \\ud800 b' holds half of a surrogate pair: remove it"),
    (lambda m: m.rerank(processes=2, score="likelihood"),
     "several processes share the score 'rank' alone, but score is 'likelihood': leave processes out"),
    (lambda m: m.rerank(score="both"), "unknown score 'both': expected one of rank, likelihood, interpolated"),
    (lambda m: m.rerank(score="joint", weight=1.0),
     "unknown score 'joint': expected one of rank, likelihood, interpolated; 'joint' is now called 'interpolated'"),
    (lambda m: m.rerank(score="interpolated"),
     "score 'interpolated' needs a weight for the likelihood: choose it on a validation split with choose_weight"),
    (lambda m: m.rerank(weight=1.0), "weight belongs to score 'interpolated', but score is 'rank': leave weight out"),
    (lambda m: m.rerank(states="states"), "states are those of the likelihood, but score is 'rank': leave states out"),
    (lambda m: m.rerank("bert", score="likelihood"),
     "bert does not learn query_generation, as these do: gdmtl, gdmtl_plus, gdmtl_s, gdmtl_c"),
    (lambda m: likelihood.query_likelihood(m("gdmtl"), collection_of(), CANDIDATES, "max"),
     "unknown reduction 'max': expected one of sum, mean"),
    (lambda m: likelihood.query_likelihood("nowhere", "sample", CANDIDATES),
     "no checkpoint folder nowhere: train one first, or give the folder that holds it"),
    (lambda m: likelihood.query_likelihood(m("gdmtl"), collection_of(), CANDIDATES, batch_tokens=-5),
     "batch_tokens must be at least 1, found -5"),
    (lambda m: m.rerank(score="likelihood", states=5), "states: expected a path, found 5"),
    (lambda m: likelihood.perplexity(m("gdmtl"), m.texts, ["ice"]),
     "expected one query a passage: found 2 passages and 1 queries"),
    (lambda m: likelihood.choose_weight(RUN, RUN, QRELS, weights=()), "weights: expected one or more to choose from, found none"),
    (lambda m: likelihood.cascade_run(RUN, RUN, 2.5), "depth must be a whole number, found 2.5"),
    (lambda m: gdmtl.rerank_texts(m("bert"), ["ice", "water"], "blue ice"),
     "expected a text as query, found ['ice', 'water']: give one query and its passages"),
    (lambda m: gdmtl.rank(m("bert"), "ice", ["blue ice", None]),
     "expected a text as passage, found None: give a text, or a list of texts"),
    # Generation.
    (lambda m: gdmtl.generate(m("gdmtl"), ["ice", 3]), "expected a text as passage, found 3: give a text, or a list of texts"),
    (lambda m: m.generate("bert"),
     "bert does not learn query_generation, as these do: gdmtl, gdmtl_plus, gdmtl_s, gdmtl_c"),
    (lambda m: m.generate(queries=m.texts), "gdmtl does not learn answer_generation, as these do: gdmtl_plus"),
    (lambda m: m.generate("gdmtl_plus", ["one"]), "expected one query a passage: found 2 passages and 1 queries"),
    (lambda m: m.generate(max_tokens=0), "max_tokens must be at least 1, found 0"),
    (lambda m: m.generate(batch_size=0), "batch_size must be at least 1, found 0"),
    (lambda m: m.generate(batch_size="2"), "batch_size must be a whole number, found '2'"),
    (lambda m: m.generate(max_tokens=None), "max_tokens must be a whole number, found None"),
    (lambda m: m.generate(max_tokens=1.5), "max_tokens must be a whole number, found 1.5"),
    (lambda m: m.generate(method="sample", seed="a"), "seed must be a whole number, found 'a'"),
    (lambda m: m.generate(method="sample", top_p="high"), "top_p must be above 0 and at most 1, found 'high'"),
    (lambda m: m.generate(task="rank"), "unknown task 'rank': expected one of query_generation, answer_generation"),
    (lambda m: m.generate("gdmtl_plus", task="answer_generation"),
     "task 'answer_generation' needs `queries`, one a passage"),
    (lambda m: m.generate("gdmtl_plus", m.texts, task="query_generation"),
     "task 'query_generation' takes no queries: leave them out, or ask for 'answer_generation'"),
    (lambda m: m.generate(method="best"), "unknown method 'best': expected one of greedy, beam, sample"),
    (lambda m: m.generate(beams=2), "beams belongs to method 'beam', but method is 'greedy': leave beams out"),
    (lambda m: m.generate(n=2), "n belongs to method 'beam' or 'sample', but method is 'greedy': leave n out"),
    (lambda m: m.generate(method="beam", beams=0), "beams must be at least 1, found 0"),
    (lambda m: m.generate(method="beam", beams=2, n=3), "n must be at most beams, found n 3 and beams 2: raise beams"),
    (lambda m: m.generate(method="sample", top_k=2.5), "top_k must be a whole number, found 2.5"),
    (lambda m: m.generate(method="sample", top_p=0), "top_p must be above 0 and at most 1, found 0"),
    (lambda m: m.generate(method="sample", temperature=0),
     "temperature must be above 0, found 0; for none use method 'greedy'"),
    # Looking inside.
    (lambda m: m.sequence("bert", "query_generation"), "bert does not learn 'query_generation': it learns rank"),
    (lambda m: m.sequence("gdmtl", "rank", "full"),
     "unknown mask 'full': expected one of mixed, bidirectional, causal, mlm"),
    (lambda m: m.sequence("gdmtl", "rank", "mlm"),
     "mask 'mlm' hides the target of a generative task, and ranking has none: use another mask"),
    (lambda m: m.sequence("gdmtl_s", "rank", "mixed"),
     "gdmtl_s is an encoder-decoder, whose masks are fixed: leave mask out"),
    (lambda m: attention.expand(m.sequence("gdmtl", "rank")),
     "expected a generative sequence under the mixed mask, found 'rank' with 0 targets: "),
    (lambda m: attention.expand(m.sequence("gdmtl", "query_generation", "mlm")),
     "expected a generative sequence under the mixed mask, found 'query_generation' with "),
    (lambda m: attention.expand(m.sequence("gdmtl_s", "query_generation")),
     "expected a generative sequence under the mixed mask, found 'query_generation' with "),
    (lambda m: attention.likeliest_tokens(m("gdmtl"), m.sequence("gdmtl", "rank")),
     "expected a sequence that predicts tokens, found one of 'rank', which predicts none"),
    (lambda m: attention.query_attention(m("gdmtl_s"), [m.texts]),
     "gdmtl_s is an encoder-decoder, whose query tokens do not attend to a passage beside them"),
    (lambda m: attention.query_attention(m("gdmtl"), [("ice", "what"), ("water", " ")]),
     "expected a query with tokens, found ' ' beside 'water': leave the pair out"),
    (lambda m: attention.query_attention(m("gdmtl"), []), "expected pairs of a passage and a query, found none"),
    (lambda m: integrated_gradients(m("gdmtl"), *m.texts, steps=1), "steps must be a whole number of at least 2, found 1"),
    (lambda m: integrated_gradients(m("gdmtl"), *m.texts, steps=2.5), "steps must be a whole number of at least 2, found 2.5"),
    (lambda m: integrated_gradients(m("gdmtl"), *m.texts, batch_size=0), "batch_size must be at least 1, found 0"),
    (lambda m: integrated_gradients(m("gdmtl"), *m.texts, reference="zero"),
     "unknown reference 'zero': expected one of all [MASK], all [PAD], all unknown, random words"),
    (lambda m: integrated_gradients(m("gdmtl_s"), *m.texts),
     "gdmtl_s is an encoder-decoder: expected an encoder system such as gdmtl"),
]  # fmt: skip

# What a user meets who calls what notebook 03 calls.
SMALL = {
    "passages.tsv": "d1\tblue glacier ice\nd2\tan old king\nd3\twater of the river\n",
    "queries.train.tsv": "q1\twhy is ice blue\nq2\twho was king\n",
    "qrels.train.tsv": "q1 0 d1 1\nq2 0 d2 1\n",
    "queries.dev.tsv": "q3\triver water\nq4\tice\n",
    "qrels.dev.tsv": "q3 0 d3 1\n",
}
SETTINGS = gdmtl.TrainingSettings(
    epochs=1, batch_size=2, learning_rate=1e-3, max_length=32, target_length=8, precision="fp32", device="cpu"
)
CHANGED_FILES = [
    ({"passages.tsv": None}, "{folder} holds no passages.tsv (or passages.tsv.gz)"),
    ({"queries.train.tsv": None, "queries.dev.tsv": None, "qrels.train.tsv": None, "qrels.dev.tsv": None},
     "{folder} holds no queries.<split>.tsv, for example queries.dev.tsv"),
    ({"queries.dev.tsv": None, "qrels.dev.tsv": None},
     "collection '{folder}' has no split 'dev': its splits are train"),
    ({"qrels.train.tsv": None}, "no query to train on: none of the candidates' queries has a passage judged "
     "relevant; are these the candidates of the training split?"),
    ({"passages.tsv": "d1\tblue glacier ice\nd2 an old king\n"},
     "{folder}/passages.tsv, line 2: expected 2 fields separated by tabs (doc_id, text), found 1"),
    ({"qrels.train.tsv": "q1 0 d1 1\nq2 0 d9 1\n"},
     "{folder}/qrels.train.tsv, line 2: doc_id 'd9' is not in passages.tsv: add it there, or remove the line"),
    ({"qrels.train.tsv": "q1 0 d1 1\nq9 0 d2 1\n"},
     "{folder}/qrels.train.tsv, line 2: query id 'q9' is not in queries.train.tsv: add it there, or remove the "
     "line"),
    ({"qrels.train.tsv": "q1 0 d1 1\nq1 0 d1 0\n"},
     "{folder}/qrels.train.tsv, lines 1 and 2: passage 'd1' is judged 1 and 0 for query 'q1': keep one of the two"),
    ({"passages.tsv": "d1\tblue ice\nd2\tan old king\nd3\twater\nd1\tice\n"},
     "{folder}/passages.tsv, line 4: doc_id 'd1' stood before: ids must be unique"),
    ({"queries.train.tsv": "q1\twhy is ice blue\nq2\twho was king\nq1\tice\n"},
     "{folder}/queries.train.tsv, line 3: query_id 'q1' stood before: ids must be unique"),
    ({"queries.train.tsv": "q1\twhy is ice blue\nq2\twho was king\nq3\tice\n"},
     "{folder}/queries.train.tsv, line 3: query id 'q3' is in queries.dev.tsv too: a query id belongs to one "
     "split"),
    ({"passages.tsv": "d1\tblue glacier ice\nd2\t \nd3\twater\n"},
     "{folder}/passages.tsv, line 2: the text of 'd2' is empty"),
    ({"queries.dev.tsv": "q3\t\nq4\tice\n"}, "{folder}/queries.dev.tsv, line 1: the text of 'q3' is empty"),
    ({"queries.dev.tsv": "q3\tzebra\nq4\tlion\n"},
     "BM25 finds no passage for 2 of 2 queries of 'dev' in '{folder}': are queries and passages in one language, "
     "and in one script?"),
    # Nothing is wrong but that BM25 finds one passage for each query, the relevant one.
    ({}, "query 'q1' has no candidate that is less relevant than 'd1': retrieve deeper, or leave the query out of "
     "the candidates"),
]  # fmt: skip
CHOICES = [
    ({"system": "gdmlt"},
     "unknown system 'gdmlt' (did you mean 'gdmtl'?): expected one of bm25, mono, bert, gdmtl, gdmtl_plus, bart_s, gdmtl_s, bart_c, gdmtl_c"),
    ({"system": "bm25"},
     "bm25 is the first stage and has no model: use bm25_candidates, or one of mono, bert, gdmtl, gdmtl_plus, "
     "bart_s, gdmtl_s, bart_c, gdmtl_c"),
    ({"system": "gdmtl_plus"}, "collection '{folder}' has none for the training queries"),
    ({"train": "training"}, "collection '{folder}' has no split 'training': its splits are dev, train"),
    ({"checkpoint": "{folder}"}, "{folder} is not a checkpoint folder: no config.json"),
    ({"checkpoint": "{folder}/passages.tsv"}, "{folder}/passages.tsv is a file: give the checkpoint folder"),
    ({"checkpoint": "{folder}/nothing"}, "checkpoint folder {folder}/nothing does not exist"),
    ({"model_folder": "{folder}"},
     "{folder} is not a checkpoint folder: it has no config.json and no model.safetensors"),
]  # fmt: skip


def workflow(folder, checkpoint, output, system="gdmtl", train="train", validation="dev", model_folder=None):
    if model_folder is not None:
        return gdmtl.load_model(model_folder)
    collection = gdmtl.load_collection(folder)
    candidates = {
        split: gdmtl.bm25_candidates(collection, split, depth=3, index_dir=output / "indexes")
        for split in (train, validation)
    }
    model = gdmtl.build_model(system, checkpoint=checkpoint)
    gdmtl.train(model, collection, candidates[train], SETTINGS, output, validation=candidates[validation])
    run = gdmtl.rerank(model, collection, candidates[validation], output=output / "run.trec", progress=False)
    return gdmtl.evaluate(run, collection.qrels(validation))


def refused(error, message):
    """The whole sentence; only the beginning where the rest is another library's. One of our exceptions, no kin."""
    assert type(error) in (ValueError, FileNotFoundError)
    found = str(error)
    assert found.startswith(message) if message.endswith((" ", "(")) else found == message


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


@pytest.mark.parametrize(("call", "message"), MODELS)
def test_what_a_model_refuses(toy_bert_folder, tmp_path, monkeypatch, call, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        call(Models(toy_bert_folder))
    refused(error.value, message)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "collection"
    folder.mkdir()
    for name, text in SMALL.items():
        (folder / name).write_text(text)
    return folder


def test_good_input(folder, toy_bert_folder, tmp_path):
    """Or nothing below would say anything. A fourth passage shares a word with both training queries."""
    (folder / "passages.tsv").write_text(SMALL["passages.tsv"] + "d4\tice of the king\n")
    values = workflow(folder, toy_bert_folder, tmp_path / "out")
    assert set(values["query_id"]) == {"q3"}


@pytest.mark.parametrize(("changed", "message"), CHANGED_FILES)
def test_bad_collections(folder, toy_bert_folder, tmp_path, changed, message):
    for name, text in changed.items():
        (folder / name).unlink() if text is None else (folder / name).write_text(text)
    output = tmp_path / "out"
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        workflow(folder, toy_bert_folder, output)
    refused(error.value, message.replace("{folder}", str(folder)))
    # An index is whole or not there.
    left = {path.name for path in output.iterdir()} if output.exists() else set()
    assert left <= {"indexes"}
    assert not left or all(len(path.name) == 64 for path in (output / "indexes").iterdir())


@pytest.mark.parametrize(("arguments", "message"), CHOICES)
def test_bad_choices(folder, toy_bert_folder, tmp_path, arguments, message):
    (folder / "passages.tsv").write_text(SMALL["passages.tsv"] + "d4\tice of the king\n")
    before = sorted(path.name for path in folder.iterdir())
    given = {name: value.replace("{folder}", str(folder)) for name, value in arguments.items()}
    output = tmp_path / "out"
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        workflow(folder, **{"checkpoint": toy_bert_folder, "output": output} | given)
    assert message.replace("{folder}", str(folder)) in str(error.value)
    assert not output.exists() or [path.name for path in output.iterdir()] == ["indexes"]
    assert sorted(path.name for path in folder.iterdir()) == before


def test_missing_folder(toy_bert_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="^no collection '.*nowhere', and no folder of that name; a collectio"):
        workflow(tmp_path / "nowhere", toy_bert_folder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


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


def test_a_byte_order_mark_within_a_file_is_where_two_were_put_together(tmp_path):
    expected = load_collection(write(tmp_path)).fingerprint()
    for name, text in FOLDER.items():
        (tmp_path / name).write_text("".join(f"\ufeff{line}" for line in text.splitlines(keepends=True)))
    collection = load_collection(tmp_path)
    assert collection.fingerprint() == expected
    large = PassageFile(tmp_path / "passages.tsv", cache_dir=tmp_path / "offsets")
    assert dict(large) == dict(collection.passages()) == {name: large[name] for name in large}
    (tmp_path / "run").write_text("\ufeff\ufeffq Q0 a 1 2 t\r\n\ufeffr Q0 b 1 1 t")
    assert runs.read_run(tmp_path / "run")["query_id"].tolist() == ["q", "r"]


@pytest.mark.parametrize("change", [
    lambda run, qrels: (run.set_index(pd.Index([5, 5])), qrels.set_index("query_id", drop=False)),
    lambda run, qrels: (run.astype({"query_id": "category"}), qrels.astype({"query_id": object, "doc_id": "category"})),
    lambda run, qrels: (run.astype({"score": "Int64"}), qrels.assign(relevance=np.array([1], dtype=np.uint8))),
    lambda run, qrels: (run.astype({"score": np.float16}), qrels.assign(relevance=pd.Series([np.int64(1)], dtype=object))),
])  # fmt: skip
@pytest.mark.parametrize("measures", [iter, tuple, np.array, lambda names: map(ir_measures.parse_measure, names)])
def test_frames_and_lists_of_any_kind_give_the_same_values(change, measures):
    names = ["RR@10", "P@1", "NumRet"]
    expected = gdmtl.evaluate(RUN, QRELS, names)
    found = gdmtl.evaluate(*change(RUN, QRELS), measures(names), relevance_level=np.int64(1))
    pd.testing.assert_frame_equal(found.astype({"query_id": str}), expected.astype({"query_id": str}))


def test_paths_in_the_home_folder(tmp_path, monkeypatch, toy_bert_folder):
    """`~` is the user's own folder, wherever a path is given, and never one of that name in the working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path))
    runs.write_run(RUN, "~/a.run")
    (tmp_path / "qrels.txt").write_text("q 0 a 1\n")
    values = gdmtl.evaluate("~/a.run", "~/qrels.txt", ["RR@10"])
    write_values(values, "~/values.csv")
    pd.testing.assert_frame_equal(read_values("~/values.csv"), values)
    model = gdmtl.build_model("bert", checkpoint=toy_bert_folder)
    model.save_pretrained("~/saved")
    gdmtl.rerank("~/saved", collection_of(), CANDIDATES, output="~/b.run", progress=False)
    assert gdmtl.open_runs({"b": "~/b.run"}, "~/qrels.txt", folder="~/out").folder == tmp_path / "out"
    assert Results("~/out").folder == tmp_path / "out"
    there = {path.name for path in tmp_path.iterdir()}
    assert there >= {"a.run", "b.run", "out", "qrels.txt", "saved", "values.csv", "work"}
    assert list((tmp_path / "work").iterdir()) == []


def test_names_that_look_like_something_else(tmp_path, monkeypatch):
    """A folder that is called as a sample is written; a file that is called as a home folder; a query and a run that are
    called as their columns."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine?dev=1"
    folder.mkdir()
    write(folder)
    assert len(load_collection(folder).queries("dev")) == 2 and len(load_collection(f"{folder}?dev=1").queries("dev")) == 1
    runs.write_run(RUN, "~a.run")
    assert runs.read_run("~a.run")["doc_id"].tolist() == ["a", "b"] and (tmp_path / "~a.run").is_file()
    (tmp_path / "a.run").write_text("query Q0 d1 1 3 run\n")
    assert runs.read_run("a.run")["query_id"].tolist() == ["query"]


def test_a_query_without_candidates(folder, toy_bert_folder, tmp_path):
    """It is named when the first stage finds nothing for it, and it counts 0 where it is judged."""
    (folder / "passages.tsv").write_text(SMALL["passages.tsv"] + "d4\tice of the king\n")
    (folder / "queries.dev.tsv").write_text("q3\tzebra\nq4\tglacier\n")
    (folder / "qrels.dev.tsv").write_text("q3 0 d3 1\nq4 0 d1 1\n")
    with pytest.warns(UserWarning, match=r"^BM25 finds no passage for 1 of 2 queries of 'dev' in .*, for example 'q3'"):
        collection = gdmtl.load_collection(folder)
        candidates = gdmtl.bm25_candidates(collection, "dev", depth=3, index_dir=tmp_path / "indexes")
    run = gdmtl.rerank(gdmtl.build_model("bert", checkpoint=toy_bert_folder), collection, candidates, progress=False)
    assert set(run["query_id"]) == {"q4"}
    values = gdmtl.evaluate(run, collection.qrels("dev"), ["RR@10"])
    assert dict(zip(values["query_id"], values["value"], strict=True)) == {"q3": 0.0, "q4": 1.0}


@pytest.mark.parametrize("system", ["bert", "bart_s"])
def test_a_query_longer_than_half_the_input_is_cut_with_one_warning(toy_bert_folder, system):
    model = gdmtl.build_model(system, checkpoint=toy_bert_folder)
    limit = {"bert": 128, "bart_s": 55}[system]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = gdmtl.rerank_texts(model, "ice " * 300, ["blue ice", "an old king"])
    assert [str(warning.message).partition(" and")[0] for warning in caught] == [
        f"a query is longer than {limit} tokens"
    ]
    assert len(scores) == 2
