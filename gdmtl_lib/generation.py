"""Greedy generation with a system's language-model heads: a passage in, a query (or an answer) out."""

from collections.abc import Iterable

import pandas as pd
import torch

from .inputs import pack
from .reranking import BATCH_TOKENS, by_budget
from .systems import SYSTEMS


@torch.inference_mode()
def generate(
    model, passages: Iterable[str], queries: Iterable[str] | None = None, max_tokens: int = 32
) -> list[str]:
    """Write the query each passage would answer or, given the queries too, the answer; the likeliest token each time.

    model: of a system that generates. passages: texts. queries: one a passage, for answers (Table 1: GDMTL+ only).
    max_tokens: the longest text to write. Returns one text a passage.
    Raises ValueError for a system that does not learn the task, and for a number of queries that does not fit.
    """
    task = "query_generation" if queries is None else "answer_generation"
    if task not in model.system.tasks:
        able = ", ".join(name for name, system in SYSTEMS.items() if task in system.tasks)
        raise ValueError(f"{model.system.name} does not learn {task}, as these do: {able}")
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, found {max_tokens}")
    passages = list(passages)
    queries = [""] * len(passages) if queries is None else list(queries)
    if len(queries) != len(passages):
        raise ValueError(f"expected one query a passage: found {len(passages)} passages and {len(queries)} queries")
    model.eval()
    limit = min(max_tokens, model.config.gdmtl["inputs"]["target_length"] - 1)
    builder = model.input_builder()
    device = next(model.parameters()).device
    sources = list(zip(builder.passage_tokens(passages), builder.tokens(queries)))
    written: list[list[int]] = [[] for _ in passages]
    going = list(range(len(passages)))
    for _ in range(limit):
        sequences = [_sequence(builder, task, *sources[i], written[i]) for i in going]
        lengths = [len(s.input_ids) + len(s.decoder_ids) for s in sequences]
        unfinished = []
        for batch in by_budget(range(len(going)), lengths, BATCH_TOKENS[device.type]):
            packed = pack([sequences[i] for i in batch]).to(device)
            # Only the last position of each sequence predicts the token to come.
            last = packed.lengths[task].cumsum(0) - 1
            packed.predict_at[task] = packed.predict_at[task][last]
            chosen = model(packed).logits[task].argmax(-1).tolist()
            for i, token in zip(batch, chosen):
                if token != builder.end:
                    written[going[i]].append(token)
                    unfinished.append(going[i])
        going = unfinished
        if not going:
            break
    return [model.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in written]


def _sequence(builder, task, passage, query, written):
    if task == "query_generation":
        return builder.query_generation(passage, written)
    return builder.answer_generation(passage, query, written)


def compare_with_queries(model, passages: Iterable[str], queries: Iterable[str]) -> pd.DataFrame:
    """Passages with the query that was asked and the one the model writes: passage, query, generated."""
    passages = list(passages)
    return pd.DataFrame({"passage": passages, "query": list(queries), "generated": generate(model, passages)})
