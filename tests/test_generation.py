"""Greedy generation: the likeliest token each time, until the end."""

import pandas as pd
import pytest
import torch

import gdmtl_lib as gdmtl
from gdmtl_lib import reranking
from gdmtl_lib.generation import compare_with_queries
from gdmtl_lib.inputs import pad
from gdmtl_lib.models import build_model
from gdmtl_lib.systems import SYSTEMS

GENERATING = [name for name, system in SYSTEMS.items() if system.generative_tasks]
PASSAGES = ["blue glacier ice", "an old king of the north", "water", "the river by the city in new light " * 8]
QUERIES = ["why is ice blue", "who was the king", "what", "where is the city"]


@pytest.fixture(scope="module")
def toys(toy_bert_folder, toy_bart_folder):
    """Weights spread, so that what follows depends on what stands before, and special tokens made unlikely. Fresh
    decoders, whose states are near their input's embedding, would repeat one token."""
    models = {name: build_model(name, checkpoint=toy_bert_folder) for name in GENERATING}
    models["gdmtl_s on BART"] = build_model("gdmtl_s", checkpoint=toy_bart_folder)
    for model in models.values():
        embeddings = model.get_input_embeddings().weight
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and parameter is not embeddings:
                parameter.data *= 20 if "position" in name else 8
        for head in model.generation_heads.values():
            head.bias.data[model.tokenizer.all_special_ids] = -100
    return models


@pytest.fixture
def biased(toy_bert_folder):
    """A model whose head is made to prefer tokens."""

    def build(name="gdmtl", **strengths):
        model = build_model(name, checkpoint=toy_bert_folder)
        for head in model.generation_heads.values():
            for word, strength in strengths.items():
                head.bias.data[model.tokenizer.convert_tokens_to_ids(word)] = strength
        return model

    return build


def slowly(model, passage, query, max_tokens):
    """One passage, one padded row, one token at a time; the end is the family's closing token."""
    builder, written = model.input_builder(), []
    [tokens], [asked] = builder.passage_tokens([passage]), builder.tokens([query or ""])
    for _ in range(max_tokens):
        if query is None:
            sequence = builder.query_generation(tokens, written)
        else:
            sequence = builder.answer_generation(tokens, asked, written)
        with torch.no_grad():
            [logits] = model(pad([sequence], model.config.pad_token_id)).logits.values()
        token = int(logits[-1].argmax())
        if token == model.tokenizer("a")["input_ids"][-1]:
            break
        written.append(token)
    return model.tokenizer.decode(written, skip_special_tokens=True).strip()


@pytest.mark.parametrize("name", [*GENERATING, "gdmtl_s on BART"])
@pytest.mark.parametrize("budget", [50, 2048])
def test_queries_are_written_as_by_a_slow_loop(toys, name, budget, monkeypatch):
    monkeypatch.setitem(reranking.BATCH_TOKENS, "cpu", budget)
    written = gdmtl.generate(toys[name], PASSAGES, max_tokens=9)
    assert written == [slowly(toys[name], passage, None, 9) for passage in PASSAGES]
    assert len(set(written)) > 1 and all(written)


def test_answers_are_written_as_by_a_slow_loop(toys):
    model = toys["gdmtl_plus"]
    written = gdmtl.generate(model, PASSAGES, QUERIES, max_tokens=9)
    assert written == [slowly(model, *pair, 9) for pair in zip(PASSAGES, QUERIES, strict=True)]
    assert written != gdmtl.generate(model, PASSAGES, max_tokens=9)
    assert written != gdmtl.generate(model, PASSAGES, QUERIES[::-1], max_tokens=9)


@pytest.mark.parametrize("name", ["gdmtl", "gdmtl_c"])
def test_the_end_token_ends(biased, name):
    assert gdmtl.generate(biased(name, **{"[SEP]": 100.0}), PASSAGES) == [""] * 4


def test_each_text_ends_by_itself(toys, monkeypatch):
    """Only the texts that go on are computed, and the others stay as they are."""
    model, sizes, original = toys["gdmtl"], [], type(toys["gdmtl"]).forward

    def forward(self, batch):
        sizes.append(len(batch.lengths["query_generation"]))
        output = original(self, batch)
        logits = output.logits["query_generation"]
        # The third passage ends with its second token, the others later or never.
        if len(sizes) == 2:
            logits[2, self.tokenizer.sep_token_id] = 1e4
        return output

    monkeypatch.setattr(type(model), "forward", forward)
    written = gdmtl.generate(model, PASSAGES, max_tokens=4)
    assert sizes == [4, 4, 3, 3]
    monkeypatch.undo()
    whole = gdmtl.generate(model, PASSAGES, max_tokens=4)
    assert written[:2] + written[3:] == whole[:2] + whole[3:]
    assert written[2] == gdmtl.generate(model, PASSAGES, max_tokens=1)[2]


@pytest.mark.parametrize(("max_tokens", "expected"), [(1, 1), (3, 3), (32, 32), (55, 55), (500, 55)])
def test_the_longest_text(biased, max_tokens, expected):
    """As long as asked for, and no longer than a target that is learned: 56 tokens, one of them the end."""
    assert gdmtl.generate(biased(water=100.0), ["ice"], max_tokens=max_tokens) == [" ".join(["water"] * expected)]


def test_pieces_are_joined_and_special_tokens_left_out(biased):
    model = biased(**{"[MASK]": 100.0})
    assert gdmtl.generate(model, ["ice"], max_tokens=3) == [""]
    model = biased(**{"##s": 100.0})
    assert gdmtl.generate(model, ["ice"], max_tokens=3) in (["sss"], ["##sss"])


def test_dropout_rests_and_the_order_is_kept(toys):
    model = toys["gdmtl"]
    expected = gdmtl.generate(model, PASSAGES, max_tokens=5)
    model.train()
    assert gdmtl.generate(model, iter(PASSAGES), max_tokens=5) == expected
    assert gdmtl.generate(model, PASSAGES[::-1], max_tokens=5) == expected[::-1]
    assert gdmtl.generate(model, []) == []


def test_beside_the_query_that_was_asked(toys):
    frame = compare_with_queries(toys["gdmtl"], PASSAGES, QUERIES)
    expected = {"passage": PASSAGES, "query": QUERIES, "generated": gdmtl.generate(toys["gdmtl"], PASSAGES)}
    pd.testing.assert_frame_equal(frame, pd.DataFrame(expected))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "bert", {},
            "bert does not learn query_generation, as these do: gdmtl, gdmtl_plus, gdmtl_s, gdmtl_c",
        ),
        ("gdmtl", {"queries": QUERIES}, "gdmtl does not learn answer_generation, as these do: gdmtl_plus"),
        (
            "gdmtl_plus", {"queries": ["one"]},
            "expected one query a passage: found 4 passages and 1 queries",
        ),
        ("gdmtl", {"max_tokens": 0}, "max_tokens must be at least 1, found 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_generated_says_why(toy_bert_folder, name, arguments, message):
    with pytest.raises(ValueError) as error:
        gdmtl.generate(build_model(name, checkpoint=toy_bert_folder), PASSAGES, **arguments)
    assert str(error.value) == message
