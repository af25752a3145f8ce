"""What the tests of the backbones share."""

import random

import torch

from gdmtl_lib.masks import Span, Spans, mixed_attention_mask


def random_batch(seed: int, heads: int = 3, width: int = 8):
    """Random packed sequences: their spans, the literal mask [t, t], and q, k, v [1, h, t, d]."""
    rng, spans, blocks, start = random.Random(seed), [], [], 0
    for _ in range(rng.randint(1, 5)):
        source, target = rng.randint(1, 7), rng.choice([0, rng.randint(1, 6)])
        spans.append(Span(start, start + source, start, start + source, causal=False))
        if target:
            end = start + source + target
            spans.append(Span(start + source, end, start, end, causal=True))
        segments = torch.tensor([[0] * source + [1] * target])
        blocks.append(mixed_attention_mask(segments, torch.ones_like(segments).bool())[0])
        start += source + target
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(3, 1, heads, start, width, generator=generator)
    return Spans(spans), torch.block_diag(*blocks).bool(), qkv
