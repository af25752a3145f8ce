import errno
import gzip
import hashlib
import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gdmtl_lib.data import trec as runs
from gdmtl_lib.data.trec import (
    canonical_order,
    of_judged_queries,
    read_qrels,
    read_run,
    validate_qrels,
    validate_run,
    write_run,
)

DATA = Path(__file__).parents[2] / "../shared/data"


def run_frame(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score"])


def qrels_frame(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "relevance"])


# --- canonical order


def test_ranks_follow_the_score_and_ties_the_larger_doc_id():
    run = run_frame(
        ("q2", "d1", 1.0), ("q1", "d9", 2.0), ("q2", "d10", 1.0), ("q2", "d2", 1.0), ("q2", "d0", 3.0)
    )
    ordered = canonical_order(run)
    assert ordered.values.tolist() == [
        ["q2", "d0", 3.0, 1],
        ["q2", "d2", 1.0, 2],  # "d2" > "d10" > "d1" as strings
        ["q2", "d10", 1.0, 3],
        ["q2", "d1", 1.0, 4],
        ["q1", "d9", 2.0, 1],
    ]
    assert [str(dtype) for dtype in ordered.dtypes] == ["str", "str", "float32", "int64"]


def test_scores_that_differ_below_float32_tie():
    ordered = canonical_order(run_frame(("q", "a", 1.0 + 1e-12), ("q", "b", 1.0)))
    assert ordered["doc_id"].tolist() == ["b", "a"]


def test_a_rank_column_is_not_believed():
    ordered = canonical_order(run_frame(("q", "a", 1.0), ("q", "b", 2.0)).assign(rank=[1, 2], note="x"))
    assert ordered.columns.tolist() == ["query_id", "doc_id", "score", "rank"]
    assert ordered["doc_id"].tolist() == ["b", "a"]


def test_canonical_order_equals_a_slow_sort():
    rng = np.random.default_rng(0)
    for _ in range(50):
        pairs = {(f"q{rng.integers(4)}", f"d{rng.integers(30)}") for _ in range(rng.integers(1, 60))}
        run = run_frame(*((query, doc, float(rng.integers(-3, 3))) for query, doc in sorted(pairs)))
        run = run.sample(frac=1, random_state=int(rng.integers(1000)))
        expected = []
        for query in dict.fromkeys(run["query_id"]):
            rows = [(score, doc) for q, doc, score in run.itertuples(index=False) if q == query]
            expected += [
                [query, doc, score, rank] for rank, (score, doc) in enumerate(sorted(rows, reverse=True), 1)
            ]
        assert canonical_order(run).values.tolist() == expected


# --- checks of frames

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            pd.DataFrame({"qid": ["q"], "doc_id": ["d"]}),
            "run: expected the columns query_id, doc_id, score, found qid, doc_id; add query_id, score",
        ),
        (run_frame(), "run: expected at least one row, found none"),
        (
            run_frame(("q", "d", 1.0), (7, "d", 1.0)),
            "run, row 2: expected query_id to be a string without white space or NUL, found 7",
        ),
        (
            run_frame(("q", "d", 1.0), ("q", ["e"], 1.0)),
            "run, row 2: expected doc_id to be a string without white space or NUL, found ['e']",
        ),
        (
            run_frame(("q", "d", 1.0), ("q", "", 1.0)),
            "run, row 2: expected doc_id to be a string without white space or NUL, found ''",
        ),
        (
            run_frame(("q", "d", 1.0), ("q", None, 1.0)),
            "run, row 2: expected doc_id to be a string without white space or NUL, found nan",
        ),
        (
            run_frame(("q", "d e", 1.0)),
            "run, row 1: expected doc_id to be a string without white space or NUL, found 'd e'",
        ),
        (
            run_frame(("q", "d\0e", 1.0)),
            "run, row 1: expected doc_id to be a string without white space or NUL, found 'd\\x00e'",
        ),
        (
            run_frame(("q", "d", 1.0), ("q", "e", NAN)),
            "run, row 2: expected a score that is finite as float32, found nan",
        ),
        (run_frame(("q", "d", -INF)), "run, row 1: expected a score that is finite as float32, found -inf"),
        (run_frame(("q", "d", 1e39)), "run, row 1: expected a score that is finite as float32, found 1e+39"),
        (
            run_frame(("q", "d", "1.0")),
            "run, row 1: expected a column of numbers as score, found the dtype str",
        ),
        (
            run_frame(("q", "d", 1.0), ("r", "d", 1.0), ("q", "d", 2.0)),
            "run, row 3: passage 'd' stands a second time for query 'q'; keep one of the two",
        ),
    ],
)
def test_a_frame_that_is_no_run_is_refused(frame, message):
    for check in (validate_run, canonical_order):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            check(frame)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            run_frame(("q", "d", 1.0)),
            "qrels: expected the columns query_id, doc_id, relevance, found query_id, doc_id, score; "
            "add relevance",
        ),
        (qrels_frame(), "qrels: expected at least one row, found none"),
        (
            qrels_frame(("q", "d", 1), ("q", "e", 1.5)),
            "qrels, row 1: expected an integer within ±1,000,000 as relevance, found 1.0",
        ),
        (
            qrels_frame(("q", "d", 1), ("q", "e", -1_000_001)),
            "qrels, row 2: expected an integer within ±1,000,000 as relevance, found -1000001",
        ),
        (
            qrels_frame(("q", "d", True)),
            "qrels, row 1: expected an integer within ±1,000,000 as relevance, found True",
        ),
        (
            qrels_frame(("q", "d", 1), ("q", "d", 0)),
            "qrels, row 2: passage 'd' stands a second time for query 'q'; keep one of the two",
        ),
    ],
)
def test_a_frame_that_is_no_qrels_is_refused(frame, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        validate_qrels(frame)


def test_what_is_unusual_but_right_passes():
    validate_run(run_frame(("ß", "مرحبا", 1), ("é", "🙂", 2)))  # integer scores, any script
    validate_qrels(qrels_frame(("q", "d", -2), ("q", "e", 1_000_000)))


def test_rows_of_judged_queries():
    run = run_frame(("q1", "a", 1.0), ("q2", "b", 1.0))
    assert of_judged_queries(run, qrels_frame(("q2", "x", 0)))["query_id"].tolist() == ["q2"]
    message = (
        "run and qrels: expected queries with judgments in the run, found none (the run has query 'q1', "
        "the qrels '7'); take both from the same split"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        of_judged_queries(run, qrels_frame(("7", "x", 1)))


# --- files


def test_a_run_file_has_trecs_six_columns(tmp_path):
    path = tmp_path / "run.trec"
    write_run(run_frame(("q1", "a", 0.5), ("q1", "b", 12.25), ("é", "c", -1e-7)), path, tag="bert")
    assert path.read_bytes() == (
        "q1 Q0 b 1 12.25 bert\nq1 Q0 a 2 0.5 bert\né Q0 c 1 -1.00000001e-07 bert\n".encode()
    )


def test_a_qrels_file_has_trecs_four_columns(tmp_path):
    path = tmp_path / "qrels.txt"
    path.write_bytes(b"q2 0 a 1\nq1 0 b -2\n")
    pd.testing.assert_frame_equal(read_qrels(path), qrels_frame(("q2", "a", 1), ("q1", "b", -2)))


@pytest.mark.parametrize("name", ["run.trec", "run.trec.gz"])
def test_reading_gives_the_same_float32_bits(tmp_path, name):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    edges = np.array([0.0, -0.0, 1e-45, 3.4028235e38, 0.1, 16777217, np.pi], dtype=np.float32)
    scores = np.concatenate([bits[np.isfinite(bits)], edges])
    run = pd.DataFrame({"query_id": "q", "doc_id": [f"d{i}" for i in range(len(scores))], "score": scores})
    write_run(run, tmp_path / name)
    back, expected = read_run(tmp_path / name), canonical_order(run)
    pd.testing.assert_frame_equal(back, expected)
    assert back["score"].to_numpy().tobytes() == expected["score"].to_numpy().tobytes()


def test_the_same_run_gives_the_same_bytes(tmp_path, monkeypatch):
    run = run_frame(("q", "a", 1.0), ("q", "b", 2.0))
    write_run(run, tmp_path / "one.gz")
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_run(run.iloc[::-1], tmp_path / "two.gz")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.gz").read_bytes()) == b"q Q0 b 1 2 gdmtl\nq Q0 a 2 1 gdmtl\n"


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.trec.gz"
    write_run(run_frame(("q", "a", 1.0)), path)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_run(run_frame(("q", "b", 1.0)), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.trec.gz"]


def test_a_bad_frame_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="finite"):
        write_run(run_frame(("q", "a", NAN)), tmp_path / "runs" / "run.trec")
    with pytest.raises(ValueError, match=r"^tag: expected a name without white space, found 'my run'$"):
        write_run(run_frame(("q", "a", 1.0)), tmp_path / "run.trec", tag="my run")
    assert os.listdir(tmp_path) == []


def test_missing_folders_are_made(tmp_path):
    write_run(run_frame(("q", "a", 1.0)), tmp_path / "new" / "folder" / "run.trec")
    assert len(read_run(tmp_path / "new" / "folder" / "run.trec")) == 1


def test_windows_line_ends_tabs_and_a_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "run.trec"
    path.write_bytes("\ufeffq\tQ0\ta\t1\t0.5\tx\r\nq Q0  b 2 1e0 x".encode())
    assert read_run(path).values.tolist() == [["q", "b", 1.0, 1], ["q", "a", 0.5, 2]]


GOOD = b"q Q0 a 1 2.0 x\n"
RUN_COLUMNS = "expected 6 columns (query_id Q0 doc_id rank score tag)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", " is empty"),
        (GOOD + b"q Q0 b 2 1.0\n", f", line 2: {RUN_COLUMNS}, found 5"),
        (GOOD + b"\n" + GOOD, f", line 2: {RUN_COLUMNS}, found 0"),
        (GOOD + b"q Q0 b c 2 1.0 x\n", f", line 2: {RUN_COLUMNS}, found 7; is there a space in an id or in the tag?"),
        (GOOD + b"q Q0 b 2 high x\n", ", line 2: expected a number as score, found 'high'"),
        (GOOD + b"q Q0 b 2 1_0 x\n", ", line 2: expected a number as score, found '1_0'"),
        (GOOD + "q Q0 b 2 ١ x\n".encode(), ", line 2: expected a number as score, found '١'"),
        (GOOD + b"q Q0 b 2 nan x\n", ", line 2: expected a score that is finite as float32, found nan"),
        (GOOD + b"q Q0 b 2 1e39 x\n", ", line 2: expected a score that is finite as float32, found 1e+39"),
        (
            GOOD + b"r Q0 a 1 1 x\n" + GOOD,
            ", line 3: passage 'a' stands a second time for query 'q'; keep one of the two",
        ),
        (
            GOOD + b"q Q0 a\0b 2 1 x\n",
            ", line 2: holds a NUL or carriage-return character: remove it",
        ),
        (
            GOOD + b"q Q0 caf\xe9 2 1.0 x\n",
            ", line 2: not UTF-8 (byte 0xe9 at position 9): convert the file to UTF-8",
        ),
        (
            gzip.compress(GOOD, mtime=0),
            ": it is compressed, and expected was text, or a file named .gz: name it .gz",
        ),
    ],
)
def test_a_bad_run_file_is_refused_with_file_and_line(tmp_path, content, message):
    path = tmp_path / "run.trec"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path) + message)}$"):
        read_run(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"q 0 a 1\nq a 1\n", ", line 2: expected 4 columns (query_id 0 doc_id relevance), found 3"),
        (b"q 0 a 1\nq 0 b 1.0\n", ", line 2: expected an integer as relevance, found '1.0'"),
        (
            b"q 0 a 1\nq 0 b 100000000000000000000\n",
            ", line 2: expected an integer within ±1,000,000 as relevance, found 100000000000000000000",
        ),
        (
            b"q 0 a 1\nq 0 b 1\nq 0 a 1\nq 0 a 0\n",
            ", lines 1 and 4: passage 'a' is judged 1 and 0 for query 'q': keep one of the two",
        ),
        (
            b"query-id 0 corpus-id score\nq 0 a 1\n",
            ", line 1: expected values, found a row of names (query-id 0 corpus-id score): remove it",
        ),
    ],
)
def test_a_bad_qrels_file_is_refused_with_file_and_line(tmp_path, content, message):
    path = tmp_path / "qrels.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path) + message)}$"):
        read_qrels(path)


def test_judgments_that_stand_twice_count_once_and_are_counted(tmp_path):
    """As ten lines of MS MARCO's qrels.train.tsv do."""
    path = tmp_path / "qrels.tsv"
    path.write_bytes(b"q 0 a 1\nr 0 a 1\nq 0 a 1\nq 0 b 0\nq 0 a 1\n")
    with pytest.warns(UserWarning) as caught:
        qrels = read_qrels(path)
    assert qrels.to_numpy().tolist() == [["q", "a", 1], ["r", "a", 1], ["q", "b", 0]]
    assert [str(warning.message) for warning in caught] == [
        f"{path}: 2 of 5 judgments stand there before, for example that of passage 'a' for query 'q': each counts once"
    ]


@pytest.mark.parametrize(
    ("tool", "content"),
    [
        ("PyTerrier", "q1 Q0 d2 0 12.5 BR(BM25)\nq1 Q0 d1 1 3.25 BR(BM25)\n"),
        ("Pyserini", "q1 Q0 d2 1 12.500000 Anserini\nq1 Q0 d1 2 3.250000 Anserini\n"),
        ("ranx", "q1 Q0 d2 1 12.5 None\nq1 Q0 d1 2 3.25 None"),
        ("trec_eval with tabs", "q1\tQ0\td1\t1\t3.25\trun\r\nq1\tQ0\td2\t2\t12.5\trun\r\n"),
        ("MS MARCO", "q1\td2\t1\nq1\td1\t2\n"),
    ],
)
def test_runs_that_other_tools_write(tmp_path, tool, content):
    path = tmp_path / "run.txt"
    path.write_bytes(content.encode())
    scores = [-1.0, -2.0] if tool == "MS MARCO" else [12.5, 3.25]
    assert read_run(path).to_numpy().tolist() == [["q1", "d2", scores[0], 1], ["q1", "d1", scores[1], 2]]


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "run.trec"
    with pytest.raises(FileNotFoundError, match=f"^no file {re.escape(str(path))}$"):
        read_run(path)


def test_damaged_gzip_is_refused_wherever_it_is_cut_or_flipped(tmp_path):
    path = tmp_path / "run.trec.gz"
    write_run(run_frame(*(("q", f"d{i}", i / 7) for i in range(200))), path)
    whole = path.read_bytes()
    cut = [whole[:length] for length in range(1, len(whole), 97)]
    # Byte 9 names the system that packed it, bytes 4 to 8 the time and effort: no reader looks at them.
    flipped = [whole[:i] + bytes([whole[i] ^ 0x40]) + whole[i + 1 :] for i in range(10, len(whole), 53)]
    for content in (GOOD, *cut, *flipped):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}"):
            read_run(path)
    path.write_bytes(GOOD)
    with pytest.raises(ValueError, match="is damaged or not gzip-compressed, as its name says it is: Not a gzipped file"):
        read_run(path)


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data")
@pytest.mark.parametrize(
    ("name", "queries", "judgments"),
    [
        ("msmarco/qrels.msmarco-passage.dev-subset.txt.gz", 6980, 7437),
        ("msmarco/qrels.dl19-passage.txt.gz", 43, 9260),
    ],
)
def test_msmarco_qrels_are_read(name, queries, judgments):
    qrels = read_qrels(DATA / name)
    assert (qrels["query_id"].nunique(), len(qrels)) == (queries, judgments)


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data")
def test_cast_qrels_hold_the_papers_relevant_passages():
    qrels = read_qrels(DATA / "cast2019/2019qrels.txt.gz")
    relevant = qrels[qrels["doc_id"].str.startswith("MARCO_") & (qrels["relevance"] >= 2)]
    assert (qrels["query_id"].nunique(), len(relevant), relevant["query_id"].nunique()) == (173, 2983, 159)


def test_rows_at_once_change_neither_a_hash_nor_a_file(tmp_path, monkeypatch):
    """The hash is that of the frame as CSV, whole."""
    run = run_frame(*((f"q{row % 3}", f"d{row}", float(row % 4)) for row in range(23)))
    whole = hashlib.sha256(run.to_csv(index=False).encode()).hexdigest()
    write_run(run, tmp_path / "whole.trec")
    for rows in (1, 5, 23, 24):
        monkeypatch.setattr(runs, "_ROWS_AT_ONCE", rows)
        assert runs.frame_hash(run) == whole
        assert runs.frame_hash(run[:0]) == hashlib.sha256(b"query_id,doc_id,score\n").hexdigest()
        write_run(run, tmp_path / "parts.trec")
        assert (tmp_path / "parts.trec").read_bytes() == (tmp_path / "whole.trec").read_bytes()


def test_a_large_run_is_read_in_parts(tmp_path, monkeypatch):
    """The rows at a time that Python's own strings are made of: four thousand queries of ten passages, as one part takes
    more than ten megabytes."""
    run = [f"{query} Q0 {query * 7 + place} {place + 1} {9 - place} x\n" for query in range(4000) for place in range(10)]
    (tmp_path / "a.run").write_text("".join(run))
    whole = runs.read_run(tmp_path / "a.run")
    monkeypatch.setattr(runs, "_ROWS_AT_ONCE", 999)
    tracemalloc.start()
    parts = runs.read_run(tmp_path / "a.run")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pd.testing.assert_frame_equal(parts, whole)
    assert peak < 5e6, peak
