"""The two architectures of the paper: a pretrained backbone, a ranking head and a language-model head a task.

`EncoderGDMTL` (Section 4.2, Figure 3) is BERT, or an encoder like it, with mixed attention; `EncoderDecoderGDMTL`
(Section 4.3, Figure 4) is BART. Both take a batch of packed sequences of any tasks and return scores and next-token
logits from one pass.

b ranking sequences, t packed tokens, d hidden size, n predicted tokens, v vocabulary.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.bart.modeling_bart import BartForSequenceClassification

from gdmtl_lib.backbones.attention import PACKED
from gdmtl_lib.backbones.checkpoints import write_sums
from gdmtl_lib.backbones.families import Transform, by_kind_of_layer, family_of, ranking_class
from gdmtl_lib.backbones.last_layer import last_layer_at
from gdmtl_lib.backbones.reference import is_fast

from .inputs import InputBuilder
from .packing import PackedBatch, PaddedBatch
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
        if not (is_fast("last layer") and self.family.has_berts_layers and isinstance(batch, PackedBatch)):
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


def class_for(system: System, config) -> type[_Heads]:
    """The architecture of a system on a configuration's family."""
    return EncoderDecoderGDMTL if system.backbone == "encoder_decoder" else _on(ranking_class(config))
