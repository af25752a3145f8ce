import json
import random
import re
import shutil

import pandas as pd
import pytest
import torch
import yaml
from tests.conftest import spread

from gdmtl_lib import pretrained
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.data.files import file_hash
from gdmtl_lib.data.splits import kfold
from gdmtl_lib.data.trec import canonical_order, read_run, write_run
from gdmtl_lib.evaluation.comparison import MISSED
from gdmtl_lib.evaluation.measures import evaluate, read_values, write_values
from gdmtl_lib.experiments.models import Models
from gdmtl_lib.experiments.results import (
    Results, join_epochs, labelled, measure_first_stage, measure_system, seed_spread,
)  # fmt: skip
from gdmtl_lib.pretrained import build_model

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
    assert Results(str(folder)).folder == Results(str(folder)).output == folder


def test_what_is_asked_for_by_name_draws_into_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "papermill_runs" / "sample").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    results = Results("sample")
    assert results.figures == results.folder / "by_hand" / "figures"
    results.save_table(pd.DataFrame({"n": [1]}), "a")
    assert (results.folder / "by_hand" / "tables" / "a.csv").is_file() and not (results.folder / "tables").exists()


def test_what_a_sweep_has_measured_is_not_replaced_by_something_else(tmp_path):
    """Its own splits with another depth, grade or first stage: results would be compared with what they are not."""
    results, usual = Results(tmp_path), {"run": None, "k1": 0.9, "b": 0.4, "enriched": None}
    (tmp_path / "bm25").mkdir()
    (tmp_path / "bm25" / "tuned.json").write_text('{"k1": 1.2, "b": 0.3}')
    results.check_as_planned("dev", 7, 1, usual)  # of a folder without a config
    away = {"collection": "wikiqa:x", "split": "test", "level": 2}
    results.config = {"depth": 50, "splits": {"dev": 1, "cast": 2}, "first_stage": {}, "transfer": [away]}
    results.check_as_planned("dev", 50, 1, usual)  # an earlier config was tuned, and this one is not
    results.check_as_planned("other", 7, 3, usual)
    results.check_as_planned("test", 50, 2, {}, "wikiqa:x")
    results.check_as_planned("test", 7, 1, {}, "wikiqa:y")
    for refused in (("cast", 50, 1, usual), ("dev", 20, 1, usual), ("dev", 50, 1, usual | {"run": "a"}), ("test", 50, 1, {}, "wikiqa:x")):
        with pytest.raises(ValueError, match="holds the results of a sweep of "):
            results.check_as_planned(*refused)
    results.config["first_stage"] = {"tune": 100}
    results.check_as_planned("dev", 50, 1, usual | {"k1": 1.2, "b": 0.3})
    with pytest.raises(ValueError, match="a sweep of dev with depth 50, k1 1.2, b 0.3, and asked for is depth 20, k1 0.9, b 0.4, which"):
        results.check_as_planned("dev", 20, 1, usual)


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


def test_only_what_was_measured_on_a_split_counts_there(folder):
    """Beside them a training that is under way, or failed, and one that another split was not re-ranked with."""
    (folder / "gdmtl" / "seed3").mkdir()
    (folder / "gdmtl" / "seed3" / "settings.json").write_text("{}")
    write_values(values_frame(q1=0.5), folder / "bert" / "seed2" / "per_query.cast.csv")
    results = Results(folder)
    assert results.seeds("gdmtl") == [2, 3, 10] and results.seeds("gdmtl", "dev") == [2, 10]
    assert results.common_seeds("bert", "gdmtl", split="dev") == [2, 10] and results.common_seeds("bert", split="cast") == [2]
    assert results.means_by_seed("dev", ["gdmtl"])["seed"].tolist() == [2, 10]


def test_seeds_that_the_config_does_not_have_are_left_out_and_named(folder):
    """What an earlier sweep of other settings has left is not averaged with."""
    (folder / "config.json").write_text(json.dumps({"seeds": [2, 1]}))
    with pytest.warns(UserWarning, match="whose config has other seeds: bert/seed0, bert/seed10, gdmtl/seed10$"):
        results = Results(folder)
    assert results.seeds("bert") == [2] and results.values("bert", "dev")["value"].tolist() == [0.2, 1.0]
    with pytest.warns(UserWarning, match="bert/seed2, bert/seed10, gdmtl/seed2, gdmtl/seed10, gdmtl_plus/seed1$"):
        assert Results(folder, seeds=[0]).systems("dev") == ["bm25", "bert"]


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
    assert results.chosen("dev", ["gdmtl", "bert", "GDMTL"]) == ["gdmtl", "bert"]
    with pytest.raises(ValueError, match="systems: expected bert among them, found gdmtl; add it"):
        results.chosen("dev", ["gdmtl"], "bert")
    with pytest.raises(ValueError, match="expected others to compare bert with, found none; add or train one"):
        results.chosen("dev", ["bert"], "bert")
    with pytest.raises(FileNotFoundError, match="mono has no per_query.dev.csv"):
        results.chosen("dev", None, "mono")
    with pytest.raises(FileNotFoundError, match="BM25 has no per_query.test.csv"):
        results.chosen("test")


@pytest.mark.parametrize(("given", "pair"), [
    ((None,), ("bert", "gdmtl")),
    (("GDMTL",), ("gdmtl", "bert")),
    ((None, "bert"), ("gdmtl", "bert")),
    (("mono",), ("mono", "gdmtl")),
    ((None, None, ["gdmtl", "bm25", "bert"]), ("bert", "gdmtl")),
    (("gdmtl", None, ["bm25", "bert", "mono", "gdmtl"]), ("gdmtl", "bert")),
    ((None, None, ["gdmtl", "mono"]), ("mono", "gdmtl")),
    ((None, None, ["bm25", "bart_s", "mono"]), ("bm25", "mono")),
    (("bert", None, ["bert"]), ("bert", "bert")),
])  # fmt: skip
def test_a_pair_is_of_two_systems(folder, given, pair):
    """Of one alone there is none, which `chosen` refuses."""
    assert Results(folder).pair(*given) == pair
    with pytest.raises(ValueError, match="^expected two systems to compare, found bert as baseline and as system; give another"):
        Results(folder).pair("BERT", "bert")


def test_rank_shifts_go_seed_by_seed(folder):
    """The judged passage is `d2`: only the runs of seed 2 have it, both at rank 1; BM25 never."""
    qrels = pd.DataFrame({"query_id": ["q1"], "doc_id": ["d2"], "relevance": [1]})
    shifts = Results(folder).rank_shifts("bm25", "gdmtl", "dev", qrels, depth=1)
    assert shifts.values.tolist() == [
        [2, "1", 0, 1, 1], [2, "below rank 1", 0, 0, 0], [2, MISSED, 1, 0, -1],
        [10, "1", 0, 0, 0], [10, "below rank 1", 0, 0, 0], [10, MISSED, 1, 1, 0],
    ]  # fmt: skip
    assert not Results(folder).rank_shifts("bert", "gdmtl", "dev", qrels, depth=1)["change"].any()


def test_tables_as_csv_and_latex(folder):
    table = pd.DataFrame({"system": ["GDMTL_S", "GDMTL+"], "mean": [0.12345, None], "mark": ["▲", "▽●"]})
    Results(folder).save_table(table.set_index("system"), "effect.dev")
    assert (folder / "tables" / "effect.dev.csv").read_text() == "system,mean,mark\nGDMTL_S,0.12345,▲\nGDMTL+,,▽●\n"
    latex = (folder / "tables" / "effect.dev.tex").read_text()
    assert r"GDMTL\_S & 0.123 & $^{\blacktriangle}$ \\" in latex and r"GDMTL+ &  & $^{\triangledown}$$\bullet$ \\" in latex
    # In brackets or a star behind a row's end LaTeX would see its arguments.
    Results(folder).save_table(table.assign(system=["[x]", "*x"]), "arguments")
    rows = (folder / "tables" / "arguments.tex").read_text().split("\n")[4:6]
    assert [row.partition(" &")[0] for row in rows] == ["{[}x]", "{*}x"]
    Results(folder).save_table(table, "plain")
    assert (folder / "tables" / "plain.csv").read_text().startswith("system,mean,mark\nGDMTL_S")


def test_labels_for_names():
    table = pd.DataFrame({"baseline": ["bert"], "system": ["gdmtl_plus"], "win": [3]})
    assert labelled(table).values.tolist() == [["BERT", "GDMTL+", 3]]
    assert table["system"].item() == "gdmtl_plus"


@pytest.fixture(scope="module")
def collection():
    return load_collection("sample")


@pytest.fixture(scope="module")
def candidates(collection):
    """Three passages for each of two queries."""
    queries, docs = collection.queries("dev")["query_id"][:2], list(collection.doc_ids())[:6]
    rows = [(query, doc, 3.0 - i, i + 1) for q, query in enumerate(queries) for i, doc in enumerate(docs[3 * q : 3 * q + 3])]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score", "rank"])


@pytest.fixture
def trained(tmp_path, toy_bert_folder):
    """A folder as `train` leaves it, with an untrained toy."""
    folder = tmp_path / "bert" / "seed0"
    build_model("bert", checkpoint=toy_bert_folder, seed=0).save_pretrained(folder / "checkpoint")
    settings = {"training": {"settings": {"precision": "fp32"}}, "finished": {}}
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def reranked(monkeypatch):
    """How often something was re-ranked."""
    from gdmtl_lib.inference import rerank as reranking

    calls = []
    real = reranking.rerank
    monkeypatch.setattr(reranking, "rerank", lambda *given, **named: calls.append(1) or real(*given, **named))
    return calls


def measure(trained, collection, candidates, **named):
    return measure_system(trained, collection, candidates, "dev", progress=False, **named)


def test_run_and_values_are_kept(trained, collection, candidates):
    values = measure(trained, collection, candidates)
    run = read_run(trained / "run.dev.trec.gz")
    assert set(zip(run["query_id"], run["doc_id"])) == set(zip(candidates["query_id"], candidates["doc_id"]))
    pd.testing.assert_frame_equal(values, evaluate(run, collection.qrels("dev")))
    pd.testing.assert_frame_equal(values, read_values(trained / "per_query.dev.csv"))


def test_a_run_says_of_itself_what_made_it(trained, collection, candidates):
    measure(trained, collection, candidates)
    said = yaml.safe_load((trained / "run.dev.ir-metadata.yml").read_text())
    assert said["tag"] == "bert" and said["data"]["test collection"] == {"name": "sample"}
    assert [stage["name"] for stage in said["method"]["retrieval"]] == ["bm25", "bert"]
    assert said["method"]["retrieval"][1]["reranks"] == "bm25" and said["method"]["automatic"] is True
    assert any(library.startswith("gdmtl==") for library in said["platform"]["software"]["libraries"]["python"])


def test_what_is_kept_is_used_again(trained, collection, candidates, reranked):
    first = measure(trained, collection, candidates)
    pd.testing.assert_frame_equal(measure(trained, collection, candidates), first)
    assert len(reranked) == 1


def test_what_the_first_version_kept_is_used_again(trained, collection, candidates, reranked):
    """Its record had a hash of the weights and one of the configuration, and no versions."""
    measure(trained, collection, candidates)
    record = json.loads((trained / "run.dev.json").read_text())
    of_files = {key: file_hash(trained / "checkpoint" / name) for key, name in (("checkpoint", "model.safetensors"), ("model", "config.json"))}
    record["made_from"] = {key: value for key, value in record["made_from"].items() if key != "versions"} | of_files
    (trained / "run.dev.json").write_text(json.dumps(record))
    measure(trained, collection, candidates)
    assert len(reranked) == 1


@pytest.mark.parametrize("name", ["run.dev.trec.gz", "per_query.dev.csv", "run.dev.json", "checkpoint/model.safetensors"])
def test_a_touched_file_changes_nothing(trained, collection, candidates, reranked, name):
    measure(trained, collection, candidates)
    (trained / name).touch()
    measure(trained, collection, candidates)
    assert len(reranked) == 1


@pytest.mark.parametrize("name", ["run.dev.trec.gz", "per_query.dev.csv", "run.dev.json"])
@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:40] + b"?" + data[41:], None])
def test_a_damaged_file_is_made_anew(trained, collection, candidates, reranked, name, damage):
    first = measure(trained, collection, candidates)
    path = trained / name
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
    pd.testing.assert_frame_equal(measure(trained, collection, candidates), first)
    assert len(reranked) == 2


def test_other_candidates_another_grade_and_another_checkpoint(trained, collection, candidates, reranked, toy_bert_folder):
    measure(trained, collection, candidates)
    measure(trained, collection, candidates[::-1])
    measure(trained, collection, candidates[::-1], relevance_level=2)
    shutil.rmtree(trained / "checkpoint")
    build_model("bert", checkpoint=toy_bert_folder, seed=1).save_pretrained(trained / "checkpoint")
    measure(trained, collection, candidates[::-1], relevance_level=2)
    assert len(reranked) == 4


def test_without_a_checkpoint(tmp_path, collection, candidates):
    with pytest.raises(FileNotFoundError) as error:
        measure_system(tmp_path, collection, candidates, "dev")
    assert str(error.value) == (
        f"{tmp_path} holds no trained system: expected {tmp_path}/checkpoint/model.safetensors; "
        "train it with notebook 03"
    )


@pytest.mark.parametrize("first_stage", [{}, {"run": None, "k1": 0.9, "b": 0.4, "enriched": None}])
def test_the_first_stage_is_kept(tmp_path, collection, first_stage):
    """Notebooks give every parameter of the first stage, also those that are left out."""
    run = measure_first_stage(tmp_path, collection, "dev", depth=3, **first_stage)
    pd.testing.assert_frame_equal(read_run(tmp_path / "bm25" / "run.dev.trec.gz"), run)
    assert run.groupby("query_id").size().max() == 3
    said = yaml.safe_load((tmp_path / "bm25" / "run.dev.ir-metadata.yml").read_text())
    assert [stage["name"] for stage in said["method"]["retrieval"]] == ["bm25"]
    assert said["method"]["retrieval"][0]["method"].endswith("BM25Similarity")
    pd.testing.assert_frame_equal(Results(tmp_path).values("bm25", "dev"), evaluate(run, collection.qrels("dev")))


def test_means_and_spread_over_seeds(tmp_path):
    """0.2 and 0.4 on one query: mean 0.3, standard deviation 0.1 * sqrt(2)."""
    for system, seeds in {"bert": {0: 0.2, 1: 0.4}, "gdmtl": {0: 0.5}}.items():
        for seed, value in seeds.items():
            folder = tmp_path / system / f"seed{seed}"
            folder.mkdir(parents=True)
            (folder / "per_query.dev.csv").write_text(f"query_id,measure,value,residual\nq,RR@10,{value},\n")
    means = Results(tmp_path).means_by_seed("dev", ["bm25", "bert", "gdmtl"])
    assert means.to_records(index=False).tolist() == [
        ("RR@10", "bert", 0, 0.2), ("RR@10", "bert", 1, 0.4), ("RR@10", "gdmtl", 0, 0.5),
    ]  # fmt: skip
    assert seed_spread(means).to_dict() == {"MRR@10": {"bert": "0.300 ±0.141"}}
    assert seed_spread(means[means["system"] == "gdmtl"]).empty


def test_models_finds_what_was_trained(tmp_path, monkeypatch, toy_bert_folder):
    build = pretrained.build_model
    toys = {name: spread(build(name, checkpoint=toy_bert_folder), 5) for name in ("gdmtl", "gdmtl_plus", "gdmtl_s")}
    monkeypatch.setattr(pretrained, "build_model", lambda name: build(name, checkpoint=toy_bert_folder))
    models = Models(tmp_path)
    assert models.main == "gdmtl"
    assert models("gdmtl") is models("GDMTL")
    folder = tmp_path / "gdmtl" / "seed0" / "checkpoint"
    assert models.label("gdmtl") == "GDMTL before training"
    assert models.describe("gdmtl") == (
        f"GDMTL before training, MiniLM with new heads (trained ones are looked for in {folder})"
    )
    assert models.before_training("gdmtl") is None

    toys["gdmtl"].save_pretrained(folder)
    models = Models(tmp_path)
    assert models.describe("gdmtl") == f"GDMTL, trained: {folder}"
    assert models.label("gdmtl") == "GDMTL trained"
    trained, start = models("gdmtl").bert, models.before_training("gdmtl").bert
    assert torch.equal(trained.state_dict()["embeddings.word_embeddings.weight"],
                       5 * start.state_dict()["embeddings.word_embeddings.weight"])  # fmt: skip

    folder.parent.rename(folder.parents[1] / "seed12")  # the lowest seed's, whichever that is
    shutil.copytree(folder.parents[1] / "seed12", folder.parents[1] / "seed3")
    assert Models(tmp_path).describe("gdmtl") == f"GDMTL, trained: {tmp_path / 'gdmtl' / 'seed3' / 'checkpoint'}"
    shutil.copytree(tmp_path / "gdmtl", tmp_path / "other" / "gdmtl_plus")
    assert Models(tmp_path / "other").main == "gdmtl_plus"

    toys["gdmtl_plus"].save_pretrained(tmp_path / "elsewhere")
    models = Models(tmp_path, tmp_path / "elsewhere")
    assert models.main == "gdmtl_plus"
    assert models.describe("gdmtl_plus") == f"GDMTL+, trained: {tmp_path / 'elsewhere'}"

    toys["gdmtl_s"].save_pretrained(tmp_path / "bart")
    message = "checkpoint_dir must hold an encoder that generates, gdmtl or gdmtl_plus, but .*bart holds gdmtl_s"
    with pytest.raises(ValueError, match=message):
        Models(tmp_path, tmp_path / "bart")
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        Models(tmp_path, tmp_path / "nothing")


def test_the_joined_epochs_are_what_a_slow_loop_chooses(tmp_path):
    """Section 5.2: every fold of the queries by the epoch that is best on all others (the earlier of equals), on random runs."""
    collection, draw = load_collection("sample"), random.Random(0)
    qrels = collection.qrels("dev")
    queries, doc_ids = sorted(qrels["query_id"].unique()), list(collection.doc_ids())[:50]
    relevant = qrels[qrels["relevance"] > 0].groupby("query_id")["doc_id"].first()
    runs, rows, values, folds = [], [], {}, kfold(queries, 5)
    for epoch in range(3):
        good = [query for fold in folds[2 * epoch : 2 * epoch + 2] for query in fold]  # so that folds choose differently
        candidates = [
            (query, doc, draw.random() + (query in good and doc == relevant[query]))
            for query in queries for doc in sorted({*draw.sample(doc_ids, 9), relevant[query]})
        ]  # fmt: skip
        runs.append(canonical_order(pd.DataFrame(candidates, columns=["query_id", "doc_id", "score"])))
        write_run(runs[-1], tmp_path / "epoch_runs" / f"epoch{epoch}.trec.gz")
        for value in evaluate(runs[-1], qrels, ["RR@10"]).itertuples():
            values[epoch, value.query_id] = value.value
            rows.append((epoch, value.query_id, value.value))
    pd.DataFrame(rows, columns=["epoch", "query_id", "value"]).to_csv(tmp_path / "validation_queries.csv", index=False)
    found = join_epochs(tmp_path, collection, "dev", "bert")
    expected = {}
    for fold in folds:
        others = [query for query in queries if query not in fold]
        means = [sum(values[epoch, query] for query in others) / len(others) for epoch in range(3)]
        expected |= {query: means.index(max(means)) for query in fold}
    run = read_run(tmp_path / "run.dev.trec.gz").set_index("query_id")
    for query, epoch in expected.items():
        of_epoch = runs[epoch][runs[epoch]["query_id"] == query]
        assert run.loc[[query], "doc_id"].tolist() == of_epoch["doc_id"].tolist()
    reached = found[found["measure"] == "RR@10"].set_index("query_id")["value"]
    assert all(reached[query] == pytest.approx(values[epoch, query]) for query, epoch in expected.items())
    assert len(set(expected.values())) > 1 and set(reached.index) == set(queries)


def test_joined_epochs_are_not_measured_over(trained, collection, candidates, reranked):
    """What a notebook measures again is the joined run, for as long as the runs it was joined of are there."""
    queries = sorted(collection.qrels("dev")["query_id"].unique())
    for epoch in range(2):
        run = candidates.assign(score=candidates["score"] * (-1) ** epoch)
        write_run(canonical_order(run), trained / "epoch_runs" / f"epoch{epoch}.trec.gz")
    rows = [(epoch, query, float(epoch)) for epoch in range(2) for query in queries]
    pd.DataFrame(rows, columns=["epoch", "query_id", "value"]).to_csv(trained / "validation_queries.csv", index=False)
    joined = join_epochs(trained, collection, "dev", "bert")
    there = (trained / "run.dev.trec.gz").read_bytes()
    pd.testing.assert_frame_equal(measure(trained, collection, candidates), joined)
    assert reranked == [] and (trained / "run.dev.trec.gz").read_bytes() == there
    (trained / "epoch_runs" / "epoch1.trec.gz").unlink()
    measure(trained, collection, candidates)
    assert len(reranked) == 1
