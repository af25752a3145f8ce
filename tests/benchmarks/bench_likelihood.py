"""Ranking by the likelihood with stored states against the ranking head: BERT-base's shape, in fp32 and in the CPU's
fastest mode."""

import pytest
import torch
from harness import record, take_turns
from texts import collection_of, like_ms_marco

import gdmtl_lib as gdmtl
from gdmtl_lib.backbones.checkpoints import DEFAULT_CHECKPOINT, find_checkpoint
from gdmtl_lib.backbones.devices import pick_precision
from gdmtl_lib.pretrained import build_model

DEPTH = 64  # candidates a query
# Pairs, of which a real call has several times as many; in fp32 half of them, for they take twice as long.
PAIRS = {"fp32": 500, pick_precision("auto", torch.device("cpu")): 1000}


def bert_base(folder):
    """`gdmtl` of BERT-base's shape: 12 layers of 768. Its weights are random, which changes nothing about speed; its
    word pieces are MiniLM's, which are BERT's own."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    AutoTokenizer.from_pretrained(find_checkpoint(DEFAULT_CHECKPOINT)).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(folder)
    return build_model("gdmtl", checkpoint=folder)


@pytest.mark.parametrize("precision", PAIRS)
def test_likelihood_with_stored_states(precision, tmp_path):
    """Whole calls on the same pairs, the reading of texts, tokens, states and their checksums included; the passages'
    states were stored by the call that is not counted. Their pages are then in memory, as those of a store that fits.
    """
    model = bert_base(tmp_path / "bert-base")
    collection, candidates = collection_of(*like_ms_marco(model.input_builder(), number=PAIRS[precision]), DEPTH)
    how = dict(precision=precision, device="cpu", progress=False)

    def likelihood():
        return gdmtl.rerank(model, collection, candidates, score="likelihood", states=tmp_path / "states", **how)

    def head():
        return gdmtl.rerank(model, collection, candidates, **how)

    seconds = take_turns({"head": head, "likelihood": likelihood}, 2)
    rate = {contender: len(candidates) / each for contender, each in seconds.items()}
    record(
        f"likelihood with stored states against the ranking head, BERT-base, MS MARCO's lengths, {precision}, pairs/s",
        rate["likelihood"], rate["head"], rate["likelihood"] / rate["head"], "at least 5",
    )  # fmt: skip
