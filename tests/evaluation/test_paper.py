from pathlib import Path

import pandas as pd
import pytest

from gdmtl_lib.evaluation import paper
from gdmtl_lib.data.trec import read_qrels

DATA = Path(__file__).parents[3] / "shared" / "data"


def qrels_of(name: str) -> pd.DataFrame:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {path}")
    return read_qrels(path)


def test_ms_marcos_judgments_are_known():
    qrels = qrels_of("msmarco/qrels.msmarco-passage.dev-subset.txt.gz")
    assert paper.paper_collection(qrels) == paper.paper_collection(qrels[::-1]) == paper.MS_MARCO
    assert paper.paper_collection(qrels[1:]) is None


def test_casts_judgments_of_ms_marco_passages_are_known():
    qrels = qrels_of("cast2019/2019qrels.txt.gz")
    of_ms_marco = qrels[qrels["doc_id"].str.startswith("MARCO_")]
    assert paper.paper_collection(of_ms_marco) == paper.CAST
    assert paper.paper_collection(qrels) is None


def test_the_papers_columns_stand_beside_on_its_collection_alone(monkeypatch):
    table = pd.DataFrame({"system": ["gdmtl", "bert"], "change": [10.0, 1.0]})
    qrels = pd.DataFrame({"query_id": ["1"], "doc_id": ["a"], "relevance": [1]})
    assert paper.beside(table, paper.MORE_AT_RANK_ONE, qrels, on=["system"]) is table
    monkeypatch.setattr(paper, "paper_collection", lambda _: paper.MS_MARCO)
    beside = paper.beside(table, paper.MORE_AT_RANK_ONE, qrels, on=["system"])
    assert list(beside.columns) == ["system", "change", "change (paper)"]
    assert beside["change (paper)"][0] == 71 and beside["change (paper)"].isna()[1]


def test_wins_ties_and_losses_add_up_to_the_queries():
    table = paper.WIN_TIE_LOSS
    totals = table[["win", "tie", "loss"]].sum(axis=1)
    assert set(zip(table["collection"], table["measure"], totals, strict=True)) == {
        (paper.MS_MARCO, "RR@10", 6980), (paper.CAST, "nDCG@10", 173),
    }  # fmt: skip
    assert (table["tolerance"] == 0.1).all()


@pytest.mark.parametrize(
    ("table", "file", "key", "columns"),
    [
        ("WIN_TIE_LOSS", "win_tie_loss.csv", ["baseline", "system"], {"win": "win", "tie": "tie", "loss": "loss"}),
        ("CATEGORIES", "categories.csv", ["category", "system"], {"MRR@10": "mean"}),
    ],
)
def test_the_numbers_are_those_of_the_transcription(table, file, key, columns):
    path = DATA.parent / "paper" / file
    if not path.exists():
        pytest.skip(f"no {path}")
    expected = pd.read_csv(path, keep_default_na=False)
    ours = getattr(paper, table)
    ours = ours.assign(**{name: ours[name].str.lower() for name in key})
    expected = expected.rename(columns=columns)[[*key, *columns.values()]].sort_values(key, ignore_index=True, kind="stable")
    # Two collections can have the same pair of systems: then they stand in the order of their tables.
    pd.testing.assert_frame_equal(
        ours[[*key, *columns.values()]].sort_values(key, ignore_index=True, kind="stable"), expected, check_dtype=False
    )


def test_intervals_are_those_of_the_transcription():
    path = DATA.parent / "paper" / "other.csv"
    if not path.exists():
        pytest.skip(f"no {path}")
    expected = pd.read_csv(path)
    expected = expected[expected["where"] == "Sec 6.4"]
    columns = ["baseline", "system", "low", "high", "p_corrected"]
    pd.testing.assert_frame_equal(paper.INTERVALS[columns], expected[columns].reset_index(drop=True))
    assert set(paper.INTERVALS["collection"]) == {paper.MS_MARCO} and set(paper.INTERVALS["measure"]) == {"RR@10"}


def test_systems_of_a_table_stand_in_its_order():
    assert paper.systems_of(10) == ["bart_s", "gdmtl_s", "bart_c", "gdmtl_c", "bert", "gdmtl"]
    assert paper.systems_of(8) == ["bert", "gdmtl", "gdmtl_plus", "bm25"]


def test_the_papers_gains_over_the_single_task_twins():
    assert paper.twin_gains() == {"gdmtl": 0.008, "gdmtl_plus": 0.01, "gdmtl_s": 0.012, "gdmtl_c": 0.005}
