"""What a job takes, calculated before it runs: operations from the config and the texts, seconds from this machine's
measured speed. An estimate, within a factor of about two: what is read besides matrix products is a share of their time
(EFFICIENCY), and of a notebook that computes little its usual seconds count."""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from gdmtl_lib.backbones.gpus import visible_gpus
from gdmtl_lib.data.collection import Collection
from gdmtl_lib.data.files import cache_folder
from gdmtl_lib.systems import SYSTEMS, get_system

# Of matrix products alone, a training or re-ranking reaches this share; on a GPU the host keeps it waiting.
EFFICIENCY, GPU_EFFICIENCY = 0.6, 0.15
GPU_RATE = 5e14  # operations a second of bf16 products, where a GPU cannot be measured from here
START, NOTEBOOK = 5.0, 12.0  # seconds
SEARCH, INDEX = 0.004, 1e-4  # seconds a query that BM25 answers, a passage that is indexed
PIECES = 1.3  # word pieces a word
# By the hub's id, so that nothing has to be there to be counted; None is MiniLM. Layers, hidden size, feed-forward,
# vocabulary.
_SHAPES = {
    None: (6, 384, 1536, 30522), "bert-base-uncased": (12, 768, 3072, 30522),
    "bert-large-uncased": (24, 1024, 4096, 30522), "facebook/bart-base": (6, 768, 3072, 50265),
}  # fmt: skip


@dataclass
class Costs:
    """Seconds and operations of a sweep's jobs.

    passages: how many BM25 searches. passage, query: mean lengths in tokens. defaults: 03_train's parameters.
    """

    passages: int
    passage: float
    query: float
    defaults: Mapping

    @classmethod
    def of(cls, collection: Collection, train_split: str, defaults: Mapping) -> "Costs":
        """Those on a collection; lengths are means over 200 judged pairs of the training split."""
        pairs = collection.qrels(train_split).head(200)
        lengths = (
            PIECES * float(np.mean([len(text.split()) for text in texts] or [1])) + 3
            for texts in (collection.text(pairs["doc_id"]), collection.query_texts(pairs["query_id"]))
        )
        return cls(collection.passage_count(), *lengths, defaults)

    def _operations(self, system: str, given: Mapping) -> tuple[float, float]:
        """Of a ranking input, and of a pair of source and target with its logits: forward passes."""
        settings, kind = self.defaults | given, get_system(system)
        shaped = shape(settings["checkpoint"], settings["layers"])
        source, target = int(min(self.passage, settings["max_length"])), int(min(self.query, settings["target_length"]))
        if kind.backbone == "encoder":
            rank = generate = _passes(shaped, min(source + target, settings["max_length"]))
        else:
            rank = _passes(shaped, *((source, target) if kind.rank_layout == "separate" else (source + target, source + target)))
            generate = _passes(shaped, source, target)
        return rank, generate + 2 * target * shaped[1] * shaped[3]

    def searching(self, queries: int, index: Collection | bool = False) -> float:
        """Seconds of BM25 over so many queries. index: the collection that has to be indexed before, True for the own."""
        passages = index.passage_count() if isinstance(index, Collection) else self.passages * bool(index)
        return START + SEARCH * queries + INDEX * passages

    def computing(self, operations: float, processes: int = 1) -> float:
        """Seconds of a notebook or job that does so many operations."""
        return NOTEBOOK + operations / speed() / (processes if visible_gpus() else 1)

    def ranking(self, system: str, given: Mapping, pairs: int) -> float:
        """Operations of re-ranking so many pairs."""
        return self._operations(system, given)[0] * pairs

    def denoising(self, given: Mapping, steps: int) -> float:
        """Operations of so many steps of eight passages, cut to a quarter of `max_length`, written out of themselves."""
        settings = self.defaults | given
        shaped = shape(settings["checkpoint"], settings["layers"])
        tokens = int(min(self.passage, settings["max_length"] / 4))
        return 3 * 8 * steps * (_passes(shaped, tokens, tokens) + 2 * tokens * shaped[1] * shaped[3])

    def training(self, system: str, given: Mapping, relevant: int, validated: int) -> float:
        """Operations of a training: three times a forward pass for each sequence of each instance, and the re-ranking of
        the validation split. relevant: pairs to learn from. validated: pairs of that split."""
        settings, (rank, generate) = self.defaults | given, self._operations(system, given)
        tasks = len(SYSTEMS[system].generative_tasks)
        ranks = (1 + settings["negatives"]) * (settings["loss_weighting"] != "generation")
        instance = ranks * rank + tasks * generate
        measured = settings["epochs"] + 1 if settings["validate_every_epoch"] else 1
        return (
            3 * instance * relevant * settings["train_fraction"] * settings["epochs"]
            + 3 * generate * settings["batch_size"] * settings["generation_head_warmup_steps"] * min(1, tasks)
            + rank * validated * measured
        )


def _passes(shaped: tuple[int, int, int, int], read: int, written: int = 0) -> float:
    """Operations of an encoder over so many tokens and, where some are written, of a decoder over those, which looks at
    what was read: a multiplication and an addition each. In closed form, since planning does without torch."""
    layers, hidden, forward, _ = shaped
    own = [8 * tokens * hidden**2 + 4 * tokens**2 * hidden + 4 * tokens * hidden * forward for tokens in (read, written)]
    crossed = 4 * (written + read) * hidden**2 + 4 * written * read * hidden if written else 0
    return layers * (sum(own) + crossed)


def shape(checkpoint: str | None, layers: int | None = None) -> tuple[int, int, int, int]:
    """Layers, hidden size, feed-forward size and vocabulary of a checkpoint; BERT-base's of one that is not here and
    not known. layers: how many are kept."""
    known = _SHAPES.get((checkpoint or "").partition("@")[0] or None, _SHAPES["bert-base-uncased"])
    if checkpoint and (file := Path(checkpoint).expanduser() / "config.json").is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
        names = (("num_hidden_layers", "encoder_layers"), ("hidden_size", "d_model"), ("intermediate_size", "encoder_ffn_dim"),
                 ("vocab_size",))  # fmt: skip
        known = tuple(next((config[name] for name in of if name in config), usual) for of, usual in zip(names, known))
    return (min(layers or known[0], known[0]), *known[1:])


def parameters_of(system: str, checkpoint: str | None, layers: int | None = None) -> int:
    """About how many parameters a system has."""
    layers, hidden, forward, vocabulary = shape(checkpoint, layers)
    of_layer = 4 * hidden**2 + 2 * hidden * forward
    decoder = 0 if get_system(system).backbone == "encoder" else layers * (of_layer + 4 * hidden**2)
    return vocabulary * hidden + layers * of_layer + decoder


@cache
def speed() -> float:
    """Operations a second that a training gets here: of a GPU, or of all cores, measured by products of matrices."""
    if not visible_gpus():
        a, b = (np.ones(shape, dtype=np.float32) for shape in ((768, 768), (768, 3072)))
        return _rate(lambda: a @ b, 2 * 768 * 768 * 3072) * EFFICIENCY * _gain()
    if (torch := sys.modules.get("torch")) is None:  # planning does without; `make check` measures
        return GPU_RATE * GPU_EFFICIENCY
    a = torch.ones(8192, 8192, dtype=torch.bfloat16, device="cuda")
    return _rate(lambda: (a @ a, torch.cuda.synchronize()), 2 * 8192**3) * GPU_EFFICIENCY


def _gain() -> float:
    """How much faster than in fp32 a training multiplies on this CPU, by what `backbones.devices.products_measured` has
    kept last; 1 before the first training, since planning does without torch."""
    try:
        kept = max(cache_folder("products").glob("*.json"), key=os.path.getmtime)
        seconds = json.loads(kept.read_text())["training"]
        return max(1.0, seconds["mkl"] / min(seconds.values()))
    except (OSError, ValueError, KeyError, TypeError):  # not there yet, or spoiled
        return 1.0


def busy() -> str:
    """Said of a speed that was measured while other programs take more than half of the cores, the measuring one aside."""
    return ", measured while other programs compute: alone it is faster" * (os.getloadavg()[0] - 1 > (os.cpu_count() or 1) / 2)


def _rate(compute, operations: float) -> float:
    """Operations a second, of the fastest of a few calls."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - started)
    return operations / min(seconds)


def in_words(seconds: float) -> str:
    """`about 20 minutes`, `about 3 hours`, `under a minute`."""
    if seconds < 60:
        return "under a minute"
    size, unit = next((size, unit) for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")) if seconds >= 1.5 * size or size == 60)
    count = max(1, round(seconds / size))
    return f"about {count} {unit}{'s' if count > 1 else ''}"
