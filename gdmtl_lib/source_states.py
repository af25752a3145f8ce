"""The states of a source, computed once, and target tokens computed against them.

Under mixed attention (Section 4.2, Figure 2) a source attends to nothing but itself, and so does the encoder of an
encoder-decoder. Its states are the same whatever target follows: they are computed once for all the tokens that are
written after it, for all the queries whose likelihood is asked.

b rows, s source tokens, n target tokens, h heads, d hidden size.
"""

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

from .inputs import Sequence, pack


@dataclass
class Source:
    """What target tokens attend to.

    keys, values: float [layers, s, h, d / h], those of an encoder's self-attention; None for an encoder-decoder,
    whose decoder makes its own of `states`. states: float [s, d], the encoder's last states; of an encoder that of
    the last source token alone, [1, d], which predicts the first target token.
    """

    states: Tensor
    keys: Tensor | None = None
    values: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states if self.keys is None else self.keys[0])


def encode_sources(model, sequences: list[Sequence]) -> list[Source]:
    """The states of each source, from one packed pass. sequences: of a generative task, without target tokens, as
    `InputBuilder.query_generation(passage, [])` gives them."""
    batch = pack(sequences).to(next(model.parameters()).device)
    lengths = [sequence.source_length for sequence in sequences]
    if model.system.backbone == "encoder_decoder":
        return [Source(states) for states in model.encode(batch)[0].split(lengths)]
    cache = DynamicCache()
    states = model.bert(
        batch.input_ids, token_type_ids=batch.segment_ids, position_ids=batch.position_ids, spans=batch.spans,
        past_key_values=cache,
    ).last_hidden_state[0]  # fmt: skip
    # [layers, h, t, d / h], cut at the ends of the sources.
    keys, values = (
        torch.stack([getattr(layer, part)[0] for layer in cache.layers]).transpose(1, 2).split(lengths, dim=1)
        for part in ("keys", "values")
    )
    return [Source(part[-1:], key, value) for part, key, value in zip(states.split(lengths), keys, values)]


class Continuation:
    """Rows of target tokens, each after its own source, computed a few at a time with transformers' caches.

    model: of a system that generates. sources: one a row, as `encode_sources` returns them. The first target token
    is predicted by `start()`, the others by what `advance` returns.
    """

    def __init__(self, model, sources: list[Source]):
        self._model, self._encodes = model, model.system.backbone == "encoder"
        device = sources[0].states.device
        lengths = torch.tensor([len(source) for source in sources], device=device)
        self._positions = lengths  # of the next target token, where the encoder counts on
        self._may_attend = torch.arange(int(lengths.max()), device=device)[None, :] < lengths[:, None]
        self._written = 0
        if self._encodes:
            self._source = torch.cat([source.states for source in sources])
            self._cache = Cache(layer_class_to_replicate=_RoomyLayer)
            pairs = (
                pad_sequence([getattr(source, part).transpose(0, 1) for source in sources], batch_first=True)
                for part in ("keys", "values")
            )
            # [b, s, layers, h, d / h] -> a layer's [b, h, s, d / h]
            keys, values = (padded.permute(2, 0, 3, 1, 4) for padded in pairs)
            for layer, (key, value) in enumerate(zip(keys, values)):
                self._cache.update(key, value, layer)
        else:
            self._source = pad_sequence([source.states for source in sources], batch_first=True)
            self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def start(self) -> Tensor:
        """The states that predict the first target tokens, float [b, d]: of the last source token, or of the token a
        decoder starts with. To be called once, before `advance` and `select`."""
        if self._encodes:
            return self._source
        start = self._source.new_full((len(self._source), 1), self._model.config.decoder_start_token_id, dtype=torch.long)
        return self.advance(start)[:, 0]

    def advance(self, tokens: Tensor) -> Tensor:
        """Compute target tokens, int64 [b, n], that follow those there are. Returns their states, float [b, n, d];
        each predicts the token after it. Rows that end earlier may be filled up with any token."""
        count = tokens.shape[1]
        causal = tokens.new_ones(count, self._written + count, dtype=torch.bool).tril(self._written)
        causal = causal.expand(len(tokens), -1, -1)
        to_source = self._may_attend[:, None, :].expand(-1, count, -1)
        if self._encodes:
            states = self._model.bert(
                tokens,
                token_type_ids=torch.ones_like(tokens),
                position_ids=self._positions[:, None] + torch.arange(count, device=tokens.device),
                attention_mask=torch.cat([to_source, causal], dim=2)[:, None],
                past_key_values=self._cache,
            ).last_hidden_state
        else:
            states = self._model.model.decoder(
                tokens,
                attention_mask=causal[:, None],
                encoder_hidden_states=self._source,
                encoder_attention_mask=to_source[:, None],
                past_key_values=self._cache,
            ).last_hidden_state
        self._written += count
        self._positions = self._positions + count
        return states

    def select(self, rows: Tensor) -> "Continuation":
        """What goes on with these rows, int64, in this order; one may be taken several times. This one stays."""
        chosen = copy(self)
        chosen._source, chosen._may_attend = self._source[rows], self._may_attend[rows]
        chosen._positions = self._positions[rows]
        if self._encodes:
            chosen._cache = _rows_of(self._cache, rows)
        else:
            parts = (self._cache.self_attention_cache, self._cache.cross_attention_cache)
            chosen._cache = EncoderDecoderCache(*(_rows_of(part, rows) for part in parts))
        return chosen


def _rows_of(cache: Cache, rows: Tensor) -> Cache:
    chosen = Cache(layer_class_to_replicate=cache.layer_class_to_replicate)
    for number, layer in enumerate(cache.layers):
        chosen.update(layer.keys[rows], layer.values[rows], number)
    return chosen


class _RoomyLayer(DynamicLayer):
    """A layer of a cache with room for tokens to come: they are written in place. transformers' own joins what there is
    with each new token, and would copy the whole source for every token that is written."""

    ROOM = 64
    _buffers: list[Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.keys, self.values = key_states, value_states
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            return self.keys, self.values
        start, count = self.keys.shape[-2], key_states.shape[-2]
        if self._buffers is None or start + count > self._buffers[0].shape[-2]:
            room = key_states.new_empty(*key_states.shape[:2], max(count, self.ROOM), key_states.shape[-1])
            self._buffers = [torch.cat([states, room], dim=-2) for states in (self.keys, self.values)]
        for buffer, states in zip(self._buffers, (key_states, value_states)):
            buffer[:, :, start : start + count] = states
        self.keys, self.values = (buffer[:, :, : start + count] for buffer in self._buffers)
        return self.keys, self.values
