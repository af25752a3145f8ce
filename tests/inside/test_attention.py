"""Attention weights against a slow computation from the model's own parameters, layouts against hand-drawn masks, the
expansion of Section 4.2, interactions counted by hand, and where the query looks by a slow loop."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from gdmtl_lib.inside import attention
from gdmtl_lib.inside.attention import (
    BIDIRECTIONAL,
    CAUSAL,
    CROSS,
    NONE,
    Layout,
    attention_weights,
    block_shares,
    build_sequence,
    compare_expansion,
    copied_share,
    expand,
    layouts,
    likeliest_tokens,
    mean_block_shares,
    prefix_effect,
    token_losses,
)
from gdmtl_lib.packing import pack

PASSAGE, QUERY, ANSWER = "the glacier is old blue ice", "why is ice blue", "the light"
PAIRS = [(PASSAGE, QUERY), ("water", "who")]


CASES = [
    ("gdmtl", "rank", None),
    ("gdmtl", "rank", "mixed"),
    ("gdmtl", "query_generation", None),
    ("gdmtl", "query_generation", "bidirectional"),
    ("gdmtl", "query_generation", "causal"),
    ("gdmtl", "query_generation", "mlm"),
    ("gdmtl_plus", "answer_generation", None),
    ("gdmtl_s on BART", "rank", None),
    ("gdmtl_s on BART", "query_generation", None),
    ("gdmtl_c on BART", "rank", None),
]


def kept_inputs(model, modules, sequence):
    """The states every attention module reads in the ordinary packed pass: (rows' states, columns' states)
    each."""
    found = []

    def keep(module, positional, named):
        states = positional[0] if positional else named["hidden_states"]
        columns = named.get("key_value_states")
        if (
            columns is None
            and len(positional) > 1
            and torch.is_tensor(positional[1])
            and positional[1].dim() == 3
        ):
            columns = positional[1]
        found.append((states[0], states[0] if columns is None else columns[0]))

    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in modules]
    with torch.no_grad():
        model.states(pack([sequence]))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name, task, mask", CASES)
def test_weights_are_the_softmax_of_queries_and_keys_under_the_mask(toys, name, task, mask):
    """Loops over heads, rows and the columns that the mask allows; the states come from the packed pass."""
    model = toys[name]
    sequence = build_sequence(model, task, PASSAGE, QUERY, ANSWER, mask)
    weights, drawn = attention_weights(model, sequence), layouts(model, sequence)
    assert list(weights) == list(drawn)
    if model.system.backbone == "encoder":
        modules = {"encoder": [layer.attention.self for layer in model.bert.encoder.layer]}
        projections = "query", "key"
    else:
        decoder = model.model.decoder.layers
        modules = {
            "encoder": [layer.self_attn for layer in model.model.encoder.layers],
            "decoder": [layer.self_attn for layer in decoder],
            "cross": [layer.encoder_attn for layer in decoder],
        }
        projections = "q_proj", "k_proj"
    for attention, parts in modules.items():
        found, kinds = weights[attention], drawn[attention].kinds
        assert found.shape == (2, 4, *kinds.shape) and found.dtype == torch.float32
        for layer, (module, (rows, columns)) in enumerate(
            zip(parts, kept_inputs(model, parts, sequence), strict=True)
        ):
            with torch.no_grad():
                queries, keys = (getattr(module, p)(s) for p, s in zip(projections, (rows, columns)))
            for head in range(4):
                part = slice(8 * head, 8 * head + 8)
                for i in range(len(rows)):
                    allowed = np.flatnonzero(kinds[i])
                    scores = [float(queries[i, part] @ keys[j, part]) / math.sqrt(8) for j in allowed]
                    largest = max(scores)
                    powers = [math.exp(score - largest) for score in scores]
                    expected = torch.zeros(len(columns))
                    expected[allowed] = torch.tensor(powers) / sum(powers)
                    assert torch.allclose(found[layer, head, i], expected, atol=2e-6)
        assert (found[:, :, torch.from_numpy(kinds == NONE)] == 0).all()


def test_looking_leaves_the_model_as_it_was(toys):
    model = toys["gdmtl"].train()
    sequence = build_sequence(model, "rank", PASSAGE, QUERY)
    first, second = (attention_weights(model, sequence)["encoder"] for _ in range(2))
    assert torch.equal(first, second)  # no dropout
    assert model.training and model.config._attn_implementation == "gdmtl_packed"
    assert not any(layer.attention.self._forward_hooks for layer in model.bert.encoder.layer)
    model.eval()


def test_layouts_are_figure_1_and_2(toys):
    model, o = toys["gdmtl"], NONE
    texts = "ice", "blue new"
    b, x, c = BIDIRECTIONAL, CROSS, CAUSAL
    layout = layouts(model, build_sequence(model, "query_generation", *texts))["encoder"]
    assert layout.rows == layout.columns == ["[CLS]", "sum", ":", "ice", "[SEP]", "blue", "new"]
    assert layout.kinds.tolist() == [[b] * 5 + [o] * 2] * 5 + [[x] * 5 + [c, o], [x] * 5 + [c, c]]
    assert layout.row_segments.tolist() == [0] * 5 + [1] * 2 and layout.segments == ("source", "target")
    assert layout.steps == [4, 5, 6] and layout.predicts == ["blue", "new", "[SEP]"]

    ranking = layouts(model, build_sequence(model, "rank", *texts))["encoder"]
    assert ranking.rows == ["[CLS]", "rank", ":", "ice", "[SEP]", "blue", "new", "[SEP]"]
    assert (ranking.kinds == b).all() and ranking.segments == ("passage", "query")
    assert ranking.steps == [0] and ranking.predicts == ["score"]

    causal = layouts(model, build_sequence(model, "query_generation", *texts, mask="causal"))["encoder"]
    assert np.array_equal(causal.kinds, c * np.tri(7))
    free = layouts(model, build_sequence(model, "query_generation", *texts, mask="bidirectional"))["encoder"]
    assert (free.kinds == b).all() and free.steps == layout.steps
    masked = layouts(model, build_sequence(model, "query_generation", *texts, mask="mlm"))["encoder"]
    assert masked.rows == layout.rows[:5] + ["[MASK]"] * 3
    assert (masked.kinds == b).all() and masked.steps == [5, 6, 7] and masked.predicts == layout.predicts


def test_layouts_of_a_decoder(toys):
    model = toys["gdmtl_s on BART"]
    drawn = layouts(model, build_sequence(model, "query_generation", "ice", "blue new"))
    assert list(drawn) == ["encoder", "decoder", "cross"]
    source, target = len(drawn["encoder"].rows), len(drawn["decoder"].rows)
    assert (drawn["encoder"].kinds == BIDIRECTIONAL).all() and drawn["encoder"].steps == []
    assert np.array_equal(drawn["decoder"].kinds, CAUSAL * np.tri(target))
    assert drawn["cross"].kinds.shape == (target, source) and (drawn["cross"].kinds == CROSS).all()
    assert drawn["cross"].steps == list(range(target)) and drawn["cross"].predicts[-1] == "</s>"
    assert drawn["decoder"].row_segments.tolist() == [1] * target
    assert "\u0120" not in "".join(drawn["encoder"].rows)

    ranking = build_sequence(toys["gdmtl_c on BART"], "rank", "ice", "blue new")
    decoder = layouts(toys["gdmtl_c on BART"], ranking)["decoder"]
    assert decoder.row_segments.tolist() == [0, *ranking.segment_ids[:-1]]


def test_the_copied_share_by_hand():
    """Two rows predict c, which two columns hold (.3 + .5 and .1 + .2), one predicts d, which none holds."""
    layout = Layout(
        kinds=np.ones((3, 3)), rows=list("xyz"), columns=["c", "b", "c"], row_segments=np.ones(3, dtype=int),
        column_segments=np.zeros(3, dtype=int), steps=[0, 1, 2], predicts=["c", "d", "c"],
    )  # fmt: skip
    weights = torch.tensor([[[[0.3, 0.2, 0.5], [0.4, 0.5, 0.1], [0.1, 0.7, 0.2]]]])
    assert copied_share(weights, layout) == pytest.approx(np.array([[(0.8 + 0.3) / 2]]))


def test_block_shares_by_hand():
    """Two source tokens, one target token, one head: rows (.75 .25 0), (.5 .5 0), (.2 .3 .5)."""
    small = Layout(
        kinds=np.array([[1, 1, 0], [1, 1, 0], [2, 2, 3]]), rows=list("abc"), columns=list("abc"),
        row_segments=np.array([0, 0, 1]), column_segments=np.array([0, 0, 1]), steps=[1], predicts=["c"],
    )  # fmt: skip
    weights = torch.tensor([[[[0.75, 0.25, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]]]])
    frame = block_shares(weights, small)
    assert frame.columns.tolist() == ["layer", "head", "rows", "columns", "share", "uniform"]
    assert frame[["layer", "head", "rows", "columns"]].values.tolist() == [
        [1, 1, "source", "source"], [1, 1, "source", "target"],
        [1, 1, "target", "source"], [1, 1, "target", "target"],
    ]  # fmt: skip
    assert frame["share"].tolist() == pytest.approx([1, 0, 0.5, 0.5])
    assert frame["uniform"].tolist() == pytest.approx([1, 0, 2 / 3, 1 / 3])


def test_shares_of_a_row_add_up_and_average_over_examples(toys):
    model = toys["gdmtl"]
    examples = [(PASSAGE, QUERY), ("the river is long", "what food")]
    each = [mean_block_shares(model, "rank", [example]) for example in examples]
    both = mean_block_shares(model, "rank", examples)
    assert len(both) == 2 * 4 * 4
    totals = both.groupby(["layer", "head", "rows"])["share"].sum()
    assert np.allclose(totals, 1, atol=1e-5)
    assert np.allclose(both["share"], (each[0]["share"] + each[1]["share"]) / 2)


def test_expansion_gives_the_loss_and_gradients_of_the_one_pass(toys):
    model = toys["gdmtl"]
    sequence = build_sequence(model, "query_generation", PASSAGE, QUERY)
    losses, table = compare_expansion(model, sequence)
    assert losses["token"].tolist() == ["why", "is", "ice", "blue", "[SEP]"]
    assert np.allclose(losses["one mixed pass"], losses["expanded"], atol=1e-5)
    assert abs(losses["one mixed pass"] - losses["[MASK]-filled"]).min() > 1e-4
    assert table.index.tolist() == ["one mixed pass", "expanded", "[MASK]-filled"]
    assert table["sequences"].tolist() == [1, 5, 5]
    source = sequence.source_length
    assert table["tokens read"].tolist() == [source + 4, 5 * source + 10, 5 * (source + 4) + 5]
    assert table.loc["expanded", "loss_difference"] < 1e-5
    assert table.loc["expanded", "gradient_difference"] < 1e-5
    assert table.loc["[MASK]-filled", "gradient_difference"] > 1e-2


def test_expanded_examples_are_drawn_as_the_paper_has_them(toys):
    model = toys["gdmtl"]
    sequence = build_sequence(model, "query_generation", "ice", "blue new")
    words = model.tokenizer.convert_ids_to_tokens
    source = ["[CLS]", "sum", ":", "ice", "[SEP]"]
    examples = expand(sequence)
    assert [words(e.input_ids) for e in examples] == [source, [*source, "blue"], [*source, "blue", "new"]]
    assert [words(e.targets) for e in examples] == [["blue"], ["new"], ["[SEP]"]]
    assert [e.predict_from for e in examples] == [4, 5, 6] and {e.source_length for e in examples} == {5}
    filled = expand(sequence, model.tokenizer.mask_token_id)
    mask = "[MASK]"
    assert [words(e.input_ids)[5:] for e in filled] == [
        [mask] * 3,
        ["blue", mask, mask],
        ["blue", "new", mask],
    ]
    assert [e.predict_from for e in filled] == [5, 6, 7] and {e.source_length for e in filled} == {8}


def test_token_losses_are_minus_log_p(toys):
    model = toys["gdmtl"]
    sequence = build_sequence(model, "query_generation", PASSAGE, QUERY)
    with torch.no_grad():
        probabilities = model(pack([sequence])).logits["query_generation"].softmax(-1)
    expected = [-math.log(row[target]) for row, target in zip(probabilities, sequence.targets)]
    assert token_losses(model, [sequence]).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["gdmtl", "gdmtl_s"])
@pytest.mark.parametrize("mask", [None, "bidirectional"])
def test_the_likeliest_tokens_are_those_of_the_slow_way(toys, name, mask):
    """A position after the other, each sorted by hand."""
    model = toys[name]
    mask = mask if name == "gdmtl" else None
    sequence = build_sequence(model, "query_generation", PASSAGE, QUERY, mask=mask)
    table = likeliest_tokens(model.train(), sequence, 3)
    assert model.training and list(table["step"]) == [step for step in range(len(sequence.targets)) for _ in range(3)]
    with torch.no_grad():
        probabilities = model.eval()(pack([sequence])).logits["query_generation"].softmax(-1)
    for step, (row, target) in enumerate(zip(probabilities, sequence.targets)):
        found, order = table[table["step"] == step], row.argsort(descending=True)[:3].tolist()
        assert found["token"].tolist() == model.tokenizer.convert_ids_to_tokens(order)
        assert found["probability"].tolist() == pytest.approx(row[order].tolist(), abs=1e-5)
        assert found["target"].unique().tolist() == model.tokenizer.convert_ids_to_tokens([target])
        assert found["target_probability"].unique().tolist() == pytest.approx([float(row[target])], abs=1e-5)


def test_a_bidirectional_mask_lets_the_next_token_leak(toys):
    """What follows changes the prediction of a token only where it may be seen."""
    for mask, leaks in (("mixed", False), ("bidirectional", True)):
        first = [
            likeliest_tokens(toys["gdmtl"], build_sequence(toys["gdmtl"], "query_generation", PASSAGE, query, mask=mask))
            .query("step == 0")["probability"].to_numpy()
            for query in ("ice water", "ice king")
        ]  # fmt: skip
        assert np.allclose(*first, atol=1e-6) != leaks


def test_a_masked_target_is_blind_to_what_is_written(toys):
    model = toys["gdmtl"]
    mixed, masked = (
        build_sequence(model, "query_generation", PASSAGE, QUERY, mask=m) for m in ("mixed", "mlm")
    )
    assert prefix_effect(model, masked) < 1e-6
    assert 1e-4 < prefix_effect(model, mixed) <= 1


# --- where query and passage meet (Figure 9)


@pytest.fixture(scope="module")
def tokenizer(toy_bert_folder):
    return AutoTokenizer.from_pretrained(toy_bert_folder)


def counts(system, tokenizer, passage="ice water river", query="old king"):
    table = attention.count_interactions(attention.ranking_layouts(system, tokenizer, passage, query))
    return list(table.itertuples(index=False, name=None))


def test_an_encoder_lets_the_texts_meet_both_ways(tokenizer):
    """Three passage and two query tokens: 3 x 2 pairs each way."""
    assert counts("gdmtl", tokenizer) == [("self-attention, encoder", 6, 6)]


def test_separate_inputs_meet_in_cross_attention_alone_and_one_way(tokenizer):
    assert counts("bart_s", tokenizer) == [
        ("self-attention, encoder", 0, 0), ("self-attention, decoder", 0, 0), ("cross-attention", 6, 0),
    ]  # fmt: skip


def test_concatenated_inputs_meet_everywhere_in_the_decoder_only_forwards(tokenizer):
    """The decoder reads passage then query, causally: the passage cannot look ahead at the query."""
    assert counts("gdmtl_c", tokenizer) == [
        ("self-attention, encoder", 6, 6), ("self-attention, decoder", 6, 0), ("cross-attention", 6, 6),
    ]  # fmt: skip


def test_equal_words_of_passage_and_query_are_told_apart(tokenizer):
    layout = attention.ranking_layouts("bert", tokenizer, "ice ice", "ice")["encoder"]
    assert layout.rows == ["[CLS]", "rank", ":", "ice", "ice", "[SEP]", "ice", "[SEP]"]
    texts = ["frame", "frame", "frame", "passage", "passage", "frame", "query", "frame"]
    assert [layout.segments[text] for text in layout.row_segments] == texts
    assert layout.row_segments.tolist() == layout.column_segments.tolist()


def test_the_decoder_reads_the_encoders_sequence_one_token_later(tokenizer):
    encoder, decoder, cross = attention.ranking_layouts("bart_c", tokenizer, "ice", "king").values()
    assert decoder.rows == ["[CLS]", *encoder.rows[:-1]]
    assert cross.rows == decoder.rows and cross.columns == encoder.rows


def test_an_interaction_is_allowed_and_between_the_texts():
    texts = np.array([attention.FRAME, attention.PASSAGE, attention.QUERY])
    allowed = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1]], dtype=bool)
    layout = Layout(allowed.astype(int), list("fpq"), list("fpq"), texts, texts, [], [], attention.TEXTS)
    assert layout.interacts.tolist() == [[False, False, False], [False, False, False], [False, True, False]]


def test_the_first_stage_has_no_attention(tokenizer):
    with pytest.raises(ValueError, match="bm25 is the first stage and has no model"):
        attention.ranking_layouts("bm25", tokenizer, "ice", "king")


# --- what changes in where the query looks


def test_every_token_has_a_destination(toys):
    """[CLS] rank : water [SEP] who [SEP]"""
    model = toys["gdmtl"]
    sequence = build_sequence(model, "rank", *PAIRS[1])
    assert [attention.DESTINATIONS[kind] for kind in attention.destinations(model, sequence)] == [
        "[CLS]", "passage", "passage", "passage", "[SEP]", "query", "[SEP]",
    ]  # fmt: skip


def test_shares_and_entropy_by_a_slow_loop(toys):
    model = toys["gdmtl"]
    table = attention.query_attention(model, PAIRS)
    expected = []
    for pair in PAIRS:
        sequence = build_sequence(model, "rank", *pair)
        kinds = attention.destinations(model, sequence)
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
    np.testing.assert_allclose(table[list(attention.DESTINATIONS)].sum(axis=1), 1, atol=1e-5)
    assert table["entropy"].between(0, 1).all() and table["entropy"].std() > 0.01


def test_even_attention_has_entropy_one(toys, monkeypatch):
    def even(model, sequence):
        size = len(sequence.input_ids)
        return {"encoder": torch.full((1, 1, size, size), 1 / size)}

    monkeypatch.setattr(attention, "attention_weights", even)
    [row] = attention.query_attention(toys["gdmtl"], PAIRS[1:]).to_dict("records")
    assert row["entropy"] == pytest.approx(1) and row["passage"] == pytest.approx(3 / 7)


def test_what_heads_moved_by_hand():
    """The second head moves .3 from the passage: .2 to the query and .1 to [SEP]."""
    before = pd.DataFrame({
        "layer": 1, "head": [1, 2], "passage": [0.5, 0.6], "query": [0.2, 0.2], "[CLS]": [0.2, 0.1], "[SEP]": [0.1, 0.1],
        "entropy": [0.5, 0.5],
    })  # fmt: skip
    after = before.assign(passage=[0.5, 0.3], query=[0.2, 0.4], **{"[SEP]": [0.1, 0.2]}, entropy=[0.6, 0.5])
    table = attention.head_changes(before, after)
    assert list(table["head"]) == [2, 1] and table["moved"].tolist() == pytest.approx([0.3, 0.0])
    assert table["passage"].tolist() == pytest.approx([-0.3, 0]) and table["entropy"].tolist() == pytest.approx([0, 0.1])
    with pytest.raises(ValueError, match="expected two models with the same layers and heads"):
        attention.head_changes(before, after.head(1))
