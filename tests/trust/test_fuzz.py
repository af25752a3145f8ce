"""Fuzz: parsers that refuse in a sentence or not at all, measures and statistics that equal other libraries'.

GDMTL_STRESS=1 (`make stress`): 2,000 runs and 1,000 tables instead of 40 each, 2,000 files a parser instead of 60.
"""

import gzip
import json
import os
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW
from tests.data.conftest import FOLDER, HEADER, write
from tests.evaluation.test_measures import fuzzed, oracle

from gdmtl_lib.data import trec as runs
from gdmtl_lib.data.collection import Collection, load_collection
from gdmtl_lib.data.readers import read_squad
from gdmtl_lib.evaluation.comparison import compare
from gdmtl_lib.evaluation.measures import evaluate, read_values
from gdmtl_lib.data.trec import canonical_order

STRESS = bool(os.environ.get("GDMTL_STRESS"))
FILES, RUNS, TABLES = (2000, 2000, 1000) if STRESS else (60, 40, 40)

pytestmark = pytest.mark.slow
fuzz = settings(
    max_examples=FILES, derandomize=not STRESS, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

# --- parsers: whatever the bytes are, no exception but ours


PIECES = [
    b"q1", b"q2", b"q3", b"d1", b"d2", b"0", b"1", b"-1", b"1e400", b"nan", b"inf", b"1_0", b"0x1", b"Q0", b"tag",
    b"\t", b" ", b"\n", b"\r\n", b"\r", b"\0", b"\xef\xbb\xbf", b"\xff", b"\xed\xa0\x80", b"\xc2\xa0", b"\xe2\x80\xa8",
    "\u202eice\u0301 😀".encode(), b'"', b"'", b",", b"\x1a", b"\x1f\x8b", b"999999999999999999999", b"x" * 5000,
]  # fmt: skip
BYTES = st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))


@st.composite
def changed(draw, text):
    """A good file with some of its bytes replaced, or bytes of another sort."""
    whole = text.encode()
    if draw(st.booleans()):
        return draw(BYTES)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(whole)))
        end = draw(st.integers(start, min(start + 12, len(whole))))
        whole = whole[:start] + draw(BYTES) + whole[end:]
    return whole


def only_ours(read, path):
    """Read: the content, or None for a refusal that names the file or its folder."""
    try:
        return read()
    except (ValueError, FileNotFoundError) as error:
        assert type(error) in (ValueError, FileNotFoundError), repr(error)
        assert str(path.parent) in str(error), repr(error)
        return None


RUN = "q1 Q0 d1 1 2.5 tag\nq1 Q0 d2 2 1.5 tag\nq2 Q0 d1 1 -3e-5 tag\n"
QRELS = "q1 0 d1 1\nq1 0 d2 0\nq2 0 d1 -1\n"
VALUES = "query_id,measure,value,residual\nq1,RR@10,0.5,\nq2,RR@10,1.0,0.25\n"


@fuzz
@given(changed(RUN), st.booleans())
def test_runs(tmp_path, content, zipped):
    path = tmp_path / ("run.trec.gz" if zipped else "run.trec")
    path.write_bytes(gzip.compress(content) if zipped and len(content) % 3 else content)
    run = only_ours(lambda: runs.read_run(path), path)
    if run is not None:
        runs.validate_run(run)
        runs.write_run(run, path)
        pd.testing.assert_frame_equal(runs.read_run(path), run)


@fuzz
@given(changed(QRELS))
def test_qrels(tmp_path, content):
    path = tmp_path / "qrels.txt"
    path.write_bytes(content)
    qrels = only_ours(lambda: runs.read_qrels(path), path)
    if qrels is not None:
        runs.validate_qrels(qrels)
        path.write_text("".join(f"{query} 0 {doc} {grade}\n" for query, doc, grade in qrels.itertuples(index=False)))
        pd.testing.assert_frame_equal(runs.read_qrels(path), qrels)


@fuzz
@given(changed(VALUES))
def test_values(tmp_path, content):
    path = tmp_path / "per_query.csv"
    path.write_bytes(content)
    values = only_ours(lambda: read_values(path), path)
    assert values is None or list(values.columns) == ["query_id", "measure", "value", "residual"]


@pytest.mark.parametrize("name", FOLDER)
def test_folders(tmp_path, name):
    @fuzz
    @given(changed(FOLDER[name]))
    def check(content):
        write(tmp_path)
        (tmp_path / name).write_bytes(content)
        collection = only_ours(lambda: load_collection(tmp_path), tmp_path / name)
        if collection is not None:
            usable(collection)

    check()


def usable(collection):
    """What was accepted can be looked up, and written as TREC files."""
    for split in collection.splits:
        queries = collection.queries(split)
        assert all(text.strip() for text in collection.query_texts(queries["query_id"]))
        if len(found := collection.qrels_of(queries["query_id"])):
            runs.validate_qrels(found)
            collection.text(found["doc_id"])


@fuzz
@given(changed(HEADER.replace("\r\n", "\n") + "Q1\twhy\tD1\tIce\tD1-0\tIce is blue.\t1\nQ1\twhy\tD1\tIce\tD1-1\tNo.\t0\n"))
def test_wikiqa(tmp_path, content):
    path = tmp_path / "WikiQA-dev.tsv"
    path.write_bytes(content)
    collection = only_ours(lambda: load_collection(f"wikiqa:{tmp_path}"), path)
    if collection is not None:
        usable(collection)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TEXT = st.one_of(st.text(max_size=12), JSON)
QUESTION = st.fixed_dictionaries(
    {}, optional={"id": TEXT, "question": TEXT, "answers": st.one_of(JSON, st.lists(st.fixed_dictionaries({"text": TEXT})))}
)
PARAGRAPH = st.fixed_dictionaries({}, optional={"context": TEXT, "qas": st.one_of(JSON, st.lists(QUESTION, max_size=3))})
ARTICLE = st.fixed_dictionaries({}, optional={"paragraphs": st.one_of(JSON, st.lists(PARAGRAPH, max_size=3))})
SQUAD = st.fixed_dictionaries({"data": st.one_of(JSON, st.lists(ARTICLE, max_size=3))}).map(json.dumps).map(str.encode)


@fuzz
@given(st.one_of(SQUAD, BYTES))
def test_squad(tmp_path, content):
    path = tmp_path / "squad.json"
    path.write_bytes(content)
    collection = only_ours(lambda: Collection("squad", *read_squad(path, shares={"dev": 1.0})), path)
    if collection is not None:
        usable(collection)


# --- measures


def test_measures_equal_pytrec_eval_and_cwl_eval():
    """As in the tests of evaluation, over other runs: to 1e-9, however the rows stand and whatever the dtype."""
    for seed in range(RUNS):
        rng = np.random.default_rng([2021, seed])
        run, qrels = fuzzed(rng)
        kept = rng.permutation(run["query_id"].unique())[:3]  # lists of 1,200 passages are slow in cwl_eval
        run, qrels = run[run["query_id"].isin(kept)], qrels[qrels["query_id"].isin([*kept, "q0"])]
        if qrels.empty or not run["query_id"].isin(qrels["query_id"]).any():
            continue
        level = int(rng.integers(1, 4))
        values, ranked = evaluate(run, qrels, relevance_level=level), canonical_order(run)
        changes = {
            "shuffled": run.sample(frac=1, random_state=seed),
            "scaled": run.assign(score=run["score"] * 2.0 ** rng.integers(-20, 20)),
            "in float32": run.assign(score=run["score"].astype(np.float32)),
        }
        for how, other in changes.items():
            pd.testing.assert_frame_equal(evaluate(other, qrels, relevance_level=level), values, obj=f"{seed} {how}")
        for query, judgments in qrels.groupby("query_id"):
            judged = judgments.set_index("doc_id")["relevance"].to_dict()
            docs = ranked.loc[ranked["query_id"] == query, "doc_id"].tolist()
            rows = values[values["query_id"] == query].set_index("measure")[["value", "residual"]]
            expected = np.array([*oracle(judged, docs, level).values()])
            assert rows.to_numpy() == pytest.approx(expected, abs=1e-9, nan_ok=True), (seed, query)


# --- statistics


def table_of(rng):
    """Systems on the same queries: values of a measure's sort, small numbers of them, and systems that are equal."""
    queries, systems = int(rng.integers(2, 200)), int(rng.integers(2, 7))
    kind = rng.integers(3)
    base = rng.random(queries) if kind == 0 else 1 / rng.integers(1, 11, queries)
    values = {}
    for number in range(systems):
        noise = rng.normal(0, 10.0 ** rng.integers(-6, 0), queries)
        is_equal = number and rng.random() < 0.15
        values[f"s{number}"] = values["s0"].copy() if is_equal else base + noise + rng.normal(0, 0.05)
    return values


def test_tests_equal_scipy_and_statsmodels():
    """t, p, intervals and Holm to 1e-12; equal systems have p = 1, not NaN."""
    equal = 0
    for seed in range(TABLES):
        rng = np.random.default_rng([2021, seed])
        raw = table_of(rng)
        frames = {}
        for name, values in raw.items():
            rows = {"query_id": [f"q{i}" for i in range(len(values))], "measure": "RR@10", "value": values}
            frames[name] = pd.DataFrame(rows).sample(frac=1, random_state=seed)
        table = compare(frames, "s0").set_index("system").drop(index="s0")
        expected = []
        for name, row in table.iterrows():
            difference = raw[name] - raw["s0"]
            if not difference.any():
                equal += 1
                assert row["p"] == 1.0
                expected.append(1.0)
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scipy's, of nearly equal values
                expected.append(stats.ttest_rel(raw[name], raw["s0"]).pvalue)
                low, high = DescrStatsW(difference).tconfint_mean(0.05)
            assert row["p"] == pytest.approx(expected[-1], rel=1e-12, abs=1e-12), (seed, name)
            assert (row["low"], row["high"]) == pytest.approx((low, high), rel=1e-12, abs=1e-12), (seed, name)
            assert row["difference"] == pytest.approx(difference.mean(), rel=1e-12, abs=1e-15)
        assert not table["p"].isna().any()
        holm = multipletests(expected, method="holm")[1]
        assert table["p_corrected"].to_numpy() == pytest.approx(holm, rel=1e-12, abs=1e-12), seed
    assert equal
