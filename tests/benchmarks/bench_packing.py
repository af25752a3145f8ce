"""What the host does for a pass besides tokenizing: packing, spans, and the calls of a GPU's kernel that they come to."""

import numpy as np
import pytest
import torch
from bench_training import INSTANCES, instances
from harness import record, take_turns
from tests.conftest import plain_pack
from texts import PROFILES, texts_like

from gdmtl_lib.backbones import devices
from gdmtl_lib.backbones.flash import plan_of
from gdmtl_lib.packing import BATCH_TOKENS, pack, pack_pairs
from gdmtl_lib.pretrained import build_model

CPU = torch.device("cpu")


def packed(batch) -> None:
    tokens = batch.input_ids.shape[1]
    batch.spans.memo.clear()
    plan_of(batch.spans, tokens, tokens, CPU)
    plan_of(batch.read_spans, len(batch.read_at), tokens, CPU)


def in_lists(sequences) -> None:
    for value in plain_pack(sequences).values():
        for part in value.values() if isinstance(value, dict) else [value]:
            torch.tensor(part)


@pytest.fixture(scope="module")
def sequences():
    """Of 32 instances of MS MARCO's lengths."""
    model = build_model("gdmtl", layers=1)
    return instances(model, *texts_like(PROFILES[1], model.input_builder()))


def test_a_joint_batch_is_packed_in_two_milliseconds(sequences):
    race("joint batch of 32 instances", lambda: packed(pack(sequences)), sequences, limit=2.0)


def test_a_pass_of_pairs_is_packed_in_five(sequences):
    """As re-ranking packs them: passages and queries are arrays already."""
    ranked = [sequence for sequence in sequences if sequence.task == "rank"]
    each = sum(len(sequence.input_ids) for sequence in ranked) / len(ranked)
    ranked = (ranked * (BATCH_TOKENS["cuda"] // len(ranked)))[: int(BATCH_TOKENS["cuda"] / each)]
    ends = [sequence.segment_ids.index(1) - 1 for sequence in ranked]  # where [SEP] stands
    ids = [np.array(sequence.input_ids, dtype=np.int32) for sequence in ranked]
    lefts, rights = [x[:end] for x, end in zip(ids, ends)], [x[end:] for x, end in zip(ids, ends)]
    race("re-ranking pass of 65,000 tokens", lambda: packed(pack_pairs(lefts, rights, 1)), ranked, limit=5.0)


def race(what, ours, sequences, limit):
    seconds = take_turns({"ours": ours, "lists": lambda: in_lists(sequences)}, rounds=15)
    found, lists = (1000 * seconds[name] for name in ("ours", "lists"))
    record(f"host: packing and spans against lists in Python, {what}, ms", found, lists, found / limit, "at most 1")


def test_what_multiplies_is_said():
    """Not a race: which way was taken on this machine, and in which precision `auto` computes."""
    for kind, ways in devices.products_measured().items():
        fp32 = min(seconds for way, seconds in ways.items() if way != "bf16")
        chosen = devices.pick_precision("auto", CPU, training=kind == "training")
        taken = ways["bf16"] if chosen == "bf16" else fp32
        record(f"products, {kind}: auto takes {chosen}, fp32 by {min((w for w in ways if w != 'bf16'), key=ways.get)}, ms",
               1000 * taken, 1000 * fp32, taken / fp32, "at most 1.03")  # fmt: skip
