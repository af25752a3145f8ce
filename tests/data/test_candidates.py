"""Candidates of the first stage: BM25's or a run's, and the compact form, which says the same as a frame."""

import numpy as np
import pandas as pd
import pytest

from gdmtl_lib.data import candidates as candidates_module
from gdmtl_lib.data.bm25 import Index, bm25_candidates
from gdmtl_lib.data.candidates import Candidates, first_stage_candidates, training_candidates
from gdmtl_lib.data.collection import Collection, load_collection
from gdmtl_lib.data.splits import Split
from gdmtl_lib.data.trec import canonical_order, frame_hash, write_run
from gdmtl_lib.training.batches import TrainingInstances

WORDS = "ice river king wind water glacier north south".split()


@pytest.fixture(scope="module")
def collection() -> Collection:
    """40 passages under ids of different length, 23 queries; the last finds nothing."""
    rng = np.random.default_rng(0)
    passages = {f"d{7 * i}é": " ".join(rng.choice(WORDS, rng.integers(1, 9))) for i in range(40)}
    texts = {f"q{i}": " ".join(rng.choice(WORDS, 2)) for i in range(22)} | {"q9x": "zebra"}
    return Collection("toy", passages, {"train": Split(pd.DataFrame(texts.items(), columns=["query_id", "text"]))})


@pytest.fixture
def searched(monkeypatch) -> list[int]:
    """How many queries are searched at a time, from here on."""
    sizes: list[int] = []
    search = Index.search
    monkeypatch.setattr(Index, "search", lambda self, texts, *rest: sizes.append(len(texts)) or search(self, texts, *rest))
    monkeypatch.setattr(candidates_module, "QUERIES_AT_ONCE", 5)
    return sizes


@pytest.mark.filterwarnings("ignore:BM25 finds no passage")
@pytest.mark.parametrize("depth", [1, np.int64(7), 100])
def test_the_stored_form_says_what_the_frame_says(collection, tmp_path, searched, depth):
    frame = bm25_candidates(collection, "train", depth=depth, index_dir=tmp_path)
    del searched[:]
    stored = training_candidates(collection, "train", depth, index_dir=tmp_path)
    assert searched == [5, 5, 5, 5, 3] and len(stored) == len(frame)
    for form in (stored, Candidates.of_frame(frame), Candidates.open(stored.folder)):
        pd.testing.assert_frame_equal(form.frame()[["query_id", "doc_id", "rank"]], frame[["query_id", "doc_id", "rank"]])
        pd.testing.assert_frame_equal(form.frame(), canonical_order(form.frame()))
        assert form.hash() == frame_hash(frame[["query_id", "doc_id"]])
        assert form.numbers.dtype == np.int32 and "q9x" not in form.query_ids
        of_one = frame[frame["query_id"] == "q3"]
        assert form.doc_ids("q3") == of_one["doc_id"].tolist()
        assert form.frame(["q3"])["doc_id"].tolist() == form.doc_ids("q3") and form.frame([]).empty
        with pytest.raises(KeyError):
            form.doc_ids("q9x")
    assert sorted(path.name for path in (tmp_path / "candidates").iterdir()) == [stored.folder.name]
    training_candidates(collection, "train", depth, index_dir=tmp_path)
    assert len(searched) == 5
    training_candidates(collection, "train", depth, k1=1.2, index_dir=tmp_path)
    assert len(searched) == 10


@pytest.mark.parametrize("depth", [1, 7, 100])
def test_candidates_to_re_rank_are_searched_once_and_keep_their_scores(collection, tmp_path, searched, depth):
    """Each training and each re-ranking asks for them. The warning comes every time."""
    asked, warning = {"k1": 1.2, "b": 0.5, "index_dir": tmp_path}, "BM25 finds no passage for 1 of 23 queries of 'train'"
    with pytest.warns(UserWarning, match=warning):
        frame = bm25_candidates(collection, "train", depth, **asked)
    del searched[:]
    for _ in range(3):
        with pytest.warns(UserWarning, match=f"{warning} .*for example 'q9x': they have no candidates$"):
            pd.testing.assert_frame_equal(first_stage_candidates(collection, "train", depth, **asked), frame)
        assert searched == [5, 5, 5, 5, 3]


def test_queries_that_find_nothing_at_all_are_refused_each_time(collection, tmp_path):
    nothing = collection._splits["train"].of_queries(["q9x"])
    collection = Collection("toy", collection._passages, {"train": nothing})
    for _ in range(2):
        for search in (first_stage_candidates, training_candidates, bm25_candidates):
            with pytest.raises(ValueError, match="^BM25 finds no passage for 1 of 1 queries of 'train' in 'toy': are queries"):
                search(collection, "train", 5, index_dir=tmp_path)


def test_an_interrupted_search_goes_on_where_it_was(collection, tmp_path, searched, monkeypatch):
    numbers = candidates_module._numbers
    calls = iter([numbers, numbers, None])
    with monkeypatch.context() as patched:
        patched.setattr(candidates_module, "_numbers", lambda *given: next(calls)(*given))
        with pytest.raises(TypeError):
            training_candidates(collection, "train", 7, index_dir=tmp_path)
    assert searched == [5, 5, 5]
    stored = training_candidates(collection, "train", 7, index_dir=tmp_path)
    assert searched == [5, 5, 5] + [5, 5, 3]
    other = training_candidates(collection, "train", 7, index_dir=tmp_path / "other")
    assert stored.hash() == other.hash() == frame_hash(stored.frame()[["query_id", "doc_id"]])


def test_numbers_of_passages():
    found = Candidates.of_frame(pd.DataFrame({"query_id": list("aabb"), "doc_id": ["x", "yy", "x", "z"]}))
    assert found.numbers_of(pd.Series(["yy", "?", "x", "zz"])).tolist() == [1, -1, 0, -1]
    assert found.numbers_of(pd.Series([], dtype=str)).tolist() == []


@pytest.mark.filterwarnings("ignore:BM25 finds no passage")
def test_training_draws_the_same_of_a_frame_and_of_the_stored_form(collection, tmp_path):
    frame = bm25_candidates(collection, "train", depth=9, index_dir=tmp_path).sample(frac=1, random_state=0)
    stored = training_candidates(collection, "train", 9, index_dir=tmp_path)
    rng = np.random.default_rng(0)
    judged = stored.frame().groupby("query_id").head(3)[["query_id", "doc_id"]]
    qrels = judged.assign(relevance=rng.integers(0, 3, len(judged)))
    of_frame, of_stored = (TrainingInstances(qrels, form, 2) for form in (canonical_order(frame), stored))
    assert of_frame.pairs == of_stored.pairs and len(of_stored) > 10
    for index in range(len(of_stored)):
        assert of_frame.instance(1, index) == of_stored.instance(1, index)


@pytest.mark.parametrize("damage", ["numbers.npy", "starts.npy", "names.npy", "queries.txt", "made_from.json"])
def test_damaged_candidates_are_refused(collection, tmp_path, damage):
    folder = training_candidates(collection, "train", 3, index_dir=tmp_path).folder
    content = bytearray((folder / damage).read_bytes())
    content[len(content) * 3 // 4] ^= 1
    (folder / damage).write_bytes(content if damage != "made_from.json" else content[:-9])
    with pytest.raises(ValueError, match="holds no whole candidates .*: delete it, and they are searched anew"):
        Candidates.open(folder)


# --- runs that exist


RUN = pd.DataFrame(
    [("q3", "d1", 1.0), ("q3", "d3", 2.0), ("q3", "d2", 0.5), ("q9", "d1", 1.0)], columns=["query_id", "doc_id", "score"]
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "passages.tsv").write_text("d1\tblue ice\nd2\tan old king\nd3\twater\n")
    (tmp_path / "queries.dev.tsv").write_text("q3\triver water\nq4\tice\n")
    (tmp_path / "candidates.dev.trec").write_text("q4 Q0 d2 1 5 x\nq3 Q0 d1 1 1 x\nq3 Q0 d2 2 0 x\n")
    write_run(RUN, tmp_path / "deepct.dev.run.gz")
    return tmp_path


def test_a_run_that_is_there_is_the_first_stage(folder):
    collection = load_collection(folder)
    own = first_stage_candidates(collection, "dev", 1, run="collection")
    assert own[["query_id", "doc_id", "rank"]].to_numpy().tolist() == [["q4", "d2", 1], ["q3", "d1", 1]]
    with pytest.warns(UserWarning, match=r"deepct.dev.run.gz has none of 1 of 2 queries of 'dev': they have no candidates"):
        given = first_stage_candidates(collection, "dev", 2, run=f"{folder}/deepct.{{split}}.run.gz")
    assert given["doc_id"].tolist() == ["d3", "d1"] and given["score"].tolist() == [2.0, 1.0]
    assert training_candidates(collection, "dev", 2, run="collection").frame()["doc_id"].tolist() == ["d2", "d1", "d2"]


def test_a_run_that_does_not_fit_is_refused(folder):
    collection = load_collection(folder)
    write_run(RUN.head(3).assign(query_id="q8"), folder / "a.run")
    with pytest.raises(ValueError, match="a.run has none of 2 of 2 queries of 'dev': is it another split's?"):
        first_stage_candidates(collection, "dev", run=f"{folder}/a.run")
    write_run(RUN.assign(query_id=["q3", "q3", "q4", "q4"], doc_id=["d1", "d7", "d1", "d2"]), folder / "b.run")
    with pytest.raises(ValueError, match="has no passage 'd7'"):
        first_stage_candidates(collection, "dev", run=f"{folder}/b.run")
    with pytest.raises(FileNotFoundError, match="no file"):
        first_stage_candidates(collection, "dev", run=f"{folder}/none.run")
    with pytest.raises(ValueError, match="^run: expected a path, found a frame with query_id, doc_id"):
        first_stage_candidates(collection, "dev", run=RUN)
