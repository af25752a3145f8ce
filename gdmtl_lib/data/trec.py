"""Runs and judgments as frames, and as TREC files.

A run has the columns `query_id, doc_id, score, rank`, judgments (qrels) `query_id, doc_id, relevance`; ids are strings.
Tools disagree about ties, and trec_eval compares scores as float32: so a run has one canonical order here, trec_eval's.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype, is_integer_dtype

from gdmtl_lib.settings import is_whole
from .files import kind_of, read_rows, write_lines

# trec_eval keeps grades in a C int and allocates one counter for every grade up to the highest.
HIGHEST_GRADE = 1_000_000
_ROWS_AT_ONCE = 100_000

_Problem = tuple[int, str] | None  # the first bad row and what is wrong with it


def canonical_order(run: pd.DataFrame) -> pd.DataFrame:
    """Order a run as trec_eval does: queries by their first row, within a query passages by float32 score, highest
    first, and ties by doc_id, last in byte order first.

    Returns `query_id` str, `doc_id` str, `score` float32, `rank` int64 from 1. Raises ValueError as `validate_run`.
    """
    validate_run(run)
    return _ordered(run)


def with_scores(run: pd.DataFrame, scores: np.ndarray) -> pd.DataFrame:
    """A run that `validate_run` has passed with other scores, float32 [rows], in canonical order. Raises ValueError,
    naming the row, for a score that is not finite."""
    run = run[["query_id", "doc_id"]].assign(score=scores)
    _refuse("run, row", _bad_score(run["score"]))
    return _ordered(run)


def validate_run(run: pd.DataFrame) -> None:
    """Raise ValueError, naming the row from 1, unless a frame is a run: `query_id` and `doc_id` str without white space
    and NUL, `score` finite as float32, no passage twice in a query's list, and at least one row."""
    _validate(run, "run", "score")


def validate_qrels(qrels: pd.DataFrame) -> None:
    """The same for judgments: `query_id, doc_id, relevance`, an integer within ±1,000,000."""
    _validate(qrels, "qrels", "relevance")


def of_judged_queries(run: pd.DataFrame, qrels: pd.DataFrame) -> pd.DataFrame:
    """The rows of a run whose query has judgments, whatever they say. Raises ValueError where none has."""
    judged = run[run["query_id"].isin(qrels["query_id"])]
    if judged.empty:
        raise ValueError(
            "run and qrels: expected queries with judgments in the run, found none "
            f"(the run has query {run['query_id'].iloc[0]!r}, the qrels {qrels['query_id'].iloc[0]!r}); "
            "take both from the same split"
        )
    return judged


def recall(run: pd.DataFrame, qrels: pd.DataFrame, depth: int | None = None, relevance_level: int = 1) -> pd.Series:
    """The share of a query's relevant passages among its first candidates, all of them unless `depth` is given: float64
    by query_id, for the queries that have a passage of `relevance_level` or more. run: in canonical order, not empty.
    """
    import ir_measures  # takes long, and most who read a run measure nothing

    relevant = qrels[qrels["relevance"] >= relevance_level]
    measure = ir_measures.R(rel=relevance_level) @ (depth or len(run))
    values = {found.query_id: found.value for found in ir_measures.iter_calc([measure], relevant, run)}
    return pd.Series(values, dtype=float).sort_index()


def read_run(path: str | os.PathLike) -> pd.DataFrame:
    """Read a TREC run, `query_id Q0 doc_id rank score tag` a line, or MS MARCO's form of one, `query_id doc_id rank`.

    As in trec_eval, TREC's scores make the ranks; MS MARCO's form has none, and they are minus the ranks, of which each
    stands once in a query's list.

        run = gdmtl.read_run("a.run")

    path: as for `read_lines`. Returns the run in canonical order. Raises FileNotFoundError where there is no such file,
    ValueError, naming file and line, where it is no run.
    """
    parts = []
    query_ids, doc_ids, scores = columns = [], [], []
    for number, fields in read_rows(path, "query_id Q0 doc_id rank score tag", "query_id doc_id rank"):
        query_ids.append(fields[0])
        if len(fields) == 3:
            doc_ids.append(fields[1])
            scores.append(-_number(int, fields[2], "an integer as rank", path, number))
            if not 1 <= -scores[-1] <= 2**24:  # which float32 tells from their neighbours
                raise ValueError(f"{path}, line {number}: expected a rank from 1 to {2**24:,}, found {fields[2]:.30}")
        else:
            doc_ids.append(fields[2])
            scores.append(_number(float, fields[4], "a number as score", path, number))
        if len(scores) == _ROWS_AT_ONCE:  # as Python's own strings and numbers seven million rows would take two gigabytes
            parts.append(_part_of_run(*columns))
            for column in columns:
                column.clear()
    if scores:
        parts.append(_part_of_run(*columns))
    run = pd.concat(parts, ignore_index=True)
    lines = range(number - len(run) + 1, number + 1)  # not from 1, where they are below a header
    if len(fields) == 3 and (again := run.duplicated(["query_id", "score"])).any():
        row = int(np.argmax(again))
        raise ValueError(
            f"{path}, line {lines[row]}: rank {-run['score'][row]:.0f} stands a second time for query {run['query_id'][row]!r}: "
            "scores need TREC's six columns"
        )
    return run_of_lines(path, run, lines)


def _part_of_run(query_ids: list[str], doc_ids: list[str], scores: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"query_id": query_ids, "doc_id": doc_ids, "score": np.array(scores, dtype=float)})


def as_run(given: pd.DataFrame | str | os.PathLike) -> pd.DataFrame:
    """A run in canonical order, from a frame or from its file. Raises as `canonical_order` and `read_run`."""
    return read_run(given) if isinstance(given, str | os.PathLike) else canonical_order(given)


def as_candidates(given: pd.DataFrame | str | os.PathLike) -> pd.DataFrame:
    """What is to be scored, from a frame, its rows in their order, or a run's file; scores that it lacks are 0. Raises
    as `validate_run` and `read_run`."""
    given = read_run(given) if isinstance(given, str | os.PathLike) else given
    if isinstance(given, pd.DataFrame) and "score" not in given:
        given = given.assign(score=0.0)
    validate_run(given)
    return given


def run_of_lines(path: str | os.PathLike, run: pd.DataFrame, lines: Sequence[int] | None = None) -> pd.DataFrame:
    """What a file's lines say, `query_id, doc_id, score`, in canonical order. lines: their numbers, where some of the
    file's are not among them. Raises ValueError, naming file and line, where they are no run."""
    _refuse(f"{os.fspath(path)}, line", _first_problem(run, "score"), lines)
    return _ordered(run)


def write_run(run: pd.DataFrame, path: str | os.PathLike, tag: str = "gdmtl") -> None:
    """Write a run as a TREC file, in canonical order; gzip where the name ends in `.gz`. Reading it gives the same
    float32 scores. tag: the last column. Raises ValueError as `validate_run`, and for a tag that is empty or holds
    white space."""
    write_ordered(canonical_order(run), path, tag)


def write_ordered(run: pd.DataFrame, path: str | os.PathLike, tag: str = "gdmtl") -> None:
    """`write_run` for what `canonical_order`, `with_scores` or `read_run` gave: neither checked nor ordered again."""
    if not _are_ids([tag]):
        raise ValueError(f"tag: expected a name without white space, found {tag!r}")
    columns = ("query_id", "doc_id", "rank", "score")
    rows = (row for part in _parts(run) for row in zip(*(part[column].tolist() for column in columns), strict=True))
    # Nine significant digits tell any two float32 apart, also when a reader goes through float64.
    write_lines(path, (f"{query} Q0 {doc} {rank} {score:.9g} {tag}\n" for query, doc, rank, score in rows))


def read_qrels(path: str | os.PathLike) -> pd.DataFrame:
    """Read TREC judgments, `query_id 0 doc_id relevance` a line.

    Returns `query_id` str, `doc_id` str, `relevance` int64, in the order of the file; for lines that say the same see
    `without_repetitions`.

        qrels = gdmtl.read_qrels("qrels.txt")

    Args, raises: as `read_run`.
    """
    query_ids, doc_ids, grades = [], [], []
    for number, fields in read_rows(path, "query_id 0 doc_id relevance"):
        query_ids.append(fields[0])
        doc_ids.append(fields[2])
        grades.append(_number(int, fields[3], "an integer as relevance", path, number))
    # Python's integers have no limit, int64 has.
    qrels = pd.DataFrame({"query_id": query_ids, "doc_id": doc_ids, "relevance": pd.Series(grades, dtype=object)})
    first = number - len(qrels) + 1
    _refuse(f"{os.fspath(path)}, line", _bad_grade(qrels["relevance"]), range(first, number + 1))
    return without_repetitions(qrels.astype({"relevance": np.int64}), os.fspath(path), first)


def without_repetitions(qrels: pd.DataFrame, source: str, first: int = 1) -> pd.DataFrame:
    """Judgments of which those that say the same (ten of MS MARCO's stand twice) count once, with a warning. Raises
    ValueError where two say different things of a passage. source: where they are from. first: the first one's line."""
    again = qrels.duplicated(["query_id", "doc_id"])
    if not again.any():
        return qrels
    same = qrels.duplicated()
    if (contradicts := again & ~same).any():
        row = int(np.argmax(contradicts))
        query_id, doc_id, grade = qrels.iloc[row][["query_id", "doc_id", "relevance"]]
        before = int(np.argmax((qrels["query_id"] == query_id) & (qrels["doc_id"] == doc_id)))
        raise ValueError(
            f"{source}, lines {before + first} and {row + first}: passage {doc_id!r} is judged "
            f"{qrels['relevance'].iloc[before]} and {grade} for query {query_id!r}: keep one of the two"
        )
    warnings.warn(
        f"{source}: {again.sum()} of {len(qrels)} judgments stand there before, for example that of passage "
        f"{qrels['doc_id'][again].iloc[0]!r} for query {qrels['query_id'][again].iloc[0]!r}: each counts once",
        stacklevel=3,
    )
    return qrels[~again].reset_index(drop=True)


def whole_queries(query_ids: pd.Series, size: int) -> Iterator[np.ndarray]:
    """The rows of whole queries, int64 positions, at least `size` at a time but for the last ones. Queries come in the
    order of their first rows, a query's rows in their own."""
    queries, _ = pd.factorize(query_ids)
    rows, ends = np.argsort(queries, kind="stable"), np.cumsum(np.bincount(queries))
    del queries  # what is made of millions of rows here stays until the last of them
    first = 0
    while first < len(rows):
        end = ends[min(np.searchsorted(ends, first + size), len(ends) - 1)]
        yield rows[first:end]
        first = end


def _ordered(run: pd.DataFrame) -> pd.DataFrame:
    """In canonical order. Some queries at a time, so that it takes little more memory than the result."""
    order, rank, done = np.empty(len(run), dtype=np.int64), np.empty(len(run), dtype=np.int64), 0
    for rows in whole_queries(run["query_id"], _ROWS_AT_ONCE):
        part = slice(done, done := done + len(rows))
        order[part], rank[part] = _best_first(run, rows)
    ids = {column: run[column].iloc[order].reset_index(drop=True) for column in ("query_id", "doc_id")}
    scores = run["score"].to_numpy(dtype=np.float32)[order]
    del order
    return pd.DataFrame(ids | {"score": scores, "rank": rank}, copy=False)


def _best_first(run: pd.DataFrame, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of some whole queries, int64 [n], with each query's best first, and their ranks, int64 [n]."""
    queries, _ = pd.factorize(run["query_id"].iloc[rows])
    scores = run["score"].iloc[rows].to_numpy(dtype=np.float32)
    order = np.lexsort((-scores, queries))
    queries, scores = queries[order], scores[order]
    begins = np.append(True, queries[1:] != queries[:-1])
    differs = begins | np.append(True, scores[1:] != scores[:-1])
    rows = rows[order]
    # Only ties need the passages' ids, and sorting millions of strings is what would take long here.
    tied = ~(differs & np.append(differs[1:], True))
    found, doc_ids = pd.factorize(run["doc_id"].iloc[rows[tied]])
    places = np.empty(len(doc_ids), dtype=np.int64)
    last_first = sorted(range(len(doc_ids)), key=doc_ids.tolist().__getitem__, reverse=True)
    places[last_first] = np.arange(len(doc_ids))
    rows[tied] = rows[tied][np.lexsort((places[found], np.cumsum(differs)[tied]))]
    first = np.flatnonzero(begins)
    return rows, np.arange(1, len(rows) + 1) - np.repeat(first, np.diff(first, append=len(rows)))


def require_columns(name: str, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    if not isinstance(frame, pd.DataFrame) or not frame.columns.is_unique:
        found = frame.columns.tolist() if isinstance(frame, pd.DataFrame) else kind_of(frame)
        raise ValueError(f"{name}: expected a frame with the columns {', '.join(columns)}, each once, found {found}")
    if missing := [column for column in columns if column not in frame.columns]:
        raise ValueError(
            f"{name}: expected the columns {', '.join(columns)}, "
            f"found {', '.join(map(str, frame.columns)) or 'none'}; add {', '.join(missing)}"
        )


def _validate(frame: pd.DataFrame, name: str, value: str) -> None:
    require_columns(name, frame, ("query_id", "doc_id", value))
    if frame.empty:
        raise ValueError(f"{name}: expected at least one row, found none")
    _refuse(f"{name}, row", _first_problem(frame, value))


def _refuse(where: str, problem: _Problem, numbers: Sequence[int] | None = None) -> None:
    if problem:
        row, text = problem
        raise ValueError(f"{where} {row + 1 if numbers is None else numbers[row]}: {text}")


def _first_problem(frame: pd.DataFrame, value: str) -> _Problem:
    for column in ("query_id", "doc_id"):
        if not all(_are_ids(_distinct(part[column])) for part in _parts(frame)):
            row, found = _first(frame[column], lambda found: not _are_ids([found]))
            return row, f"expected {column} to be a string without white space or NUL, found {found!r}"
    if bad_value := _bad_score(frame["score"]) if value == "score" else _bad_grade(frame["relevance"]):
        return bad_value
    pairs = frame[["query_id", "doc_id"]]
    by_query = whole_queries(frame["query_id"], _ROWS_AT_ONCE)  # the pairs of all at once would take a large table
    twice = np.concatenate([rows[pairs.iloc[rows].duplicated().to_numpy()] for rows in by_query])
    if len(twice):
        query, doc = pairs.iloc[row := int(twice.min())]
        return row, f"passage {doc!r} stands a second time for query {query!r}; keep one of the two"
    return None


def _are_ids(values: list) -> bool:
    """Whether all are strings without white space and NUL: for millions at once much faster than one by one."""
    try:
        text = "\n".join(values)
    except TypeError:
        return False
    return "\x00" not in text and text.split() == values


def _bad_score(scores: pd.Series) -> _Problem:
    if not (is_float_dtype(scores) or is_integer_dtype(scores)):
        return 0, f"expected a column of numbers as score, found the dtype {scores.dtype}"
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(scores.to_numpy(dtype=np.float32, na_value=np.nan))
    if bad.any():
        row = int(np.argmax(bad))
        return row, f"expected a score that is finite as float32, found {scores.iloc[row]}"
    return None


def _bad_grade(grades: pd.Series) -> _Problem:
    def is_bad(grade: object) -> bool:
        return not is_whole(grade) or abs(grade) > HIGHEST_GRADE

    if not any(map(is_bad, _distinct(grades))):
        return None
    row, found = _first(grades, is_bad)
    return row, f"expected an integer within ±{HIGHEST_GRADE:,} as relevance, found {found!r}"


def _distinct(column: pd.Series) -> list:
    """What stands in a column, each once where it can be told apart: a list cannot."""
    try:
        return column.unique().tolist()
    except TypeError:
        return column.tolist()


def _first(column: pd.Series, is_bad: Callable[[object], bool]) -> tuple[int, object]:
    """The first row with a value that is bad, and the value."""
    return next((row, found) for row, found in enumerate(column.tolist()) if is_bad(found))


def frame_hash(frame: pd.DataFrame) -> str:
    """SHA-256 of a frame's columns and rows, in their order."""
    digest = hashlib.sha256()
    for number, part in enumerate(_parts(frame)):
        digest.update(part.to_csv(index=False, header=number == 0).encode())
    return digest.hexdigest()


def _parts(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Some rows at a time, at least once: Python's own strings and numbers take many times what a column takes."""
    for first in range(0, max(len(frame), 1), _ROWS_AT_ONCE):
        yield frame.iloc[first : first + _ROWS_AT_ONCE]


def _number(kind: type, text: str, expected: str, path: str | os.PathLike, number: int) -> float | int:
    # Python also reads "1_000" and other scripts' digits, which no TREC tool does.
    if text.isascii() and "_" not in text:
        try:
            return kind(text)
        except ValueError:
            pass
    raise ValueError(f"{path}, line {number}: expected {expected}, found {text!r}")
