"""The attention masks of the paper (Figures 1 and 2), as pure functions.

Every mask is bool, True = the row's token may attend to the column's token. A padding token attends to nothing and
is attended to by nothing. A padding mask that is not [batch, sequence] is refused with ValueError.
b batch, s (source) sequence, t target sequence.
"""

from torch import Tensor


def bidirectional_mask(padding_mask: Tensor) -> Tensor:
    """Every token attends to every token (Figure 1a): an encoder's mask, and that of the ranking pass.

    padding_mask: bool [b, s], True = real token. Returns bool [b, s, s].

        1 1 1 .
        1 1 1 .
        1 1 1 .
        . . . .    (the fourth token is padding)
    """
    return cross_attention_mask(padding_mask, padding_mask)


def causal_mask(padding_mask: Tensor) -> Tensor:
    """A token attends to itself and to what stands before it (Figure 1b, Eq. 1): a decoder's mask.

    padding_mask: bool [b, t], True = real token. Returns bool [b, t, t].

        1 . .
        1 1 .
        1 1 1
    """
    return bidirectional_mask(padding_mask).tril()


def cross_attention_mask(target_padding_mask: Tensor, source_padding_mask: Tensor) -> Tensor:
    """Every target token attends to every source token (Figure 1c).

    target_padding_mask: bool [b, t]; source_padding_mask: bool [b, s]. Returns bool [b, t, s].

        1 1 1 .
        1 1 1 .    (two target tokens; the fourth source token is padding)
    """
    return _real(target_padding_mask)[:, :, None] & _real(source_padding_mask)[:, None, :]


def mixed_attention_mask(segment_ids: Tensor, padding_mask: Tensor) -> Tensor:
    """Mixed attention (Figure 2b, Eq. 7): an encoder that generates.

    Source tokens (segment 0) attend to all source tokens and to nothing else. Target tokens (segment 1) attend to
    all source tokens and to the target tokens up to and including themselves. (The limits printed in Eq. 7 stop one
    token short; the figure is right.)

    segment_ids: integer [b, s], 0 = source, 1 = target; padding_mask: bool [b, s], True = real token.
    Returns bool [b, s, s].

        d1  1 1 1 . . .
        d2  1 1 1 . . .
        d3  1 1 1 . . .
        q1  1 1 1 1 . .
        q2  1 1 1 1 1 .
        q3  1 1 1 1 1 1
    """
    if segment_ids.shape != padding_mask.shape or segment_ids.dim() != 2:
        raise ValueError(
            "segment_ids and padding_mask must both be [batch, sequence]: "
            f"found {tuple(segment_ids.shape)} and {tuple(padding_mask.shape)}"
        )
    padding_mask = _real(padding_mask)
    source, target = (segment_ids == 0) & padding_mask, (segment_ids == 1) & padding_mask
    return cross_attention_mask(padding_mask, source) | causal_mask(target)


def _real(padding_mask: Tensor) -> Tensor:
    """A padding mask as bool: tokenizers give theirs as 0 and 1."""
    if padding_mask.dim() != 2:
        raise ValueError(f"a padding mask must be [batch, sequence]: found shape {tuple(padding_mask.shape)}")
    return padding_mask.bool()
