"""The four masks against matrices written by hand and loops over the paper's definitions; the spans that go with them."""

import random

import numpy as np
import pytest
import torch
from tests.conftest import as_matrix

from gdmtl_lib import masks
from gdmtl_lib.joint import JointLoss
from gdmtl_lib.masks import (
    Span,
    Spans,
    bidirectional_mask,
    causal_mask,
    columns_seen,
    cross_attention_mask,
    cross_spans,
    fewest_spans,
    mixed_attention_mask,
    mixed_spans,
    span_mask,
    spans_at,
)
from gdmtl_lib.pretrained import build_model
from gdmtl_lib.packing import pack, pad
from gdmtl_lib.settings import TrainingSettings


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


@pytest.mark.parametrize("number", [2, -1])
def test_segments_that_are_neither_source_nor_target_are_refused(number):
    """Their tokens would attend to nothing. Of padding, some tokenizers say 2."""
    segment_ids, padding_mask = torch.tensor([[0, 1, number]]), torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=rf"^segment_ids must be 0 \(source\) or 1 \(target\) .*: found {number}$"):
        mixed_attention_mask(segment_ids, padding_mask)
    padding_mask[0, 2] = 0
    expected = mixed_attention_mask(torch.tensor([[0, 1, 1]]), padding_mask)
    assert torch.equal(mixed_attention_mask(segment_ids, padding_mask), expected)


@pytest.mark.parametrize("hidden", [-10000.0, float("-inf"), 2.0])
def test_a_padding_mask_of_numbers_to_add_is_refused(hidden):
    with pytest.raises(ValueError, match=f"^a padding mask must hold 1 .* and 0 for others: found {hidden}$"):
        bidirectional_mask(torch.tensor([[1.0, 1.0, hidden]]))


# --- spans


def sequences_of(seed):
    """Lengths and sources of random packed sequences, from no source to no target."""
    rng = random.Random(seed)
    lengths = np.array([rng.randint(1, 9) for _ in range(rng.randint(1, 5))])
    return lengths, np.array([rng.randint(0, int(length)) for length in lengths])


def literal(lengths, sources):
    """The dense masks of packed sequences along the diagonal."""
    blocks = []
    for length, source in zip(lengths.tolist(), sources.tolist()):
        segments = torch.tensor([[0] * source + [1] * (length - source)])
        blocks.append(mixed_attention_mask(segments, torch.ones_like(segments))[0])
    return torch.block_diag(*blocks).bool()


@pytest.mark.parametrize("seed", range(30))
def test_spans_and_dense_masks_come_from_each_other(seed):
    lengths, sources = sequences_of(seed)
    spans, mask = mixed_spans(lengths, sources), literal(lengths, sources)
    assert torch.equal(as_matrix(spans, len(mask)), mask)
    for span in spans:  # what stands outside of its columns is forbidden, what stands inside is the mask of the span
        inside = mask[span.start : span.end, span.key_start : span.key_end]
        assert torch.equal(inside if (small := span_mask(span)) is None else small, inside)
    rows = mask.int()
    again = Spans.of_rows(
        np.repeat(np.arange(len(lengths)), lengths), rows.argmax(1).numpy(), (rows.argmax(1) + rows.sum(1)).numpy()
    )
    assert list(again) == list(spans)


def test_cross_spans_are_the_dense_cross_mask():
    lengths, sources = np.array([2, 1]), np.array([3, 4])
    spans = cross_spans(lengths, sources)
    assert list(spans) == [Span(0, 2, 0, 3, False), Span(2, 3, 3, 7, False)]
    blocks = [cross_attention_mask(real(int(t)), real(int(s)))[0] for t, s in zip(lengths, sources)]
    assert torch.equal(as_matrix(spans, 7), torch.block_diag(*blocks).bool())


def sees_its_successor(place, source):
    """Eq. 7 with one column more for a target's tokens."""
    return (place < source) * source + (place >= source) * (place + 2)


def test_eq_7_is_what_is_drawn_and_what_is_computed(monkeypatch, toy_bert_folder):
    """Changed in one place, it changes the dense mask, the spans, and the states, loss and gradients of the packed pass
    that is trained; the two passes agree before and after."""
    model = build_model("gdmtl", checkpoint=toy_bert_folder)
    joint, builder = JointLoss(model, TrainingSettings()), model.input_builder()
    passage, query = list(range(110, 130)), list(range(130, 136))
    sequences = [builder.rank(passage, query), builder.rank(query, query), builder.query_generation(passage, query)]
    found = []
    for rule in (columns_seen, sees_its_successor):
        monkeypatch.setattr(masks, "columns_seen", rule)
        packed, padded = pack(sequences), pad(sequences, 0)
        drawn = torch.block_diag(*(m[: len(s.input_ids), : len(s.input_ids)] for m, s in zip(padded.mask[:, 0], sequences)))
        assert torch.equal(as_matrix(packed.spans, len(drawn)), drawn.bool())
        losses = [joint(packed), joint(padded)]
        torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
        model.zero_grad()
        losses[0].sum().backward()
        found.append((drawn, losses[0].detach(), model.get_input_embeddings().weight.grad.clone()))
    (mask, loss, gradient), (changed, other, other_gradient) = found
    assert (changed.bool() & ~mask.bool()).sum() == len(query) - 1  # each target token but the last sees one more
    assert loss[0] == other[0] and loss[1] != other[1]  # ranking has no target
    assert not torch.equal(gradient, other_gradient)


@pytest.mark.parametrize("window", [1, 2, 3, 10])
def test_a_window_leaves_what_is_near(window):
    """A span's last row and its last column are the same token."""
    for span in (Span(0, 3, 0, 5, True), Span(0, 4, 0, 4, False)):
        rows, columns = span.end - span.start, span.key_end - span.key_start
        places = torch.arange(columns)
        near = (places[columns - rows :, None] - places).abs() < window
        allowed = torch.ones(rows, columns).tril(columns - rows).bool() if span.causal else torch.ones(rows, columns).bool()
        found = span_mask(span, window)
        assert torch.equal(torch.ones(rows, columns).bool() if found is None else found, allowed & near)


@pytest.mark.parametrize("seed", range(20))
def test_the_spans_of_some_rows_are_those_rows_of_the_mask(seed):
    rng, spans, start = random.Random(seed), [], 0
    for _ in range(rng.randint(1, 5)):
        source, target = rng.randint(0, 4), rng.randint(1, 4)
        spans.append(Span(start, start + source, start, start + source, causal=False))
        spans.append(Span(start + source, start + source + target, start, start + source + target, causal=True))
        start += source + target
    rows = sorted(rng.sample(range(start), rng.randint(1, start)))
    spans = Spans(spans)
    chosen = spans_at(spans, np.array(rows))
    assert [row for span in chosen for row in range(span.start, span.end)] == list(range(len(rows)))
    assert torch.equal(as_matrix(chosen, start), as_matrix(spans, start)[rows])
    fewer = fewest_spans(chosen)
    assert len(fewer) <= len(chosen) and torch.equal(as_matrix(fewer, start), as_matrix(chosen, start))


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_rows_that_stand_alone_are_joined_as_they_are(rows):
    """Each attends to one column more than the one before it, and some of them to as many."""
    causal = [Span(row, row + 1, 0, row + 1, causal=False) for row in range(rows)]
    for spans in (causal, [*causal, Span(rows, rows + 1, 0, rows, causal=False), Span(rows + 1, rows + 3, 0, rows + 2, causal=True)]):
        fewer, tokens = fewest_spans(Spans(spans)), spans[-1].key_end
        assert len(fewer) <= len(spans) - (len(spans) > 1)
        assert torch.equal(as_matrix(fewer, tokens), as_matrix(Spans(spans), tokens))
