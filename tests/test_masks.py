"""The four masks against matrices written by hand, and against loops over the paper's definitions."""

import random

import pytest
import torch

from gdmtl_lib.masks import bidirectional_mask, causal_mask, cross_attention_mask, mixed_attention_mask


def drawn(picture: str) -> torch.Tensor:
    """A mask as the docstrings draw it: one line a row, 1 = may attend, . = may not."""
    rows = [line.split() for line in picture.strip().splitlines()]
    return torch.tensor([[cell == "1" for cell in row] for row in rows])


def real(*lengths: int, width: int | None = None) -> torch.Tensor:
    """The padding mask of rows of these lengths."""
    return torch.arange(width or max(lengths))[None, :] < torch.tensor(lengths)[:, None]


def test_bidirectional():
    expected = drawn("""
        1 1 1 .
        1 1 1 .
        1 1 1 .
        . . . .
    """)
    assert torch.equal(bidirectional_mask(real(3, 4)), torch.stack([expected, torch.ones(4, 4).bool()]))


def test_causal():
    expected = drawn("""
        1 . . .
        1 1 . .
        1 1 1 .
        . . . .
    """)
    whole = drawn("""
        1 . . .
        1 1 . .
        1 1 1 .
        1 1 1 1
    """)
    assert torch.equal(causal_mask(real(3, 4)), torch.stack([expected, whole]))


def test_cross():
    first = drawn("""
        1 1 1 .
        1 1 1 .
        . . . .
    """)
    second = drawn("""
        1 1 1 1
        1 1 1 1
        1 1 1 1
    """)
    assert torch.equal(cross_attention_mask(real(2, 3), real(3, 4)), torch.stack([first, second]))


def test_mixed():
    """Figure 2b: three source tokens, three target tokens; then two and one with padding; then no target."""
    expected = [
        drawn("""
            1 1 1 . . .
            1 1 1 . . .
            1 1 1 . . .
            1 1 1 1 . .
            1 1 1 1 1 .
            1 1 1 1 1 1
        """),
        drawn("""
            1 1 . . . .
            1 1 . . . .
            1 1 1 . . .
            . . . . . .
            . . . . . .
            . . . . . .
        """),
        drawn("""
            1 1 1 1 . .
            1 1 1 1 . .
            1 1 1 1 . .
            1 1 1 1 . .
            . . . . . .
            . . . . . .
        """),
    ]
    segments = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1]])
    assert torch.equal(mixed_attention_mask(segments, real(6, 3, 4)), torch.stack(expected))


def slow_mixed(segment_ids: list[int], real_tokens: list[bool]) -> list[list[bool]]:
    """The caption of Figure 2b, token by token."""
    matrix = []
    for row, (row_segment, row_real) in enumerate(zip(segment_ids, real_tokens, strict=True)):
        matrix.append([])
        for column, (column_segment, column_real) in enumerate(zip(segment_ids, real_tokens, strict=True)):
            to_source = column_segment == 0
            to_earlier_target = row_segment == column_segment == 1 and column <= row
            matrix[-1].append(row_real and column_real and (to_source or to_earlier_target))
    return matrix


@pytest.mark.parametrize("seed", range(20))
def test_masks_are_what_a_loop_over_tokens_gives(seed):
    rng = random.Random(seed)
    width = rng.randint(1, 12)
    segments, padding = [], []
    for _ in range(rng.randint(1, 4)):
        source, target = rng.randint(0, width), rng.randint(0, width)
        row = ([0] * source + [1] * target)[:width]
        padding.append([True] * len(row) + [False] * (width - len(row)))
        segments.append(row + [rng.randint(0, 1) for _ in range(width - len(row))])
    found = mixed_attention_mask(torch.tensor(segments), torch.tensor(padding))
    assert found.tolist() == [slow_mixed(*rows) for rows in zip(segments, padding, strict=True)]
    assert causal_mask(torch.tensor(padding)).tolist() == [
        [[a and b and j <= i for j, b in enumerate(row)] for i, a in enumerate(row)] for row in padding
    ]


def test_all_source_is_bidirectional_and_all_target_is_causal():
    padding = real(5, 2, 4)
    zeros = torch.zeros(3, 5, dtype=torch.long)
    assert torch.equal(mixed_attention_mask(zeros, padding), bidirectional_mask(padding))
    assert torch.equal(mixed_attention_mask(zeros + 1, padding), causal_mask(padding))


def test_a_tokenizers_padding_mask_of_zeros_and_ones_gives_the_same_bool_masks():
    padding, segments = real(3, 4), torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    for mask in (bidirectional_mask, causal_mask, lambda p: cross_attention_mask(p, p),
                 lambda p: mixed_attention_mask(segments, p)):  # fmt: skip
        found = mask(padding.long())
        assert found.dtype == torch.bool
        assert torch.equal(found, mask(padding))


@pytest.mark.parametrize(
    "mask", [bidirectional_mask, causal_mask, lambda p: cross_attention_mask(real(2), p)]
)
def test_a_mask_without_a_batch_is_refused(mask):
    with pytest.raises(ValueError, match=r"^a padding mask must be \[batch, sequence\]: found shape \(5,\)$"):
        mask(torch.ones(5, dtype=torch.bool))


@pytest.mark.parametrize(
    ("segments", "padding", "found"),
    [
        ((2, 3), (2, 4), "(2, 3) and (2, 4)"),
        ((3,), (3,), "(3,) and (3,)"),
        ((1, 3), (2, 3), "(1, 3) and (2, 3)"),
    ],
)
def test_segments_that_do_not_fit_are_refused(segments, padding, found):
    with pytest.raises(ValueError) as error:
        mixed_attention_mask(torch.zeros(segments, dtype=torch.long), torch.ones(padding, dtype=torch.bool))
    assert str(error.value) == f"segment_ids and padding_mask must both be [batch, sequence]: found {found}"
