"""Pretrained weights, and the same forward pass computed fast (`reference` switches that off): checkpoints, families, attention.

Imports only the ground: `systems`, `settings`, `masks`, `losses`, `data`.
"""
