"""Generation with a system's language-model heads: a passage in, a query (or an answer) out.

The passage's states are computed once, and each token against them.
"""

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor

from .decoding import Decoding
from gdmtl_lib.backbones.devices import pick_device
from gdmtl_lib.inputs import TokenSequence, as_texts
from gdmtl_lib.packing import by_budget
from gdmtl_lib.pretrained import load_model
from gdmtl_lib.data.splits import stable_hash
from gdmtl_lib.settings import check_count
from .prefix_cache import Continuation, encode_sources
from .scoring import scorer_on
from gdmtl_lib.systems import GENERATIVE_TASKS, SYSTEMS

# Tokens whose states are kept for the texts that are written together: a token at a time of few texts would read all
# weights for little work.
KEPT_TOKENS = {"cpu": 16384, "mps": 16384, "cuda": 131072}
BY_DEFAULT = {("passage",): "query_generation", ("passage", "query"): "answer_generation"}


@torch.inference_mode()
def generate(
    model, passages: Iterable[str] | str, queries: Iterable[str] | str | None = None, max_tokens: int = 32, *,
    task: str | None = None, method: str = "greedy", n: int | None = None, beams: int | None = None,
    top_k: int | None = None, top_p: float | None = None, temperature: float | None = None, seed: int | None = None,
    batch_size: int | None = None, device: str = "auto",
) -> list[str] | list[list[str]]:
    """Write the query each passage would answer or, given the queries too, the answer.

    model: of a system that generates, or the folder of its checkpoint. passages: texts, or one text. queries: one a
    passage, for tasks that read them.
    max_tokens: the longest text to write, at most what the system learned to. task: a generative task of the system; by
    default its first one that reads what is given. method, beams, top_k, top_p, temperature, seed: how a token is
    chosen, as in `decoding.Decoding`. n: texts a passage. batch_size: passages computed together.
    device: as in TrainingSettings; the model goes back to where it was.

        gdmtl.generate(model, "Glacier ice looks blue because it absorbs red light.", method="sample", n=3)

    Returns one text a passage or, where `n` is given, a list of n texts a passage; an empty one where the model, little
    trained perhaps, ends it at once.
    Raises ValueError for a system that does not learn the task, a number of queries that does not fit, and settings
    out of range or of another method.
    """
    model = load_model(model)
    decoding = Decoding(method, n, beams, top_k, top_p, temperature, seed)
    task = _checked_task(model, task, queries is not None)
    check_count("max_tokens", max_tokens)
    check_count("batch_size", batch_size, may_lack=True)
    passages = as_texts(passages, "passage")
    queries = [""] * len(passages) if queries is None else as_texts(queries, "query")
    if len(queries) != len(passages):
        raise ValueError(f"expected one query a passage: found {len(passages)} passages and {len(queries)} queries")
    builder, device = model.input_builder(), pick_device(device)
    limit = min(max_tokens, builder.target_length - 1)
    tokens = zip(builder.passage_tokens(passages), builder.tokens(queries))
    sources = [builder.generation(task, passage, query, []) for passage, query in tokens]
    written: list[list[str]] = [[] for _ in passages]
    lengths = [decoding.width * (source.source_length + limit) for source in sources]
    order = sorted(range(len(sources)), key=lambda i: -lengths[i])
    sizes, budget = (lengths, KEPT_TOKENS[device.type]) if batch_size is None else ([1] * len(order), batch_size)
    with scorer_on(model, device, "fp32") as writer:
        for batch in by_budget(order, sizes, budget):
            seeds = [stable_hash(seed or 0, passages[i], queries[i]) for i in batch]
            numbers = [torch.rand(n or 1, limit, generator=torch.Generator().manual_seed(each)) for each in seeds]
            steps = _Steps(writer, task, [sources[i] for i in batch])
            for i, texts in zip(batch, decoding.write(steps, torch.stack(numbers).to(device), builder.end)):
                # Byte-level vocabularies have line ends and tabs, and a text is a field of a line wherever it is written.
                decoded = [" ".join(model.tokenizer.decode(text, skip_special_tokens=True).split()) for text in texts]
                written[i] = decoded + [""] * ((n or 1) - len(decoded))
    return written if n is not None else [texts[0] for texts in written]


class _Steps:
    """What `Decoding.write` asks for."""

    def __init__(self, model, task: str, sources: list[TokenSequence]):
        self._continuation = Continuation(model, encode_sources(model, sources))
        self._head, self._embeddings = model.generation_heads[task], model.get_input_embeddings().weight

    def start(self) -> Tensor:
        return self._head(self._continuation.start(), self._embeddings)

    def step(self, tokens: Tensor) -> Tensor:
        return self._head(self._continuation.advance(tokens[:, None])[:, 0], self._embeddings)

    def select(self, rows: Tensor) -> None:
        self._continuation = self._continuation.select(rows)


def check_learns(model, task: str) -> None:
    """Refuse with ValueError a model whose system does not learn a generative task, naming those that do."""
    if task not in model.system.generative_tasks:
        able = ", ".join(name for name, system in SYSTEMS.items() if task in system.tasks)
        raise ValueError(f"{model.system.name} does not learn {task}, as these do: {able or 'none'}")


def _checked_task(model, task: str | None, has_queries: bool) -> str:
    source = ("passage", "query") if has_queries else ("passage",)
    fitting = [name for name in model.system.generative_tasks if GENERATIVE_TASKS[name].source == source]
    task = task or next(iter(fitting), BY_DEFAULT[source])
    if task not in GENERATIVE_TASKS:
        raise ValueError(f"unknown task {task!r}: expected one of {', '.join(GENERATIVE_TASKS)}")
    if GENERATIVE_TASKS[task].source != source:
        others = " or ".join(repr(name) for name, other in GENERATIVE_TASKS.items() if other.source == source)
        raise ValueError(
            f"task {task!r} needs `queries`, one a passage" if not has_queries else
            f"task {task!r} takes no queries: leave them out, or ask for {others}"
        )  # fmt: skip
    check_learns(model, task)
    return task


def compare_with_queries(model, passages: Iterable[str], queries: Iterable[str], device: str = "auto") -> pd.DataFrame:
    """Passages with the query that was asked and the one the model writes: passage, query, generated. device: as for `generate`."""
    passages = list(passages)
    return pd.DataFrame({"passage": passages, "query": list(queries), "generated": generate(model, passages, device=device)})
