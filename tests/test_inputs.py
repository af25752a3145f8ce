"""From text to token ids, for all eight systems; packed batches against padded ones with literal masks."""

import random
import warnings

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from gdmtl_lib.inference import rerank as reranking
from gdmtl_lib.backbones.attention import Span
from gdmtl_lib.backbones.checkpoints import DEFAULT_CHECKPOINT, find_checkpoint
from gdmtl_lib.inputs import InputBuilder, TokenSequence
from gdmtl_lib.packing import pack, pad
from gdmtl_lib.masks import bidirectional_mask, causal_mask, cross_attention_mask, mixed_attention_mask
from gdmtl_lib.pretrained import build_model
from gdmtl_lib.systems import SYSTEMS

ENCODERS = ["mono", "bert", "gdmtl", "gdmtl_plus"]
SEPARATE, CONCATENATED = ["bart_s", "gdmtl_s"], ["bart_c", "gdmtl_c"]
DECODER_START = 2


@pytest.fixture(scope="session")
def tokenizers(toy_bert_folder, toy_bart_folder):
    return {
        "bert": AutoTokenizer.from_pretrained(toy_bert_folder),
        "bart": AutoTokenizer.from_pretrained(toy_bart_folder),
        "minilm": AutoTokenizer.from_pretrained(find_checkpoint(DEFAULT_CHECKPOINT)),
    }


@pytest.fixture(scope="session")
def builder_of(tokenizers):
    """The builder of a system on its family's toy tokenizer, or on another."""

    def make(name: str, family: str | None = None, **lengths) -> InputBuilder:
        system = SYSTEMS[name]
        family = family or ("bert" if system.backbone == "encoder" else "bart")
        return InputBuilder(tokenizers[family], system, decoder_start_id=DECODER_START, **lengths)

    return make


# What the toy tokenizers make of a passage, a query and an answer.
PASSAGE, QUERY, ANSWER = "the river is long", "what river", "blue ice"
BERT_P, BERT_Q, BERT_A = [112, 138, 119, 136], [129, 138], [142, 141]
BART_P = [317, 73, 324, 262, 268, 87, 276, 304]  # Ġth e Ġriv er Ġi s Ġl ong
BART_Q = [91, 76, 281, 324, 262]  # w h at Ġriv er
RANK, SUM, ANSWERS = [109, 20], [110, 20], [111, 20]  # rank : sum : answer :
BART_RANK, BART_SUM = [307, 79, 30], [87, 315, 30]  # ran k : s um :
CLS, SEP, MASK, S, END = 2, 3, 4, 0, 2


def texts_of(builder):
    return builder.passage_tokens([PASSAGE])[0], builder.tokens([QUERY])[0], builder.tokens([ANSWER])[0]


def test_token_ids_have_no_special_tokens(builder_of):
    assert texts_of(builder_of("gdmtl_plus")) == (BERT_P, BERT_Q, BERT_A)
    assert texts_of(builder_of("gdmtl_c"))[:2] == (BART_P, BART_Q)
    assert builder_of("bert").tokens([]) == builder_of("bert").passage_tokens([]) == []
    assert builder_of("bert").tokens([""]) == [[]]


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_ranking(builder_of, name):
    """[CLS] rank: P [SEP] Q [SEP]; segment 1 begins after the first [SEP]; the score is read at [CLS]."""
    passage, query, _ = texts_of(builder := builder_of(name))
    assert builder.rank(passage, query) == TokenSequence(
        task="rank",
        input_ids=[CLS, *RANK, *BERT_P, SEP, *BERT_Q, SEP],
        segment_ids=[0] * 8 + [1] * 3,
        source_length=11,
        score_at=0,
    )


def test_encoder_query_generation(builder_of):
    """[CLS] sum: P [SEP] | Q: [SEP] predicts Q's first token, Q's last token predicts [SEP]."""
    passage, query, _ = texts_of(builder := builder_of("gdmtl"))
    assert builder.query_generation(passage, query) == TokenSequence(
        task="query_generation",
        input_ids=[CLS, *SUM, *BERT_P, SEP, *BERT_Q],
        segment_ids=[0] * 8 + [1] * 2,
        source_length=8,
        targets=[*BERT_Q, SEP],
        predict_from=7,
    )


def test_encoder_answer_generation(builder_of):
    """[CLS] answer: P [SEP] Q [SEP] | A: passage and query are both source, segment 0."""
    builder = builder_of("gdmtl_plus")
    assert builder.answer_generation(*texts_of(builder)) == TokenSequence(
        task="answer_generation",
        input_ids=[CLS, *ANSWERS, *BERT_P, SEP, *BERT_Q, SEP, *BERT_A],
        segment_ids=[0] * 11 + [1] * 2,
        source_length=11,
        targets=[*BERT_A, SEP],
        predict_from=10,
    )


def test_masked_generation_is_bidirectional_and_predicts_in_place(builder_of):
    builder = builder_of("gdmtl_plus", generation_mask="mlm")
    passage, query, answer = texts_of(builder)
    assert builder.query_generation(passage, query) == TokenSequence(
        task="query_generation",
        input_ids=[CLS, *SUM, *BERT_P, SEP, MASK, MASK, MASK],
        segment_ids=[0] * 8 + [1] * 3,
        source_length=11,
        targets=[*BERT_Q, SEP],
        predict_from=8,
    )
    assert builder.answer_generation(passage, query, answer).predict_from == 11
    assert builder.rank(passage, query) == builder_of("gdmtl_plus").rank(passage, query)


@pytest.mark.parametrize("name", SEPARATE)
def test_separate_ranking(builder_of, name):
    """<s> rank: P </s> in the encoder; the start token and Q in the decoder, scored at its last state."""
    passage, query, _ = texts_of(builder := builder_of(name))
    assert builder.rank(passage, query) == TokenSequence(
        task="rank",
        input_ids=[S, *BART_RANK, *BART_P, END],
        segment_ids=[0] * 13,
        source_length=13,
        decoder_ids=[DECODER_START, *BART_Q],
        score_at=5,
    )


@pytest.mark.parametrize("name", CONCATENATED)
def test_concatenated_ranking(builder_of, name):
    """<s> rank: P </s></s> Q </s> in the encoder; the same one token later in the decoder."""
    passage, query, _ = texts_of(builder := builder_of(name))
    assert builder.rank(passage, query) == TokenSequence(
        task="rank",
        input_ids=[S, *BART_RANK, *BART_P, END, END, *BART_Q, END],
        segment_ids=[0] * 14 + [1] * 6,
        source_length=20,
        decoder_ids=[DECODER_START, S, *BART_RANK, *BART_P, END, END, *BART_Q],
        score_at=19,
    )


@pytest.mark.parametrize("name", ["gdmtl_s", "gdmtl_c"])
def test_encoder_decoder_query_generation(builder_of, name):
    """<s> sum: P </s> in the encoder; the start token predicts Q's first token, Q's last one </s>."""
    passage, query, _ = texts_of(builder := builder_of(name))
    assert builder.query_generation(passage, query) == TokenSequence(
        task="query_generation",
        input_ids=[S, *BART_SUM, *BART_P, END],
        segment_ids=[0] * 13,
        source_length=13,
        decoder_ids=[DECODER_START, *BART_Q],
        targets=[*BART_Q, END],
        predict_from=0,
    )


def test_an_encoder_decoder_on_a_bert_tokenizer(builder_of):
    """As the warm-started default has it: [CLS] and [SEP] where BART has <s> and </s>."""
    passage, query, _ = texts_of(builder := builder_of("gdmtl_c", family="bert"))
    sequence = builder.rank(passage, query)
    assert sequence.input_ids == [CLS, *RANK, *BERT_P, SEP, *BERT_Q, SEP]
    assert sequence.decoder_ids == [DECODER_START, CLS, *RANK, *BERT_P, SEP, *BERT_Q]
    assert builder.query_generation(passage, query).targets == [*BERT_Q, SEP]


TEXTS = st.text() | st.text(alphabet=" '.,:;!?-()\n\tabckrxy019éß中日\u0301\u00a0\u200d🙂", max_size=30)


@pytest.mark.parametrize(
    ("name", "family"), [("bert", "bert"), ("bert", "minilm"), ("bart_c", "bart"), ("bart_c", "minilm")]
)
@given(passage=TEXTS, query=TEXTS.filter(bool))  # an empty second text is no pair to a tokenizer
@example(passage="", query=" ")
@example(passage="  two spaces before", query="  and before the query")
@example(passage="'s a contraction", query="'t another")
@example(passage="\nA line end", query="\u0301 a combining accent alone")
@example(passage="[SEP] </s> <mask> in a text", query="</s> [CLS]")
@settings(max_examples=150, deadline=None)
def test_ranking_inputs_are_what_the_tokenizer_makes_of_the_pair(builder_of, name, family, passage, query):
    """So that `CrossEncoder(folder).predict([("rank: " + passage, query)])` reads what this library reads."""
    builder = builder_of(name, family, max_length=4096)
    found = builder.rank(builder.passage_tokens([passage])[0], builder.tokens([query])[0])
    expected = builder.tokenizer("rank: " + passage, query)
    assert found.input_ids == expected["input_ids"]
    if family != "bart":
        assert found.segment_ids == expected["token_type_ids"]


@pytest.mark.parametrize(("name", "family"), [("gdmtl", "bert"), ("gdmtl_s", "bart")])
@given(passage=TEXTS, query=TEXTS)
@settings(max_examples=50, deadline=None)
def test_sources_and_targets_are_what_the_tokenizer_makes_of_each(builder_of, name, family, passage, query):
    builder = builder_of(name, family, max_length=4096, target_length=4096)
    tokens = builder.passage_tokens([passage])[0], builder.tokens([query])[0]
    found = builder.query_generation(*tokens)
    assert found.input_ids[: found.source_length] == builder.tokenizer("sum: " + passage)["input_ids"]
    assert [builder.first, *found.targets] == builder.tokenizer(query)["input_ids"]
    if family == "bart":
        assert builder_of("bart_s", max_length=4096, target_length=4096).rank(*tokens).decoder_ids == [
            DECODER_START, *builder.tokenizer(query, add_special_tokens=False)["input_ids"]
        ]  # fmt: skip


@pytest.mark.parametrize("name", ["bert", "bart_s", "bart_c"])
def test_reranking_reads_what_the_tokenizer_writes(name, toy_bert_folder, toy_bart_folder, monkeypatch):
    folder = toy_bert_folder if name == "bert" else toy_bart_folder
    model, read = build_model(name, checkpoint=folder), []
    monkeypatch.setattr(reranking, "pack", lambda sequences: read.extend(sequences) or pack(sequences))
    reranking.rerank_texts(model, "what river", ["the river is long"])
    expected = model.tokenizer("rank: the river is long", *([] if name == "bart_s" else ["what river"]))
    assert [sequence.input_ids for sequence in read] == [expected["input_ids"]]


def test_a_long_passage_loses_its_end(builder_of):
    """16 tokens: [CLS] rank : and two [SEP] take 5, the query 4, so the passage keeps 7 of 20."""
    passage, query = list(range(50, 70)), [90, 91, 92, 93]
    sequence = builder_of("bert", max_length=16).rank(passage, query)
    assert sequence.input_ids == [CLS, *RANK, *range(50, 57), SEP, 90, 91, 92, 93, SEP]
    assert sequence.segment_ids == [0] * 11 + [1] * 5


def test_a_query_of_half_the_limit_is_whole_and_a_longer_one_is_cut_to_it(builder_of):
    passage, builder = list(range(50, 70)), builder_of("bert", max_length=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = builder.rank(passage, list(range(90, 98)))
    with pytest.warns(UserWarning) as caught:
        cut = builder.rank(passage, list(range(90, 120)))
    assert whole.input_ids == cut.input_ids == [CLS, *RANK, 50, 51, 52, SEP, *range(90, 98), SEP]
    assert [str(warning.message) for warning in caught] == [
        "a query is longer than 8 tokens and is cut to that (max_length 16, target_length 56); "
        "further long queries are cut without a word"
    ]


def test_separate_ranking_cuts_queries_to_the_decoders_input(builder_of):
    """The start token and 31 of the query make 32; the passage's limit is another matter."""
    builder = builder_of("bart_s", max_length=20, target_length=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert builder.rank([50], list(range(100, 131))).decoder_ids == [DECODER_START, *range(100, 131)]
    with pytest.warns(UserWarning, match="a query is longer than 31 tokens and is cut to that"):
        cut = builder.rank(list(range(50, 90)), list(range(100, 140)))
    assert cut.decoder_ids == [DECODER_START, *range(100, 131)]
    assert cut.score_at == 31
    assert cut.input_ids == [S, *BART_RANK, *range(50, 65), END]


def test_long_queries_are_warned_of_once(builder_of):
    """Once a builder, and, as Python shows equal warnings once, once for all builders of one setting."""
    long = list(range(50, 90))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        builder = builder_of("gdmtl_plus", max_length=16)
        for _ in range(3):
            builder.rank([50], long)
            builder.answer_generation([50], long, [60])
    assert len(caught) == 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            builder_of("bert", max_length=16).rank([50], long)
    assert len(caught) == 1


def test_long_targets_lose_their_end_but_keep_the_closing_token(builder_of):
    target = [60, 61, 62, 63, 64]
    sequence = builder_of("gdmtl", target_length=4).query_generation([50], target)
    assert sequence.input_ids == [CLS, *SUM, 50, SEP, 60, 61, 62]
    assert sequence.targets == [60, 61, 62, SEP]
    assert builder_of("gdmtl", target_length=6).query_generation([50], target).targets == [*target, SEP]
    sequence = builder_of("gdmtl_s", target_length=4).query_generation([50], target)
    assert sequence.decoder_ids == [DECODER_START, 60, 61, 62]
    assert sequence.targets == [60, 61, 62, END]


@pytest.mark.filterwarnings("ignore:a query is longer")
@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("seed", range(3))
def test_no_length_is_ever_exceeded_and_no_room_is_wasted(builder_of, name, seed):
    rng, system = random.Random(seed), SYSTEMS[name]
    for _ in range(100):
        max_length, target_length = rng.randint(17, 60), rng.randint(2, 30)
        builder = builder_of(name, max_length=max_length, target_length=target_length)
        passage, query, answer = ([rng.randint(50, 100) for _ in range(rng.randint(1, 90))] for _ in range(3))
        sequences = [builder.rank(passage, query)]
        if "query_generation" in system.tasks:
            sequences.append(builder.query_generation(passage, query))
        if "answer_generation" in system.tasks:
            sequences.append(builder.answer_generation(passage, query, answer))
        for sequence in sequences:
            # On the source's side a token is left out only where the limit is reached.
            source = sequence.input_ids[: sequence.source_length]
            prefix = builder.prefix_ids[sequence.task]
            assert source[: 1 + len(prefix)] == [builder.first, *prefix]
            kept = source[1 + len(prefix) :]
            whole = kept[: len(passage)] == passage
            assert len(source) == max_length or (whole and len(source) < max_length)
            assert kept[0] == passage[0]  # some of the passage always stays
            assert len(sequence.segment_ids) == len(sequence.input_ids)
            assert len(sequence.targets) <= target_length
            assert len(sequence.input_ids) <= max_length + target_length - 1
        rank = sequences[0]
        if system.rank_layout == "separate":
            assert rank.decoder_ids[1:] == query[: target_length - 1]
        else:
            closing = rank.input_ids[-1:]
            kept_query = query[: max_length // 2]
            assert rank.input_ids[-len(kept_query) - 1 :] == kept_query + closing
        if system.backbone == "encoder_decoder":
            assert rank.score_at == len(rank.decoder_ids) - 1
            limit = target_length if system.rank_layout == "separate" else max_length
            assert len(rank.decoder_ids) <= limit


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("bert", dict(max_length=10), "max_length 10 leaves no room for a passage: raise it to 11 or more"),
        ("bart_c", dict(max_length=16), "max_length 16 leaves no room for a passage: raise it to 17 or more"),
        ("gdmtl", dict(target_length=1), "target_length 1 leaves no room for a token and its end: raise it"),
        ("gdmtl", dict(generation_mask="mask"), "unknown generation_mask 'mask': expected one of mixed, mlm"),
        (
            "gdmtl_s",
            dict(generation_mask="mlm"),
            "generation_mask 'mlm' is an ablation of the encoder systems; a decoder generates causally",
        ),
    ],
)
def test_what_cannot_be_built_says_why(builder_of, name, arguments, message):
    with pytest.raises(ValueError) as error:
        builder_of(name, **arguments)
    assert str(error.value) == message


def test_the_least_length_leaves_a_passage_token(builder_of):
    with pytest.warns(UserWarning, match="longer than 5 tokens"):
        assert builder_of("bert", max_length=11).rank([50, 51], [90] * 9).input_ids == [
            CLS, *RANK, 50, SEP, 90, 90, 90, 90, 90, SEP
        ]  # fmt: skip


def random_sequences(builder, rng, number=6):
    """Sequences of all the tasks of a system, of many lengths, in random order."""
    sequences = []
    for _ in range(number):
        passage, query, answer = ([rng.randint(5, 100) for _ in range(rng.randint(1, 12))] for _ in range(3))
        sequences.append(builder.rank(passage, query))
        if "query_generation" in builder.system.tasks:
            sequences.append(builder.query_generation(passage, query))
        if "answer_generation" in builder.system.tasks:
            sequences.append(builder.answer_generation(passage, query, answer))
    rng.shuffle(sequences)
    return sequences


def test_pack_puts_encoder_sequences_into_one_row():
    """A ranking sequence of 3 and a generation of 2 source and 2 target tokens."""
    batch = pack([
        TokenSequence("rank", [2, 8, 3], [0, 0, 1], 3),
        TokenSequence("query_generation", [2, 3, 20, 21], [0, 0, 1, 1], 2, targets=[20, 21, 3], predict_from=1),
    ])  # fmt: skip
    assert batch.input_ids.tolist() == [[2, 8, 3, 2, 3, 20, 21]]
    assert batch.segment_ids.tolist() == [[0, 0, 1, 0, 0, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 3]]
    assert batch.spans == [Span(0, 3, 0, 3, False), Span(3, 5, 3, 5, False), Span(5, 7, 3, 7, True)]
    assert batch.score_at.tolist() == [0]
    assert list(batch.predict_at) == list(batch.targets) == list(batch.lengths) == ["query_generation"]
    assert batch.predict_at["query_generation"].tolist() == [4, 5, 6]
    assert batch.targets["query_generation"].tolist() == [20, 21, 3]
    assert batch.lengths["query_generation"].tolist() == [3]
    assert batch.decoder_ids is batch.decoder_position_ids is batch.decoder_spans is batch.cross_spans is None


def test_pack_puts_encoder_decoder_sequences_into_two_rows():
    batch = pack([
        TokenSequence("query_generation", [0, 7, 2], [0] * 3, 3, [2, 20], [20, 2]),
        TokenSequence("rank", [0, 2], [0] * 2, 2, [2, 30, 31], score_at=2),
    ])  # fmt: skip
    assert batch.input_ids.tolist() == [[0, 7, 2, 0, 2]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.spans == [Span(0, 3, 0, 3, False), Span(3, 5, 3, 5, False)]
    assert batch.decoder_ids.tolist() == [[2, 20, 2, 30, 31]]
    assert batch.decoder_position_ids.tolist() == [[0, 1, 0, 1, 2]]
    assert batch.decoder_spans == [Span(0, 2, 0, 2, True), Span(2, 5, 2, 5, True)]
    assert batch.cross_spans == [Span(0, 2, 0, 3, False), Span(2, 5, 3, 5, False)]
    assert batch.score_at.tolist() == [4]
    assert batch.predict_at["query_generation"].tolist() == [0, 1]


def test_pad_gives_each_sequence_a_row():
    batch = pad([
        TokenSequence("rank", [2, 8, 3], [0, 0, 1], 3),
        TokenSequence("query_generation", [2, 3, 20, 21], [0, 0, 1, 1], 2, targets=[20, 21, 3], predict_from=1),
    ], pad_id=9)  # fmt: skip
    assert batch.input_ids.tolist() == [[2, 8, 3, 9], [2, 3, 20, 21]]
    assert batch.segment_ids.tolist() == [[0, 0, 1, 0], [0, 0, 1, 1]]
    assert batch.mask.int().tolist() == [
        [[[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]],
        [[[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]],
    ]
    assert batch.score_at.tolist() == [0]
    assert batch.predict_at["query_generation"].tolist() == [5, 6, 7]
    assert batch.decoder_ids is batch.decoder_mask is batch.cross_mask is None


def as_matrix(spans: list[Span], columns: int) -> torch.Tensor:
    """Who attends to whom, from the definition of a span: in a causal one the last row sees every column."""
    rows = []
    for span in spans:
        assert span.start == len(rows)  # in order, every row once
        for row in range(span.start, span.end):
            last = span.key_end - (span.end - 1 - row) if span.causal else span.key_end
            rows.append([span.key_start <= column < last for column in range(columns)])
    return torch.tensor(rows)


@pytest.mark.parametrize("generation_mask", ["mixed", "mlm"])
@pytest.mark.parametrize("seed", range(5))
def test_packed_encoder_spans_are_the_literal_masks(builder_of, seed, generation_mask):
    rng = random.Random(seed)
    sequences = random_sequences(builder_of("gdmtl_plus", generation_mask=generation_mask), rng)
    batch = pack(sequences)
    blocks = []
    for sequence in sequences:
        padding = torch.ones(1, len(sequence.input_ids), dtype=torch.bool)
        if sequence.task == "rank" or generation_mask == "mlm":
            blocks.append(bidirectional_mask(padding)[0])
        else:
            blocks.append(mixed_attention_mask(torch.tensor([sequence.segment_ids]), padding)[0])
    assert torch.equal(as_matrix(batch.spans, batch.input_ids.shape[1]), torch.block_diag(*blocks).bool())


@pytest.mark.parametrize("name", ["gdmtl_s", "gdmtl_c"])
@pytest.mark.parametrize("seed", range(3))
def test_packed_encoder_decoder_spans_are_the_literal_masks(builder_of, name, seed):
    sequences = random_sequences(builder_of(name), random.Random(seed))
    batch = pack(sequences)
    sources = [torch.ones(1, len(s.input_ids), dtype=torch.bool) for s in sequences]
    targets = [torch.ones(1, len(s.decoder_ids), dtype=torch.bool) for s in sequences]
    for spans, columns, blocks in (
        (batch.spans, batch.input_ids.shape[1], map(bidirectional_mask, sources)),
        (batch.decoder_spans, batch.decoder_ids.shape[1], map(causal_mask, targets)),
        (batch.cross_spans, batch.input_ids.shape[1], map(cross_attention_mask, targets, sources)),
    ):
        expected = torch.block_diag(*(block[0] for block in blocks)).bool()
        assert torch.equal(as_matrix(spans, columns), expected)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("seed", range(3))
def test_packed_and_padded_batches_hold_the_same(builder_of, name, seed):
    """The same tokens at the same positions, the same reading places, and masks that allow the same."""
    sequences = random_sequences(builder_of(name), random.Random(seed))
    packed, padded = pack(sequences), pad(sequences, pad_id=1)

    def places(rows):  # of the real tokens among the flattened padded rows, in packed order
        width = max(map(len, rows))
        return torch.tensor([row * width + i for row, ids in enumerate(rows) for i in range(len(ids))]), width

    source, width = places([s.input_ids for s in sequences])
    assert torch.equal(packed.input_ids[0], padded.input_ids.flatten()[source])
    assert torch.equal(packed.segment_ids[0], padded.segment_ids.flatten()[source])
    assert torch.equal(packed.position_ids[0], source % width)
    assert (padded.input_ids == 1).sum() == padded.input_ids.numel() - len(source)
    blocks = torch.block_diag(*padded.mask[:, 0].int())
    assert torch.equal(as_matrix(packed.spans, len(source)), blocks[source][:, source].bool())
    assert blocks.sum() == blocks[source][:, source].sum()  # padding attends to nothing, nothing to padding
    reading = source
    if SYSTEMS[name].backbone == "encoder_decoder":
        reading, width = places([s.decoder_ids for s in sequences])
        assert torch.equal(packed.decoder_ids[0], padded.decoder_ids.flatten()[reading])
        assert torch.equal(packed.decoder_position_ids[0], reading % width)
        blocks = torch.block_diag(*padded.decoder_mask[:, 0].int())
        assert torch.equal(as_matrix(packed.decoder_spans, len(reading)), blocks[reading][:, reading].bool())
        blocks = torch.block_diag(*padded.cross_mask[:, 0].int())
        assert torch.equal(as_matrix(packed.cross_spans, len(source)), blocks[reading][:, source].bool())
    assert torch.equal(reading[packed.score_at], padded.score_at)
    assert packed.predict_at.keys() == padded.predict_at.keys() == set(SYSTEMS[name].generative_tasks)
    for task in packed.predict_at:
        assert torch.equal(reading[packed.predict_at[task]], padded.predict_at[task])
        assert torch.equal(packed.targets[task], padded.targets[task])
        expected = [len(s.targets) for s in sequences if s.task == task]
        assert packed.lengths[task].tolist() == padded.lengths[task].tolist() == expected


@pytest.mark.parametrize("name", ["gdmtl", "gdmtl_s"])
def test_a_generation_target_is_predicted_by_the_token_before_it(builder_of, name):
    """Mixed attention and decoders alike: the token after the position that predicts is what it predicts."""
    sequences = random_sequences(builder_of(name), random.Random(0))
    batch = pack([s for s in sequences if s.task == "query_generation"])
    ids = batch.input_ids if batch.decoder_ids is None else batch.decoder_ids
    end = builder_of(name).end
    positions, targets = batch.predict_at["query_generation"], batch.targets["query_generation"]
    for position, target in zip(positions, targets, strict=True):
        assert target == end or ids[0, position + 1] == target


@pytest.mark.parametrize("make", [pack, lambda sequences: pad(sequences, 0)])
def test_a_batch_moves_to_a_device_whole(builder_of, make):
    batch = make(random_sequences(builder_of("gdmtl_s"), random.Random(0)))
    moved = batch.to("meta")
    assert type(moved) is type(batch)
    for name, value in vars(moved).items():
        for item in value.values() if isinstance(value, dict) else [value]:
            if isinstance(item, torch.Tensor):
                assert item.device.type == "meta", name
            else:
                assert item == getattr(batch, name)
