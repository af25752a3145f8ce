"""Generation: token for token what recomputing everything at each step would write."""

import pandas as pd
import pytest
import torch

import gdmtl_lib as gdmtl
from gdmtl_lib.inference import generation
from gdmtl_lib.experiments.costs import count_flops
from gdmtl_lib.inference.generation import compare_with_queries
from gdmtl_lib.inputs import TokenSequence
from gdmtl_lib.packing import pad
from gdmtl_lib.pretrained import build_model
from gdmtl_lib.systems import SYSTEMS, System, Task, add_system, add_task

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
    return " ".join(model.tokenizer.decode(written, skip_special_tokens=True).split())


def test_a_text_is_a_field_of_a_line(toy_bart_folder):
    """BART has line ends, tabs and carriage returns."""
    model = build_model("gdmtl_s", checkpoint=toy_bart_folder)
    [head] = model.generation_heads.values()
    head.bias.data[model.tokenizer.convert_tokens_to_ids(["Ċ", "ĉ", "č", "a", "b"])] = 50
    texts = gdmtl.generate(model, PASSAGES[0], method="sample", n=5)[0]
    assert all(text == " ".join(text.split()) and set(text) == set("ab ") for text in texts)


@pytest.mark.parametrize("name", [*GENERATING, "gdmtl_s on BART"])
@pytest.mark.parametrize("budget", [50, 2048])
def test_queries_are_written_as_by_a_slow_loop(toys, name, budget, monkeypatch):
    monkeypatch.setitem(generation.KEPT_TOKENS, "cpu", budget)
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
    model, sizes, original = toys["gdmtl"], [], generation._Steps.step
    third = gdmtl.generate(model, PASSAGES, max_tokens=1)[2]
    whole = gdmtl.generate(model, PASSAGES, max_tokens=4)

    def step(self, tokens):
        sizes.append(len(tokens))
        logits = original(self, tokens)
        # The shortest passage, the last of the batch, ends with its second token, the others later or never.
        if len(sizes) == 1:
            logits[-1, model.tokenizer.sep_token_id] = 1e4
        return logits

    monkeypatch.setattr(generation._Steps, "step", step)
    written = gdmtl.generate(model, PASSAGES, max_tokens=4)
    assert sizes == [4, 3, 3]
    assert written[:2] + written[3:] == whole[:2] + whole[3:]
    assert written[2] == third


class Recomputed:
    """The slow loop as `Decoding.write` takes it: every row again from its first token, padded, at every step."""

    def __init__(self, model, task, sources):
        self.model, self.task = model, task
        self.rows = [(source, []) for source in sources]

    def start(self):
        sequences = []
        for source, written in self.rows:
            segments = source.segment_ids + [1] * len(written)
            ids = source.input_ids + written
            sequence = TokenSequence(
                self.task, ids, segments, source.source_length, targets=[0] * (len(written) + 1),
                predict_from=source.source_length - 1,
            )  # fmt: skip
            if source.decoder_ids:
                sequence = TokenSequence(
                    self.task, source.input_ids, source.segment_ids, source.source_length,
                    source.decoder_ids + written, [0] * (len(written) + 1),
                )  # fmt: skip
            sequences.append(sequence)
        batch = pad(sequences, self.model.config.pad_token_id)
        return self.model(batch).logits[self.task][torch.tensor([len(s.targets) for s in sequences]).cumsum(0) - 1]

    def step(self, tokens):
        self.rows = [(source, [*written, token]) for (source, written), token in zip(self.rows, tokens.tolist())]
        return self.start()

    def select(self, rows):
        self.rows = [self.rows[row] for row in rows.tolist()]


STRATEGIES = {
    "greedy": {},
    "beam": dict(method="beam", beams=3, n=2),
    "sample": dict(method="sample", n=3, top_k=40, top_p=0.9, temperature=1.5, seed=4),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("name", "queries"), [("gdmtl", None), ("gdmtl_plus", QUERIES), ("gdmtl_c", None), ("gdmtl_s on BART", None)]
)
def test_every_strategy_writes_what_recomputing_writes(toys, name, queries, strategy, monkeypatch):
    settings = STRATEGIES[strategy]
    written = gdmtl.generate(toys[name], PASSAGES, queries, max_tokens=7, **settings)
    assert written == gdmtl.generate(toys[name], PASSAGES, queries, max_tokens=7, batch_size=1, **settings)
    monkeypatch.setattr(generation, "_Steps", Recomputed)
    assert written == gdmtl.generate(toys[name], PASSAGES, queries, max_tokens=7, **settings)
    assert [len(texts) for texts in written] == [settings["n"]] * 4 if settings else all(written)


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
@pytest.mark.parametrize("name", ["gdmtl", "gdmtl_s"])
def test_minilm_writes_what_recomputing_writes(name, strategy, monkeypatch):
    model = build_model(name)
    written = gdmtl.generate(model, PASSAGES, max_tokens=4, **STRATEGIES[strategy])
    monkeypatch.setattr(generation, "_Steps", Recomputed)
    assert written == gdmtl.generate(model, PASSAGES, max_tokens=4, **STRATEGIES[strategy])


def test_the_beam_finds_likelier_texts_than_greed(toys):
    model = toys["gdmtl"]
    greedy = gdmtl.generate(model, PASSAGES, max_tokens=6)
    assert gdmtl.generate(model, PASSAGES, max_tokens=6, method="beam", beams=1) == greedy
    assert gdmtl.generate(model, PASSAGES, max_tokens=6, method="beam", beams=8) != greedy


def test_a_seed_decides_the_draws_and_other_passages_do_not(toys):
    def write(passages, seed):
        return gdmtl.generate(toys["gdmtl"], passages, max_tokens=6, method="sample", n=3, seed=seed)

    written = write(PASSAGES, 1)
    assert written == write(PASSAGES, 1) != write(PASSAGES, 2)
    assert written[::-1] == write(PASSAGES[::-1], 1) and written[1:2] == write(PASSAGES[1:2], 1)
    assert all(len(set(texts)) > 1 for texts in written)


@pytest.mark.parametrize("name", ["gdmtl", "gdmtl_s"])
def test_twenty_tokens_after_a_long_passage_cost_a_fifth_of_recomputing(toys, name, monkeypatch):
    """Counted, not timed: multiplications do not flicker."""

    def cost():
        texts, flops = count_flops(toys[name], lambda: gdmtl.generate(toys[name], ["ice " * 200], max_tokens=20))
        assert len(toys[name].input_builder().tokens(texts)[0]) >= 15  # it does not end early
        return flops

    cached = cost()
    monkeypatch.setattr(generation, "_Steps", Recomputed)
    assert cost() > 5 * cached


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


def test_a_text_by_itself_is_one_passage(toys):
    """Not its letters."""
    model = toys["gdmtl_plus"]
    assert gdmtl.generate(model, PASSAGES[0], max_tokens=5) == gdmtl.generate(model, PASSAGES[:1], max_tokens=5)
    [texts] = gdmtl.generate(model, PASSAGES[0], QUERIES[0], max_tokens=5, method="sample", n=2)
    assert len(texts) == 2


def test_beside_the_query_that_was_asked(toys):
    frame = compare_with_queries(toys["gdmtl"], PASSAGES, QUERIES)
    expected = {"passage": PASSAGES, "query": QUERIES, "generated": gdmtl.generate(toys["gdmtl"], PASSAGES)}
    pd.testing.assert_frame_equal(frame, pd.DataFrame(expected))


@pytest.fixture
def tasks_of_ones_own():
    """A task that reads the passage alone and one that reads the query too, and systems that learn both."""
    add_task(Task("guess", prefix="new:", source=("passage",), target="answer"))
    add_task(Task("reply", prefix="old:", source=("passage", "query"), target="answer"))
    tasks = ("rank", "guess", "reply")
    add_system(System("alone", "Alone", "encoder", tasks, "concatenated", "pairwise", "bert-base-uncased"))
    add_system(System("in_two", "In two", "encoder_decoder", tasks, "separate", "pairwise", "facebook/bart-base"))


@pytest.mark.parametrize("name", ["alone", "in_two"])
def test_a_task_of_ones_own_is_written_as_by_a_slow_loop(name, tasks_of_ones_own, toy_bert_folder):
    model = build_model(name, checkpoint=toy_bert_folder)
    embeddings = model.get_input_embeddings().weight
    for key, parameter in model.named_parameters():
        if parameter.dim() > 1 and parameter is not embeddings:
            parameter.data *= 20 if "position" in key else 8
    builder = model.input_builder()

    def slow(task, passage, query):
        [tokens], [asked], written = builder.passage_tokens([passage]), builder.tokens([query]), []
        while len(written) < 6:
            batch = pad([builder.generation(task, tokens, asked, written)], model.config.pad_token_id)
            with torch.no_grad():
                written.append(int(model(batch).logits[task][-1].argmax()))
            if written[-1] == builder.end:
                break
        return " ".join(model.tokenizer.decode(written, skip_special_tokens=True).split())

    for task, queries in (("guess", None), ("reply", QUERIES)):
        expected = [slow(task, passage, query) for passage, query in zip(PASSAGES, queries or [""] * len(PASSAGES))]
        assert len(set(expected)) > 1
        assert gdmtl.generate(model, PASSAGES, queries, max_tokens=6, task=task) == expected
        assert gdmtl.generate(model, PASSAGES, queries, max_tokens=6) == expected  # the only one that reads these
    with pytest.raises(ValueError, match="task 'reply' needs `queries`, one a passage"):
        gdmtl.generate(model, PASSAGES, task="reply")
    with pytest.raises(ValueError, match="task 'guess' takes no queries: leave them out, or ask for "):
        gdmtl.generate(model, PASSAGES, QUERIES, task="guess")
