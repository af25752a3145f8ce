"""The states of a source, computed once, and target tokens computed against them.

Under mixed attention (Section 4.2, Figure 2) a source attends to nothing but itself, and so does the encoder of an
encoder-decoder: its states are the same whatever target follows.

b rows, s source tokens, n target tokens, h heads, d hidden size.
"""

from copy import copy
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.cache_utils import Cache, EncoderDecoderCache

from gdmtl_lib.inputs import TokenSequence
from gdmtl_lib.packing import pack


@dataclass
class Source:
    """What target tokens attend to.

    keys, values: float [layers, h, s, d / h], those of an encoder's self-attention; None for an encoder-decoder,
    whose decoder makes its own of `states`. states: float [s, d], the encoder's last; of an encoder system that of the
    last source token alone, [1, d], which predicts the first target token.
    """

    states: Tensor
    keys: Tensor | None = None
    values: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states) if self.keys is None else self.keys.shape[2]


def encode_sources(model, sequences: list[TokenSequence]) -> list[Source]:
    """The states of each source, from one packed pass. sequences: of a generative task, without target tokens."""
    batch = pack(sequences).to(next(model.parameters()).device)
    lengths = [sequence.source_length for sequence in sequences]
    if model.system.backbone == "encoder_decoder":
        return [Source(states) for states in model.encode(batch)[0].split(lengths)]
    seen: list[tuple[Tensor, Tensor]] = []  # a layer's keys and values, float [1, h, t, d / h]
    cache = SimpleNamespace(update=lambda *states: seen.append(states) or states)
    [states] = model.encode(batch.input_ids, batch.segment_ids, batch.position_ids, spans=batch.spans, cache=cache)
    # [layers, h, t, d / h], cut at the ends of the sources.
    keys, values = (torch.cat(part).split(lengths, dim=2) for part in zip(*seen))
    return [Source(part[-1:], key, value) for part, key, value in zip(states.split(lengths), keys, values)]


class KVCache:
    """The keys and values of the tokens so far, a row a source, for the attention of an encoder; those of new tokens
    come layer after layer, and are written in place: to join them would copy the whole source for each."""

    ROOM = 64

    def __init__(self, sources: list[Source]):
        self._sources, self._length = sources, max(map(len, sources))
        self._layers: list[list[Tensor]] | None = None  # a layer's keys and values, [b, h, room, d / h]
        self._layer = 0

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the next layer's keys and values, [b, h, n, d / h]. Returns all that its new tokens may attend to."""
        if self._layers is None:
            # One token at a time is written, many more follow; several at once are a whole text that is read.
            self._layers = self._side_by_side(key.dtype, self.ROOM if key.shape[2] == 1 else key.shape[2])
        layer, end = self._layers[self._layer], self._length + key.shape[2]
        for part, states in enumerate((key, value)):
            if end > layer[part].shape[2]:
                more = states.new_empty(*states.shape[:2], max(self.ROOM, key.shape[2]), states.shape[3])
                layer[part] = torch.cat([layer[part], more], dim=2)
            layer[part][:, :, self._length : end] = states
        self._layer = (self._layer + 1) % len(self._layers)
        if self._layer == 0:
            self._length = end
        return tuple(part[:, :, :end] for part in layer)

    def select(self, rows: Tensor) -> "KVCache":
        """These rows, int64, in this order; one may be taken several times."""
        chosen = copy(self)
        if self._layers is None:  # nothing is copied yet
            chosen._sources = [self._sources[row] for row in rows.tolist()]
        else:
            chosen._layers = [[part[rows] for part in layer] for layer in self._layers]
        return chosen

    def _side_by_side(self, dtype: torch.dtype, room: int) -> list[list[Tensor]]:
        layers, heads, _, width = self._sources[0].keys.shape
        shape = (len(self._sources), heads, self._length + room, width)
        # A piece a layer: memory for all of them at once would be fetched from the system anew at every pass.
        both = [[self._sources[0].keys.new_empty(shape, dtype=dtype) for _ in range(2)] for _ in range(layers)]
        for row, source in enumerate(self._sources):
            for layer, *states in zip(both, source.keys, source.values):
                for all_rows, of_source in zip(layer, states):
                    all_rows[row, :, : len(source)] = of_source
                    # What is not attended to has weight 0, and 0 times NaN is NaN.
                    all_rows[row, :, len(source) : self._length] = 0
        self._sources = []  # let them go
        return both


class Continuation:
    """Rows of target tokens, each after its own source, computed a few at a time against what is there.

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
            self._cache = KVCache(sources)
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
        """Compute target tokens, int64 [b, n], that follow those there are; rows that end earlier may be filled up with
        any token. Returns their states, float [b, n, d]; each predicts the token after it."""
        count = tokens.shape[1]
        causal = tokens.new_ones(count, self._written + count, dtype=torch.bool).tril(self._written)
        causal = causal.expand(len(tokens), -1, -1)
        to_source = self._may_attend[:, None, :].expand(-1, count, -1)
        if self._encodes:
            source = torch.arange(to_source.shape[2], device=tokens.device).expand(self._may_attend.shape)
            target = self._positions[:, None] + torch.arange(-self._written, count, device=tokens.device)
            states = self._model.encode(
                tokens, torch.ones_like(tokens), target[:, self._written :], cache=self._cache,
                mask=torch.cat([to_source, causal], dim=2)[:, None], columns=torch.cat([source, target], dim=1),
            )  # fmt: skip
        else:
            states = self._model.model.decoder(
                tokens, attention_mask=causal[:, None], encoder_hidden_states=self._source,
                encoder_attention_mask=to_source[:, None], past_key_values=self._cache,
            ).last_hidden_state  # fmt: skip
        self._written += count
        self._positions = self._positions + count
        return states

    def select(self, rows: Tensor) -> "Continuation":
        """What goes on with these rows, int64, in this order; one may be taken several times. This one stays."""
        chosen = copy(self)
        chosen._source, chosen._may_attend = self._source[rows], self._may_attend[rows]
        chosen._positions = self._positions[rows]
        if self._encodes:
            chosen._cache = self._cache.select(rows)
        else:
            parts = (self._cache.self_attention_cache, self._cache.cross_attention_cache)
            chosen._cache = EncoderDecoderCache(*(_rows_of(part, rows) for part in parts))
        return chosen


def _rows_of(cache: Cache, rows: Tensor) -> Cache:
    chosen = Cache(layer_class_to_replicate=cache.layer_class_to_replicate)
    for number, layer in enumerate(cache.layers):
        chosen.update(layer.keys[rows], layer.values[rows], number)
    return chosen
