"""Pretrained weights, and the same forward pass computed fast: checkpoints, encoder families, attention over spans.

Imports only the ground: `systems`, `settings`, `masks`, `losses`, `data`.
"""
