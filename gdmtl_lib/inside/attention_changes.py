"""What multi-task training changes in attention: where the query looks in the ranking pass, in one encoder and another.

A head can be compared with the head of the same place only because both systems start from the same weights.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch

from .attention import attention_weights, build_sequence
from gdmtl_lib.inputs import TokenSequence

DESTINATIONS = ("passage", "query", "[CLS]", "[SEP]")


def destinations(model, sequence: TokenSequence) -> np.ndarray:
    """What each token of an encoder's ranking sequence is, int [s], an index into `DESTINATIONS`. The task's prefix
    counts as passage."""
    kinds = np.array(sequence.segment_ids)
    special = {model.tokenizer.cls_token_id: 2, model.tokenizer.sep_token_id: 3}
    return np.array([special.get(token, kind) for token, kind in zip(sequence.input_ids, kinds)])


def query_attention(model, pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Where the query's tokens look in the ranking pass, in every layer and head, mean over pairs.

    model: an encoder system. pairs: (passage, query).
    Returns `layer`, `head` (from 1), the four `DESTINATIONS` (the share of the attention they get, 1 together) and
    `entropy`, 0 for one token alone and 1 for all alike. Raises ValueError for an encoder-decoder and without pairs.
    """
    if model.system.backbone != "encoder":
        raise ValueError(f"{model.system.name} is an encoder-decoder, whose query tokens do not attend to a passage beside them")
    shares, entropies = [], []
    for passage, query in pairs:
        sequence = build_sequence(model, "rank", passage, query)
        kinds = torch.from_numpy(destinations(model, sequence))
        weights = attention_weights(model, sequence)["encoder"][:, :, kinds == 1]
        shares.append(torch.stack([weights[..., kinds == kind].sum(-1).mean(-1) for kind in range(4)], dim=-1))
        entropies.append(torch.special.entr(weights).sum(-1).mean(-1) / np.log(len(kinds)))
    if not shares:
        raise ValueError("expected pairs of a passage and a query, found none")
    mean, entropy = torch.stack(shares).mean(0), torch.stack(entropies).mean(0)
    layers, heads = (axis.flatten() + 1 for axis in np.indices(entropy.shape))
    columns = {name: mean[..., kind].flatten().numpy() for kind, name in enumerate(DESTINATIONS)}
    return pd.DataFrame({"layer": layers, "head": heads, **columns, "entropy": entropy.flatten().numpy()})


def head_changes(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """How much of each head's attention has moved to another destination, from 0 to 1 (total variation), the most
    first: `layer, head, moved` and, with its sign, what each destination and the entropy gained.

    before, after: what `query_attention` returns for two systems. Raises ValueError for models of different sizes.
    """
    key = ["layer", "head"]
    if not before[key].equals(after[key]):
        raise ValueError("expected two models with the same layers and heads; compare systems of one checkpoint")
    gained = after[[*DESTINATIONS, "entropy"]] - before[[*DESTINATIONS, "entropy"]]
    moved = gained[list(DESTINATIONS)].abs().sum(axis=1) / 2
    table = pd.concat([before[key], moved.rename("moved"), gained], axis=1)
    return table.sort_values(["moved", *key], ascending=[False, True, True], ignore_index=True)
