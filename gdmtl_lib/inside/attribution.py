"""Which tokens does a ranking score rest on? Integrated gradients (Sundararajan, Taly and Yan, 2017), by Captum.

The score of a pair minus that of a *baseline* is divided among the tokens: each gets the gradient of the score by its
word embedding, averaged on the straight way from the baseline to the pair, times what its embedding moved. A baseline
is the same sequence with every token but [CLS], the task's prefix and [SEP] replaced by what says nothing. Of several
`REFERENCES` the one with the lowest score is taken: one may score above a relevant pair.

s sequence, d hidden.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gdmtl_lib.data.trec import canonical_order, of_judged_queries
from gdmtl_lib.settings import check_count, is_whole
from .attention import build_sequence, text_segments

REFERENCES = ("all [MASK]", "all [PAD]", "all unknown", "random words")


@dataclass(frozen=True)
class Attribution:
    """tokens: [s]. values: float [s], what each adds to the score; they add up to `score - baseline` but for `error`,
    which shrinks with the steps. segments: int [s], 0 for passage and prefix, 1 for the query. reference: of
    `REFERENCES`, what the pair is compared with, and baseline its score."""

    tokens: list[str]
    values: np.ndarray
    segments: np.ndarray
    score: float
    baseline: float
    reference: str = REFERENCES[0]

    @property
    def meaning(self) -> str:
        """What a positive value says, in a sentence."""
        if self.score > self.baseline:
            return f"Blue tokens lift the score above that of {self.reference}, {self.baseline:+.3f}, to {self.score:+.3f}."
        return (
            f"The pair scores {self.score:+.3f}, below {self.reference} ({self.baseline:+.3f}), the lowest of the "
            f"references: red tokens are why, and blue ones only soften it."
        )

    @property
    def error(self) -> float:
        """How far the values are from complete: their sum minus the difference of the scores."""
        return float(self.values.sum() - (self.score - self.baseline))


class EmbeddedPair:
    """A pair for an encoder system's ranking pass, its word `embeddings`, float [1, s, d], open to be changed;
    `baselines`: those of each of the `REFERENCES`. Called with embeddings float [n, s, d] it gives the scores, float [n].
    Raises ValueError for an encoder-decoder."""

    def __init__(self, model, passage: str, query: str):
        if model.system.backbone != "encoder":
            raise ValueError(f"{model.system.name} is an encoder-decoder: expected an encoder system such as gdmtl")
        self.model, self.sequence = model, build_sequence(model, "rank", passage, query)
        device = next(model.parameters()).device
        ids = torch.tensor([self.sequence.input_ids], device=device)
        tokenizer = model.tokenizer
        kept = (ids == tokenizer.cls_token_id) | (ids == tokenizer.sep_token_id)
        if model.system.rank_layout != "query_first":  # which has no prefix
            kept[:, 1 : 1 + len(model.input_builder().prefix_ids["rank"])] = True
        words = model.get_input_embeddings().weight.detach()
        ordinary = torch.tensor(sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids)), device=device)
        drawn = torch.randint(len(ordinary), ids.shape, generator=torch.Generator().manual_seed(0)).to(device)
        nothing = (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id, ordinary[drawn])
        self.embeddings = words[ids]
        self.baselines = {name: words[torch.where(kept, ids, of)] for name, of in zip(REFERENCES, nothing)}
        self._segments = torch.tensor([self.sequence.segment_ids], device=device)

    def __call__(self, embeddings: Tensor) -> Tensor:
        count, size = embeddings.shape[:2]
        everywhere = torch.ones(count, 1, size, size, dtype=torch.bool, device=embeddings.device)
        segments = self._segments.expand(count, -1)
        return self.model.score(self.model.encode(None, segments, mask=everywhere, inputs_embeds=embeddings)[:, 0])


def integrated_gradients(
    model, passage: str, query: str, steps: int = 32, batch_size: int = 16, reference: str | None = None
) -> Attribution:
    """The ranking score of a pair of an encoder system divided among its tokens, without dropout. steps: points on the
    way from the baseline (Gauss-Legendre). reference: one of `REFERENCES`; by default the one that scores lowest.
    Raises ValueError for an encoder-decoder, fewer than two steps and an unknown reference."""
    if not is_whole(steps) or steps < 2:
        raise ValueError(f"steps must be a whole number of at least 2, found {steps!r}")
    check_count("batch_size", batch_size)
    if reference not in (None, *REFERENCES):
        raise ValueError(f"unknown reference {reference!r}: expected one of {', '.join(REFERENCES)}")
    from captum.attr import IntegratedGradients  # slow to import

    pair, training = EmbeddedPair(model, passage, query), model.training
    model.eval()
    try:
        with torch.no_grad():
            score, *found = pair(torch.cat([pair.embeddings, *pair.baselines.values()])).tolist()
        scores = dict(zip(REFERENCES, found))
        reference = reference or min(scores, key=scores.get)
        values = IntegratedGradients(pair).attribute(
            pair.embeddings, pair.baselines[reference], n_steps=steps, internal_batch_size=batch_size
        )
    finally:
        model.train(training)
    return Attribution(
        model.tokenizer.convert_ids_to_tokens(pair.sequence.input_ids), values[0].sum(-1).detach().cpu().numpy(),
        text_segments(model, pair.sequence), score, scores[reference], reference,
    )  # fmt: skip


def disagreements(
    before: pd.DataFrame, after: pd.DataFrame, qrels: pd.DataFrame, relevance_level: int = 1
) -> pd.DataFrame:
    """Relevant passages that one of two runs puts first while the other has no relevant passage there: `query_id,
    doc_id, before, after` (the passage's ranks; NaN where a run lacks it), the furthest moved first. before, after:
    `query_id, doc_id, score`. Raises ValueError as `canonical_order` and `of_judged_queries`."""
    relevant = qrels.loc[qrels["relevance"] >= relevance_level, ["query_id", "doc_id"]]
    ranks = relevant
    for name, run in (("before", before), ("after", after)):
        ranked = of_judged_queries(canonical_order(run), qrels)[["query_id", "doc_id", "rank"]]
        ranks = ranks.merge(ranked.rename(columns={"rank": name}), "left", ["query_id", "doc_id"])
    best = ranks.groupby("query_id")[["before", "after"]].transform("min")
    found = []
    for right, wrong in (("after", "before"), ("before", "after")):
        part = ranks[(ranks[right] == 1) & (best[wrong] != 1)]
        part = part.sort_values([wrong, "query_id"], ascending=[False, True], na_position="first", kind="stable")
        found.append(part.assign(turn=range(len(part))))
    return pd.concat(found).sort_values("turn", kind="stable", ignore_index=True).drop(columns="turn")


def as_table(found: Attribution) -> pd.DataFrame:
    """`place` (from 1), `token`, `part` (passage or query) and `value`, a row a token."""
    parts = np.where(found.segments == 0, "passage", "query")
    places = range(1, len(found.tokens) + 1)
    return pd.DataFrame({"place": places, "token": found.tokens, "part": parts, "value": found.values})
