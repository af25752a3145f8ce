"""Target tokens against stored states are what one pass over everything gives."""

import pytest
import torch

from gdmtl_lib.packing import pack
from gdmtl_lib.pretrained import build_model
from gdmtl_lib.inference.prefix_cache import Continuation, encode_sources

PASSAGES = ["blue glacier ice", "the river by the city in new light", "water"]
QUERIES = ["why is ice blue", "who was the king of the north", "what"]


@pytest.fixture(params=["gdmtl", "gdmtl_s", "gdmtl_s on BART"])
def model(request, toy_bert_folder, toy_bart_folder):
    folder = toy_bart_folder if "BART" in request.param else toy_bert_folder
    return build_model(request.param.split()[0], checkpoint=folder)


def tokens_of(model):
    builder = model.input_builder()
    return builder, list(zip(builder.passage_tokens(PASSAGES), builder.tokens(QUERIES)))


def predicting(model, sequence):
    """The states at the positions that predict, from one pass over the whole sequence."""
    batch = pack([sequence])
    return model.states(batch)[batch.predict_at["query_generation"]]


@torch.inference_mode()
def test_states_are_those_of_one_pass_whatever_the_rows_and_the_steps(model):
    """Rows of several lengths; one token, then the rest; then rows in another order, one of them twice."""
    builder, pairs = tokens_of(model)
    sources = encode_sources(model, [builder.query_generation(passage, []) for passage, _ in pairs])
    continuation = Continuation(model, sources)
    first = continuation.start()
    rows = torch.tensor([2, 0, 0])
    queries = [pairs[0][1], pairs[1][1], pairs[2][1]]  # row 0 of the new order has passage 2 and query 0, and so on
    continuation = continuation.select(rows)
    longest = max(map(len, queries))
    padded = torch.tensor([query + [0] * (longest - len(query)) for query in queries])
    states = torch.cat([continuation.advance(padded[:, :1]), continuation.advance(padded[:, 1:])], dim=1)
    for row, (source, query) in enumerate(zip(rows.tolist(), queries)):
        expected = predicting(model, builder.query_generation(pairs[source][0], query))
        found = torch.cat([first[source][None], states[row, : len(query)]])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_source_is_as_long_as_its_tokens_and_keeps_no_others(model):
    builder, pairs = tokens_of(model)
    sequences = [builder.query_generation(passage, []) for passage, _ in pairs]
    together = encode_sources(model, sequences)
    assert [len(source) for source in together] == [len(sequence.input_ids) for sequence in sequences]
    for source, sequence in zip(together, sequences):
        [alone] = encode_sources(model, [sequence])
        for part in ("states", "keys", "values"):
            one, other = getattr(source, part), getattr(alone, part)
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
