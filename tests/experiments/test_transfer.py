import json

import numpy as np
import pandas as pd
import pytest

from gdmtl_lib.experiments import results as result_files, transfer
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.evaluation.measures import write_values
from gdmtl_lib.pretrained import build_model
from gdmtl_lib.experiments.results import Results


def values(**by_query):
    rows = [(query, "RR@10", value, float("nan")) for query, value in by_query.items()]
    return pd.DataFrame(rows, columns=["query_id", "measure", "value", "residual"])


def lines(folder, name, rows):
    (folder / name).write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


@pytest.fixture
def make_collection(tmp_path):
    """Two training queries and three test queries over four passages; `ice` is relevant for both `t1` and `a`."""

    def make(name, ice="Ice is frozen water."):
        folder = tmp_path / name
        folder.mkdir()
        lines(folder, "passages.tsv", [("ice", ice), ("sea", "The sea is salt water."), ("king", "A king rules."), ("war", "A war ends.")])
        lines(folder, "queries.train.tsv", [("t1", "what is ice"), ("t2", "who rules")])
        lines(folder, "qrels.train.tsv", [("t1", 0, "ice", 1), ("t2", 0, "king", 1)])
        lines(folder, "queries.other.tsv", [("a", "frozen water"), ("b", "salt water"), ("c", "when does a war end")])
        lines(folder, "qrels.other.tsv", [("a", 0, "ice", 2), ("a", 0, "king", 1), ("b", 0, "sea", 2), ("c", 0, "war", 2)])
        return load_collection(folder)

    return make


@pytest.fixture
def trained(tmp_path, toy_bert_folder):
    """Results of two systems as `train` leaves them, of which bert has two seeds."""
    for system, seed in (("bert", 0), ("bert", 1), ("gdmtl", 0)):
        home = tmp_path / "results" / system / f"seed{seed}"
        build_model(system, checkpoint=toy_bert_folder, seed=seed).save_pretrained(home / "checkpoint")
        (home / "settings.json").write_text(json.dumps({"training": {"settings": {"precision": "fp32"}}}))
    return Results(tmp_path / "results")


@pytest.fixture(autouse=True)
def first_stage(monkeypatch):
    """BM25 without an index: every passage for every query."""

    def candidates(collection, split, depth, index_dir):
        docs = list(collection.doc_ids())[:depth]
        rows = [(query, doc, -rank, rank) for query in collection.queries(split)["query_id"] for rank, doc in enumerate(docs, 1)]
        return pd.DataFrame(rows, columns=["query_id", "doc_id", "score", "rank"]).astype({"score": float})

    monkeypatch.setattr(result_files, "first_stage_candidates", candidates)


def test_every_trained_system_is_measured_away(trained, make_collection):
    collection = make_collection("one")
    away = transfer.measure_away(trained, collection, "other", 4, 2, progress=False)
    assert away.folder == trained.folder
    assert away.systems("other") == ["bm25", "bert", "gdmtl"]
    assert len(away.run("bert", "other", 1)) == 3 * 4
    assert (trained.folder / "bert" / "seed1" / "run.other.json").is_file()


def test_another_collection_has_a_folder_of_its_own(trained, make_collection):
    collection = make_collection("one")
    away = transfer.measure_away(trained, collection, "other", 3, 2, ["gdmtl"], name="squad:/data/one.json", progress=False)
    assert away.folder == trained.folder / "transfer" / "squad-one.json"
    assert away.systems("other") == ["bm25", "gdmtl"] and trained.systems("other") == []
    assert not (trained.folder / "gdmtl" / "seed0" / "run.other.trec.gz").exists()
    assert not (away.folder / "gdmtl" / "seed0" / "checkpoint").exists()


@pytest.mark.parametrize(
    ("collection", "expected"),
    [
        ("sample", "sample"), ("/data/a b/", "a-b"), ("wikiqa:/data/WikiQA", "wikiqa-WikiQA"),
        ("irds:msmarco-passage/trec-dl-2019", "irds-msmarco-passage-trec-dl-2019"),
    ],
)  # fmt: skip
def test_short_names_of_collections(collection, expected):
    assert transfer.short_name(collection) == expected


def test_what_is_there_is_used_again(trained, make_collection, monkeypatch):
    from gdmtl_lib.inference import rerank as reranking

    collection = make_collection("one")
    first = transfer.measure_away(trained, collection, "other", 4, 2, ["bert"], name="one", progress=False)
    before = first.values("bert", "other", 0)
    monkeypatch.setattr(reranking, "rerank", None)
    again = transfer.measure_away(trained, collection, "other", 4, 2, ["bert"], name="one", progress=False)
    pd.testing.assert_frame_equal(again.values("bert", "other", 0), before)


def test_a_system_whose_checkpoint_is_gone_keeps_its_values(trained, make_collection):
    folder = trained.folder / "mono" / "seed0"
    write_values(values(a=1.0, b=0.5, c=0.0), folder / "per_query.other.csv")
    away = transfer.measure_away(trained, make_collection("one"), "other", 4, 2, ["mono", "bert"], progress=False)
    assert away.values("mono", "other")["value"].tolist() == [1.0, 0.5, 0.0]


@pytest.fixture
def measured(tmp_path):
    """Home has three systems, away two of them; bert has seeds 0 and 1, gdmtl 1 and 2."""
    for place, systems in (("home", ("bm25", "bert", "gdmtl", "mono")), ("away", ("bm25", "bert", "gdmtl"))):
        for system in systems:
            for seed in {"bm25": (None,), "bert": (0, 1), "gdmtl": (1, 2), "mono": (0,)}[system]:
                value = 0.5 if system == "bm25" else {"bert": 0.1, "gdmtl": 0.3, "mono": 0.0}[system] * (1 + seed)
                where = tmp_path / place / system / ("" if seed is None else f"seed{seed}")
                shift = 0.05 if place == "away" and system == "gdmtl" else 0.0
                write_values(values(a=value, b=value + shift), where / f"per_query.{place}.csv")
    return Results(tmp_path / "home"), Results(tmp_path / "away")


def test_systems_of_both_places(measured):
    splits = ("home", "away")
    assert transfer.common_systems(*measured, splits, None, "bert") == ["bm25", "bert", "gdmtl"]
    assert transfer.common_systems(*measured, splits, ["gdmtl", "bert"], "bert") == ["gdmtl", "bert"]
    with pytest.raises(FileNotFoundError, match="mono has no per_query.away.csv"):
        transfer.common_systems(*measured, splits, ["mono", "bert"], "bert")


def test_differences_stand_by_place():
    home = {"bert": values(a=0.2, b=0.4), "gdmtl": values(a=0.3, b=0.5)}
    away = {"bert": values(x=0.5, y=0.5, z=0.5), "gdmtl": values(x=0.5, y=0.2, z=0.5)}
    table = transfer.differences(home, away, "bert").set_index(["place", "system"])
    assert list(table.index.get_level_values("place").unique()) == list(transfer.PLACES)
    assert table.loc[("home", "gdmtl"), "difference"] == pytest.approx(0.1)
    assert table.loc[("away", "gdmtl"), "difference"] == pytest.approx(-0.1)


def test_each_training_is_compared_with_the_baselines_of_its_seed(measured):
    """Seed 1 is the only one in common: 0.6 - 0.2 at home, and half of 0.05 more away."""
    table = transfer.seed_differences(*measured, ("home", "away"), ["bm25", "bert", "gdmtl"], "bert")
    assert table[["measure", "system", "seed"]].values.tolist() == [["RR@10", "gdmtl", 1]]
    assert table[["home", "away"]].to_numpy()[0] == pytest.approx([0.4, 0.425])
    alone = transfer.seed_differences(*measured, ("home", "away"), ["bm25", "bert"], "bert")
    assert alone.empty and list(alone.columns) == ["measure", "system", "seed", "home", "away"]


def test_queries_that_share_a_passage_with_training(make_collection):
    """With level 2 away, `king` is not relevant for `a`."""
    collection = make_collection("one")
    shared = transfer.shared_needs(collection, "train", collection, "other", (1, 2))
    assert shared.values.tolist() == [["a", "t1", "ice", "frozen water", "what is ice", "Ice is frozen water."]]
    assert len(transfer.shared_needs(collection, "train", collection, "other")) == 2


def test_across_collections_the_text_has_to_be_the_same_too(make_collection):
    here = make_collection("one")
    assert len(transfer.shared_needs(here, "train", make_collection("two"), "other")) == 2
    other = transfer.shared_needs(here, "train", make_collection("three", ice="Ice cream is sweet."), "other")
    assert other["doc_id"].tolist() == ["king"]


def test_examples_are_one_a_query_and_cut():
    shared = pd.DataFrame(
        {
            "test_query_id": ["a", "a", "b", "c", "d"], "test_query": ["A", "A", "B", "C", "D"],
            "train_query": list("12345"), "passage": ["long words " * 20] * 5,
        }
    )  # fmt: skip
    table = transfer.shared_examples(shared, count=2, width=30)
    assert table["test query"].tolist() == ["A", "C"] and table["training query"].tolist() == ["1", "4"]
    assert all(len(text) <= 30 and text.endswith(" …") for text in table["shared passage"])
    assert transfer.shared_examples(shared[:0]).empty


def test_systems_by_whether_training_shared_the_passage():
    away = {"bert": values(a=0.2, b=0.4, c=0.6), "gdmtl": values(a=0.8, b=0.4, c=0.6)}
    shared = pd.DataFrame({"test_query_id": ["a", "a"]})
    table = transfer.by_sharing(away, shared, "bert", "RR@10").set_index(["category", "system"])
    assert table.loc[(transfer.SHARED, "gdmtl"), ["queries", "difference"]].tolist() == pytest.approx([1, 0.6])
    assert table.loc[(transfer.OWN, "gdmtl"), ["queries", "difference"]].tolist() == pytest.approx([2, 0.0])
    none = transfer.by_sharing(away, shared[:0], "bert", "RR@10")
    assert set(none["category"]) == {transfer.OWN} and np.isclose(none["share"], 1).all()
    with pytest.raises(ValueError, match="baseline: expected one of bert, gdmtl, found 'mono'"):
        transfer.by_sharing(away, shared, "mono", "RR@10")
