"""The two architectures of the paper: a pretrained backbone, a ranking head and a language-model head a task.

`EncoderGDMTL` (Section 4.2, Figure 3) is BERT, or an encoder like it, with mixed attention; `EncoderDecoderGDMTL`
(Section 4.3, Figure 4) is BART. Both take a batch of packed sequences of any tasks and return scores and next-token
logits from one pass.

b ranking sequences, t packed tokens, d hidden size, n predicted tokens, v vocabulary.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import safetensors.torch
import torch
import torch.nn.functional as F
from huggingface_hub import HfApi, ModelCard, save_torch_state_dict
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers.models.bart.modeling_bart import BartForSequenceClassification
from transformers.utils import cached_file, logging

from gdmtl_lib.backbones.attention import PACKED
from gdmtl_lib.backbones.card import model_card
from gdmtl_lib.backbones.checkpoints import HEADS, INDEX, holds_others, keep_others, write_sums
from gdmtl_lib.backbones.families import Transform, by_kind_of_layer, family_of, ranking_class
from gdmtl_lib.backbones.attention import last_layer_at
from gdmtl_lib.backbones.reference import is_fast
from gdmtl_lib.data.files import as_path

from .inputs import InputBuilder
from .packing import Batch, PackedBatch, PaddedBatch
from .systems import get_system

PREFIX = "generation_heads."  # of the names of their weights
# Arguments of `from_pretrained` that say where a checkpoint's files lie, which all of them are asked for by.
HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
SMOOTHING = 0.01  # of token counts, so that tokens never seen in training stay possible


@dataclass
class Output:
    """scores: float [b], in the order of the ranking sequences; logits: per generative task float [n, v]."""

    scores: Tensor
    logits: dict[str, Tensor]


class GenerationHead(nn.Module):
    """A language-model head: logits over the vocabulary by the word embeddings (tied: passed in, not owned), or by a
    matrix of its own. An encoder's has a dense layer, activation and norm before it; BART's has none."""

    def __init__(self, config):
        super().__init__()
        is_bart = config.model_type == "bart"
        self.transform = nn.Identity() if is_bart else Transform(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        size = config.hidden_size if is_bart else self.transform.LayerNorm.normalized_shape[0]
        self.vocabulary = nn.Embedding(config.vocab_size, size) if config.gdmtl.get("fresh_vocabulary") else None

    def matrix(self, embeddings: Tensor) -> Tensor:
        """What the states are multiplied with, float [v, d]: the word embeddings, or the head's own."""
        return embeddings if self.vocabulary is None else self.vocabulary.weight.to(embeddings.dtype)

    def start_from_counts(self, counts: Tensor) -> None:
        """Let a fresh head begin with how frequent the tokens are, instead of having to learn that first.

        counts: float [v], occurrences among the training targets.
        """
        smoothed = counts + SMOOTHING
        self.bias.data.copy_(torch.log(smoothed / smoothed.sum()))

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """states: float [n, d] at the positions that predict; embeddings: float [v, d]. Returns float [n, v]."""
        embeddings = self.matrix(embeddings)
        states, bias = (part.to(embeddings.dtype) for part in (self.transform(states), self.bias))
        return F.linear(states, embeddings, bias)


class _Heads:
    """What the two architectures share: the heads over the states of one pass, the tokenizer, saving."""

    first_position = 0

    def __init__(self, config, tokenizer=None):
        config.num_labels = 1
        config._attn_implementation = PACKED
        super().__init__(config)
        self.system = get_system(config.gdmtl["system"])
        self.tokenizer = tokenizer or AutoTokenizer.from_pretrained(config.name_or_path, split_special_tokens=True)
        self.generation_heads = nn.ModuleDict({task: GenerationHead(config) for task in self.system.generative_tasks})
        for head in self.generation_heads.values():
            head.apply(self._init_weights)

    def forward(self, batch: Batch) -> Output:
        """One pass over all sequences of the batch; scores and logits only where they are needed."""
        states, row_of = self.read(batch)
        embeddings = self.get_input_embeddings().weight
        # Scores are compared with one another: in bf16 many would tie that do not.
        with torch.autocast(states.device.type, enabled=False):
            scores = self.score(states[row_of(batch.score_at)].float())
        predicted = batch.predict_at.items()
        logits = {task: self.generation_heads[task](states[row_of(at)], embeddings) for task, at in predicted}
        return Output(scores, logits)

    def read(self, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The last states that the heads read, float [r, d], and what turns positions of a batch into rows of them."""
        return self.states(batch), lambda positions: positions

    def input_builder(self, **settings) -> InputBuilder:
        """The builder of this system's sequences; settings override the lengths the model was trained with."""
        settings = self.config.gdmtl["inputs"] | settings
        # A query that ranks in the decoder is cut to the target's length.
        has_target = self.system.generative_tasks or self.system.rank_layout == "separate"
        lengths = {name: settings[name] for name in ("max_length", *(["target_length"] if has_target else []))}
        longest = (sum if self.system.backbone == "encoder" else max)(lengths.values())  # a decoder has its own positions
        limit = self.config.max_position_embeddings - self.first_position
        if longest > limit:
            raise ValueError(
                f"{' and '.join(f'{name} {length}' for name, length in lengths.items())} need{'s' * (len(lengths) == 1)} {longest} "
                f"positions, but this checkpoint has {limit}: lower {max(lengths, key=lengths.get)}"
            )
        start = getattr(self.config, "decoder_start_token_id", None)
        return InputBuilder(self.tokenizer, self.system, decoder_start_id=start, **settings)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *arguments, **named):
        """transformers' own, for a checkpoint that was saved here or pushed to the hub. `load_model` also checks that
        every file is as it was saved, and that every weight is there."""
        hub = {name: named[name] for name in HUB if name in named}
        if not issubclass(cls, PreTrainedModel):
            cls = class_for(AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub))
            return cls.from_pretrained(pretrained_model_name_or_path, *arguments, **named)
        if "tokenizer" not in named:
            named["tokenizer"] = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, split_special_tokens=True, **hub)
        with quiet():  # about the heads, which follow
            found = super().from_pretrained(pretrained_model_name_or_path, *arguments, **named)
        model = found[0] if isinstance(found, tuple) else found
        heads = cached_file(pretrained_model_name_or_path, HEADS, _raise_exceptions_for_missing_entries=False, **hub)
        for parameter in model.parameters():  # what lies in a file lies as it likes, and products differ by alignment
            parameter.data = parameter.data.clone()
        if heads is not None:  # in checkpoints of before they had a file of their own they are among the weights
            model.generation_heads.load_state_dict(safetensors.torch.load_file(heads))
            if isinstance(found, tuple):
                found[1]["missing_keys"] = {key for key in found[1]["missing_keys"] if not key.startswith(PREFIX)}
        return found

    def save_pretrained(
        self, save_directory: str | os.PathLike, is_main_process: bool = True, state_dict: dict | None = None,
        push_to_hub: bool = False, max_shard_size: int | str = "50GB", variant: str | None = None, **hub,
    ) -> None:
        """Write configuration, weights (safetensors), tokenizer and model card; an existing checkpoint is replaced only
        at the end, and other files that lie there stay, a README of yours among them. The arguments are transformers' own; hub: those of
        `push_to_hub`, `repo_id` by default the folder's name. The language-model heads have a file of their own, so
        that the others are what transformers expects.
        """
        if variant is not None:
            raise ValueError(f"a checkpoint has no variants, found {variant!r}: save it into a folder of its own")
        if not is_main_process:
            return
        folder = as_path(save_directory, "save_directory").resolve()
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file: give a folder for the checkpoint")
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh, old = (folder.with_name(f"{folder.name}.{kind}{os.getpid()}") for kind in ("tmp", "old"))
        for left in (fresh, old):  # by a killed process of the same number, as containers have them
            shutil.rmtree(left, ignore_errors=True)
        weights = self.state_dict() if state_dict is None else dict(state_dict)
        heads = {key.removeprefix(PREFIX): weights.pop(key) for key in list(weights) if key.startswith(PREFIX)}
        about = self.config.to_dict().get("gdmtl_card", {})
        try:
            fresh.mkdir()
            self.config.save_pretrained(fresh)
            self.tokenizer.model_max_length = self.config.gdmtl["inputs"]["max_length"]
            self.tokenizer.save_pretrained(fresh)
            save_torch_state_dict(weights, fresh, max_shard_size=max_shard_size)
            if heads:
                safetensors.torch.save_file(heads, fresh / HEADS, metadata={"format": "pt"})
            card = model_card(self.system, self.config.gdmtl, about)
            (fresh / "README.md").write_text(card, encoding="utf-8")
            write_sums(fresh)
            if holds_others(folder):  # a repository's `.git`, say: the folder stays, and what is saved goes into it
                keep_others(folder, fresh)
                for path in (*folder.glob("model*.safetensors"), folder / INDEX, folder / HEADS):
                    path.unlink(missing_ok=True)
                for path in sorted(fresh.iterdir()):
                    os.replace(path, folder / path.name)
            else:
                if folder.exists():
                    folder.rename(old)
                fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
        if push_to_hub:
            self.push_to_hub(hub.pop("repo_id", folder.name), max_shard_size=max_shard_size, **hub)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | bool | None = None,
        max_shard_size: int | str = "50GB", tags: list[str] | None = None, **commit,
    ) -> str:
        """Upload all that `save_pretrained` writes, the card with it, to the hub; its repository is made where there is
        none. The arguments are transformers' own (commit: those of a commit, as `commit_message`, `revision`,
        `create_pr`); tags: beside those of the card. Returns the commit's address."""
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as home:
            folder = Path(home) / "checkpoint"
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            if tags:
                card = ModelCard.load(folder / "README.md")
                card.data.tags += tags
                card.save(folder / "README.md")
            return api.upload_folder(repo_id=repo_id, folder_path=folder, **{"commit_message": "Upload model"} | commit)


class EncoderGDMTL(_Heads):
    """BERT, or an encoder like it, that ranks with bidirectional and generates with mixed attention (Section 4.2,
    Figures 2 and 3).

    It stands on its family's class for sequence classification (see `_on`) and its ranking path has the names of
    that: a saved checkpoint opens there.
    """

    def __init__(self, config, tokenizer=None):
        super().__init__(config, tokenizer)
        self.family = family_of(config)
        self.first_position = self.family.first_position(config)

    def states(self, batch: Batch) -> Tensor:
        """The encoder's last states, float [t, d]: packed tokens, or the padded rows one after the other."""
        packed = isinstance(batch, PackedBatch)
        how = dict(position_ids=batch.position_ids, spans=batch.spans) if packed else dict(mask=batch.mask)
        return self.encode(batch.input_ids, batch.segment_ids, **how).flatten(0, 1)

    def read(self, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        if not (is_fast("last layer") and self.family.has_berts_layers and isinstance(batch, PackedBatch)):
            return super().read(batch)
        with last_layer_at(self.base_model.encoder.layer, batch.read_at, batch.read_spans):
            return self.states(batch), partial(torch.searchsorted, batch.read_at)

    def encode(
        self, input_ids: Tensor | None, segment_ids: Tensor, position_ids: Tensor | None = None,
        mask: Tensor | None = None, columns: Tensor | None = None, **attending,
    ) -> Tensor:
        """The encoder's last states, float [b, s, d].

        input_ids, segment_ids, position_ids: int64 [b, s], positions from 0; without them, as each row stands.
        mask: bool [b, 1, s, c], and columns: the positions of what is attended to, int64 [b, c], where it is more than
        the rows. attending: what goes to `packed_attention`: spans in the place of a mask, cache; or `inputs_embeds`,
        float [b, s, word embedding's size], in the place of input_ids.
        """
        if self.family.has_segments:
            attending["token_type_ids"] = segment_ids.clamp(max=self.config.type_vocab_size - 1)  # some know one alone
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

    def states(self, batch: Batch) -> Tensor:
        """The decoder's last states, float [t, d]: packed tokens, or the padded rows one after the other."""
        encoder, decoder = self.model.encoder, self.model.decoder
        if isinstance(batch, PaddedBatch):
            source = encoder(batch.input_ids, attention_mask=batch.mask).last_hidden_state
            how = dict(attention_mask=batch.decoder_mask, encoder_attention_mask=batch.cross_mask)
            return decoder(batch.decoder_ids, encoder_hidden_states=source, **how).last_hidden_state.flatten(0, 1)
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


def class_for(config) -> type[_Heads]:
    """The architecture on a configuration's family."""
    return EncoderDecoderGDMTL if config.model_type == "bart" else _on(ranking_class(config))


@contextmanager
def quiet():
    """transformers reports heads that it did not find; here they are meant to be new."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
