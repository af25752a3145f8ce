"""What a system costs, to stand beside what it achieves: parameters, the arithmetic of one ranking pass, time.

Operations are counted while they are computed, whatever the family: a multiplication and an addition are two. They
depend neither on the machine nor on who else uses it. Norms, activations and biases, some thousandths, are left out.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from gdmtl_lib.backbones.checkpoints import HEADS
from gdmtl_lib.backbones.reference import reference
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.evaluation.comparison import mean_interval
from gdmtl_lib.data.files import read_table
from gdmtl_lib.inference.rerank import rerank
from gdmtl_lib.packing import pad
from gdmtl_lib.pretrained import load_model
from .results import Results

PARTS = ("embeddings", "encoder", "decoder", "ranking head", "generation heads")
# How a weight's name begins, first match first: an encoder's name and then BERT's names, ModernBERT's, BART's.
_ENCODERS = ("bert", "ernie", "roberta", "roberta_prelayernorm", "data2vec_text", "electra", "albert", "distilbert")
_BEGINS = (
    ("generation heads", ("generation_heads.",)),
    ("embeddings", (
        *(f"{name}.embeddings" for name in _ENCODERS), "model.embeddings.", "model.shared.", "model.encoder.embed_",
        "model.encoder.layernorm_embedding.", "model.decoder.embed_", "model.decoder.layernorm_embedding.",
    )),
    ("ranking head", (
        *(f"{name}.pooler." for name in _ENCODERS), "classifier.", "pre_classifier.", "head.", "classification_head.",
    )),
    ("encoder", (*(f"{name}." for name in _ENCODERS), "model.layers.", "model.final_norm.", "model.encoder.")),
    ("decoder", ("model.decoder.",)),
)  # fmt: skip


def parameter_counts(checkpoint: str | os.PathLike) -> dict[str, int]:
    """How many parameters each part of a saved system has, by `PARTS`; shared ones count once. Ranking uses all but the
    generation heads."""
    counts = dict.fromkeys(PARTS, 0)
    path = Path(checkpoint) / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{checkpoint} holds no weights: expected {path}; train the system with notebook 03")
    heads = path.with_name(HEADS)
    for file, prefix in ((path, ""), *([(heads, "generation_heads.")] if heads.is_file() else [])):
        with safe_open(file, framework="numpy") as weights:  # its header says the sizes; no weight is read
            for name in weights.keys():
                part = next((part for part, starts in _BEGINS if (prefix + name).startswith(starts)), None)
                if part is None:
                    raise ValueError(f"{file}: expected the weights of a system of this library, found {name}")
                counts[part] += int(np.prod(weights.get_slice(name).get_shape()))
    return counts


def count_flops(model, compute: Callable[[], Any]) -> tuple[Any, int]:
    """Run `compute()`, which calls the model, and count the operations of its matrix products, attention included.
    Returns what it returned and the count."""
    # The counter knows the attention of GPUs, not the CPU's.
    cpus = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attention = {cpus: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        # The counter follows gradients into modules, and inference mode has none.
        for parameter in learned:
            parameter.requires_grad_(False)
        # The counter does not know what `fused_layers` calls, and tokens that fill a pass up are no work of the model's.
        with reference("products", "filled"), FlopCounterMode(display=False, custom_mapping=attention) as counter:
            result = compute()
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
    return result, counter.get_total_flops()


def pair_flops(model, sequence) -> int:
    """Operations of one plain ranking pass over one pair; of a mask's forbidden half, too. On the device `meta` they
    are counted and not computed. sequence: from the model's input builder."""
    batch = pad([sequence], model.tokenizer.pad_token_id).to(model.device)
    _, flops = count_flops(model, lambda: model.score(model.states(batch)[batch.score_at]))
    pooler = getattr(model.base_model, "pooler", None)
    if pooler is not None:  # part of the ranking head; transformers runs it once more, for nobody
        state = torch.zeros(1, 1, model.config.hidden_size, device=model.device)
        flops -= count_flops(pooler, lambda: pooler(state))[1]
    return flops


def ranking_flops(model) -> Callable[[int, int], int]:
    """`pair_flops` by the lengths s of the encoder's input and t of the decoder's (0 without one): a polynomial of
    second degree with whole coefficients, which six passes tell; to count some hundred takes a minute."""
    builder, separate = model.input_builder(), model.system.rank_layout == "separate"

    def terms(s, t):
        return [1, s, s * s] + [t, t * t, s * t] * separate

    short = [builder.rank([0] * i, [0] * j) for i, j in ((1, 1), (9, 1), (17, 1), (1, 5), (9, 5), (1, 9))]
    rows = [terms(len(each.input_ids), len(each.decoder_ids)) for each in short]
    found = np.linalg.lstsq(np.array(rows, float), [pair_flops(model, each) for each in short], rcond=None)[0]
    return lambda s, t: sum(round(factor) * term for factor, term in zip(found, terms(s, t)))


def sample_pairs(collection: Collection, candidates: pd.DataFrame, count: int = 200) -> pd.DataFrame:
    """Some of the pairs that are re-ranked, taken evenly: `query_id, doc_id, query, passage`, the last two texts."""
    rows = candidates.iloc[np.unique(np.linspace(0, len(candidates) - 1, min(count, len(candidates)), dtype=int))]
    texts = {"query": collection.query_texts(rows["query_id"]), "passage": collection.text(rows["doc_id"])}
    return rows[["query_id", "doc_id"]].assign(**texts).reset_index(drop=True)


def ranking_cost(checkpoint: str | os.PathLike, pairs: pd.DataFrame) -> dict[str, float]:
    """What a saved system reads and computes to rank a pair, means over some: `encoder_tokens`, `decoder_tokens`,
    `gflops` (10^9 operations). pairs: `query, passage`."""
    model = load_model(checkpoint).to("meta")
    builder = model.input_builder()
    read = zip(builder.passage_tokens(pairs["passage"]), builder.tokens(pairs["query"]), strict=True)
    sequences = [builder.rank(passage, query) for passage, query in read]
    flops = ranking_flops(model)
    lengths = [(len(sequence.input_ids), len(sequence.decoder_ids)) for sequence in sequences]
    means = np.mean([(*each, flops(*each)) for each in lengths], axis=0).tolist()
    return {"encoder_tokens": means[0], "decoder_tokens": means[1], "gflops": means[2] / 1e9}


def training_cost(folder: str | os.PathLike) -> dict[str, float]:
    """How long a training took: `training_seconds`, and `tokens_per_second` of the process that wrote `timing.csv`; NaN
    without it."""
    path, seconds, speed = Path(folder) / "timing.csv", float("nan"), float("nan")
    if path.is_file():
        timing = read_table(path)
        seconds = float(timing["seconds"].sum())
        speed = timing["tokens"].sum() / seconds
    return {"training_seconds": seconds, "tokens_per_second": speed}


def reranking_speed(
    checkpoint: str | os.PathLike, collection: Collection, pairs: pd.DataFrame, device: str = "auto"
) -> float:
    """Pairs a second, of `query_id, doc_id`, that a saved system re-ranks on this machine in fp32, after a first few
    that do not count. Some dozens say enough."""
    model = load_model(checkpoint)
    rerank(model, collection, pairs.head(4), device=device, progress=False)
    started = time.perf_counter()
    rerank(model, collection, pairs, device=device, progress=False)
    return len(pairs) / (time.perf_counter() - started)


def system_costs(results: Results, systems: Sequence[str], pairs: pd.DataFrame) -> pd.DataFrame:
    """A row for each of these systems that has a checkpoint: `system, parameters, ranking_parameters` (without
    generation heads), `encoder_tokens, decoder_tokens, gflops` of a pair, `training_seconds, tokens_per_second` (means
    over seeds, and over rotations where there are folds). pairs: what `sample_pairs` returns."""
    rows = []
    for system in systems:
        homes = results.trainings(system)
        checkpoints = [home / "checkpoint" for home in homes if (home / "checkpoint" / "model.safetensors").is_file()]
        if checkpoints:
            counts = parameter_counts(checkpoints[0])
            total = sum(counts.values())
            numbers = {"parameters": total, "ranking_parameters": total - counts["generation heads"]}
            times = pd.DataFrame([training_cost(home) for home in homes]).mean().to_dict()
            rows.append({"system": system} | numbers | ranking_cost(checkpoints[0], pairs) | times)
    columns = ["system", "parameters", "ranking_parameters", "encoder_tokens", "decoder_tokens", "gflops",
               "training_seconds", "tokens_per_second"]  # fmt: skip
    # Int64 keeps counts whole numbers beside a system that has none.
    return pd.DataFrame(rows, columns=columns).astype({"parameters": "Int64", "ranking_parameters": "Int64"})


def with_effectiveness(costs: pd.DataFrame, values_by_system: Mapping[str, pd.DataFrame], measure: str) -> pd.DataFrame:
    """A table of costs with what each `system` reaches: `mean, low, high` of a measure added, its mean over queries and
    the 95% interval of that."""
    values = [values_by_system[system] for system in costs["system"]]
    rows = [mean_interval(each.loc[each["measure"] == measure, "value"])[:3] for each in values]
    return costs.assign(**dict(zip(("mean", "low", "high"), np.array(rows).reshape(-1, 3).T)))
