import json
import shutil

import pandas as pd
import pytest

from gdmtl_lib.experiments import measuring
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.evaluation.measures import evaluate, read_values
from gdmtl_lib.models import build_model
from gdmtl_lib.experiments.results import Results
from gdmtl_lib.data.trec import read_run


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
    return measuring.measure_system(trained, collection, candidates, "dev", progress=False, **named)


def test_run_and_values_are_kept(trained, collection, candidates):
    values = measure(trained, collection, candidates)
    run = read_run(trained / "run.dev.trec.gz")
    assert set(zip(run["query_id"], run["doc_id"])) == set(zip(candidates["query_id"], candidates["doc_id"]))
    pd.testing.assert_frame_equal(values, evaluate(run, collection.qrels("dev")))
    pd.testing.assert_frame_equal(values, read_values(trained / "per_query.dev.csv"))


def test_what_is_kept_is_used_again(trained, collection, candidates, reranked):
    first = measure(trained, collection, candidates)
    pd.testing.assert_frame_equal(measure(trained, collection, candidates), first)
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
        measuring.measure_system(tmp_path, collection, candidates, "dev")
    assert str(error.value) == (
        f"{tmp_path} holds no trained system: expected {tmp_path}/checkpoint/model.safetensors; "
        "train it with notebook 03"
    )


def test_the_first_stage_is_kept(tmp_path, collection):
    run = measuring.measure_first_stage(tmp_path, collection, "dev", depth=3)
    pd.testing.assert_frame_equal(read_run(tmp_path / "bm25" / "run.dev.trec.gz"), run)
    assert run.groupby("query_id").size().max() == 3
    pd.testing.assert_frame_equal(Results(tmp_path).values("bm25", "dev"), evaluate(run, collection.qrels("dev")))


def test_means_and_spread_over_seeds(tmp_path):
    """0.2 and 0.4 on one query: mean 0.3, standard deviation 0.1 * sqrt(2)."""
    for system, seeds in {"bert": {0: 0.2, 1: 0.4}, "gdmtl": {0: 0.5}}.items():
        for seed, value in seeds.items():
            folder = tmp_path / system / f"seed{seed}"
            folder.mkdir(parents=True)
            (folder / "per_query.dev.csv").write_text(f"query_id,measure,value,residual\nq,RR@10,{value},\n")
    means = measuring.means_by_seed(Results(tmp_path), "dev", ["bm25", "bert", "gdmtl"])
    assert means.to_records(index=False).tolist() == [
        ("RR@10", "bert", 0, 0.2), ("RR@10", "bert", 1, 0.4), ("RR@10", "gdmtl", 0, 0.5),
    ]  # fmt: skip
    assert measuring.seed_spread(means).to_dict() == {"MRR@10": {"bert": "0.300 ±0.141"}}
    assert measuring.seed_spread(means[means["system"] == "gdmtl"]).empty
