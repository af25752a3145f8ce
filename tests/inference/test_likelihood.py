"""The likelihood of a query is that of the plain forward pass, its passages are computed once, and runs combine."""

import numpy as np
import pandas as pd
import pytest
import torch
from tests.conftest import spread

import gdmtl_lib as gdmtl
from gdmtl_lib.backbones.reference import reference
from gdmtl_lib.inference import likelihood
from gdmtl_lib.packing import pad
from gdmtl_lib.losses import generation_cross_entropy
from gdmtl_lib.pretrained import build_model
from gdmtl_lib.data.trec import read_run

from .conftest import HOW

TOYS = ["gdmtl", "gdmtl_plus", "gdmtl_s", "gdmtl_c", "gdmtl_s on BART"]


@pytest.fixture(scope="module")
def toys(toy_bert_folder, toy_bart_folder):
    """Weights spread, so that likelihoods lie apart."""
    models = {name: build_model(name, checkpoint=toy_bert_folder) for name in TOYS[:-1]}
    models["gdmtl_s on BART"] = build_model("gdmtl_s", checkpoint=toy_bart_folder)
    return {name: spread(model, 8, embeddings=3) for name, model in models.items()}


def plain(model, collection, pairs, reduction="sum"):
    """Each pair's own padded row, with the loss that training uses."""
    builder, scores = model.input_builder(), []
    for query_id, doc_id in pairs:
        [query] = builder.tokens(collection.query_texts([query_id]))
        [passage] = builder.passage_tokens(collection.text([doc_id]))
        batch = pad([builder.query_generation(passage, query)], model.config.pad_token_id)
        with torch.no_grad():
            logits = model(batch).logits["query_generation"]
        scores.append(-generation_cross_entropy(logits, batch.targets["query_generation"], reduction).item())
    return np.array(scores)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("name", TOYS)
def test_it_is_that_of_the_plain_forward_pass(toys, collection, candidates, name, reduction):
    run = likelihood.query_likelihood(toys[name], collection, candidates, reduction, **HOW)
    expected = plain(toys[name], collection, run[["query_id", "doc_id"]].to_numpy(), reduction)
    # 1e-5 of a token's log P, which the sum adds up.
    np.testing.assert_allclose(run["score"], expected, rtol=1e-5, atol=1e-5)
    assert run.groupby("query_id")["score"].std().min() > 0.01  # or all scores would do


@pytest.mark.parametrize("name", ["gdmtl", "gdmtl_s"])
def test_it_does_not_depend_on_batches_and_chunks(toys, collection, candidates, name, monkeypatch):
    expected = likelihood.query_likelihood(toys[name], collection, candidates, **HOW)
    for batch_tokens, chunk in ((1, 1), (60, 5), (10**6, 100)):
        monkeypatch.setattr(likelihood, "CHUNK_PASSAGES", chunk)
        run = likelihood.query_likelihood(toys[name], collection, candidates, batch_tokens=batch_tokens, **HOW)
        merged = expected.merge(run, on=["query_id", "doc_id"], validate="1:1")
        assert len(merged) == len(expected)
        np.testing.assert_allclose(merged["score_x"], merged["score_y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gdmtl", "gdmtl_s"])
def test_fast_layers_and_products_change_no_likelihood(toys, collection, candidates, name):
    found = likelihood.query_likelihood(toys[name], collection, candidates, **HOW)
    with reference():
        expected = likelihood.query_likelihood(toys[name], collection, candidates, **HOW)
    merged = found.merge(expected, on=["query_id", "doc_id"], validate="1:1")
    np.testing.assert_allclose(merged["score_x"], merged["score_y"], rtol=1e-5, atol=1e-5)


def test_a_passage_is_computed_once_for_all_its_queries(toys, collection, candidates, monkeypatch):
    encoded, original = [], likelihood.encode_sources

    def encode(model, sequences):
        encoded.extend(tuple(sequence.input_ids) for sequence in sequences)
        return original(model, sequences)

    monkeypatch.setattr(likelihood, "encode_sources", encode)
    likelihood.query_likelihood(toys["gdmtl"], collection, candidates, batch_tokens=100, **HOW)
    assert len(encoded) == len(set(encoded)) == candidates["doc_id"].nunique() < len(candidates)


def test_bf16_is_close(toys, collection, candidates):
    exact = likelihood.query_likelihood(toys["gdmtl"], collection, candidates, "mean", **HOW)
    run = likelihood.query_likelihood(toys["gdmtl"], collection, candidates, "mean", precision="bf16", **HOW)
    merged = exact.merge(run, on=["query_id", "doc_id"])
    assert np.corrcoef(merged["score_x"], merged["score_y"])[0, 1] > 0.99


def test_rerank_takes_the_score_asked_for(toys, collection, candidates, tmp_path):
    model = toys["gdmtl"]
    ranking = gdmtl.rerank(model, collection, candidates, **HOW)
    likely = gdmtl.rerank(model, collection, candidates, score="likelihood", **HOW)
    pd.testing.assert_frame_equal(likely, likelihood.query_likelihood(model, collection, candidates, **HOW))
    joint = gdmtl.rerank(model, collection, candidates, tmp_path / "run.trec", score="interpolated", weight=0.5, **HOW)
    pd.testing.assert_frame_equal(joint, likelihood.interpolate(ranking, likely, 0.5))
    assert list(read_run(tmp_path / "run.trec")["doc_id"]) == list(joint["doc_id"])
    assert list(ranking["doc_id"]) != list(likely["doc_id"])


def test_perplexity_is_that_of_the_training_loss(toys, collection):
    """exp of the cross-entropy a token, over all pairs together."""
    pairs = [("q0", "d1"), ("q1", "d2"), ("q5", "d3")]
    queries, passages = collection.query_texts(["q0", "q1", "q5"]), collection.text(["d1", "d2", "d3"])
    builder = toys["gdmtl"].input_builder()
    tokens = sum(len(query) + 1 for query in builder.tokens(queries))
    expected = np.exp(-plain(toys["gdmtl"], collection, pairs).sum() / tokens)
    assert likelihood.perplexity(toys["gdmtl"], passages, queries) == pytest.approx(expected, rel=1e-5)


def run_of(**scores):
    """q="d1 3, d2 1" -> a run."""
    rows = [
        (query, *entry.split()) for query, entries in scores.items() for entry in entries.split(", ")
    ]
    frame = pd.DataFrame(rows, columns=["query_id", "doc_id", "score"])
    return gdmtl.runs.canonical_order(frame.astype({"score": float}))


def test_joint_scores_by_hand():
    """Two candidates standardise to 1 and -1, whatever their distance; equal ones to 0."""
    ranking, likely = run_of(q="a 9, b 1", p="a 2, b 2"), run_of(q="a -9, b -8", p="a -3, b -5")
    joint = likelihood.interpolate(ranking, likely, 0.25)
    scores = joint.set_index(["query_id", "doc_id"])["score"]
    assert scores.to_dict() == pytest.approx(
        {("q", "a"): 0.75, ("q", "b"): -0.75, ("p", "a"): 0.25, ("p", "b"): -0.25}
    )
    with pytest.raises(ValueError, match="found 4 and 2 rows, 2 of them in both"):
        likelihood.interpolate(ranking, run_of(q="a 1, b 2"), 1.0)


def test_the_weight_is_the_smallest_of_the_best():
    """Standardised, the ranking of p is a .72, b .70, c -1.41 and its likelihood b 1.41, a and c -.71; the two of q are
    1 and -1. So 0.6 and 0.9 put b of p first and leave a of q there, 5 puts b of q first, 0 leaves all as it was."""
    ranking, likely = run_of(q="a 1, b 0", p="a 1, b 0.9, c -9"), run_of(q="a 0, b 1", p="a 0, b 1, c 0")
    for relevant, expected in (({"q": "a", "p": "b"}, 0.6), ({"q": "a", "p": "a"}, 0.0), ({"q": "b", "p": "b"}, 5.0)):
        qrels = pd.DataFrame(relevant.items(), columns=["query_id", "doc_id"]).assign(relevance=1)
        assert likelihood.choose_weight(ranking, likely, qrels, weights=[5.0, 0.9, 0.6, 0.0]) == expected


def test_rounding_chooses_no_weight(monkeypatch):
    """The means of the same values, added in two orders."""
    means = iter([[0.3448412698412698], [0.3448412698412699]])
    monkeypatch.setattr(likelihood, "evaluate", lambda *_: pd.DataFrame({"value": next(means)}))
    run = run_of(q="a 1, b 0")
    assert likelihood.choose_weight(run, run, None, weights=[1000.0, 0.0]) == 0.0


def test_a_folder_a_name_and_a_file_are_taken(toys, tmp_path):
    """As by `rerank`; candidates need no scores."""
    sample = gdmtl.load_collection("sample")
    candidates = pd.DataFrame({"query_id": sample.queries("dev")["query_id"].iloc[0], "doc_id": sorted(sample.doc_ids())[:3]})
    expected = likelihood.query_likelihood(toys["gdmtl"], sample, candidates, **HOW)
    toys["gdmtl"].save_pretrained(tmp_path / "saved")
    gdmtl.runs.write_run(expected, tmp_path / "a.run")
    found = likelihood.query_likelihood(str(tmp_path / "saved"), "sample", tmp_path / "a.run", **HOW)
    pd.testing.assert_frame_equal(found, expected)
    expected = likelihood.perplexity(toys["gdmtl"], ["blue ice"], ["why"])
    assert likelihood.perplexity(tmp_path / "saved", "blue ice", "why") == expected


def test_the_cascade_by_hand():
    likely = run_of(q="a 4, b 3, c 2, d 1", p="a 1, b 2")
    ranking = run_of(q="a 0, b 1, c 2, d 3", p="a 5, b 4")
    order = {
        depth: likelihood.cascade_run(likely, ranking, depth).groupby("query_id")["doc_id"].sum().to_dict()
        for depth in (1, 2, 3, 9)
    }
    assert order == {
        1: {"q": "abcd", "p": "ba"}, 2: {"q": "bacd", "p": "ab"}, 3: {"q": "cbad", "p": "ab"},
        9: {"q": "dcba", "p": "ab"},
    }  # fmt: skip
    with pytest.raises(ValueError, match="best 3 candidates of every query by likelihood, 1 are missing"):
        likelihood.cascade_run(likely, ranking[ranking["doc_id"] != "c"], 3)
    with pytest.raises(ValueError, match="depth must be at least 1, found 0"):
        likelihood.cascade_run(likely, ranking, 0)
