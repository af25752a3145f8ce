"""What attention does inside a model: its weights and who may attend to whom in them, the expanded examples that mixed
attention stands for (Section 4.2), where query and passage meet (Figure 9), and what training changes in it.

An encoder system has one attention, `encoder`; an encoder-decoder has three: `encoder` (bidirectional), `decoder`
(causal) and `cross` (decoder to encoder). All functions take one sequence.

l layers, h heads, r rows (the tokens that attend), c columns (the tokens attended to).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer

from gdmtl_lib.backbones.checkpoints import DEFAULT_CHECKPOINT, find_checkpoint
from gdmtl_lib.inputs import InputBuilder, TokenSequence
from gdmtl_lib.packing import pad
from gdmtl_lib.systems import GENERATIVE_TASKS, System, get_system

NONE, BIDIRECTIONAL, CROSS, CAUSAL = range(4)
MASKS = ("mixed", "bidirectional", "causal", "mlm")
FRAME, PASSAGE, QUERY = range(3)
TEXTS = ("frame", "passage", "query")  # special tokens and the task's prefix are the frame
_MARKERS = {PASSAGE: -1, QUERY: -2}  # ids that no vocabulary has
ATTENTIONS = {"encoder": "self-attention, encoder", "decoder": "self-attention, decoder", "cross": "cross-attention"}
DESTINATIONS = ("passage", "query", "[CLS]", "[SEP]")


@dataclass(frozen=True)
class Layout:
    """Who may attend to whom in one attention, and what the tokens are called.

    kinds: int8 [r, c], `NONE` where a row may not attend to a column, otherwise the mechanism by which it may (Figure
    2). rows, columns: the tokens. row_segments, column_segments: int [r] and [c], an index into `segments`. steps: the
    rows that predict a token (for ranking: the one whose state is scored). predicts: what each of them predicts.
    """

    kinds: np.ndarray
    rows: list[str]
    columns: list[str]
    row_segments: np.ndarray
    column_segments: np.ndarray
    steps: list[int]
    predicts: list[str]
    segments: tuple[str, ...] = ("source", "target")

    @property
    def allowed(self) -> np.ndarray:
        """bool [r, c], True = the row may attend to the column."""
        return self.kinds != NONE

    @property
    def interacts(self) -> np.ndarray:
        """bool [r, c]: allowed, and from passage to query or back. Of a layout whose segments are `TEXTS`."""
        # Of FRAME, PASSAGE and QUERY (0, 1, 2) only the two texts have the product 2.
        return self.allowed & (np.outer(self.row_segments, self.column_segments) == PASSAGE * QUERY)


def build_sequence(
    model, task: str, passage: str, query: str, answer: str = "", mask: str | None = None
) -> TokenSequence:
    """The sequence of a task under one of `MASKS`, by default the task's own, which alone an encoder-decoder has. `mlm`
    replaces the target by [MASK]. Raises ValueError for a task the system does not learn, and for a mask that is
    unknown or does not fit."""
    if task not in model.system.tasks:
        raise ValueError(f"{model.system.name} does not learn {task!r}: it learns {', '.join(model.system.tasks)}")
    if mask is not None and mask not in MASKS:
        raise ValueError(f"unknown mask {mask!r}: expected one of {', '.join(MASKS)}")
    if mask is not None and model.system.backbone != "encoder":
        raise ValueError(f"{model.system.name} is an encoder-decoder, whose masks are fixed: leave mask out")
    if mask == "mlm" and task == "rank":
        raise ValueError("mask 'mlm' hides the target of a generative task, and ranking has none: use another mask")
    builder = model.input_builder(generation_mask="mlm") if mask == "mlm" else model.input_builder()
    (passage_ids,) = builder.passage_tokens([passage])
    texts = dict(zip(("query", "answer"), builder.tokens([query, answer])))
    if task == "rank":
        sequence = builder.rank(passage_ids, texts["query"])
    else:
        sequence = builder.generation(task, passage_ids, texts["query"], texts[GENERATIVE_TASKS[task].target])
    # So many of the leading tokens attend to each other freely.
    free = {"bidirectional": len(sequence.input_ids), "causal": 0, "mixed": sequence.segment_ids.count(0)}
    return replace(sequence, source_length=free.get(mask, sequence.source_length))


def layouts(reader, sequence: TokenSequence) -> dict[str, Layout]:
    """Who may attend to whom when a model reads the sequence: a `Layout` an attention, in the order of the passes, from
    the literal masks of the padded pass. reader: the model, or the input builder of one."""
    batch, system = pad([sequence], reader.tokenizer.pad_token_id), reader.system
    tokens, in_segment = _words(reader.tokenizer, sequence.input_ids), np.array(sequence.segment_ids)
    ranked = ("query", "passage") if system.rank_layout == "query_first" else ("passage", "query")
    segments = ranked if sequence.task == "rank" else ("source", "target")
    steps = [sequence.predict_from + i for i in range(len(sequence.targets))] or [sequence.score_at]
    predicts = _words(reader.tokenizer, sequence.targets) or ["score"]
    free = np.arange(len(tokens)) < sequence.source_length
    mechanism = np.where(free[:, None], BIDIRECTIONAL, np.where(free[None, :], CROSS, CAUSAL))
    own = _kinds(batch.mask, mechanism)
    if system.backbone == "encoder":
        return {"encoder": Layout(own, tokens, tokens, in_segment, in_segment, steps, predicts, segments)}
    written = _words(reader.tokenizer, sequence.decoder_ids)
    if sequence.task == "rank" and system.rank_layout == "concatenated":
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


def ranking_layouts(system: str | System, tokenizer, passage: str, query: str) -> dict[str, Layout]:
    """`layouts` of a neural system's ranking pass, with `TEXTS` for segments. tokenizer: of its backbone; another
    family's does for a picture."""
    system = get_system(getattr(system, "name", system))
    start = tokenizer.cls_token_id if system.backbone == "encoder_decoder" else None
    builder = InputBuilder(tokenizer, system, decoder_start_id=start)
    [passage_ids], [query_ids] = builder.passage_tokens([passage]), builder.tokens([query])
    # Which token is whose is not guessed from the ids: the sequence is built again of markers in the texts' place.
    marked = builder.rank([_MARKERS[PASSAGE]] * len(passage_ids), [_MARKERS[QUERY]] * len(query_ids))
    of_marker = {marker: text for text, marker in _MARKERS.items()}
    encoder, decoder = (
        np.array([of_marker.get(token, FRAME) for token in ids]) for ids in (marked.input_ids, marked.decoder_ids)
    )
    read = {"encoder": (encoder, encoder), "decoder": (decoder, decoder), "cross": (decoder, encoder)}
    return {
        name: replace(layout, segments=TEXTS, row_segments=read[name][0], column_segments=read[name][1])
        for name, layout in layouts(builder, builder.rank(passage_ids, query_ids)).items()
    }


def default_tokenizer():
    """The tokenizer of the checkpoint that all systems start from where none is named."""
    return AutoTokenizer.from_pretrained(find_checkpoint(DEFAULT_CHECKPOINT))


def count_interactions(found: Mapping[str, Layout]) -> pd.DataFrame:
    """How often the texts meet in one layer of each attention that `ranking_layouts` found: `attention`, and pairs of
    tokens of which the first may attend to the second, `query to passage` and `passage to query`."""
    rows = [
        (ATTENTIONS[name], *(int(each.interacts[each.row_segments == text].sum()) for text in (QUERY, PASSAGE)))
        for name, each in found.items()
    ]
    return pd.DataFrame(rows, columns=["attention", "query to passage", "passage to query"])


@torch.no_grad()
def attention_weights(model, sequence: TokenSequence) -> dict[str, Tensor]:
    """Softmax(QK^T / sqrt(d)) under the literal mask in every layer and head (Eq. 1 and 7), float32 [l, h, r, c], for
    each name in `layouts(model, sequence)`: by transformers' eager attention, on the padded pass, without dropout."""
    batch = pad([sequence], model.tokenizer.pad_token_id).to(next(model.parameters()).device)
    found: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: found.setdefault(name, []).append(output[1][0]))
        for name, module in _attention_modules(model)
    ]
    # Eager attention adds its mask to the scores: 0 where a token may attend, the lowest number where not.
    masks = {name: getattr(batch, name) for name in ("mask", "decoder_mask", "cross_mask")}
    lowest = torch.finfo(torch.float32).min
    added = {name: (~mask).float() * lowest for name, mask in masks.items() if mask is not None}
    implementation, training = model.config._attn_implementation, model.training
    model.config._attn_implementation = "eager"
    try:
        model.eval().states(replace(batch, **added))
    finally:
        model.config._attn_implementation = implementation
        model.train(training)
        for hook in hooks:
            hook.remove()
    return {name: torch.stack(weights).float().cpu() for name, weights in found.items()}


def copied_share(weights: Tensor, layout: Layout) -> np.ndarray:
    """How much of its attention a row that is about to write a token spends on that same token: float [l, h], the mean
    over those rows for which the columns hold it. weights: from `attention_weights`."""
    wanted = torch.tensor([[column == token for column in layout.columns] for token in layout.predicts])
    there = wanted.any(1)
    rows = weights[:, :, torch.tensor(layout.steps)[there]]
    return (rows * wanted[there]).sum(-1).mean(-1).numpy()


def block_shares(weights: Tensor, layout: Layout) -> pd.DataFrame:
    """How much of its attention a segment's token spends on each segment. weights: from `attention_weights`.

    Returns for every `layer`, `head` (both from 1) and block with tokens in it (`rows, columns`, of the layout's
    `segments`): `share` (the mean over the rows of the sum over the columns), and `uniform` (the same, were attention
    spread evenly over what the mask allows).
    """
    allowed = torch.from_numpy(layout.allowed)
    uniform = allowed / allowed.sum(-1, keepdim=True)
    frames = []
    for (i, rows), (j, columns) in product(enumerate(layout.segments), repeat=2):
        attending, attended = torch.from_numpy(layout.row_segments == i), torch.from_numpy(layout.column_segments == j)
        if attending.any() and attended.any():
            shares, expected = (each[..., attending, :][..., attended].sum(-1).mean(-1) for each in (weights, uniform))
            frames.append(_by_head(rows=rows, columns=columns, share=shares, uniform=float(expected)))
    return pd.concat(frames, ignore_index=True)


def mean_block_shares(model, task: str, examples: Iterable[tuple[str, ...]]) -> pd.DataFrame:
    """`block_shares` of an encoder system averaged over examples, each (passage, query) or (passage, query, answer)."""
    frames = []
    for example in examples:
        sequence = build_sequence(model, task, *example)
        frames.append(block_shares(attention_weights(model, sequence)["encoder"], layouts(model, sequence)["encoder"]))
    blocks = ["layer", "head", "rows", "columns"]
    return pd.concat(frames).groupby(blocks, sort=False)[["share", "uniform"]].mean().reset_index()


def expand(sequence: TokenSequence, mask_id: int | None = None) -> list[TokenSequence]:
    """One generative example of mixed attention as |target| examples that predict one token each (Section 4.2): the
    source and the first t target tokens under the mixed mask, together with the loss and the gradients of the one mixed
    pass. With `mask_id` they are what the paper's wording says instead, which does not give those: the tokens not yet
    written are [MASK], and attention is bidirectional. Raises ValueError for another sequence.
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


def target_logits(model, sequences: list[TokenSequence]) -> tuple[Tensor, Tensor]:
    """The next-token logits at every target position of one generative task's sequences, float32 [n, v], from one
    padded pass, with their graph; and the target tokens, int [n]."""
    batch = pad(sequences, model.tokenizer.pad_token_id).to(next(model.parameters()).device)
    ((task, logits),) = model(batch).logits.items()
    return logits.float(), batch.targets[task]


def token_losses(model, sequences: list[TokenSequence]) -> Tensor:
    """-log p of every target token of the sequences of one generative task, float [n]; gradients can be taken."""
    return F.cross_entropy(*target_logits(model, sequences), reduction="none")


def compare_expansion(model, sequence: TokenSequence) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The one mixed pass beside its expansion and beside the [MASK]-filled bidirectional examples: the loss of every
    target token (columns token, and one an approach) and, a row an approach, loss (the mean), loss_difference and
    gradient_difference, the latter over all parameters, relative to the largest norm of a parameter's gradient."""
    approaches = {
        "one mixed pass": [sequence],
        "expanded": expand(sequence),
        "[MASK]-filled": expand(sequence, model.tokenizer.mask_token_id),
    }
    losses, rows, mixed = {"token": _words(model.tokenizer, sequence.targets)}, [], None
    for name, sequences in approaches.items():
        each = token_losses(model, sequences)
        losses[name] = each.detach().cpu().numpy()
        used = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found = torch.autograd.grad(each.mean(), used, allow_unused=True)
        gradients = [gradient for gradient in found if gradient is not None]
        mixed = mixed or gradients
        apart = max((a - b).norm() for a, b in zip(mixed, gradients, strict=True))
        rows.append({
            "approach": name, "sequences": len(sequences), "tokens read": sum(len(s.input_ids) for s in sequences),
            "loss": losses[name].mean(), "loss_difference": abs(losses[name].mean() - losses["one mixed pass"].mean()),
            "gradient_difference": float(apart / max(gradient.norm() for gradient in mixed)),
        })  # fmt: skip
    return pd.DataFrame(losses), pd.DataFrame(rows).set_index("approach")


@torch.no_grad()
def likeliest_tokens(model, sequence: TokenSequence, count: int = 5) -> pd.DataFrame:
    """What a model predicts at every target position of a generative sequence, without dropout: a row for each of its
    `count` likeliest next tokens, `step` (from 0), `target` (the token that is to be predicted), `rank` (from 1),
    `token`, `probability`, and `target_probability`. Raises ValueError for a sequence without targets."""
    if not sequence.targets:
        raise ValueError(f"expected a sequence that predicts tokens, found one of {sequence.task!r}, which predicts none")
    training = model.training
    try:
        logits, targets = target_logits(model.eval(), [sequence])
    finally:
        model.train(training)
    probabilities = logits.softmax(-1).cpu()
    best = probabilities.topk(count)
    step, place = (axis.flatten() for axis in np.indices(best.indices.shape))
    return pd.DataFrame({
        "step": step,
        "target": np.array(_words(model.tokenizer, sequence.targets), dtype=object)[step],
        "rank": place + 1,
        "token": _words(model.tokenizer, best.indices.flatten().tolist()),
        "probability": best.values.flatten().numpy(),
        "target_probability": probabilities[step, targets.cpu()[step]].numpy(),
    })  # fmt: skip


@torch.no_grad()
def prefix_effect(model, sequence: TokenSequence) -> float:
    """How far the prediction of the last target token moves when those before it are written in another order: total
    variation, 0 to 1. With the target masked (MLM) it is 0."""
    written = sequence.segment_ids.count(0)
    other = replace(sequence, input_ids=sequence.input_ids[:written] + sequence.input_ids[written:][::-1])
    logits, _ = target_logits(model, [sequence, other])
    first, second = logits.softmax(-1).view(2, len(sequence.targets), -1)[:, -1]
    return float((first - second).abs().sum() / 2)


def text_segments(model, sequence: TokenSequence) -> np.ndarray:
    """Which text each token of an encoder's ranking sequence is of, int [s]: 0 passage and prefix, 1 the query."""
    return np.array(sequence.segment_ids) ^ (model.system.rank_layout == "query_first")


def destinations(model, sequence: TokenSequence) -> np.ndarray:
    """What each token of an encoder's ranking sequence is, int [s], an index into `DESTINATIONS`; prefixes are passage."""
    kinds = text_segments(model, sequence)
    special = {model.tokenizer.cls_token_id: 2, model.tokenizer.sep_token_id: 3}
    return np.array([special.get(token, kind) for token, kind in zip(sequence.input_ids, kinds)])


def query_attention(model, pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Where the query's tokens look in an encoder system's ranking pass, in every layer and head, mean over pairs of
    passage and query. (Heads of two systems compare where both start from the same weights.)

    Returns `layer`, `head` (from 1), the four `DESTINATIONS` (the share of the attention they get, 1 together) and
    `entropy`, 0 for one token alone and 1 for all alike. Raises ValueError for an encoder-decoder, no pairs, no query.
    """
    if model.system.backbone != "encoder":
        raise ValueError(
            f"{model.system.name} is an encoder-decoder, whose query tokens do not attend to a passage beside them"
        )
    shares, entropies = [], []
    for passage, query in pairs:
        sequence = build_sequence(model, "rank", passage, query)
        kinds = torch.from_numpy(destinations(model, sequence))
        if not (kinds == 1).any():
            raise ValueError(f"expected a query with tokens, found {query!r} beside {passage[:60]!r}: leave the pair out")
        weights = attention_weights(model, sequence)["encoder"][:, :, kinds == 1]
        shares.append(torch.stack([weights[..., kinds == kind].sum(-1).mean(-1) for kind in range(4)], dim=-1))
        entropies.append(torch.special.entr(weights).sum(-1).mean(-1) / np.log(len(kinds)))
    if not shares:
        raise ValueError("expected pairs of a passage and a query, found none")
    mean = torch.stack(shares).mean(0)
    return _by_head(**dict(zip(DESTINATIONS, mean.unbind(-1))), entropy=torch.stack(entropies).mean(0))


def head_changes(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """How much of each head's attention has moved to another destination, from 0 to 1 (total variation), the most
    first: `layer, head, moved` and what each destination and the entropy gained. before, after: what `query_attention`
    returns for two systems. Raises ValueError for models of different sizes."""
    key = ["layer", "head"]
    if not before[key].equals(after[key]):
        raise ValueError("expected two models with the same layers and heads; compare systems of one checkpoint")
    gained = after[[*DESTINATIONS, "entropy"]] - before[[*DESTINATIONS, "entropy"]]
    moved = gained[list(DESTINATIONS)].abs().sum(axis=1) / 2
    table = pd.concat([before[key], moved.rename("moved"), gained], axis=1)
    return table.sort_values(["moved", *key], ascending=[False, True, True], ignore_index=True)


def _by_head(**columns) -> pd.DataFrame:
    """A row a layer and head (from 1); columns: float [l, h], or one value for all."""
    layer, head = (axis.flatten() + 1 for axis in np.indices(next(of.shape for of in columns.values() if torch.is_tensor(of))))
    flat = {name: of.flatten().numpy() if torch.is_tensor(of) else of for name, of in columns.items()}
    return pd.DataFrame({"layer": layer, "head": head, **flat})


def _kinds(mask: Tensor, mechanism) -> np.ndarray:
    return np.where(mask[0, 0].numpy(), mechanism, NONE).astype(np.int8)


def _words(tokenizer, ids: list[int]) -> list[str]:
    """Tokens as one reads them: byte-level vocabularies write a space as a letter of their own."""
    return [token.replace("\u0120", "\u00b7") for token in tokenizer.convert_ids_to_tokens(ids)]


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

