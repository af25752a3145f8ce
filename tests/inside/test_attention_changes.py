import numpy as np
import pandas as pd
import pytest
import torch

from gdmtl_lib.inside import attention_changes as changes
from gdmtl_lib.inside.attention import attention_weights, build_sequence
from gdmtl_lib.pretrained import build_model

PAIRS = [("the glacier is old blue ice", "why is ice blue"), ("water", "who")]


@pytest.fixture(scope="module")
def model(toy_bert_folder):
    model = build_model("gdmtl", checkpoint=toy_bert_folder)
    for parameter in model.parameters():  # fresh weights attend almost evenly: spread them
        if parameter.dim() > 1:
            parameter.data *= 5
    return model


def test_every_token_has_a_destination(model):
    """[CLS] rank : water [SEP] who [SEP]"""
    sequence = build_sequence(model, "rank", *PAIRS[1])
    assert [changes.DESTINATIONS[kind] for kind in changes.destinations(model, sequence)] == [
        "[CLS]", "passage", "passage", "passage", "[SEP]", "query", "[SEP]",
    ]  # fmt: skip


def test_shares_and_entropy_by_a_slow_loop(model):
    table = changes.query_attention(model, PAIRS)
    expected = []
    for pair in PAIRS:
        sequence = build_sequence(model, "rank", *pair)
        kinds = changes.destinations(model, sequence)
        weights = attention_weights(model, sequence)["encoder"].numpy()
        for layer in range(2):
            for head in range(4):
                shares, entropy = np.zeros(4), 0.0
                for row in np.flatnonzero(kinds == 1):
                    for column, weight in enumerate(weights[layer, head, row]):
                        shares[kinds[column]] += weight / (kinds == 1).sum()
                        entropy -= weight * np.log(weight) / (kinds == 1).sum() / np.log(len(kinds))
                expected.append([layer + 1, head + 1, *shares, entropy])
    expected = (np.array(expected[:8]) + np.array(expected[8:])) / 2
    np.testing.assert_allclose(table.to_numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(table[list(changes.DESTINATIONS)].sum(axis=1), 1, atol=1e-5)
    assert table["entropy"].between(0, 1).all() and table["entropy"].std() > 0.01


def test_even_attention_has_entropy_one(model, monkeypatch):
    def even(model, sequence):
        size = len(sequence.input_ids)
        return {"encoder": torch.full((1, 1, size, size), 1 / size)}

    monkeypatch.setattr(changes, "attention_weights", even)
    [row] = changes.query_attention(model, PAIRS[1:]).to_dict("records")
    assert row["entropy"] == pytest.approx(1) and row["passage"] == pytest.approx(3 / 7)


def test_what_heads_moved_by_hand():
    """The second head moves .3 from the passage: .2 to the query and .1 to [SEP]."""
    before = pd.DataFrame({
        "layer": 1, "head": [1, 2], "passage": [0.5, 0.6], "query": [0.2, 0.2], "[CLS]": [0.2, 0.1], "[SEP]": [0.1, 0.1],
        "entropy": [0.5, 0.5],
    })  # fmt: skip
    after = before.assign(passage=[0.5, 0.3], query=[0.2, 0.4], **{"[SEP]": [0.1, 0.2]}, entropy=[0.6, 0.5])
    table = changes.head_changes(before, after)
    assert list(table["head"]) == [2, 1] and table["moved"].tolist() == pytest.approx([0.3, 0.0])
    assert table["passage"].tolist() == pytest.approx([-0.3, 0]) and table["entropy"].tolist() == pytest.approx([0, 0.1])
    with pytest.raises(ValueError, match="expected two models with the same layers and heads"):
        changes.head_changes(before, after.head(1))


def test_what_cannot_be_compared_says_why(model, toy_bert_folder):
    with pytest.raises(ValueError, match="^gdmtl_s is an encoder-decoder, whose query tokens do not attend"):
        changes.query_attention(build_model("gdmtl_s", checkpoint=toy_bert_folder), PAIRS)
    with pytest.raises(ValueError, match="expected pairs of a passage and a query, found none"):
        changes.query_attention(model, [])
