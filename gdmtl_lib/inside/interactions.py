"""Where query and passage meet in an architecture (Figure 9): the real masks of one ranking sequence, cell by cell.

A cell is an interaction where a token of one text may attend to a token of the other. Which token is whose is
not guessed from the ids: the input builder is given markers in the texts' place and asked to build the sequence again.

r rows (tokens that attend), c columns (tokens attended to).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from gdmtl_lib.backbones.checkpoints import DEFAULT_CHECKPOINT, find_checkpoint
from gdmtl_lib.inputs import InputBuilder
from gdmtl_lib.packing import pad
from gdmtl_lib.systems import System, get_system

FRAME, PASSAGE, QUERY = 0, 1, 2  # special tokens and the task's prefix; the two texts
_MARKERS = {PASSAGE: -1, QUERY: -2}  # ids that no vocabulary has
ATTENTIONS = {"encoder": "self-attention, encoder", "decoder": "self-attention, decoder", "cross": "cross-attention"}


@dataclass(frozen=True)
class Attention:
    """One attention of an architecture, for one ranking sequence.

    name: of `ATTENTIONS`. allowed: bool [r, c], True = the row may attend to the column.
    rows, columns: the tokens. row_texts, column_texts: int [r] and [c], `FRAME`, `PASSAGE` or `QUERY`.
    """

    name: str
    allowed: np.ndarray
    rows: list[str]
    columns: list[str]
    row_texts: np.ndarray
    column_texts: np.ndarray

    @property
    def interacts(self) -> np.ndarray:
        """bool [r, c]: allowed, and from one text to the other."""
        # Of FRAME, PASSAGE and QUERY (0, 1, 2) only the two texts have the product 2.
        return self.allowed & (np.outer(self.row_texts, self.column_texts) == PASSAGE * QUERY)


def ranking_attentions(system: str | System, tokenizer, passage: str, query: str) -> list[Attention]:
    """The attentions through which a system's score of a pair comes about, in the order they are computed.

    system: a neural one. tokenizer: of its backbone; another family's does for a picture.
    """
    system = get_system(getattr(system, "name", system))
    start = tokenizer.cls_token_id if system.backbone == "encoder_decoder" else None
    builder = InputBuilder(tokenizer, system, decoder_start_id=start)
    [passage_ids], [query_ids] = builder.passage_tokens([passage]), builder.tokens([query])
    real = builder.rank(passage_ids, query_ids)
    marked = builder.rank([_MARKERS[PASSAGE]] * len(passage_ids), [_MARKERS[QUERY]] * len(query_ids))
    batch = pad([real], tokenizer.pad_token_id)
    encoder = (tokenizer.convert_ids_to_tokens(real.input_ids), _texts(marked.input_ids))
    attentions = [_attention("encoder", batch.mask, encoder, encoder)]
    if real.decoder_ids:
        decoder = (tokenizer.convert_ids_to_tokens(real.decoder_ids), _texts(marked.decoder_ids))
        attentions.append(_attention("decoder", batch.decoder_mask, decoder, decoder))
        attentions.append(_attention("cross", batch.cross_mask, decoder, encoder))
    return attentions


def default_tokenizer():
    """The tokenizer of the checkpoint that all systems start from where none is named; it needs no network."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(find_checkpoint(DEFAULT_CHECKPOINT))


def count_interactions(attentions: list[Attention]) -> pd.DataFrame:
    """How often the texts meet in one layer of each attention: `attention`, and `query to passage` and `passage to
    query`, the pairs of tokens of which the first may attend to the second."""
    rows = [
        (ATTENTIONS[each.name], *(int(each.interacts[each.row_texts == text].sum()) for text in (QUERY, PASSAGE)))
        for each in attentions
    ]
    return pd.DataFrame(rows, columns=["attention", "query to passage", "passage to query"])


def _attention(name: str, mask, rows: tuple, columns: tuple) -> Attention:
    return Attention(name, mask[0, 0].numpy(), rows[0], columns[0], rows[1], columns[1])


def _texts(marked: list[int]) -> np.ndarray:
    of_marker = {marker: text for text, marker in _MARKERS.items()}
    return np.array([of_marker.get(token, FRAME) for token in marked])
