"""gdmtl: a companion to "Generalizing Discriminative Retrieval Models using Generative Tasks" (WWW 2021).

The paper stands in the files beside this one. Read them in this order: `systems` (Tables 1 and 2), `inputs` (text to
sequences), `masks` (Eq. 1 and 7), `packing` (sequences to a batch), `models` (Figures 3 and 4) on `pretrained` weights,
`losses` and `joint` (Eq. 2-6). The folders are rooms for all else; each says in its first lines what is in it.

Names are loaded when they are first used, so that `import gdmtl_lib` is instant and evaluation never imports torch.
"""

import sys
from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "load_collection": "data.collection",
    "bm25_candidates": "data.bm25",
    "read_run": "data.trec",
    "read_qrels": "data.trec",
    "build_model": "pretrained",
    "load_model": "pretrained",
    "TrainingSettings": "settings",
    "train": "training.loop",
    "rerank": "inference.rerank",
    "rerank_texts": "inference.rerank",
    "rank": "inference.rerank",
    "generate": "inference.generation",
    "PAPER_MEASURES": "evaluation.measures",
    "evaluate": "evaluation.measures",
    "compare": "evaluation.comparison",
    "open_runs": "experiments.runs",
    "SYSTEMS": "systems",
}
_TOP = ("systems", "settings", "inputs", "masks", "packing", "models", "pretrained", "losses", "joint")
_ROOMS = (
    "backbones", "data", "training", "inference", "evaluation", "inside", "experiments", "sweep", "figures", "widgets"
)  # fmt: skip
_ALIASES = {"plots": "figures", "comparison": "evaluation.comparison", "runs": "data.trec"}
__all__ = sorted([*_HOME, *_TOP, *_ROOMS, *_ALIASES])


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in __all__:
        return import_module(f"{__name__}.{_ALIASES.get(name, name)}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])  # "did you mean"


def __dir__():
    """What a person looks for: the functions, and the modules that the equations stand in; the rooms are there, too."""
    return sorted([*_HOME, *_ALIASES, "evaluation", "losses", "masks", "models", "systems"])
