"""gdmtl: a companion to "Generalizing Discriminative Retrieval Models using Generative Tasks" (WWW 2021).

Names are loaded when they are first used, so that `import gdmtl_lib` is instant and evaluation never imports torch.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "load_collection": "collections",
    "bm25_candidates": "first_stage",
    "build_model": "models",
    "load_model": "models",
    "TrainingSettings": "settings",
    "train": "training",
    "rerank": "reranking",
    "rerank_texts": "reranking",
    "generate": "generation",
    "PAPER_MEASURES": "evaluation",
    "evaluate": "evaluation",
    "compare": "comparison",
    "SYSTEMS": "systems",
}
_MODULES = {
    "systems", "checkpoints", "collections", "sampling", "first_stage", "inputs", "instances", "masks", "attention",
    "models", "losses", "settings", "training", "reranking", "generation", "runs", "evaluation", "comparison",
    "results", "plots", "mask_plots", "attention_plots", "attention_maps", "inspection", "overview", "overview_plots",
    "paper", "widgets", "mask_widgets", "notebook", "studies", "study_plots", "study_widgets", "transfer",
    "transfer_plots", "costs", "interactions", "architecture_plots", "folds", "first_stage_tuning", "enrichment",
    "decoding", "likelihood", "generated_queries", "gradients", "attribution", "encoders", "stored_states",
    "gradient_study", "inside_plots", "inside_widgets", "generative_widgets",
}  # fmt: skip
__all__ = sorted(_HOME) + sorted(_MODULES)


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
