"""MS MARCO's files as they are distributed: what a split holds, and the real identifiers of three test sets."""

import gzip
import warnings
from pathlib import Path

import pytest
from tests.data.conftest import rows, write_qna

from gdmtl_lib.evaluation import paper
from gdmtl_lib.data.collection import Collection, load_collection
from gdmtl_lib.evaluation.measures import evaluate

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"

# As published: numbers as ids, and dev.small within dev.
FOLDER = {
    "collection.tsv": "0\tThe Manhattan Project\n1\tblue ice\n2\tcold wind\n3\tan old king\n",
    "queries.train.tsv": "10\twho was king\n11\tnobody judged this\n",
    "qrels.train.tsv": "10\t0\t3\t1\n",
    "queries.dev.tsv": "20\twhy is ice blue\n21\twhat is wind\n22\tcold\n",
    "queries.dev.small.tsv": "20\twhy is ice blue\n21\twhat is wind\n",
    "qrels.dev.small.tsv": "20\t0\t1\t1\n21\t0\t2\t1\n",
    "queries.eval.small.tsv": "30\twhat is a project\n",
    "top1000.dev": "21\t2\twhat is wind\tcold wind\n20\t2\twhy is ice blue\tcold wind\n20\t1\twhy is ice blue\tblue ice\n"
    "99\t1\tof another split\tblue ice\n",
    "msmarco-test2019-queries.tsv": "30\twhat is a project\n31\tnobody judged this either\n",
    "2019qrels-pass.txt": "30 Q0 0 3\n30 Q0 2 0\n",
    "evaluation_topics_annotated_resolved_v1.0.tsv": "31_1\tWhat is ice?\r\n31_2\tWhy is ice blue?\r\n32_1\tWho was king?\r\n",
    "2019qrels.txt": "31_1 Q0 CAR_116d 4\n31_1 Q0 MARCO_1 2\n31_2 Q0 MARCO_2 0\n32_1 Q0 CAR_07 3\n",
    "collection.tar.gz": "not read",
    "queries.tar.gz": "not read",
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def write(folder: Path, **changes: str | bytes | None) -> Path:
    """Write FOLDER, with some files' content replaced, or left out for None."""
    for name, text in (FOLDER | changes).items():
        if text is not None:
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_msmarco_files_are_a_collection_under_their_published_names(tmp_path):
    collection = load_collection(write(tmp_path))
    assert set(collection.splits) == {"train", "dev", "dev-small", "eval-small", "dl-2019", "cast-2019"}
    assert rows(collection.queries("dev-small")) == [("20", "why is ice blue"), ("21", "what is wind")]
    assert rows(collection.qrels("dev-small")) == [("20", "1", 1), ("21", "2", 1)]
    assert collection.text(["3", "0"]) == ["an old king", "The Manhattan Project"]
    assert [doc_id for doc_id, _ in collection.passages("train")] == ["0", "1", "2", "3"]
    with pytest.raises(ValueError, match="has no passage '4'$"):
        collection.text(["4"])
    with pytest.raises(ValueError, match="has no qrels for the split 'dev'$"):
        collection.qrels("dev")


def test_msmarco_queries_that_nobody_judged_are_left_out_where_others_were(tmp_path):
    collection = load_collection(write(tmp_path))
    assert rows(collection.queries("train")) == [("10", "who was king")]
    assert rows(collection.queries("dl-2019")) == [("30", "what is a project")]
    assert len(collection.queries("dev")) == 3  # no judgments at all


def test_msmarco_lookups_by_id_find_the_split_that_has_the_part(tmp_path):
    """20 stands in dev, without judgments, and in dev-small; 30 in eval-small and in dl-2019."""
    collection = load_collection(write(tmp_path))
    assert sorted(rows(collection.qrels_of(["20", "30", "10"]))) == [
        ("10", "3", 1), ("20", "1", 1), ("30", "0", 3), ("30", "2", 0),
    ]  # fmt: skip
    assert collection.qrels_of(["22"]).empty
    assert collection.query_texts(["30", "22"]) == ["what is a project", "cold"]
    with pytest.raises(ValueError, match="has no query '77' .1 unknown. in its splits"):
        collection.qrels_of(["20", "77"])


def test_of_splits_that_give_an_id_to_two_queries_one_is_read(tmp_path):
    """As years of a TREC track do, whose topics are numbered from 1."""
    (tmp_path / "collection.tsv").write_text("0\tice\n1\twind\n")
    for year, texts, doc in (("2014", {"1": "blue ice", "2": "long day"}, 0), ("2015", {"1": "old king", "3": "ice"}, 1)):
        (tmp_path / f"queries.{year}.tsv").write_text("".join(f"{each}\t{text}\n" for each, text in texts.items()))
        (tmp_path / f"qrels.{year}.tsv").write_text("".join(f"{each}\t0\t{doc}\t1\n" for each in texts))
    for year, text, doc in (("2014", "blue ice", "0"), ("2015", "old king", "1")):
        collection = load_collection(tmp_path)
        collection.queries(year)  # as a search for its candidates does
        assert collection.query_texts(["1"]) == [text] and collection.qrels_of(["1"])["doc_id"].tolist() == [doc]
    assert collection.query_texts(["2", "3"]) == ["long day", "ice"]  # from here on both are read
    for look_up in (collection.query_texts, collection.qrels_of):
        with pytest.raises(ValueError, match="has two queries '1': 'old king' in its split '2015', 'blue ice' in its split '2014': open"):
            look_up(["3", "1"])


def test_msmarco_top_1000_files_are_candidates_in_their_own_order(tmp_path):
    """top1000.dev holds dev.small's queries: it serves both, each with its own."""
    collection = load_collection(write(tmp_path))
    expected = [("21", "2", -1.0, 1), ("20", "2", -1.0, 1), ("20", "1", -2.0, 2)]
    assert rows(collection.candidates("dev-small")) == rows(collection.candidates("dev")) == expected
    with pytest.raises(ValueError, match="has no candidates for the split 'train'$"):
        collection.candidates("train")
    own = {"top1000.dev.small.tsv.gz": gzip.compress(b"20\t3\twhy is ice blue\tan old king\n")}
    assert rows(load_collection(write(tmp_path, **own)).candidates("dev-small")) == [("20", "3", -1.0, 1)]


def test_msmarco_judgments_of_queries_without_a_text_are_left_out_with_a_warning(tmp_path):
    collection = load_collection(write(tmp_path, **{"qrels.train.tsv": "10 0 3 1\n12 0 1 1\n13 0 1 1\n"}))
    with pytest.warns(UserWarning) as caught:
        assert rows(collection.qrels("train")) == [("10", "3", 1)]
    assert [str(warning.message) for warning in caught] == [
        f"{tmp_path}/qrels.train.tsv judges 2 queries that queries.train.tsv lacks, for example '12': their judgments "
        "are left out"
    ]


def test_msmarco_companions_are_those_of_any_collection(tmp_path):
    companions = {
        "answers.train.tsv": "10\tLudwig\n11\tnobody\n", "categories.train.tsv": "10\tPERSON\n",
        "sessions.train.tsv": "10\tkings\n", "candidates.train.trec": "10 Q0 1 1 5.5 x\n11 Q0 1 1 5.5 x\n",
    }  # fmt: skip
    collection = load_collection(write(tmp_path, **companions))
    assert rows(collection.queries("train")) == [("10", "who was king", "PERSON", "kings")]
    assert rows(collection.answers_of(["10"])) == [("10", "Ludwig")]
    assert rows(collection.candidates("train")) == [("10", "1", 5.5, 1)]


def test_msmarco_fingerprints_follow_the_texts(tmp_path):
    def fingerprints(**changes):
        collection = load_collection(write(tmp_path, **changes))
        return collection.fingerprint(), collection.passages_fingerprint("train")

    first = fingerprints()
    assert fingerprints() == first
    assert fingerprints(**{"qrels.train.tsv": "10\t0\t2\t1\n"}) == first
    queries = fingerprints(**{"queries.train.tsv": "10\twho was a king\n"})
    assert queries[0] != first[0] and queries[1] == first[1]
    passages = fingerprints(**{"collection.tsv": FOLDER["collection.tsv"].replace("blue ice", "pale ice!")})
    assert passages[0] != first[0] and passages[1] != first[1]


@pytest.mark.parametrize(
    ("name", "content", "call", "message"),
    [
        ("qrels.train.tsv", "10 0 3 1\n10 0 9 1\n", lambda c: c.qrels("train"),
         ", line 2: doc_id '9' is not in collection.tsv: add it there, or remove the line"),
        ("2019qrels.txt", "31_1 Q0 CAR_1 1\n31_1 Q0 MARCO_9 1\n", lambda c: c.qrels("cast-2019"),
         ", line 2: doc_id 'MARCO_9' is not in collection.tsv: add it there, or remove the line"),
        ("2019qrels.txt", "31_1 Q0 CAR_1 1\n31_1 Q0 1 1\n", lambda c: c.queries("cast-2019"),
         ": expected every judged passage to be MARCO_... or CAR_..., as CAsT has them, found '1' (query '31_1'): keep "
         "the two kinds of judgments in two files"),
        ("qrels.train.tsv", "12 0 3 1\n", lambda c: c.queries("train"),
         " judges none of the queries in queries.train.tsv, but for example '12': are these two of the same split?"),
        ("qrels.train.tsv", "10 0 3\n", lambda c: c.qrels("train"),
         ", line 1: expected 4 columns (query_id 0 doc_id relevance), found 3"),
        ("queries.train.tsv", "10\ta\n10\tb\n", lambda c: c.query_texts(["10"]),
         ", line 2: query_id '10' stood before: ids must be unique"),
        ("categories.dev.tsv", "20\tENTITY\n", lambda c: c.queries("dev"),
         " has no line for query id '21' (2 missing): every query needs one"),
        ("top1000.dev", "20\t1\twhy\n", lambda c: c.candidates("dev"),
         ", line 1: expected 4 fields separated by tabs (query_id, doc_id, query, passage), found 3"),
        ("top1000.dev", "20\t1\twhy\tblue ice\n20\t9\twhy\tblue ice\n", lambda c: c.candidates("dev"),
         ", line 2: doc_id '9' is not in collection.tsv: add it there, or remove the line"),
        ("top1000.dev", "20\t1\twhy\tx\n20\t1\twhy\tx\n", lambda c: c.candidates("dev"),
         ", line 2: passage '1' stands a second time for query '20'; keep one of the two"),
        ("top1000.dev", "88\t1\twhy\tx\n20\t1\twhy\tx\n20\t2\twhy\tx\n88\t2\twhy\tx\n20\t1\twhy\tx\n",
         lambda c: c.candidates("dev"), ", line 5: passage '1' stands a second time for query '20'; keep one of the two"),
        ("top1000.dev", "qid\tpid\tquery\tpassage\n20\t1\twhy\tx\n", lambda c: c.candidates("dev"),
         ", line 1: expected values, found a row of names (qid pid query passage): remove it"),
        ("top1000.dev", "88\t1\twhy\tx\n", lambda c: c.candidates("dev-small"),
         " has no line for any of the split's 2 queries: is it another split's?"),
    ],
)  # fmt: skip
def test_msmarco_files_that_are_wrong_are_refused_when_they_are_read(tmp_path, name, content, call, message):
    collection = load_collection(write(tmp_path, **{name: content}))
    with pytest.raises(ValueError) as caught:
        call(collection)
    assert str(caught.value) == f"{tmp_path}/{name}{message}"


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"collection.tsv": None}, FileNotFoundError,
         "{} holds no collection.tsv, which has to be unpacked: passages are looked up in the file itself"),
        ({"queries.dev-small.tsv": "20\ta\n"}, ValueError,
         "{} holds both queries.dev-small.tsv and queries.dev.small.tsv, queries of 'dev-small': keep one of them"),
        ({"qrels.dev2.tsv": "20 0 1 1\n"}, ValueError,
         "{}/qrels.dev2.tsv has no queries.dev2.tsv beside it: add it, or rename the file to one of the splits "
         "train, dev, dev-small, eval-small, dl-2019, cast-2019"),
    ],
)  # fmt: skip
def test_msmarco_folders_that_lack_something(tmp_path, change, kind, message):
    with pytest.raises(kind) as caught:
        load_collection(write(tmp_path, **change))
    prefix, _, names = str(caught.value).partition("one of the splits ")
    expected, _, expected_names = message.format(tmp_path).partition("one of the splits ")
    assert prefix == expected and sorted(names.split(", ")) == sorted(expected_names.split(", "))


def test_msmarco_without_queries(tmp_path):
    (tmp_path / "collection.tsv").write_text(FOLDER["collection.tsv"])
    with pytest.raises(FileNotFoundError, match="holds no queries.<split>.tsv, for example queries.dev.small.tsv$"):
        load_collection(tmp_path)


# --- CAsT ---------------------------------------------------------------------------------------------------


def test_cast_is_its_ms_marco_part_by_session(tmp_path):
    """Of 32_1 a passage of TREC CAR alone is judged: it is no query of this collection."""
    collection = load_collection(write(tmp_path))
    assert rows(collection.queries("cast-2019")) == [
        ("31_1", "What is ice?", "31"), ("31_2", "Why is ice blue?", "31"),
    ]  # fmt: skip
    assert rows(collection.qrels("cast-2019")) == [("31_1", "1", 2), ("31_2", "2", 0)]


# --- the real identifiers -----------------------------------------------------------------------------------


def real(folder: Path, *names: str) -> Collection:
    """A collection folder of real topics and judgments, its passages made up under the real ids."""
    for name in names:
        if not (DATA / name).exists():
            pytest.skip(f"no {DATA / name}")
        (folder / Path(name).name).symlink_to((DATA / name).resolve())
    judged = set()
    for path in folder.glob("*qrels*"):
        with gzip.open(path, "rt") as lines:
            judged |= {line.split()[2].removeprefix("MARCO_") for line in lines if "CAR_" not in line}
    (folder / "collection.tsv").write_text("".join(f"{doc_id}\tpassage {doc_id}\n" for doc_id in sorted(judged)))
    return load_collection(folder)


def test_msmarco_dev_of_the_paper(tmp_path):
    """6,980 queries and 7,437 judgments, all of them read, and known as the paper's."""
    names = ("topics.msmarco-passage.dev-subset.txt", "qrels.msmarco-passage.dev-subset.txt.gz")
    collection = real(tmp_path, *(f"msmarco/{name}" for name in names))
    [split] = collection.splits
    assert split == "msmarco-passage-dev-subset"
    with warnings.catch_warnings(action="error"):
        queries, qrels = collection.queries(split), collection.qrels(split)
    assert (len(queries), len(qrels), qrels["relevance"].unique().tolist()) == (6980, 7437, [1])
    assert paper.paper_collection(qrels) == paper.MS_MARCO
    assert "session" not in queries
    assert collection.text(qrels["doc_id"][:2]) == ["passage 7067032", "passage 7067056"]
    perfect = qrels.assign(score=1.0)
    assert evaluate(perfect, qrels, ["RR@10"])["value"].tolist() == [1.0] * 6980


def test_msmarco_trec_dl_2019_by_the_same_code(tmp_path):
    names = ("topics.dl19-passage.txt", "qrels.dl19-passage.txt.gz")
    collection = real(tmp_path, *(f"msmarco/{name}" for name in names))
    qrels = collection.qrels("dl19-passage")
    assert (len(collection.queries("dl19-passage")), len(qrels)) == (43, 9260)
    assert sorted(qrels["relevance"].unique()) == [0, 1, 2, 3]
    assert paper.paper_collection(qrels) is None


def test_cast_of_the_paper(tmp_path):
    """173 judged turns of 20 sessions; 2,983 passages of MS MARCO at grade 2 or more, over 159 turns."""
    names = ("evaluation_topics_annotated_resolved_v1.0.tsv", "2019qrels.txt.gz")
    collection = real(tmp_path, *(f"cast2019/{name}" for name in names))
    queries, qrels = collection.queries("cast-2019"), collection.qrels("cast-2019")
    assert (len(queries), queries["session"].nunique(), len(qrels)) == (173, 20, 15337)
    assert set(queries["query_id"]) == set(qrels["query_id"])
    relevant = qrels[qrels["relevance"] >= 2]
    assert (len(relevant), relevant["query_id"].nunique()) == (2983, 159)
    assert qrels["doc_id"].str.fullmatch(r"\d+").all()
    assert paper.paper_collection(qrels) == paper.CAST
    assert collection.query_texts(["31_1"]) == ["What is throat cancer?"]
    values = evaluate(relevant.assign(score=1.0), qrels, ["RR@10"], relevance_level=2)
    assert values["value"].sum() == 159 and len(values) == 173  # a turn with nothing relevant counts 0


def test_the_published_answers_lie_beside_the_passages(tmp_path, monkeypatch):
    """They give categories and answers to the splits of their queries, unless those have files of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ValueError) as caught:
        load_collection(write(tmp_path)).answers("train")
    assert str(caught.value) == (
        f"collection {str(tmp_path)!r} has no answers for the split 'train': GDMTL+ alone needs them; fetch "
        f"them with `curl --create-dirs -o {tmp_path}/train_v2.1.json.gz "
        "https://msmarco.z22.web.core.windows.net/msmarco/train_v2.1.json.gz`"
    )
    write_qna(tmp_path / "train_v2.1.json.gz", [(10, "PERSON", ["Ludwig"], ["It was Ludwig."]), (11, "ENTITY", [], "[]")])
    collection = load_collection(write(tmp_path))
    assert rows(collection.queries("train")) == [("10", "who was king", "PERSON")]
    assert rows(collection.answers("train")) == [("10", "It was Ludwig.")]
    assert "category" not in collection.queries("dl-2019")
    own = load_collection(write(tmp_path, **{"answers.train.tsv": "10\tnobody\n"}))
    assert rows(own.answers("train")) == [("10", "nobody")] and own.fingerprint() != collection.fingerprint()
