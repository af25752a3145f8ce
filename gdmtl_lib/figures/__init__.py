"""Frames in, matplotlib Figures out; no statistics are computed here. `gdmtl.plots` is this room.

Imports `evaluation`, `inside` and what these import.
"""

from importlib import import_module

_NAMES = {
    "style": "GAIN LOSS STYLE save_figure written",
    "results": "categories cost differences effectiveness judgment_holes pair pair_intervals query_deltas rank_shifts "
    "score_distributions twins win_tie_loss",
    "studies": "choices cost_and_effectiveness denoising gains learning_curves loss_weighting ranking_against_generation "
    "recall_by_count training_curves training_size",
    "collection": "category_shares judgment_grades recall_by_depth text_lengths",
    "masks": "attention_masks expansion mixed_mask",
    "architectures": "block_diagrams interactions",
    "inside": "attention_map attention_overview attributions block_shares gradient_cosines head_changes heads_on_a_pair "
    "query_attention",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    """A figure is loaded when it is first used: those of results need no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
