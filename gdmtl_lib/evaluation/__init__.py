"""Measures, significance tests and the paper's tables; no torch.

Imports only the ground: `systems`, `settings`, `data`.
"""

from .measures import PAPER_MEASURES, PAPER_NAMES, effectiveness_table, evaluate, read_values, summarize, write_values

__all__ = [
    "PAPER_MEASURES", "PAPER_NAMES", "effectiveness_table", "evaluate", "read_values", "summarize", "write_values",
]  # fmt: skip
