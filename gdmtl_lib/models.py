"""The two architectures of the paper: a pretrained backbone, a ranking head and a language-model head a task.

`EncoderGDMTL` (Section 4.2, Figure 3) is BERT, or an encoder like it, with mixed attention; `EncoderDecoderGDMTL`
(Section 4.3, Figure 4) is BART. Both take a batch of packed sequences of any tasks and return scores and next-token
logits from one pass.

b ranking sequences, t packed tokens, d hidden size, n predicted tokens, v vocabulary.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer, BartConfig, PreTrainedModel
from transformers.models.bart.modeling_bart import BartForSequenceClassification
from transformers.utils import logging as transformers_logging

from gdmtl_lib.backbones import last_layer
from gdmtl_lib.backbones.attention import PACKED
from gdmtl_lib.backbones.checkpoints import DEFAULT_CHECKPOINT, check_sums, find_checkpoint, write_sums
from gdmtl_lib.backbones.families import Transform, by_kind_of_layer, cut_layers, family_of, ranking_class, why_refused
from .inputs import InputBuilder
from .packing import PackedBatch, PaddedBatch
from gdmtl_lib.backbones.last_layer import last_layer_at
from .systems import System, get_system

SMOOTHING = 0.01  # of token counts, so that tokens never seen in training stay possible


@dataclass
class Output:
    """scores: float [b], in the order of the ranking sequences; logits: per generative task float [n, v]."""

    scores: Tensor
    logits: dict[str, Tensor]


class GenerationHead(nn.Module):
    """A language-model head: logits over the vocabulary by the word embeddings (tied: passed in, not owned).

    transform: an encoder's dense layer, activation and norm before the embeddings; BART has none.
    """

    def __init__(self, config, transform: nn.Module | None = None):
        super().__init__()
        self.transform = transform or nn.Identity()
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def start_from_counts(self, counts: Tensor) -> None:
        """Let a fresh head begin with how frequent the tokens are, instead of having to learn that first.

        counts: float [v], occurrences among the training targets.
        """
        smoothed = counts + SMOOTHING
        self.bias.data.copy_(torch.log(smoothed / smoothed.sum()))

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """states: float [n, d] at the positions that predict; embeddings: float [v, d]. Returns float [n, v]."""
        states, bias = (part.to(embeddings.dtype) for part in (self.transform(states), self.bias))
        return F.linear(states, embeddings, bias)


class _Heads:
    """What the two architectures share: the heads over the states of one pass, the tokenizer, saving."""

    system: System
    first_position = 0

    def forward(self, batch: PackedBatch | PaddedBatch) -> Output:
        """One pass over all sequences of the batch; scores and logits only where they are needed."""
        states, row_of = self.read(batch)
        embeddings = self.get_input_embeddings().weight
        # Scores are compared with one another: in bf16 many would tie that do not.
        with torch.autocast(states.device.type, enabled=False):
            scores = self.score(states[row_of(batch.score_at)].float())
        return Output(
            scores=scores,
            logits={
                task: self.generation_heads[task](states[row_of(positions)], embeddings)
                for task, positions in batch.predict_at.items()
            },
        )

    def read(self, batch: PackedBatch | PaddedBatch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The last states that the heads read, float [r, d], and what turns positions of the batch into rows of them."""
        return self.states(batch), lambda positions: positions

    def input_builder(self, **settings) -> InputBuilder:
        """The builder of this system's sequences; settings override the lengths the model was trained with."""
        settings = self.config.gdmtl["inputs"] | settings
        longest = settings["max_length"] + (settings["target_length"] if self.system.backbone == "encoder" else 0)
        limit = self.config.max_position_embeddings - self.first_position
        if longest > limit:
            raise ValueError(
                f"max_length {settings['max_length']} and target_length {settings['target_length']} need {longest} "
                f"positions, but this checkpoint has {limit}: lower max_length"
            )
        start = getattr(self.config, "decoder_start_token_id", None)
        return InputBuilder(self.tokenizer, self.system, decoder_start_id=start, **settings)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write config, weights (safetensors) and tokenizer; an existing checkpoint is replaced only at the end."""
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = folder.with_name(f"{folder.name}.tmp{os.getpid()}")
        try:
            fresh.mkdir()
            self.config.save_pretrained(fresh)
            self.tokenizer.model_max_length = self.config.gdmtl["inputs"]["max_length"]
            self.tokenizer.save_pretrained(fresh)
            safetensors.torch.save_model(self, str(fresh / "model.safetensors"), metadata={"format": "pt"})
            write_sums(fresh)
            if folder.exists():
                old = folder.with_name(f"{folder.name}.old{os.getpid()}")
                folder.rename(old)
                fresh.rename(folder)
                shutil.rmtree(old)
            else:
                fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


class EncoderGDMTL(_Heads):
    """BERT, or an encoder like it, that ranks with bidirectional and generates with mixed attention (Section 4.2,
    Figures 2 and 3).

    It stands on its family's class for sequence classification (see `_on`) and its ranking path has the names of
    that: a saved checkpoint opens there.
    """

    def __init__(self, config, tokenizer):
        config.num_labels = 1
        config._attn_implementation = PACKED
        super().__init__(config)
        self.system, self.tokenizer = get_system(config.gdmtl["system"]), tokenizer
        self.family = family_of(config)
        self.first_position = self.family.first_position(config)
        self.generation_heads = nn.ModuleDict(
            {task: GenerationHead(config, Transform(config)) for task in self.system.generative_tasks}
        )
        for head in self.generation_heads.values():
            head.apply(self._init_weights)

    def states(self, batch: PackedBatch | PaddedBatch) -> Tensor:
        """The encoder's last states, float [t, d]: packed tokens, or the padded rows one after the other."""
        if isinstance(batch, PackedBatch):
            how = dict(position_ids=batch.position_ids, spans=batch.spans)
        else:
            how = dict(mask=batch.mask)
        return self.encode(batch.input_ids, batch.segment_ids, **how).flatten(0, 1)

    def read(self, batch: PackedBatch | PaddedBatch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        if not (last_layer.WHERE_READ and self.family.has_berts_layers and isinstance(batch, PackedBatch)):
            return super().read(batch)
        with last_layer_at(self.base_model.encoder.layer, batch.read_at, batch.read_spans):
            return self.states(batch), partial(torch.searchsorted, batch.read_at)

    def encode(
        self, input_ids: Tensor, segment_ids: Tensor, position_ids: Tensor | None = None,
        mask: Tensor | None = None, columns: Tensor | None = None, **attending,
    ) -> Tensor:
        """The encoder's last states, float [b, s, d].

        input_ids, segment_ids, position_ids: int64 [b, s], positions from 0; without them, as each row stands.
        mask: bool [b, 1, s, c], and columns: the positions of what is attended to, int64 [b, c], where it is more than
        the rows. attending: what goes to `packed_attention`: spans in the place of a mask, cache.
        """
        if self.family.has_segments:
            attending["token_type_ids"] = segment_ids
        if self.family.has_windows and mask is not None:
            rows = torch.arange(mask.shape[2], device=mask.device)[None] if position_ids is None else position_ids
            mask = by_kind_of_layer(self.config, mask, rows, rows if columns is None else columns)
        if position_ids is not None:
            attending["position_ids"] = position_ids + self.first_position
        return self.base_model(input_ids, attention_mask=mask, **attending).last_hidden_state

    def score(self, first_states: Tensor) -> Tensor:
        """First-token states, float [b, d] -> feed-forward -> scores, float [b]."""
        return self.family.score(self, first_states).squeeze(-1)


@cache
def _on(ranks: type[PreTrainedModel]) -> type[EncoderGDMTL]:
    """`EncoderGDMTL` on a family's class for sequence classification."""
    return type(ranks.__name__.replace("ForSequenceClassification", "GDMTL"), (EncoderGDMTL, ranks), {})


class EncoderDecoderGDMTL(_Heads, BartForSequenceClassification):
    """BART that ranks with the last decoder state and generates with the decoder (Section 4.3, Figure 4)."""

    def __init__(self, config, tokenizer):
        config.num_labels = 1
        config._attn_implementation = PACKED
        super().__init__(config)
        self.system, self.tokenizer = get_system(config.gdmtl["system"]), tokenizer
        self.generation_heads = nn.ModuleDict(
            {task: GenerationHead(config) for task in self.system.generative_tasks}
        )

    def states(self, batch: PackedBatch | PaddedBatch) -> Tensor:
        """The decoder's last states, float [t, d]: packed tokens, or the padded rows one after the other."""
        encoder, decoder = self.model.encoder, self.model.decoder
        if isinstance(batch, PaddedBatch):
            source = encoder(batch.input_ids, attention_mask=batch.mask).last_hidden_state
            output = decoder(
                batch.decoder_ids,
                attention_mask=batch.decoder_mask,
                encoder_hidden_states=source,
                encoder_attention_mask=batch.cross_mask,
            )
            return output.last_hidden_state.flatten(0, 1)
        source = self.encode(batch)
        states = self._embed(decoder, batch.decoder_ids, batch.decoder_position_ids)
        for layer in decoder.layers:
            states = layer(states, batch.decoder_spans, source, encoder_attention_mask=batch.cross_spans)
        return states[0]

    def encode(self, batch: PackedBatch) -> Tensor:
        """The encoder's last states of the packed tokens, float [1, t, d]."""
        # BART's own forward numbers the positions of a row from 0; packed rows bring theirs, so walk its layers.
        states = self._embed(self.model.encoder, batch.input_ids, batch.position_ids)
        for layer in self.model.encoder.layers:
            states = layer(states, batch.spans)
        return states

    @staticmethod
    def _embed(side, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        states = side.embed_tokens(input_ids) + side.embed_positions(None, position_ids=position_ids[0])
        return F.dropout(side.layernorm_embedding(states), p=side.dropout, training=side.training)

    def score(self, last_states: Tensor) -> Tensor:
        """Last-token states, float [b, d] -> feed-forward -> scores, float [b]."""
        return self.classification_head(last_states).squeeze(-1)


def _class_for(system: System, config) -> type[_Heads]:
    return EncoderDecoderGDMTL if system.backbone == "encoder_decoder" else _on(ranking_class(config))


def build_model(system: str, checkpoint: str | None = None, layers: int | None = None, seed: int = 0):
    """A system of the paper on pretrained weights, its new heads drawn from `seed`.

    system: a name of `SYSTEMS`. checkpoint: a folder or a name; by default all systems start from
    `DEFAULT_CHECKPOINT` (MiniLM), which needs no network; the paper's own is `SYSTEMS[system].checkpoint`.
    An encoder-decoder system given a BERT checkpoint is warm-started from it (Rothe et al., 2020).
    layers: keep the first so many layers (of the encoder and of the decoder); all by default.

    Language-model heads start from the checkpoint's own masked-language-model head where it has one.
    Raises ValueError for an unknown system, layers out of range, or a checkpoint of another family;
    FileNotFoundError for a checkpoint that cannot be found.
    """
    system = get_system(system)
    folder = find_checkpoint(checkpoint or DEFAULT_CHECKPOINT)
    config = AutoConfig.from_pretrained(folder)
    _check_family(system, config, checkpoint or folder)
    depth = config.encoder_layers if config.model_type == "bart" else config.num_hidden_layers
    if layers is not None and not 1 <= layers <= depth:
        raise ValueError(f"layers must be between 1 and the checkpoint's {depth}, found {layers}")
    layers = layers or depth
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        config = _configure(config, system, layers, tokenizer)
        torch.manual_seed(seed)
        model = _class_for(system, config)(config, tokenizer)
        if system.backbone == "encoder":
            _copy(backbone, model.base_model)
            fresh_heads = not _copy_masked_lm_head(folder, model)
        elif backbone.config.model_type == "bart":
            _copy(backbone, model.model)
            fresh_heads = False  # BART's own head is its embeddings
        else:
            _warm_start(backbone, model.model)
            fresh_heads = True
        model.config.gdmtl["fresh_heads"] = fresh_heads and bool(system.generative_tasks)
    return model.eval()


def load_model(folder: str | os.PathLike):
    """Open a checkpoint that `save_pretrained` wrote; every weight must be there, and every file as it was saved.

    Raises FileNotFoundError for a missing folder and ValueError for one that is not a checkpoint of this library, or
    that is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no checkpoint folder {folder}: train one first, or give the folder that holds it")
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} is not a checkpoint folder: it has no {' and no '.join(missing)}")
    try:
        described = "gdmtl" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} is not valid JSON: {error}") from None
    if not described:
        raise ValueError(
            f"{folder} is a plain checkpoint, not one that gdmtl has saved: "
            f"give it to build_model as `checkpoint` to start from it"
        )
    check_sums(folder)
    config = AutoConfig.from_pretrained(folder)
    system = get_system(config.gdmtl["system"])
    _check_family(system, config, folder)
    with _quiet(), torch.random.fork_rng(devices=[]):
        model = _class_for(system, config)(config, AutoTokenizer.from_pretrained(folder))
    try:
        safetensors.torch.load_model(model, str(folder / "model.safetensors"), strict=True)
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{folder / 'model.safetensors'} does not hold this model: {error}") from None
    return model.eval()


def _check_family(system: System, config, where: str | os.PathLike) -> None:
    """Refuse a checkpoint that a system cannot stand on, with the reason."""
    if system.backbone == "encoder":
        families, reason = "bert", why_refused(config)
    else:
        families, fits = "bert or bart", config.model_type in ("bert", "bart")
        reason = None if fits else "its weights fit neither encoder nor decoder of BART"
    if reason is not None:
        raise ValueError(
            f"{system.name} needs a checkpoint of the {families} family, "
            f"but {where} is of {config.model_type!r}: {reason}"
        )


def _configure(config, system: System, layers: int, tokenizer):
    """The configuration of a system's model: the checkpoint's, with what this library and CrossEncoder need to know."""
    if system.backbone == "encoder_decoder" and config.model_type == "bert":
        config = BartConfig(
            vocab_size=config.vocab_size,
            d_model=config.hidden_size,
            encoder_attention_heads=config.num_attention_heads,
            decoder_attention_heads=config.num_attention_heads,
            encoder_ffn_dim=config.intermediate_size,
            decoder_ffn_dim=config.intermediate_size,
            activation_function=config.hidden_act,
            max_position_embeddings=config.max_position_embeddings,
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
            decoder_start_token_id=tokenizer.cls_token_id,
            forced_eos_token_id=None,
        )
    if config.model_type == "bart":
        config.encoder_layers = config.decoder_layers = layers
        config.architectures = ["BartForSequenceClassification"]
    else:
        cut_layers(config, layers)
        config.architectures = [ranking_class(config).__name__]
        if hasattr(config, "classifier_pooling"):  # ModernBERT's: the score is read at the first token
            config.classifier_pooling = "cls"
    config.gdmtl = {"system": system.name, "inputs": {"max_length": 256, "target_length": 56}}
    # CrossEncoder would put a sigmoid over the score; the score itself is what ranks.
    config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
    return config


def _copy(backbone: nn.Module, into: nn.Module) -> None:
    """Copy the weights that both have; layers beyond those kept and a pooler that is missing stay behind."""
    result = into.load_state_dict(backbone.state_dict(), strict=False)
    missing = [name for name in result.missing_keys if not name.startswith("pooler.")]
    if missing:
        raise ValueError(f"the checkpoint lacks weights of its own architecture: {', '.join(missing[:5])}")


def _copy_masked_lm_head(folder: Path, model: EncoderGDMTL) -> bool:
    """Start every language-model head from the checkpoint's masked-language-model head. False if it has none."""
    dense, norm, bias = model.family.masked_lm
    with safetensors.safe_open(folder / "model.safetensors", framework="pt") as weights:
        if bias not in weights.keys():
            return False
    masked_lm = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32)
    for head in model.generation_heads.values():
        head.transform.dense.load_state_dict(masked_lm.get_submodule(dense).state_dict())
        head.transform.LayerNorm.load_state_dict(masked_lm.get_submodule(norm).state_dict())
        head.bias.data.copy_(masked_lm.get_parameter(bias).data)
    return True


def _warm_start(bert: nn.Module, bart: nn.Module) -> None:
    """An encoder-decoder from an encoder (Rothe, Narayan and Severyn, 2020): both are post-norm, so BERT's weights
    fit BART's layers one to one. Cross-attention starts from the self-attention of the same layer."""
    embeddings = bert.embeddings
    for side in (bart.encoder, bart.decoder):
        side.embed_tokens.weight.data.copy_(embeddings.word_embeddings.weight.data)
        # BART has no segments: segment 0 goes into the positions, which BART counts from 2.
        positions = embeddings.position_embeddings.weight.data + embeddings.token_type_embeddings.weight.data[0]
        side.embed_positions.weight.data[side.embed_positions.offset :].copy_(positions)
        side.layernorm_embedding.load_state_dict(embeddings.LayerNorm.state_dict())
        for layer, source in zip(side.layers, bert.encoder.layer):
            attentions = [(layer.self_attn, layer.self_attn_layer_norm)]
            if side is bart.decoder:
                attentions.append((layer.encoder_attn, layer.encoder_attn_layer_norm))
            for attention, norm in attentions:
                attention.q_proj.load_state_dict(source.attention.self.query.state_dict())
                attention.k_proj.load_state_dict(source.attention.self.key.state_dict())
                attention.v_proj.load_state_dict(source.attention.self.value.state_dict())
                attention.out_proj.load_state_dict(source.attention.output.dense.state_dict())
                norm.load_state_dict(source.attention.output.LayerNorm.state_dict())
            layer.fc1.load_state_dict(source.intermediate.dense.state_dict())
            layer.fc2.load_state_dict(source.output.dense.state_dict())
            layer.final_layer_norm.load_state_dict(source.output.LayerNorm.state_dict())


@contextmanager
def _quiet():
    """transformers reports heads that it did not find; here they are meant to be new."""
    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
