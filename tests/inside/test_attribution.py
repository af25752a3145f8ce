import numpy as np
import pandas as pd
import pytest
import torch
from tests.conftest import spread

from gdmtl_lib.inside.attention import DESTINATIONS, destinations, layouts
from gdmtl_lib.inside.attribution import Attribution, EmbeddedPair, disagreements, integrated_gradients
from gdmtl_lib.packing import pack
from gdmtl_lib.pretrained import build_model
from gdmtl_lib.systems import System, add_system

PAIR = ("the glacier is old blue ice", "why is ice blue")


@pytest.fixture(scope="module")
def model(toy_bert_folder):
    model = spread(build_model("gdmtl", checkpoint=toy_bert_folder), 3)
    model.classifier.weight.data *= 20
    return model


def test_the_embedded_pair_has_the_score_of_the_ranking_pass(model):
    pair = EmbeddedPair(model, *PAIR)
    with torch.no_grad():
        [expected] = model(pack([pair.sequence])).scores
        assert float(pair(pair.embeddings)) == pytest.approx(float(expected), abs=5e-6)
        assert pair(pair.embeddings.expand(3, -1, -1)).tolist() == pytest.approx([float(expected)] * 3, abs=5e-6)


def test_a_query_that_stands_first_is_the_query(toy_bert_folder):
    """As monoBERT reads it, without a prefix: [CLS] why is ice blue [SEP] the ... [SEP]"""
    add_system(System("first", "First", "encoder", ("rank",), "query_first", "pointwise", "bert-base-uncased"))
    model = build_model("first", checkpoint=toy_bert_folder)
    found, pair = integrated_gradients(model, *PAIR, steps=2), EmbeddedPair(model, *PAIR)
    assert found.segments.tolist() == [1] * 6 + [0] * 7
    assert [DESTINATIONS[kind] for kind in destinations(model, pair.sequence)] == [
        "[CLS]", *["query"] * 4, "[SEP]", *["passage"] * 6, "[SEP]"
    ]  # fmt: skip
    moved = (pair.embeddings != pair.baselines["all [MASK]"]).any(-1)[0]
    assert [token for token, each in zip(found.tokens, moved) if not each] == ["[CLS]", "[SEP]", "[SEP]"]
    layout = layouts(model, pair.sequence)["encoder"]
    assert [layout.segments[segment] for segment in layout.row_segments] == ["query"] * 6 + ["passage"] * 7


def test_a_baseline_is_masks_between_the_special_tokens(model):
    pair, words = EmbeddedPair(model, *PAIR), model.get_input_embeddings().weight
    masked = torch.tensor(
        [torch.equal(vector, words[model.tokenizer.mask_token_id]) for vector in pair.baselines["all [MASK]"][0]]
    )
    tokens = model.tokenizer.convert_ids_to_tokens(pair.sequence.input_ids)
    assert tokens[:3] == ["[CLS]", "rank", ":"] and tokens.count("[SEP]") == 2
    assert masked.tolist() == [at > 2 and token != "[SEP]" for at, token in enumerate(tokens)]
    for baseline in pair.baselines.values():
        assert torch.equal(baseline[0][~masked], pair.embeddings[0][~masked])
        assert not any(torch.equal(*rows) for rows in zip(baseline[0][masked], pair.embeddings[0][masked]))


def test_the_reference_is_the_one_that_scores_lowest_and_the_colours_say_what_they_mean(model):
    pair = EmbeddedPair(model, *PAIR)
    with torch.no_grad():
        scores = {name: float(pair(each)) for name, each in pair.baselines.items()}
    lowest, highest = min(scores, key=scores.get), max(scores, key=scores.get)
    found = integrated_gradients(model, *PAIR, steps=4)
    assert found.reference == lowest and found.baseline == pytest.approx(scores[lowest], abs=1e-5)
    fixed = integrated_gradients(model, *PAIR, steps=4, reference=highest)
    assert fixed.reference == highest and fixed.baseline == pytest.approx(scores[highest], abs=1e-5)
    above, below = (Attribution([], np.zeros(0), np.zeros(0), score, 0.5, "all [PAD]") for score in (1.0, 0.0))
    assert above.meaning == "Blue tokens lift the score above that of all [PAD], +0.500, to +1.000."
    assert below.meaning.startswith("The pair scores +0.000, below all [PAD] (+0.500), the lowest of the references: red")


def test_the_values_add_up_to_the_difference_of_the_scores(model):
    found = integrated_gradients(model, *PAIR, steps=200, reference="all [MASK]")
    assert abs(found.score - found.baseline) > 0.01 and np.abs(found.values).max() > 1e-3
    assert found.error == pytest.approx(found.values.sum() - found.score + found.baseline, abs=1e-5)
    assert abs(found.error) < 1e-3 * max(1, abs(found.score - found.baseline))
    assert abs(integrated_gradients(model, *PAIR, steps=2, reference="all [MASK]").error) > abs(found.error)
    special = [token in ("[CLS]", "[SEP]", "rank", ":") for token in found.tokens]
    assert np.all(found.values[special] == 0)  # they do not move
    assert found.segments.tolist() == EmbeddedPair(model, *PAIR).sequence.segment_ids


def test_equal_to_a_slow_sum_over_the_steps(model):
    """One step at a time, each with a backward pass of its own, at the 20 points of Gauss and Legendre's rule."""
    pair = EmbeddedPair(model, *PAIR)
    baseline = pair.baselines["all [MASK]"]
    moved, total = pair.embeddings - baseline, torch.zeros_like(pair.embeddings)
    for place, weight in zip(*np.polynomial.legendre.leggauss(20)):  # from -1 to 1, weights 2 together
        here = (baseline + (place + 1) / 2 * moved).float().requires_grad_()
        pair(here).sum().backward()
        total += here.grad * weight / 2
    expected = (total * moved).sum(-1)[0].numpy()
    for batch_size in (1, 7, 16):
        found = integrated_gradients(model, *PAIR, steps=20, batch_size=batch_size, reference="all [MASK]")
        np.testing.assert_allclose(found.values, expected, atol=1e-5)
    model.zero_grad()


def test_dropout_is_off_and_the_mode_is_kept(model):
    model.train()
    first, second = (integrated_gradients(model, *PAIR, steps=4) for _ in range(2))
    assert model.training and first.values.tolist() == second.values.tolist()
    model.eval()


def test_pairs_that_one_system_gets_right():
    """a: right after; b: right in both; c: right before; d: another relevant one is first before; e: nowhere before."""
    qrels = pd.DataFrame(
        [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("d", "2"), ("e", "1")], columns=["query_id", "doc_id"]
    ).assign(relevance=1)

    def run(**ranks):
        rows = [(q, d, -float(r), r) for q, docs in ranks.items() for r, d in enumerate(docs, start=1)]
        return pd.DataFrame(rows, columns=["query_id", "doc_id", "score", "rank"])

    before = run(a="391", b="12", c="12", d="21", e="23")
    after = run(a="139", b="12", c="21", d="12", e="13")
    found = disagreements(before, after, qrels)
    assert found[["query_id", "doc_id"]].to_numpy().tolist() == [["e", "1"], ["c", "1"], ["a", "1"]]
    assert found["before"].fillna(0).tolist() == [0, 1, 3] and found["after"].tolist() == [1, 2, 1]
    assert disagreements(before, before, qrels).empty
    bare, stale = before.drop(columns="rank"), after.assign(rank=1)  # ranks are made of the scores
    pd.testing.assert_frame_equal(disagreements(bare, stale, qrels), found)
