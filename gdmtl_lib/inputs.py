"""From text to sequences of token ids (Sections 4.2 and 4.3, Tables 1 and 2).

A training instance becomes sequences: ranking positive, ranking negative, query generation, answer generation.
"""

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from .settings import GENERATION_MASKS
from .systems import GENERATIVE_TASKS, System, prefixes


@dataclass
class TokenSequence:
    """One sequence of one task.

    input_ids, segment_ids: the encoder's tokens. source_length: so many of them attend to each other in both
    directions; those that follow are the target of mixed attention.
    decoder_ids: the decoder's tokens; empty for an encoder.
    targets: the tokens to predict; the state at position `predict_from + i` (of the decoder, where there is one)
    predicts `targets[i]`. Empty for ranking, whose score is read at position `score_at`. teacher: what another ranker
    scores the pair, where that is learned.
    """

    task: str
    input_ids: list[int]
    segment_ids: list[int]
    source_length: int
    decoder_ids: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    predict_from: int = 0
    score_at: int = 0
    teacher: float | None = None


def as_texts(texts: Iterable[str] | str, what: str) -> list[str]:
    """Some texts, or one, as a list. Raises ValueError for what is neither."""
    if hasattr(texts, "columns"):
        raise ValueError(f"expected texts as {what}, found a frame: give one of its columns, {', '.join(map(str, texts.columns))}")
    texts = [texts] if isinstance(texts, str | Mapping) or not isinstance(texts, Iterable) else list(texts)
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"expected a text as {what}, found {text!r}: give a text, or a list of texts")
    return texts


class InputBuilder:
    """Turns passages, queries and answers into the sequences of a system (Sections 4.2 and 4.3, Tables 1 and 2).

    tokenizer: of the backbone. system: whose layout is built. max_length: the longest source, and the longest
    ranking input of an encoder. target_length: the longest target, its closing token included; the longest decoder
    input of separate ranking. generation_mask: `mixed`, or `mlm` for the ablation in which every target token is
    replaced by [MASK] and predicted in place.
    decoder_start_id: the token an encoder-decoder's decoder starts with.

    Too long an input loses tokens of the passage, never of the query. Only a query longer than half of max_length
    (in separate ranking, longer than the decoder's input) is itself cut to that, with one warning.

    Raises ValueError for an unknown generation_mask and for lengths that leave no room.
    """

    def __init__(
        self, tokenizer, system: System, max_length: int = 256, target_length: int = 56,
        generation_mask: str = "mixed", decoder_start_id: int | None = None,
    ):
        if generation_mask not in GENERATION_MASKS:
            raise ValueError(f"unknown generation_mask {generation_mask!r}: expected one of {', '.join(GENERATION_MASKS)}")
        if generation_mask == "mlm" and system.backbone != "encoder":
            raise ValueError("generation_mask 'mlm' is an ablation of the encoder systems; a decoder generates causally")
        self.tokenizer, self.system = tokenizer, system
        self.max_length, self.target_length = max_length, target_length
        self.generation_mask, self.decoder_start_id = generation_mask, decoder_start_id
        # `<first> A <between> B <end>` is the family's own way to write a pair: [CLS] A [SEP] B [SEP] for BERT.
        pair = tokenizer("a", "a", return_special_tokens_mask=True)
        special = [token for token, mask in zip(pair["input_ids"], pair["special_tokens_mask"]) if mask]
        self.first, *self.between, self.end = special
        self._control_ids = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        self._control_words = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)))
        self.prefix_ids = {task: self._encode([prefix])[0] for task, prefix in prefixes().items()}
        # A query may take half; in the other half the passage must get a token.
        least = 2 * (max(map(len, self.prefix_ids.values())) + len(self.between) + 2) + 1
        if max_length < least:
            raise ValueError(f"max_length {max_length} leaves no room for a passage: raise it to {least} or more")
        if target_length < 2:
            raise ValueError(f"target_length {target_length} leaves no room for a token and its end: raise it")
        self._warned = False

    def tokens(self, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of each query or answer, without special tokens."""
        return self._encode(list(texts))

    def passage_tokens(self, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of each passage, without special tokens. A passage follows a prefix and a space, and a
        byte-level tokenizer writes a word after a space with other tokens than the same word at the start."""
        return self._encode([" " + text for text in texts])

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids in which nothing that a text says is a control token: "[SEP]" or "</s>" in it are words."""
        if not texts:
            return []
        # A passage longer than the model's limit is cut here, later and on purpose; the tokenizer need not warn.
        encode = partial(self.tokenizer, add_special_tokens=False, split_special_tokens=True, verbose=False)
        try:
            found = encode(texts)["input_ids"]
        except TypeError as error:  # the tokenizer's word for what UTF-8 cannot say
            if bad := next((text for text in texts if re.search("[\ud800-\udfff]", text)), None):
                raise ValueError(f"the text {bad[:60]!r} holds half of a surrogate pair: remove it") from error
            raise
        for number, ids in enumerate(found):
            # To SentencePiece, control tokens are words of its vocabulary as well: a space breaks them, and what only
            # looks like one (in wide letters, say) is unknown.
            if not self._control_ids.isdisjoint(ids):
                ids = encode(self._control_words.sub(lambda word: f"{word[0][:1]} {word[0][1:]}", texts[number]))["input_ids"]
                found[number] = [self.tokenizer.unk_token_id if id in self._control_ids else id for id in ids]
        return found

    def rank(self, passage: list[int], query: list[int]) -> TokenSequence:
        """The ranking sequence. passage: token ids from `passage_tokens`; query: from `tokens`."""
        if self.system.rank_layout == "separate":
            decoder_ids = [self.decoder_start_id, *self._cut_query(query, self.target_length - 1)]
            source = self._source("rank", passage)
            return TokenSequence("rank", source, [0] * len(source), len(source), decoder_ids, score_at=len(decoder_ids) - 1)
        if self.system.rank_layout == "query_first":
            query = self._cut_query(query, self.max_length // 2)
            left = [self.first, *query, *self.between]
            right = [*passage[: self.max_length - len(left) - 1], self.end]
        else:
            left, right = self._pair("rank", passage, query)
        sequence = TokenSequence("rank", left + right, [0] * len(left) + [1] * len(right), len(left) + len(right))
        if self.system.backbone == "encoder_decoder":
            # The decoder reads the encoder's own sequence one token later; its last token has seen all others.
            sequence.decoder_ids = [self.decoder_start_id, *sequence.input_ids[:-1]]
            sequence.score_at = len(sequence.decoder_ids) - 1
        return sequence

    def generation(self, task: str, passage: list[int], query: list[int], target: list[int]) -> TokenSequence:
        """The sequence of a generative task: source -> target (Eq. 4 and 5), learned from the relevant passage.

        task: a name of `GENERATIVE_TASKS`, which says whether the query is part of the source.
        target: token ids from `tokens`, or those of them that are written already.
        """
        source = self._source(task, passage)
        if "query" in GENERATIVE_TASKS[task].source:
            left, right = self._pair(task, passage, query)
            source = left + right
        target = target[: self.target_length - 1]
        sequence = TokenSequence(task, source, [], len(source), targets=[*target, self.end])
        if self.system.backbone == "encoder_decoder":
            sequence.decoder_ids = [self.decoder_start_id, *target]
        elif self.generation_mask == "mlm":
            sequence.input_ids = source + [self.tokenizer.mask_token_id] * len(sequence.targets)
            sequence.source_length, sequence.predict_from = len(sequence.input_ids), len(source)
        else:  # the last source token predicts the first target token, the last target token predicts the end
            sequence.input_ids, sequence.predict_from = source + target, len(source) - 1
        sequence.segment_ids = [0] * len(source) + [1] * (len(sequence.input_ids) - len(source))
        return sequence

    def query_generation(self, passage: list[int], query: list[int]) -> TokenSequence:
        """Passage -> query."""
        return self.generation("query_generation", passage, query, query)

    def answer_generation(self, passage: list[int], query: list[int], answer: list[int]) -> TokenSequence:
        """Passage and query -> answer; both are source."""
        return self.generation("answer_generation", passage, query, answer)

    def _source(self, task: str, passage: list[int]) -> list[int]:
        room = self.max_length - len(self.prefix_ids[task]) - 2
        return [self.first, *self.prefix_ids[task], *passage[:room], self.end]

    def _pair(self, task: str, passage: list[int], query: list[int]) -> tuple[list[int], list[int]]:
        """Passage and query in one sequence, as the part up to the separator and the part after it."""
        query = self._cut_query(query, self.max_length // 2)
        room = self.max_length - len(query) - len(self.prefix_ids[task]) - len(self.between) - 2
        return [self.first, *self.prefix_ids[task], *passage[:room], *self.between], [*query, self.end]

    def _cut_query(self, query: list[int], limit: int) -> list[int]:
        if len(query) > limit and not self._warned:
            # The same words every time: Python then shows them once, however many builders there are.
            warnings.warn(
                f"a query is longer than {limit} tokens and is cut to that (max_length {self.max_length}, "
                f"target_length {self.target_length}); further long queries are cut without a word",
                stacklevel=2,
            )
            self._warned = True
        return query[:limit]
