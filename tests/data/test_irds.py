"""Data sets of ir_datasets: what each gives, what is joined to MS MARCO and CAsT 2019, and what is missing."""

from collections import namedtuple
from pathlib import Path

import pytest
from tests.data.conftest import refuses, rows, write, write_qna

import ir_datasets
from gdmtl_lib.data.bm25 import bm25_candidates
from gdmtl_lib.evaluation import paper
from gdmtl_lib.data.collection import load_collection

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """ir_datasets' own folder, empty."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("IR_DATASETS_HOME", str(folder))
    return folder


@pytest.fixture
def irds(tmp_path):
    """A data set `toy` with passages, `toy/dev` and `toy/dev/small`, and `gone` without files."""
    import ir_datasets
    from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries
    from ir_datasets.util import LocalDownload

    write(tmp_path, **{"small.tsv": "q4\tice\n"})

    def local(name: str) -> LocalDownload:
        return LocalDownload(tmp_path / name)

    docs = TsvDocs(local("passages.tsv"))
    toy = {
        "gdmtl-toy": ir_datasets.Dataset(docs),
        "gdmtl-toy/dev": ir_datasets.Dataset(
            docs, TsvQueries(local("queries.dev.tsv")), TrecQrels(local("qrels.dev.tsv"), {})
        ),
        "gdmtl-toy/dev/small": ir_datasets.Dataset(docs, TsvQueries(local("small.tsv"))),
        "gdmtl-gone": ir_datasets.Dataset(TsvDocs(local("gone.tsv")), TsvQueries(local("gone.queries.tsv"))),
        "gdmtl-queries": ir_datasets.Dataset(TsvQueries(local("small.tsv"))),
    }
    for name, dataset in toy.items():
        ir_datasets.registry.register(name, dataset)
    yield
    for name in toy:
        del ir_datasets.registry._registered[name]


def test_irds(irds, tmp_path):
    collection = load_collection("irds:gdmtl-toy")
    assert collection.splits == ("dev", "dev-small")
    assert rows(collection.queries("dev")) == [("q3", "river water")]  # q4 was not judged
    assert rows(collection.queries("dev-small")) == [("q4", "ice")]  # a split without judgments keeps its queries
    assert rows(collection.qrels("dev")) == [("q3", "d3", 2)]
    refuses(
        lambda: collection.qrels("dev-small"),
        ValueError,
        "collection 'irds:gdmtl-toy' has no qrels for the split 'dev-small'",
    )
    assert collection.query_texts(["q4", "q3"]) == ["ice", "river water"]
    assert collection.text(["d2", "d1"]) == ["an old king", "blue glacier ice"]
    refuses(lambda: collection.text(["d9"]), ValueError, "collection 'irds:gdmtl-toy' has no passage 'd9'")
    assert list(collection.passages("dev"))[0] == ("d1", "blue glacier ice")
    small = load_collection("irds:gdmtl-toy/dev/small")
    assert small.splits == ("dev-small",)
    assert small.fingerprint() == collection.fingerprint() == collection.passages_fingerprint("dev")
    assert len(collection.fingerprint()) == 64


def test_irds_that_is_not_there(irds, home, tmp_path):
    collection = load_collection("irds:gdmtl-gone")
    assert collection.splits == ("all",)
    for call, missing, command in (
        (lambda: collection.queries("all"), "gone.queries.tsv", "export gdmtl-gone queries"),
        (lambda: next(collection.passages()), "gone.tsv", "lookup gdmtl-gone 0"),
        (lambda: collection.text(["d1"]), "gone.tsv", "lookup gdmtl-gone 0"),
    ):
        refuses(
            call,
            FileNotFoundError,
            f"ir_datasets cannot read 'gdmtl-gone', which is not on this machine or incomplete "
            f"({tmp_path / missing}): fetch it where there is a network, with `ir_datasets {command}`, and copy its "
            f"folder {home} here",
        )


def test_what_every_source_of_a_file_said_is_told_once(irds, monkeypatch, home):
    def fails(*_):
        raise RuntimeError("All download sources failed", [("first", OSError("no network")), ("second", OSError("no network"))])

    collection = load_collection("irds:gdmtl-toy")
    monkeypatch.setattr("ir_datasets.load", fails)
    refuses(
        lambda: collection.text(["d1"]), FileNotFoundError,
        "ir_datasets cannot read 'gdmtl-toy', which is not on this machine or incomplete (no network): fetch it where there is a "
        f"network, with `ir_datasets lookup gdmtl-toy 0`, and copy its folder {home} here",
    )  # fmt: skip


def test_unknown_irds(irds):
    refuses(
        lambda: load_collection("irds:nothing"),
        ValueError,
        "ir_datasets knows no 'nothing': its ids are listed at https://ir-datasets.com",
    )
    refuses(
        lambda: load_collection("irds:gdmtl-queries"),
        ValueError,
        "'gdmtl-queries' of ir_datasets has no passages",
    )


def test_irds_names_of_ms_marco():
    """The registry alone is asked: nothing is downloaded."""
    splits = load_collection("irds:msmarco-passage").splits
    assert {"train", "dev-small", "trec-dl-2019-judged"} <= set(splits)
    assert load_collection("irds:msmarco-passage/dev/small").splits == ("dev-small",)


# --- MS MARCO's answers and categories ----------------------------------------------------------------------


@pytest.fixture
def ms_marco(tmp_path, home, monkeypatch):
    """MS MARCO and its question answering data, with toy files in place of theirs."""
    import ir_datasets
    from ir_datasets.datasets.msmarco_qna import MsMarcoQnAQuery
    from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries
    from ir_datasets.util import LocalDownload

    (home / "msmarco-qna").mkdir()
    qna = home / "msmarco-qna" / "dev.queries.tsv"
    qna.write_text("q4\tice\tENTITY\nq9\tof no one\tPERSON\tnobody\nq3\triver water\tDESCRIPTION\tIt is wet.\tWater.\n")
    write(tmp_path, qrels__dev__tsv="q3 0 d3 2\nq4 0 d1 0\n")
    docs = TsvDocs(LocalDownload(tmp_path / "passages.tsv"))
    queries = TsvQueries(LocalDownload(tmp_path / "queries.dev.tsv"))
    qrels = TrecQrels(LocalDownload(tmp_path / "qrels.dev.tsv"), {})
    for name, dataset in {
        "msmarco-passage": ir_datasets.Dataset(docs),
        "msmarco-passage/dev/small": ir_datasets.Dataset(docs, queries, qrels),
        "msmarco-passage/trec-dl-2019": ir_datasets.Dataset(docs, queries, qrels),
        "msmarco-qna/dev": ir_datasets.Dataset(TsvQueries(LocalDownload(qna), query_cls=MsMarcoQnAQuery)),
    }.items():
        monkeypatch.setitem(ir_datasets.registry._registered, name, dataset)
    return qna


def test_msmarco_queries_get_the_answers_and_categories_of_the_question_answering_data(ms_marco):
    """The first answer that people wrote; q4 has none."""
    collection = load_collection("irds:msmarco-passage/dev/small")
    assert list(collection.queries("dev-small").columns) == ["query_id", "text", "category"]
    assert rows(collection.queries("dev-small")) == [("q3", "river water", "DESCRIPTION"), ("q4", "ice", "ENTITY")]
    assert rows(collection.answers("dev-small")) == [("q3", "It is wet.")]
    assert rows(collection.qrels("dev-small")) == [("q3", "d3", 2), ("q4", "d1", 0)]
    other = load_collection("irds:msmarco-passage/trec-dl-2019")
    assert list(other.queries("trec-dl-2019").columns) == ["query_id", "text"]


def test_msmarco_does_without_the_question_answering_data(ms_marco):
    ms_marco.unlink()
    collection = load_collection("irds:msmarco-passage/dev/small")
    assert rows(collection.queries("dev-small")) == [("q3", "river water"), ("q4", "ice")]
    with pytest.raises(ValueError) as caught:
        collection.answers("dev-small")
    assert str(caught.value) == (
        "collection 'irds:msmarco-passage/dev/small' has no answers for the split 'dev-small': GDMTL+ alone needs them; "
        f"fetch them with `curl --create-dirs -o {ms_marco.with_name('dev_v2.1.json.gz')} "
        "https://msmarco.z22.web.core.windows.net/msmarco/dev_v2.1.json.gz`"
    )


def test_msmarcos_published_answers_are_read_where_ir_datasets_has_downloaded_them(ms_marco):
    """Before what ir_datasets makes of them, which lacks the well-formed ones and needs one more package to be made."""
    write_qna(ms_marco.with_name("dev_v2.1.json.gz"))
    collection = load_collection("irds:msmarco-passage/dev/small")
    assert rows(collection.queries("dev-small")) == [("q3", "river water", "DESCRIPTION"), ("q4", "ice", "ENTITY")]
    assert rows(collection.answers("dev-small")) == [("q3", "Water is wet.")]


# --- what else ir_datasets holds ----------------------------------------------------------------------------


def register(monkeypatch, names, docs=(), queries=(), qrels=()):
    """A data set of ir_datasets with these rows; the first of several names has no judgments."""
    from ir_datasets.formats import BaseDocs, BaseQrels, BaseQueries

    class Docs(BaseDocs):
        docs_iter = staticmethod(lambda: iter(docs))
        docs_cls = staticmethod(lambda: type(docs[0]))
        docs_count = staticmethod(lambda: len(docs))

        def docs_store(self, field="doc_id"):
            return type("Store", (), {"get": staticmethod({doc.doc_id: doc for doc in docs}.__getitem__)})()

    class Queries(BaseQueries):
        queries_iter = staticmethod(lambda: iter(queries))
        queries_cls = staticmethod(lambda: type(queries[0]))

    class Qrels(BaseQrels):
        qrels_iter = staticmethod(lambda: iter(qrels))

    parts = [part() for part, rows in ((Docs, docs), (Queries, queries), (Qrels, qrels)) if rows]
    for name in names:
        here = parts if name == names[-1] else parts[:2]
        monkeypatch.setitem(ir_datasets.registry._registered, name, ir_datasets.Dataset(*here))


@pytest.mark.parametrize(("name", "split"), [("beir/gdmtl-toy/test", "test"), ("nano-beir/gdmtl-toy", "all")])
def test_collections_of_beir_and_nanobeir(monkeypatch, tmp_path, name, split):
    """Titled passages, graded judgments; a passage without a word, and a query that nobody judged."""
    from ir_datasets.datasets.beir import BeirTitleDoc
    from ir_datasets.formats import GenericDoc, GenericQuery, TrecQrel

    titled = name.startswith("beir")
    docs = [BeirTitleDoc("a", "blue ice", "Ice"), BeirTitleDoc("b/1", "", ""), BeirTitleDoc("c", "an\told\nking", "")]
    docs = docs if titled else [GenericDoc(doc.doc_id, doc.text) for doc in docs]
    queries = [GenericQuery("PLAIN-1", "ice"), GenericQuery("PLAIN-2", "king"), GenericQuery("PLAIN-3", "wind")]
    qrels = [TrecQrel("PLAIN-1", "a", 2, "0"), TrecQrel("PLAIN-2", "c", 1, "0"), TrecQrel("PLAIN-2", "c", 1, "0")]
    register(monkeypatch, ["beir/gdmtl-toy", name] if titled else [name], docs, queries, qrels)
    collection = load_collection(f"irds:{name}")
    assert collection.splits == (split,)
    with pytest.warns(UserWarning, match="1 of 3 judgments stand there before"):
        assert rows(collection.qrels(split)) == [("PLAIN-1", "a", 2), ("PLAIN-2", "c", 1)]
    assert rows(collection.queries(split)) == [("PLAIN-1", "ice"), ("PLAIN-2", "king")]
    assert collection.text(["a"]) == ["Ice blue ice" if titled else "blue ice"] and collection.passage_count(split) == 3
    found = bm25_candidates(collection, split, index_dir=tmp_path / "indexes")
    assert found[["query_id", "doc_id"]].to_numpy().tolist() == [["PLAIN-1", "a"], ["PLAIN-2", "c"]]


def test_what_ir_datasets_holds_twice_is_refused_where_it_differs(monkeypatch):
    from ir_datasets.formats import GenericDoc, GenericQuery, TrecQrel

    docs, twice = [GenericDoc("a", "ice")], [GenericQuery("q", "ice"), GenericQuery("q", "wind")]
    register(monkeypatch, ["gdmtl-twice"], docs, twice)
    with pytest.raises(ValueError) as caught:
        load_collection("irds:gdmtl-twice").queries("all")
    assert str(caught.value) == (
        "'gdmtl-twice' of ir_datasets has query 'q' twice, with the texts 'ice' and 'wind': expected one text an id"
    )
    register(monkeypatch, ["gdmtl-judged"], docs, twice[:1], [TrecQrel("q", "a", 1, "0"), TrecQrel("q", "a", 0, "0")])
    with pytest.raises(ValueError) as caught:
        load_collection("irds:gdmtl-judged").qrels("all")
    assert str(caught.value) == (
        "the judgments of 'gdmtl-judged' of ir_datasets, lines 1 and 2: passage 'a' is judged 1 and 0 for query 'q': keep "
        "one of the two"
    )


def test_texts_that_ir_datasets_calls_by_no_common_name(monkeypatch):
    """Some of its kinds of records say which of their fields is the text, some have one, and some have none."""
    from ir_datasets.formats import GenericDoc

    reasoned = namedtuple("BrightQuery", "query_id text reasoning")
    linking = namedtuple("TrecBackgroundLinkingQuery", "query_id doc_id url")
    program = namedtuple("CodeSearchNetDoc", "doc_id repo path func_name code language")
    passages = [GenericDoc("a", "ice")]
    register(monkeypatch, ["gdmtl-bright"], passages, [reasoned("q", "what is ice?", "")])
    assert rows(load_collection("irds:gdmtl-bright").queries("all")) == [("q", "what is ice?")]
    register(monkeypatch, ["gdmtl-linking"], passages, [linking("q", "a", "b")])
    refuses(
        lambda: load_collection("irds:gdmtl-linking").queries("all"), ValueError,
        "the queries of 'gdmtl-linking' of ir_datasets have no text that could be ranked, but query_id, doc_id, url",
    )  # fmt: skip
    register(monkeypatch, ["gdmtl-code"], [program("a", "b", "c", "d", "e", "f")], passages)
    refuses(
        lambda: load_collection("irds:gdmtl-code"), ValueError,
        "the passages of 'gdmtl-code' of ir_datasets have no text that could be ranked, but doc_id, repo, path, func_name, code, "
        "language",
    )  # fmt: skip


def test_a_package_that_ir_datasets_lacks_is_named(monkeypatch):
    from ir_datasets.formats import GenericDoc, GenericQuery

    def lacking():
        raise ModuleNotFoundError("No module named 'ijson'", name="ijson")
        yield

    register(monkeypatch, ["gdmtl-lacking"], [GenericDoc("a", "ice")], [GenericQuery("q", "ice")])
    dataset = ir_datasets.load("gdmtl-lacking")
    monkeypatch.setattr(type(dataset.queries_handler()), "queries_iter", lambda self: lacking())
    with pytest.raises(ValueError, match=r"ir_datasets reads 'gdmtl-lacking' with a package .*`pip install ijson`$"):
        load_collection("irds:gdmtl-lacking").queries("all")


# --- CAsT 2019 ----------------------------------------------------------------------------------------------

RESOLVED = "evaluation_topics_annotated_resolved_v1.0.tsv"


@pytest.fixture
def cast(tmp_path, home, monkeypatch):
    """CAsT 2019 of ir_datasets, raw utterances and all, with toy files; gives the place of the resolved queries."""
    import ir_datasets
    from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries
    from ir_datasets.util import LocalDownload

    content = {
        "passages.tsv": "0\tblue ice\n1\tan old king\n", "raw.tsv": "31_1\twhat?\n31_2\tand that?\n32_1\twho?\n",
        "cast.qrels": "31_1 Q0 CAR_1 4\n31_1 Q0 MARCO_0 3\n31_2 Q0 MARCO_1 0\n32_1 Q0 CAR_2 1\n",
    }  # fmt: skip
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    docs = TsvDocs(LocalDownload(tmp_path / "passages.tsv"))
    raw = TsvQueries(LocalDownload(tmp_path / "raw.tsv"))
    qrels = TrecQrels(LocalDownload(tmp_path / "cast.qrels"), {})
    monkeypatch.setitem(ir_datasets.registry._registered, "msmarco-passage", ir_datasets.Dataset(docs))
    monkeypatch.setitem(ir_datasets.registry._registered, "trec-cast/v1/2019", ir_datasets.Dataset(docs, raw, qrels))
    path = home / "trec-cast" / RESOLVED
    path.parent.mkdir()
    path.write_text("31_1\tWhat is ice?\r\n31_2\tWho was king?\r\n32_1\tWho?\r\n33_1\tNot judged.\r\n")
    return path


def test_cast_of_irds_is_the_ms_marco_part_with_resolved_queries_and_sessions(cast):
    collection = load_collection("irds:trec-cast/v1/2019")
    assert collection.splits == ("cast-2019",)
    assert rows(collection.queries("cast-2019")) == [("31_1", "What is ice?", "31"), ("31_2", "Who was king?", "31")]
    assert rows(collection.qrels("cast-2019")) == [("31_1", "0", 3), ("31_2", "1", 0)]
    assert collection.text(["1"]) == ["an old king"]
    assert dict(collection.passages("cast-2019")) == {"0": "blue ice", "1": "an old king"}
    assert collection.fingerprint() == load_collection("irds:msmarco-passage").fingerprint()


def test_cast_says_where_its_resolved_queries_have_to_be(cast):
    cast.write_text("31_1\tWhat is ice?\n")
    collection = load_collection("irds:trec-cast/v1/2019")
    with pytest.raises(ValueError, match=r"has no line for query id '31_2' .1 missing.: fetch it anew from https://"):
        collection.queries("cast-2019")
    cast.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load_collection("irds:trec-cast/v1/2019").queries("cast-2019")
    assert str(caught.value).startswith(
        "the resolved queries of 'trec-cast/v1/2019', which ir_datasets does not have, are not at "
        f"{cast}: fetch them with `curl --create-dirs -o {cast} https://"
    )


def test_cast_of_irds_with_the_real_files(cast, tmp_path, monkeypatch):
    """The same counts as from a folder: 173 turns, 20 sessions, 2,983 relevant passages; folds by session."""
    if not (DATA / "cast2019").is_dir():
        pytest.skip("CAsT 2019 is not here")
    import gzip

    cast.write_bytes((DATA / "cast2019" / RESOLVED).read_bytes())
    (tmp_path / "cast.qrels").write_bytes(gzip.decompress((DATA / "cast2019" / "2019qrels.txt.gz").read_bytes()))
    collection = load_collection("irds:trec-cast/v1/2019")
    queries, qrels = collection.queries("cast-2019"), collection.qrels("cast-2019")
    assert (len(queries), queries["session"].nunique(), int((qrels["relevance"] >= 2).sum())) == (173, 20, 2983)
    assert paper.paper_collection(qrels) == paper.CAST
    folds = load_collection("folds:cast-2019:irds:trec-cast/v1/2019")
    assert sum(len(folds.queries(f"test{number}")) for number in range(5)) == 173
