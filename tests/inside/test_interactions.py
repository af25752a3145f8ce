import numpy as np
import pytest
from transformers import AutoTokenizer

from gdmtl_lib.inside.interactions import FRAME, PASSAGE, QUERY, Attention, count_interactions, ranking_attentions


@pytest.fixture(scope="module")
def tokenizer(toy_bert_folder):
    return AutoTokenizer.from_pretrained(toy_bert_folder)


def counts(system, tokenizer, passage="ice water river", query="old king"):
    table = count_interactions(ranking_attentions(system, tokenizer, passage, query))
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
    [attention] = ranking_attentions("bert", tokenizer, "ice ice", "ice")
    assert attention.rows == ["[CLS]", "rank", ":", "ice", "ice", "[SEP]", "ice", "[SEP]"]
    texts = [FRAME, FRAME, FRAME, PASSAGE, PASSAGE, FRAME, QUERY, FRAME]
    assert attention.row_texts.tolist() == attention.column_texts.tolist() == texts


def test_the_decoder_reads_the_encoders_sequence_one_token_later(tokenizer):
    encoder, decoder, cross = ranking_attentions("bart_c", tokenizer, "ice", "king")
    assert decoder.rows == ["[CLS]", *encoder.rows[:-1]]
    assert cross.rows == decoder.rows and cross.columns == encoder.rows


def test_an_interaction_is_allowed_and_between_the_texts():
    texts = np.array([FRAME, PASSAGE, QUERY])
    allowed = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1]], dtype=bool)
    attention = Attention("encoder", allowed, list("fpq"), list("fpq"), texts, texts)
    assert attention.interacts.tolist() == [[False, False, False], [False, False, False], [False, True, False]]


def test_the_first_stage_has_no_attention(tokenizer):
    with pytest.raises(ValueError, match="bm25 is the first stage and has no model"):
        ranking_attentions("bm25", tokenizer, "ice", "king")
