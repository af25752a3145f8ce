"""What a system costs, to stand beside what it achieves: parameters, the arithmetic of one ranking pass, time.

Parameters and arithmetic are read from a checkpoint's configuration and from the header of its weights; nothing is
loaded. Only `reranking_speed` runs a model.

s tokens of the encoder, t tokens of the decoder, d hidden size, f feed-forward size.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from gdmtl_lib.data.collection import Collection
from .results import Results
from gdmtl_lib.systems import get_system

PARTS = ("embeddings", "encoder", "decoder", "ranking head", "generation heads")
# How a weight's name begins, first match first: an encoder's name and then BERT's names, ModernBERT's, BART's.
_ENCODERS = ("bert", "ernie", "roberta", "roberta_prelayernorm", "data2vec_text", "electra", "albert", "distilbert")
_PART_OF = {
    "generation_heads.": "generation heads",
    **{f"{name}.embeddings": "embeddings" for name in _ENCODERS}, "model.embeddings.": "embeddings",
    "model.shared.": "embeddings",
    "model.encoder.embed_": "embeddings", "model.encoder.layernorm_embedding.": "embeddings",
    "model.decoder.embed_": "embeddings", "model.decoder.layernorm_embedding.": "embeddings",
    **{f"{name}.pooler.": "ranking head" for name in _ENCODERS}, **{f"{name}.": "encoder" for name in _ENCODERS},
    "model.layers.": "encoder", "model.final_norm.": "encoder",
    "model.encoder.": "encoder", "model.decoder.": "decoder",
    "classifier.": "ranking head", "pre_classifier.": "ranking head", "head.": "ranking head",
    "classification_head.": "ranking head",
}  # fmt: skip
BERT_SHAPED = ("bert", "ernie", "roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "data2vec-text")


def parameter_counts(checkpoint: str | os.PathLike) -> dict[str, int]:
    """How many parameters each part of a saved system has, by the names of `PARTS`; shared ones count once.

    Ranking uses all but the generation heads. Raises FileNotFoundError without weights, ValueError for a weight that
    belongs to no part.
    """
    from safetensors import safe_open

    counts = dict.fromkeys(PARTS, 0)
    path = _weights(checkpoint)
    with safe_open(path, framework="numpy") as weights:
        for name in weights.keys():
            part = next((part for start, part in _PART_OF.items() if name.startswith(start)), None)
            if part is None:
                raise ValueError(f"{path}: expected the weights of a system of this library, found {name}")
            counts[part] += int(np.prod(weights.get_slice(name).get_shape()))
    return counts


def ranking_flops(config: Mapping, source: int, target: int = 0) -> int:
    """Floating-point operations of one ranking pass: the matrix products, a multiplication and an addition each; norms,
    activations and biases, which are some thousandths, are left out.

        encoder layer   8 s d^2 (queries, keys, values, output) + 4 s^2 d (scores, mixing) + 4 s d f (feed-forward)
        decoder layer   8 t d^2 + 4 t^2 d + 4 t d f, as above, and cross-attention:
                        4 t d^2 (queries, output) + 4 s d^2 (keys, values) + 4 t s d (scores, mixing)
        ranking head    2 d^2 + 2 d

    A causal mask halves nothing here: kernels that skip what it forbids save at most 2 t^2 d a layer.

    Args:
        config: `config.json` of a model of BERT's shape (`BERT_SHAPED`) or of BART, or the configuration's `to_dict()`.
        source: s. target: t, 0 for an encoder.

    Raises:
        ValueError: another family, or lengths that do not go with it.
    """
    s, t, kind = source, target, config.get("model_type")
    if kind not in (*BERT_SHAPED, "bart"):
        raise ValueError(f"config: expected model_type bert or bart, found {kind!r}")
    if s < 1 or (t < 1) == (kind == "bart"):
        wanted = "and target tokens" if kind == "bart" else "alone"
        raise ValueError(f"{kind}: expected source tokens {wanted}, found {s}, {t}")
    d = config["d_model"] if kind == "bart" else config["hidden_size"]
    head = 2 * d * d + 2 * d
    if kind != "bart":
        return config["num_hidden_layers"] * _self_layer(s, d, config["intermediate_size"]) + head
    cross = 4 * t * d * d + 4 * s * d * d + 4 * t * s * d
    return (
        config["encoder_layers"] * _self_layer(s, d, config["encoder_ffn_dim"])
        + config["decoder_layers"] * (_self_layer(t, d, config["decoder_ffn_dim"]) + cross)
        + head
    )


def sample_pairs(collection: Collection, candidates: pd.DataFrame, count: int = 200) -> pd.DataFrame:
    """Some of the pairs that are re-ranked, taken evenly: `query_id, doc_id, query, passage`, the last two texts.

    candidates: `query_id, doc_id`; at least a row.
    """
    rows = candidates.iloc[np.unique(np.linspace(0, len(candidates) - 1, min(count, len(candidates)), dtype=int))]
    return pd.DataFrame(
        {
            "query_id": rows["query_id"],
            "doc_id": rows["doc_id"],
            "query": collection.query_texts(rows["query_id"]),
            "passage": collection.text(rows["doc_id"]),
        }
    ).reset_index(drop=True)


def ranking_cost(checkpoint: str | os.PathLike, pairs: pd.DataFrame) -> dict[str, float]:
    """What a system reads and computes to rank a pair, means over some: `encoder_tokens`, `decoder_tokens`, `gflops`
    (10^9 operations).

    checkpoint: a saved system; its tokenizer and its own builder write the inputs. pairs: `query, passage`.
    """
    from transformers import AutoTokenizer

    from gdmtl_lib.inputs import InputBuilder

    config = _config(checkpoint)
    builder = InputBuilder(
        AutoTokenizer.from_pretrained(checkpoint),
        get_system(config["gdmtl"]["system"]),
        decoder_start_id=config.get("decoder_start_token_id"),
        **config["gdmtl"]["inputs"],
    )
    read = zip(builder.passage_tokens(pairs["passage"]), builder.tokens(pairs["query"]), strict=True)
    sequences = [builder.rank(passage, query) for passage, query in read]
    lengths = [(len(sequence.input_ids), len(sequence.decoder_ids)) for sequence in sequences]
    return {
        "encoder_tokens": float(np.mean([source for source, _ in lengths])),
        "decoder_tokens": float(np.mean([target for _, target in lengths])),
        "gflops": float(np.mean([ranking_flops(config, *each) for each in lengths])) / 1e9,
    }


def training_cost(folder: str | os.PathLike) -> dict[str, float]:
    """How long a training took: `training_seconds`, and `tokens_per_second` of the process that wrote the times. NaN
    where the folder has no times, `timing.csv`."""
    path = Path(folder) / "timing.csv"
    if not path.is_file():
        return {"training_seconds": float("nan"), "tokens_per_second": float("nan")}
    timing = pd.read_csv(path)
    seconds = float(timing["seconds"].sum())
    return {"training_seconds": seconds, "tokens_per_second": timing["tokens"].sum() / seconds}


def reranking_speed(
    checkpoint: str | os.PathLike, collection: Collection, pairs: pd.DataFrame, device: str = "auto"
) -> float:
    """Pairs a second that a saved system re-ranks on this machine in fp32, after a first few that do not count.

    pairs: `query_id, doc_id`; some dozens say enough. device: as for `rerank`.
    """
    from gdmtl_lib.models import load_model
    from gdmtl_lib.inference.rerank import rerank

    model = load_model(checkpoint)
    rerank(model, collection, pairs.head(4), device=device, progress=False)
    started = time.perf_counter()
    rerank(model, collection, pairs, device=device, progress=False)
    return len(pairs) / (time.perf_counter() - started)


def system_costs(results: Results, systems: Sequence[str], pairs: pd.DataFrame) -> pd.DataFrame:
    """A row for each of these systems that has a checkpoint: `system, parameters, ranking_parameters` (without
    generation heads), `encoder_tokens, decoder_tokens, gflops` of a pair, `training_seconds, tokens_per_second` (means
    over seeds, and over rotations where there are folds). BM25, which has no model, has no row.

    pairs: what `sample_pairs` returns.
    """
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
    """A table of costs with what each system reaches: `mean, low, high` of a measure added, its mean over queries and
    the 95% interval of that. costs: has a column `system`. values_by_system: per-query values of at least those."""
    rows = []
    for system in costs["system"]:
        values = values_by_system[system].query("measure == @measure")["value"]
        mean, n = values.mean(), len(values)
        margin = stats.t.ppf(0.975, n - 1) * values.std() / np.sqrt(n) if n > 1 else np.nan
        rows.append((mean, mean - margin, mean + margin))
    return costs.assign(**dict(zip(("mean", "low", "high"), np.array(rows).reshape(-1, 3).T)))


def _self_layer(length: int, d: int, f: int) -> int:
    return 8 * length * d * d + 4 * length * length * d + 4 * length * d * f


def _weights(checkpoint: str | os.PathLike) -> Path:
    path = Path(checkpoint) / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{checkpoint} holds no weights: expected {path}; train the system with notebook 03")
    return path


def _config(checkpoint: str | os.PathLike) -> dict:
    return json.loads((_weights(checkpoint).with_name("config.json")).read_text(encoding="utf-8"))
