"""From text to token ids, for all eight systems."""

import random
import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, XLMRobertaTokenizer

from gdmtl_lib.backbones.reference import reference
from gdmtl_lib.inference import rerank as reranking, scoring
from gdmtl_lib import inputs
from gdmtl_lib.inputs import InputBuilder, TokenSequence
from gdmtl_lib.packing import pack
from gdmtl_lib.pretrained import build_model
from gdmtl_lib.systems import SYSTEMS

ENCODERS = ["mono", "bert", "gdmtl", "gdmtl_plus"]
SEPARATE, CONCATENATED = ["bart_s", "gdmtl_s"], ["bart_c", "gdmtl_c"]
DECODER_START = 2  # what `builder_of` is given


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
@settings(max_examples=150)
def test_ranking_inputs_are_what_the_tokenizer_makes_of_the_pair(builder_of, name, family, passage, query):
    """So that `CrossEncoder(folder).predict([("rank: " + passage, query)])` reads what this library reads."""
    builder = builder_of(name, family, max_length=4096)
    found = builder.rank(builder.passage_tokens([passage])[0], builder.tokens([query])[0])
    expected = builder.tokenizer("rank: " + passage, query, split_special_tokens=True)
    assert found.input_ids == expected["input_ids"]
    if family != "bart":
        assert found.segment_ids == expected["token_type_ids"]


@pytest.mark.parametrize(("name", "family"), [("gdmtl", "bert"), ("gdmtl_s", "bart")])
@given(passage=TEXTS, query=TEXTS)
@settings(max_examples=50)
def test_sources_and_targets_are_what_the_tokenizer_makes_of_each(builder_of, name, family, passage, query):
    builder = builder_of(name, family, max_length=4096, target_length=4096)
    tokens = builder.passage_tokens([passage])[0], builder.tokens([query])[0]
    found = builder.query_generation(*tokens)
    assert found.input_ids[: found.source_length] == builder.tokenizer("sum: " + passage, split_special_tokens=True)["input_ids"]
    assert [builder.first, *found.targets] == builder.tokenizer(query, split_special_tokens=True)["input_ids"]
    if family == "bart":
        assert builder_of("bart_s", max_length=4096, target_length=4096).rank(*tokens).decoder_ids == [
            DECODER_START, *builder.tokenizer(query, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ]  # fmt: skip


def sentencepiece(toy_bert_folder, toy_bart_folder):
    """ALBERT's and XLM-RoBERTa's kind, whose vocabulary holds its control tokens as words of score 0."""
    letters = [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz<>/:[]"]
    control = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    return XLMRobertaTokenizer(vocab=[*control, ("\u2581", -2.0), *letters, ("<mask>", 0.0)])


KINDS = {
    "word pieces": lambda bert, bart: AutoTokenizer.from_pretrained(bert),
    "bytes": lambda bert, bart: AutoTokenizer.from_pretrained(bart),
    "sentence pieces": sentencepiece,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["{} in a text", "a{}b", "{0}{0}", "{}", "\uff1c/s\uff1e in wide letters, {}"])
def test_no_text_holds_a_control_token(kind, text, toy_bert_folder, toy_bart_folder):
    """Passage, query and answer, with every control token of the tokenizer at once; the rest of the text is there, and
    what the sequence itself ends and separates by stands where it stood."""
    tokenizer = KINDS[kind](toy_bert_folder, toy_bart_folder)
    builder = InputBuilder(tokenizer, SYSTEMS["gdmtl_plus"], decoder_start_id=DECODER_START)
    control = [token for token in tokenizer.all_special_tokens if token != tokenizer.unk_token]
    text = text.format(" ".join(control))
    [passage], [query] = builder.passage_tokens([text]), builder.tokens([text])
    special = set(tokenizer.convert_tokens_to_ids(control))
    assert len(passage) > len(control) and special.isdisjoint(passage) and special.isdisjoint(query)
    rank, answer = builder.rank(passage, query), builder.answer_generation(passage, query, query)
    own = len(builder.between) + 2
    assert sum(id in special for id in rank.input_ids) == own
    assert sum(id in special for id in answer.input_ids) == own and answer.targets.count(builder.end) == 1
    plain = builder.tokens(["an ordinary text"])[0]
    assert builder.tokens([text, "an ordinary text"])[1] == plain  # its neighbours are left alone


@pytest.mark.parametrize("prefix", ["[SEP] sum:", "[MASK]"])
def test_nor_does_a_prefix(tokenizers, prefix, monkeypatch):
    monkeypatch.setattr(inputs, "prefixes", lambda: {"rank": prefix})
    ids = InputBuilder(tokenizers["minilm"], SYSTEMS["bert"]).prefix_ids["rank"]
    assert set(tokenizers["minilm"].all_special_ids).isdisjoint(ids) and len(ids) > 2


def test_a_saved_model_reads_control_tokens_as_words_in_crossencoder_too(toy_bert_folder, tmp_path):
    model = build_model("bert", checkpoint=toy_bert_folder)
    model.save_pretrained(tmp_path / "saved")
    builder, text = model.input_builder(), "the [SEP] river"
    expected = builder.rank(builder.passage_tokens([text])[0], builder.tokens([text])[0]).input_ids
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("rank: " + text, text)["input_ids"] == expected


@pytest.mark.parametrize("name", ["bert", "bart_s", "bart_c"])
def test_reranking_reads_what_the_tokenizer_writes(name, toy_bert_folder, toy_bart_folder, monkeypatch):
    folder = toy_bert_folder if name == "bert" else toy_bart_folder
    model, read = build_model(name, checkpoint=folder), []
    monkeypatch.setattr(scoring, "pack", lambda sequences: read.extend(sequences) or pack(sequences))
    with reference("pairs"):
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
