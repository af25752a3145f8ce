import re

import pandas as pd
import pytest

from gdmtl_lib.evaluation.measures import write_values
from gdmtl_lib.experiments.results import Results, labelled
from gdmtl_lib.data.trec import write_run

SYSTEMS = {"bm25": (None,), "bert": (0, 2, 10), "gdmtl": (2, 10), "gdmtl_plus": (1,)}


def values_frame(**values):
    rows = [(query, "RR@10", value, float("nan")) for query, value in values.items()]
    return pd.DataFrame(rows, columns=["query_id", "measure", "value", "residual"])


def home(folder, system, seed):
    return folder / system if seed is None else folder / system / f"seed{seed}"


@pytest.fixture
def folder(tmp_path):
    """BM25 and three systems on `dev`; a query's value is seed / 10, and the first passage of seed k is `d<k>`."""
    for system, seeds in SYSTEMS.items():
        for seed in seeds:
            where = home(tmp_path, system, seed)
            write_values(values_frame(q1=(seed or 0) / 10, q2=1.0), where / "per_query.dev.csv")
            run = pd.DataFrame({"query_id": "q1", "doc_id": [f"d{seed}", "other"], "score": [2.0, 1.0]})
            write_run(run, where / "run.dev.trec.gz")
    return tmp_path


def test_systems_stand_in_the_papers_order(folder):
    assert Results(folder).systems("dev") == ["bm25", "bert", "gdmtl", "gdmtl_plus"]
    assert Results(folder).systems("test") == []


def test_a_config_is_found_by_its_name(folder, monkeypatch):
    project = folder / "project"
    (project / "notebooks").mkdir(parents=True)
    (project / "papermill_runs" / "sample").mkdir(parents=True)
    monkeypatch.chdir(project / "notebooks")
    assert Results("sample").folder == project / "papermill_runs" / "sample"
    assert Results(str(folder)).folder == folder


def test_no_results_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no results of 'none': expected a folder .*/none or none; train"):
        Results("none")


def test_seeds_are_numbers(folder):
    (folder / "bert" / "seedling").mkdir()
    assert Results(folder).seeds("bert") == [0, 2, 10]
    assert Results(folder).seeds("GDMTL+") == [1]
    assert Results(folder).seeds("bm25") == []


def test_common_seeds(folder):
    results = Results(folder)
    assert results.common_seeds("bert", "gdmtl") == [2, 10]
    assert results.common_seeds("bm25", "bert") == [0, 2, 10]
    assert results.common_seeds("bm25") == [None]
    message = "expected a seed that all systems were trained with, found none (bert has 0, 2, 10; gdmtl_plus has 1)"
    with pytest.raises(ValueError, match=re.escape(message)):
        results.common_seeds("bert", "gdmtl_plus")


def test_trainings_of_folds_are_those_of_the_rotations(tmp_path):
    of_folds = ["folds/2/bert/seed0", "folds/2/bert/seed1", "folds/10/bert/seed0"]
    for place in (*of_folds, "gdmtl/seed0"):
        (tmp_path / place / "checkpoint").mkdir(parents=True)
    (tmp_path / "bert" / "seed0").mkdir(parents=True)  # where the joined run lies
    results = Results(tmp_path)
    assert results.trainings("BERT") == [tmp_path / place for place in of_folds]
    assert results.trainings("gdmtl") == [tmp_path / "gdmtl" / "seed0"] and results.trainings("mono") == []
    (tmp_path / "bert" / "seed0" / "checkpoint").mkdir()
    assert results.trainings("bert") == [tmp_path / "bert" / "seed0"]


def test_run_of_a_seed_and_of_the_lowest(folder):
    results = Results(folder)
    assert list(results.run("bert", "dev")["doc_id"]) == ["d0", "other"]
    assert list(results.run("bert", "dev", 10)["doc_id"]) == ["d10", "other"]
    assert list(results.run("gdmtl", "dev")["doc_id"]) == ["d2", "other"]
    assert results.run("bm25", "dev", 7).equals(results.run("bm25", "dev"))


def test_values_are_means_over_seeds(folder):
    """bert: (0 + 0.2 + 1.0) / 3 = 0.4 on q1."""
    results = Results(folder)
    pd.testing.assert_frame_equal(results.values("bert", "dev"), values_frame(q1=0.4, q2=1.0))
    pd.testing.assert_frame_equal(results.values("bert", "dev", 2), values_frame(q1=0.2, q2=1.0))
    pd.testing.assert_frame_equal(results.values("bm25", "dev", 3), values_frame(q1=0.0, q2=1.0))


def test_seeds_measured_on_different_queries_have_no_mean(folder):
    write_values(values_frame(q1=0.5, q3=1.0), folder / "bert" / "seed2" / "per_query.dev.csv")
    with pytest.raises(ValueError, match=r"seed2/per_query.dev.csv: expected the queries and measures of .*seed0"):
        Results(folder).values("bert", "dev")


def test_a_missing_file_is_named_with_those_there_are(folder):
    results = Results(folder)
    with pytest.raises(FileNotFoundError, match=r"BERT has no run.test.trec.gz: .*bert/seed<k>, found it in no folder"):
        results.run("bert", "test")
    with pytest.raises(FileNotFoundError, match=r"GDMTL has no per_query.dev.csv: .*/seed0, found it in bert/seed0, "):
        results.values("gdmtl", "dev", 0)
    with pytest.raises(ValueError, match="unknown system 'brt'"):
        results.run("brt", "dev")


def test_chosen_systems(folder):
    results = Results(folder)
    assert results.chosen("dev") == ["bm25", "bert", "gdmtl", "gdmtl_plus"]
    assert results.chosen("dev", ["gdmtl+", "BERT"], "bert") == ["gdmtl_plus", "bert"]
    assert list(results.values_by_system("dev", ["gdmtl+", "BERT"])) == ["gdmtl_plus", "bert"]
    with pytest.raises(ValueError, match="systems: expected bert among them, found gdmtl; add it"):
        results.chosen("dev", ["gdmtl"], "bert")
    with pytest.raises(ValueError, match="expected others to compare bert with, found none; add or train one"):
        results.chosen("dev", ["bert"], "bert")
    with pytest.raises(FileNotFoundError, match="mono has no per_query.dev.csv"):
        results.chosen("dev", None, "mono")
    with pytest.raises(FileNotFoundError, match="BM25 has no per_query.test.csv"):
        results.chosen("test")


def test_rank_shifts_go_seed_by_seed(folder):
    """The judged passage is `d2`: only the runs of seed 2 have it, both at rank 1; BM25 never."""
    qrels = pd.DataFrame({"query_id": ["q1"], "doc_id": ["d2"], "relevance": [1]})
    shifts = Results(folder).rank_shifts("bm25", "gdmtl", "dev", qrels, depth=1)
    assert shifts.values.tolist() == [
        [2, "1", 0, 1, 1], [2, "not retrieved", 1, 0, -1], [10, "1", 0, 0, 0], [10, "not retrieved", 1, 1, 0],
    ]  # fmt: skip
    assert not Results(folder).rank_shifts("bert", "gdmtl", "dev", qrels, depth=1)["change"].any()


def test_tables_as_csv_and_latex(folder):
    table = pd.DataFrame({"system": ["GDMTL_S", "GDMTL+"], "mean": [0.12345, None], "mark": ["▲", "▽●"]})
    Results(folder).save_table(table.set_index("system"), "effect.dev")
    assert (folder / "tables" / "effect.dev.csv").read_text() == "system,mean,mark\nGDMTL_S,0.12345,▲\nGDMTL+,,▽●\n"
    latex = (folder / "tables" / "effect.dev.tex").read_text()
    assert r"GDMTL\_S & 0.123 & $^{\blacktriangle}$ \\" in latex and r"GDMTL+ &  & $^{\triangledown}$$\bullet$ \\" in latex
    Results(folder).save_table(table, "plain")
    assert (folder / "tables" / "plain.csv").read_text().startswith("system,mean,mark\nGDMTL_S")


def test_labels_for_names():
    table = pd.DataFrame({"baseline": ["bert"], "system": ["gdmtl_plus"], "win": [3]})
    assert labelled(table).values.tolist() == [["BERT", "GDMTL+", 3]]
    assert table["system"].item() == "gdmtl_plus"
