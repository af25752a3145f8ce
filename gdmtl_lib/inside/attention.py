"""What attention does inside a model: its weights, layer by layer and head by head, who may attend to whom in
them, and the expanded examples that mixed attention stands for (Section 4.2).

An encoder system has one attention, `encoder`; an encoder-decoder has three: `encoder` (bidirectional),
`decoder` (causal) and `cross` (decoder to encoder). All functions take one sequence.

l layers, h heads, r rows (the tokens that attend), c columns (the tokens attended to).
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from gdmtl_lib.inputs import TokenSequence
from gdmtl_lib.packing import PaddedBatch, pad
from gdmtl_lib.pretrained import build_model, load_model
from gdmtl_lib.systems import get_system

NONE, BIDIRECTIONAL, CROSS, CAUSAL = range(4)
MASKS = ("mixed", "bidirectional", "causal", "mlm")


@dataclass(frozen=True)
class Layout:
    """Who may attend to whom in one attention, and what the tokens are called.

    kinds: int8 [r, c], `NONE` where a row may not attend to a column, otherwise the mechanism by which it may
    (Figure 2): `BIDIRECTIONAL`, `CROSS` or `CAUSAL`.
    rows, columns: the tokens.
    row_segments, column_segments: int [r] and [c], an index into `segments`: ("source", "target"), or
    ("passage", "query") for ranking.
    steps: the rows that predict a token (for ranking: the one whose state is scored).
    predicts: what each of them predicts.
    """

    kinds: np.ndarray
    rows: list[str]
    columns: list[str]
    row_segments: np.ndarray
    column_segments: np.ndarray
    steps: list[int]
    predicts: list[str]
    segments: tuple[str, str] = ("source", "target")


class Models:
    """The models to look into: trained where there is a checkpoint, otherwise as they start, from MiniLM.

    results: the folder of a config, whose `<system>/seed0/checkpoint` are looked for. checkpoint_dir: a
    trained checkpoint folder that comes first for its own system, which is then the `main` one; without it,
    `gdmtl` is. A model is opened when it is first asked for, and kept.

    Raises FileNotFoundError or ValueError for a checkpoint_dir that is no checkpoint or no encoder that
    generates.
    """

    def __init__(self, results: str | os.PathLike, checkpoint_dir: str | os.PathLike | None = None):
        self.results, self.main, self._opened = Path(results), "gdmtl", {}
        if checkpoint_dir is not None:
            model = load_model(checkpoint_dir)
            if model.system.backbone != "encoder" or not model.system.generative_tasks:
                raise ValueError(
                    f"checkpoint_dir must hold an encoder that generates, gdmtl or gdmtl_plus, "
                    f"but {checkpoint_dir} holds {model.system.name}"
                )
            self.main = model.system.name
            self._opened[self.main] = _Opened(model, f"{model.system.label}, trained: {checkpoint_dir}", True)

    def __call__(self, system: str):
        """The model of a system."""
        return self._open(system).model

    def describe(self, system: str) -> str:
        """What that model is and where it comes from."""
        return self._open(system).description

    def label(self, system: str) -> str:
        """That model for a title: the system's label, and whether it is trained."""
        opened = self._open(system)
        return f"{opened.model.system.label} {'trained' if opened.trained else 'before training'}"

    def before_training(self, system: str):
        """The untrained start of a trained model from MiniLM; None for one that is not trained or is of
        another family or size, so that it must have started from other weights."""
        if not self._open(system).trained:
            return None
        model, start = self(system), build_model(system)
        sizes = "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads"
        return (
            start
            if all(getattr(model.config, size) == getattr(start.config, size) for size in sizes)
            else None
        )

    def _open(self, system: str) -> "_Opened":
        system = get_system(system)
        if system.name not in self._opened:
            folder = self.results / system.name / "seed0" / "checkpoint"
            if folder.is_dir():
                opened = _Opened(load_model(folder), f"{system.label}, trained: {folder}", True)
            else:
                words = f"before training, MiniLM with new heads (trained ones are looked for in {folder})"
                opened = _Opened(build_model(system.name), f"{system.label} {words}", False)
            self._opened[system.name] = opened
        return self._opened[system.name]


class _Opened(NamedTuple):
    model: torch.nn.Module
    description: str
    trained: bool


def build_sequence(
    model, task: str, passage: str, query: str, answer: str = "", mask: str | None = None
) -> TokenSequence:
    """The sequence of a task under one of `MASKS`; by default the task's own: bidirectional for ranking,
    mixed for generation.

    The sequence tells a mask by how many of its leading tokens attend to each other freely: all of them is
    bidirectional, none is causal, the source is mixed. `mlm` replaces the target by [MASK] (the paper's
    ablation). An encoder-decoder has no choice: it takes None.

    Raises ValueError for a task the system does not learn, and for a mask that is unknown or does not fit.
    """
    if task not in model.system.tasks:
        raise ValueError(
            f"{model.system.name} does not learn {task!r}: it learns {', '.join(model.system.tasks)}"
        )
    if mask is not None and mask not in MASKS:
        raise ValueError(f"unknown mask {mask!r}: expected one of {', '.join(MASKS)}")
    if mask is not None and model.system.backbone != "encoder":
        raise ValueError(f"{model.system.name} is an encoder-decoder, whose masks are fixed: leave mask out")
    if mask == "mlm" and task == "rank":
        raise ValueError(
            "mask 'mlm' hides the target of a generative task, and ranking has none: use another mask"
        )
    builder = model.input_builder(generation_mask="mlm") if mask == "mlm" else model.input_builder()
    (passage_ids,) = builder.passage_tokens([passage])
    texts = builder.tokens([query, answer])
    sequence = getattr(builder, task)(passage_ids, *(texts if task == "answer_generation" else texts[:1]))
    free = {"bidirectional": len(sequence.input_ids), "causal": 0, "mixed": sequence.segment_ids.count(0)}
    return replace(sequence, source_length=free.get(mask, sequence.source_length))


def layouts(model, sequence: TokenSequence) -> dict[str, Layout]:
    """Who may attend to whom when the model reads the sequence: a `Layout` an attention, in the order of the
    passes.

    The masks are the literal ones of the padded pass (`gdmtl_lib.packing.pad`).
    """
    batch = pad([sequence], model.tokenizer.pad_token_id)
    name = model.tokenizer.convert_ids_to_tokens
    tokens, in_segment = _words(name(sequence.input_ids)), np.array(sequence.segment_ids)
    segments = ("passage", "query") if sequence.task == "rank" else ("source", "target")
    steps = [sequence.predict_from + i for i in range(len(sequence.targets))] or [sequence.score_at]
    predicts = _words(name(sequence.targets)) or ["score"]
    free = np.arange(len(tokens)) < sequence.source_length
    mechanism = np.where(free[:, None], BIDIRECTIONAL, np.where(free[None, :], CROSS, CAUSAL))
    own = _kinds(batch.mask, mechanism)
    if model.system.backbone == "encoder":
        return {"encoder": Layout(own, tokens, tokens, in_segment, in_segment, steps, predicts, segments)}
    written = _words(name(sequence.decoder_ids))
    if sequence.task == "rank" and model.system.rank_layout == "concatenated":
        # The decoder reads the encoder's own sequence one token later.
        of_written = np.array([0, *sequence.segment_ids[:-1]])
    else:
        of_written = np.ones(len(written), dtype=int)
    causal, cross = _kinds(batch.decoder_mask, CAUSAL), _kinds(batch.cross_mask, CROSS)
    return {
        "encoder": Layout(own, tokens, tokens, in_segment, in_segment, [], [], segments),
        "decoder": Layout(causal, written, written, of_written, of_written, steps, predicts, segments),
        "cross": Layout(cross, written, tokens, of_written, in_segment, steps, predicts, segments),
    }


@torch.no_grad()
def attention_weights(model, sequence: TokenSequence) -> dict[str, Tensor]:
    """Softmax(QK^T / sqrt(d)) under the literal mask in every layer and head (Eq. 1 and 7), float32 [l, h, r,
    c].

    transformers' own eager attention forms them, on the padded reference pass; dropout is off. A weight the
    mask forbids is exactly 0. Returns one tensor for each name in `layouts(model, sequence)`.
    """
    batch = pad([sequence], model.tokenizer.pad_token_id).to(next(model.parameters()).device)
    found: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(
            lambda _, __, output, name=name: found.setdefault(name, []).append(output[1][0])
        )
        for name, module in _attention_modules(model)
    ]
    try:
        with _eager(model):
            model.states(_additive(batch))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.stack(weights).float().cpu() for name, weights in found.items()}


def block_shares(weights: Tensor, layout: Layout) -> pd.DataFrame:
    """How much of its attention a source token and a target token spend on the source and on the target.

    weights: float [l, h, r, c], from `attention_weights`. Returns a row for every layer, head (both from 1)
    and block: layer, head, rows, columns (of the layout's `segments`), share (the mean over the rows of the
    sum over the columns, so that the two blocks of a row add up to 1), uniform (the same, if the attention
    were spread evenly over all tokens that the mask allows). Blocks without tokens are left out.
    """
    allowed = torch.from_numpy(layout.kinds != NONE)
    uniform = allowed / allowed.sum(-1, keepdim=True)
    frames = []
    for (i, rows), (j, columns) in product(enumerate(layout.segments), repeat=2):
        attending, attended = (
            torch.from_numpy(layout.row_segments == i),
            torch.from_numpy(layout.column_segments == j),
        )
        if not attending.any() or not attended.any():
            continue
        shares = weights[:, :, attending][..., attended].sum(-1).mean(-1)
        layers, heads = (axis.flatten() + 1 for axis in np.indices(shares.shape))
        expected = float(uniform[attending][:, attended].sum(-1).mean())
        frames.append(
            pd.DataFrame(
                dict(
                    layer=layers,
                    head=heads,
                    rows=rows,
                    columns=columns,
                    share=shares.flatten(),
                    uniform=expected,
                )
            )
        )
    return pd.concat(frames, ignore_index=True)


def mean_block_shares(model, task: str, examples: Iterable[tuple[str, ...]]) -> pd.DataFrame:
    """`block_shares` of an encoder system averaged over examples, each (passage, query) or (passage, query,
    answer)."""
    frames = []
    for example in examples:
        sequence = build_sequence(model, task, *example)
        frames.append(
            block_shares(attention_weights(model, sequence)["encoder"], layouts(model, sequence)["encoder"])
        )
    blocks = ["layer", "head", "rows", "columns"]
    return pd.concat(frames).groupby(blocks, sort=False)[["share", "uniform"]].mean().reset_index()


def expand(sequence: TokenSequence, mask_id: int | None = None) -> list[TokenSequence]:
    """One generative example of mixed attention as |target| examples that predict one token each (Section
    4.2).

    Example t is the source and the first t target tokens under the mixed mask, its loss at its last position
    only: together they give the loss and the gradients of the one mixed pass. With `mask_id` they are what
    the paper's wording says instead, which does not: the tokens not yet written are [MASK], and attention is
    bidirectional.

    Raises ValueError for a sequence that is not a generative one under the mixed mask.
    """
    source = sequence.source_length
    if not sequence.targets or sequence.decoder_ids or sequence.predict_from != source - 1:
        raise ValueError(
            f"expected a generative sequence under the mixed mask, found {sequence.task!r} with "
            f"{len(sequence.targets)} targets: build it with query_generation or answer_generation"
        )
    examples = []
    for t, target in enumerate(sequence.targets):
        ids, at = sequence.input_ids[: source + t], source + t - 1
        free = source
        if mask_id is not None:
            ids = ids + [mask_id] * (len(sequence.targets) - t)
            free, at = len(ids), source + t
        segments = [0] * source + [1] * (len(ids) - source)
        examples.append(TokenSequence(sequence.task, ids, segments, free, [], [target], at))
    return examples


def token_losses(model, sequences: list[TokenSequence]) -> Tensor:
    """-log p of every target token of the sequences of one generative task, float [n], from one padded pass;
    with its graph, so that gradients can be taken."""
    batch = pad(sequences, model.tokenizer.pad_token_id).to(next(model.parameters()).device)
    ((task, logits),) = model(batch).logits.items()
    return F.cross_entropy(logits.float(), batch.targets[task], reduction="none")


def compare_expansion(model, sequence: TokenSequence) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The one mixed pass beside its expansion and beside the [MASK]-filled bidirectional examples.

    Returns the loss of every target token (columns token, and one an approach) and, a row an approach, loss
    (the mean), loss_difference and gradient_difference: to the one mixed pass, the latter over all
    parameters, relative to the largest norm of a parameter's gradient.
    """
    approaches = {
        "one mixed pass": [sequence],
        "expanded": expand(sequence),
        "[MASK]-filled": expand(sequence, model.tokenizer.mask_token_id),
    }
    losses = {"token": _words(model.tokenizer.convert_ids_to_tokens(sequence.targets))}
    rows, gradients = [], {}
    for name, sequences in approaches.items():
        each = token_losses(model, sequences)
        losses[name] = each.detach().cpu().numpy()
        used = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients[name] = [
            gradient
            for gradient in torch.autograd.grad(each.mean(), used, allow_unused=True)
            if gradient is not None
        ]
        mixed = gradients["one mixed pass"]
        largest = max(gradient.norm() for gradient in mixed)
        apart = max((a - b).norm() for a, b in zip(mixed, gradients[name], strict=True))
        rows.append(
            {
                "approach": name,
                "sequences": len(sequences),
                "tokens read": sum(len(s.input_ids) for s in sequences),
                "loss": losses[name].mean(),
                "loss_difference": abs(losses[name].mean() - losses["one mixed pass"].mean()),
                "gradient_difference": float(apart / largest),
            }
        )
    return pd.DataFrame(losses), pd.DataFrame(rows).set_index("approach")


def prefix_effect(model, sequence: TokenSequence) -> float:
    """How far the prediction of the last target token moves when the target tokens before it are written in
    another order: the total variation distance, 0 to 1, of the two distributions over the vocabulary.

    Under mixed attention a prediction rests on what is written; with the target masked (MLM) it is blind to
    it.
    """
    written = sequence.segment_ids.count(0)
    other = replace(sequence, input_ids=sequence.input_ids[:written] + sequence.input_ids[written:][::-1])
    ends = pad([sequence, other], model.tokenizer.pad_token_id).to(next(model.parameters()).device)
    with torch.no_grad():
        ((_, logits),) = model(ends).logits.items()
    first, second = logits.float().softmax(-1).view(2, len(sequence.targets), -1)[:, -1]
    return float((first - second).abs().sum() / 2)


def _kinds(mask: Tensor, mechanism) -> np.ndarray:
    return np.where(mask[0, 0].numpy(), mechanism, NONE).astype(np.int8)


def _words(tokens: list[str]) -> list[str]:
    """Tokens as one reads them: byte-level vocabularies write a space as a letter of their own."""
    return [token.replace("\u0120", "\u00b7") for token in tokens]


def _attention_modules(model) -> Iterator[tuple[str, torch.nn.Module]]:
    if model.system.backbone == "encoder":
        for name, module in model.base_model.named_modules():
            if name.endswith(model.family.attention):
                yield "encoder", module
        return
    for layer in model.model.encoder.layers:
        yield "encoder", layer.self_attn
    for layer in model.model.decoder.layers:
        yield "decoder", layer.self_attn
        yield "cross", layer.encoder_attn


@contextmanager
def _eager(model) -> Iterator[None]:
    """transformers' eager attention, which forms the weights, without dropout; afterwards all is as it
    was."""
    implementation, training = model.config._attn_implementation, model.training
    model.config._attn_implementation = "eager"
    model.eval()
    try:
        yield
    finally:
        model.config._attn_implementation = implementation
        model.train(training)


def _additive(batch: PaddedBatch) -> PaddedBatch:
    """Eager attention adds its mask to the scores: 0 where a token may attend, the lowest number where
    not."""
    masks = {name: getattr(batch, name) for name in ("mask", "decoder_mask", "cross_mask")}
    return replace(
        batch,
        **{
            name: torch.zeros(mask.shape, device=mask.device).masked_fill(
                ~mask, torch.finfo(torch.float32).min
            )
            for name, mask in masks.items()
            if mask is not None
        },
    )
