"""Families of encoders: what must be known of each beyond what all encoders of transformers share.

They leave their attention to a function that is registered (see `attention`), so a packed batch goes through any of
them. A family whose attention is its own sees more than the spans allow, or less: it is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
from transformers.activations import ACT2FN


@dataclass(frozen=True)
class Family:
    """One family; unless it says otherwise, as BERT.

    score: the model and its first-token states, float [b, d] -> float [b, 1], as in <Family>ForSequenceClassification.
    activation, norm_eps: of the layer before the word embeddings in <Family>ForMaskedLM: values, or what the
    configuration calls them. masked_lm: what its dense layer, its norm and the vocabulary's bias are called there.
    counts_after_padding: the first position is the padding token's id + 1, as RoBERTa counts. has_windows: some layers
    attend only to what is near. attention: how the names of its attention modules end.
    """

    score: Callable[[nn.Module, Tensor], Tensor]
    masked_lm: tuple[str, str, str]
    activation: str = "hidden_act"
    norm_eps: str | float = "layer_norm_eps"
    has_segments: bool = True
    counts_after_padding: bool = False
    has_windows: bool = False
    attention: str = ".attention.self"
    has_berts_layers: bool = False

    def first_position(self, config) -> int:
        return config.pad_token_id + 1 if self.counts_after_padding else 0


def _by_classifier(model, first_states: Tensor) -> Tensor:
    return model.classifier(first_states[:, None])


_BERT = Family(
    score=lambda model, first: model.classifier(model.dropout(model.base_model.pooler(first[:, None]))),
    masked_lm=("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
    has_berts_layers=True,
)
_ROBERTA = Family(
    score=_by_classifier,
    activation="gelu",
    masked_lm=("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    has_segments=False,
    counts_after_padding=True,
    has_berts_layers=True,
)
FAMILIES = {
    **dict.fromkeys(("bert", "ernie"), _BERT),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), _ROBERTA),
    **dict.fromkeys(("xlm-roberta-xl", "roberta-prelayernorm"), replace(_ROBERTA, has_berts_layers=False)),
    "data2vec-text": _ROBERTA,
    "electra": Family(
        score=_by_classifier,
        activation="gelu",
        masked_lm=("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"),
        has_berts_layers=True,
    ),
    "albert": Family(
        score=lambda model, first: model.classifier(
            model.dropout(model.base_model.pooler_activation(model.base_model.pooler(first)))
        ),
        masked_lm=("predictions.dense", "predictions.LayerNorm", "predictions.bias"),
        attention=".attention",
    ),
    "distilbert": Family(
        score=lambda model, first: model.classifier(model.dropout(torch.relu(model.pre_classifier(first)))),
        activation="activation",
        norm_eps=1e-12,
        masked_lm=("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
        has_segments=False,
        attention=".attention",
    ),
    "modernbert": Family(
        score=lambda model, first: model.classifier(model.drop(model.head(first))),
        activation="classifier_activation",
        norm_eps="norm_eps",
        masked_lm=("head.dense", "head.norm", "decoder.bias"),
        has_segments=False,
        has_windows=True,
        attention=".attn",
    ),
}

_RELATIVE = "its attention adds relative positions of its own to every score, which no packed row can give it"
REFUSED = {
    name: reason
    for names, reason in (
        ("deberta deberta-v2 mpnet t5 mt5 umt5", _RELATIVE),
        ("xlnet", "its two streams of attention add relative positions of their own to every score"),
        ("big_bird longformer led nystromformer reformer yoso",
         "its attention is a sparse one of its own, which knows neither spans nor a mask of who attends to whom"),
        ("convbert fnet funnel",
         "it mixes neighbouring tokens outside of attention, and in a packed row those of other sequences too"),
        ("squeezebert megatron-bert rembert roformer",
         "its attention is its own, not the one that transformers leaves open"),
        ("gpt2 gpt_neox llama mistral qwen2 qwen3",
         "it is a decoder: its tokens never attend to those after them, and a source must"),
        ("bart", "it has a decoder beside its encoder, and is for the encoder-decoder systems"),
    )
    for name in names.split()
}  # fmt: skip
"""Why a family cannot be packed."""


def why_refused(config) -> str | None:
    """Why a configuration's family cannot be packed; None where it can."""
    if config.model_type not in FAMILIES:
        reason = REFUSED.get(config.model_type, "nobody has shown that it computes the same packed as padded")
        return f"{reason}; encoders that are supported: {', '.join(FAMILIES)}"
    positions = getattr(config, "position_embedding_type", None) or "absolute"
    if positions.startswith("relative"):
        return f"its positions are {positions!r}: {_RELATIVE}"
    return None


def family_of(config) -> Family:
    return FAMILIES[config.model_type]


def ranking_class(config) -> type:
    return MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]


class Transform(nn.Module):
    """What stands before the word embeddings in a family's masked-language-model head: dense layer, activation, norm.
    float [n, d] -> float [n, size of the word embeddings]."""

    def __init__(self, config):
        super().__init__()
        family, size = family_of(config), getattr(config, "embedding_size", config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, size, bias=getattr(config, "classifier_bias", True))
        self.activation = ACT2FN[getattr(config, family.activation, family.activation)]
        eps = family.norm_eps if isinstance(family.norm_eps, float) else getattr(config, family.norm_eps)
        self.LayerNorm = nn.LayerNorm(size, eps=eps, bias=getattr(config, "norm_bias", True))

    def forward(self, states: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(states)))


def cut_layers(config, layers: int) -> None:
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


def by_kind_of_layer(config, mask: Tensor, rows: Tensor, columns: Tensor) -> dict[str, Tensor]:
    """The masks of a family whose layers differ: all that a mask allows, and of that what lies in the window.

    mask: [b, 1, r, c], bool (True = may attend) or the float that is added to the scores. rows, columns: the positions
    of the tokens that attend, int64 [b, r], and of those attended to, [b, c]; b may be 1.

        window 1    1 1 .
                    1 1 1
                    . 1 1
    """
    near = (rows[:, :, None] - columns[:, None, :]).abs() <= config.sliding_window
    forbidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return {"full_attention": mask, "sliding_attention": mask.masked_fill(~near[:, None], forbidden)}
