"""The systems of the paper (Tables 1 and 2) as data: what each one reads, what it learns, and from which weights."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

FIRST_STAGE = "bm25"
RANK_PREFIX = "rank:"


@dataclass(frozen=True)
class Task:
    """One generative task.

    name: what it is called here. prefix: stands at the start of its input.
    source: what is read, `("passage",)` or `("passage", "query")`. target: what is written, `query` or `answer`.
    """

    name: str
    prefix: str
    source: tuple[str, ...]
    target: str


GENERATIVE_TASKS = {
    "query_generation": Task("query_generation", "sum:", ("passage",), "query"),
    "answer_generation": Task("answer_generation", "answer:", ("passage", "query"), "answer"),
}


class _Labels(dict):
    """What figures and tables call things. What nobody gave a label is called by its name."""

    def __missing__(self, name: str) -> str:
        return name


TASK_LABELS = _Labels({"rank": "ranking"} | {name: name.replace("_", " ") for name in GENERATIVE_TASKS})


def prefixes() -> dict[str, str]:
    """What stands at the start of every task's input, by task."""
    return {"rank": RANK_PREFIX} | {name: task.prefix for name, task in GENERATIVE_TASKS.items()}


@dataclass(frozen=True)
class System:
    """One neural system of the paper.

    name: what it is called here.
    label: what the paper's tables call it.
    backbone: `encoder` (BERT family) or `encoder_decoder` (BART family).
    tasks: what it is trained on: `rank`, and for the multi-task systems some of `GENERATIVE_TASKS`.
    rank_layout: `concatenated` (passage and query in one sequence; an encoder-decoder reads it on both sides),
        `separate` (passage in the encoder, query in the decoder) or `query_first` (query and passage, without a prefix).
    rank_loss: of `RANK_LOSSES`; the paper's are `pairwise` (Eq. 3) and `pointwise`. `margin_mse` learns from the scores
        of the candidates that `train` is given: those of a teacher.
    checkpoint: the pretrained weights that the paper starts from.
    """

    name: str
    label: str
    backbone: str
    tasks: tuple[str, ...]
    rank_layout: str
    rank_loss: str
    checkpoint: str

    @property
    def generative_tasks(self) -> tuple[str, ...]:
        return tuple(task for task in self.tasks if task != "rank")

    @property
    def needs_answers(self) -> bool:
        return any(GENERATIVE_TASKS[task].target == "answer" for task in self.generative_tasks)


_Q = ("rank", "query_generation")
_QA = ("rank", "query_generation", "answer_generation")
_BERT, _BART = "bert-base-uncased", "facebook/bart-base"

SYSTEMS = {
    system.name: system
    for system in (
        System("mono", "mono", "encoder", ("rank",), "concatenated", "pointwise", "bert-large-uncased"),
        System("bert", "BERT", "encoder", ("rank",), "concatenated", "pairwise", _BERT),
        System("gdmtl", "GDMTL", "encoder", _Q, "concatenated", "pairwise", _BERT),
        System("gdmtl_plus", "GDMTL+", "encoder", _QA, "concatenated", "pairwise", _BERT),
        System("bart_s", "BART_S", "encoder_decoder", ("rank",), "separate", "pairwise", _BART),
        System("gdmtl_s", "GDMTL_S", "encoder_decoder", _Q, "separate", "pairwise", _BART),
        System("bart_c", "BART_C", "encoder_decoder", ("rank",), "concatenated", "pairwise", _BART),
        System("gdmtl_c", "GDMTL_C", "encoder_decoder", _Q, "concatenated", "pairwise", _BART),
    )
}
_MONOBERT = ("monobert", "monoBERT", "encoder", ("rank",), "query_first", "pointwise", "castorini/monobert-large-msmarco")
PUBLISHED = {"monobert": System(*_MONOBERT)}
"""Re-rankers that others have trained, beside the paper's systems: no table has them unless they are asked for."""
RANK_LOSSES = {
    "pairwise": "hinge",
    "pointwise": "cross-entropy of relevance",
    "listwise": "softmax over the passages",
    "margin_mse": "squared error of the margin",
}
"""What is learned of a query's passages, and what figures call it."""
LABELS = _Labels({FIRST_STAGE: "BM25"} | {name: system.label for name, system in SYSTEMS.items()})
_OURS = frozenset({"rank", *GENERATIVE_TASKS, *LABELS, *PUBLISHED})  # names that `add_task` and `add_system` do not take


def add_task(task: Task) -> Task:
    """Make a generative task of your own known under its name; one that you added before is replaced. Raises ValueError for
    a name that the library has, and for a source or target that is not there."""
    if task.name in _OURS:
        raise ValueError(f"there is a task {task.name!r} already: choose another name")
    if task.source not in (("passage",), ("passage", "query")) or task.target not in ("query", "answer"):
        raise ValueError(
            f"task {task.name!r}: expected the source ('passage',) or ('passage', 'query') and the target 'query' or "
            f"'answer', found {task.source!r} and {task.target!r}"
        )
    if task.target in task.source:
        raise ValueError(f"task {task.name!r}: its target, the {task.target}, is part of its source: it would be copied")
    GENERATIVE_TASKS[task.name] = task
    TASK_LABELS[task.name] = task.name.replace("_", " ")
    return task


def add_system(system: System) -> System:
    """Make a system of your own known under its name, to `build_model` and everything after it; one that you added before
    is replaced. Raises ValueError for a name that the library has, and for a backbone, layout, loss or task that is not
    there."""
    if system.name in _OURS or system.name != _canonical(system.name) or system.name.split() != [system.name]:
        needed = "a system's name is new and in lower case, without spaces, + and -"
        raise ValueError(f"{needed}, found {system.name!r}; there are {', '.join(LABELS)}")
    for what, found, known in (
        ("backbone", system.backbone, ("encoder", "encoder_decoder")),
        ("rank_layout", system.rank_layout, ("concatenated", "separate", "query_first")),
        ("rank_loss", system.rank_loss, tuple(RANK_LOSSES)),
        ("first task", system.tasks[:1], (("rank",),)),
        *(("task", task, tuple(GENERATIVE_TASKS)) for task in system.tasks[1:]),
    ):
        if found not in known:
            raise ValueError(f"system {system.name!r}: unknown {what} {found!r}, expected one of {known}")
    if (system.backbone == "encoder") == (system.rank_layout == "separate") and system.rank_layout != "concatenated":
        raise ValueError(f"system {system.name!r}: an encoder reads passage and query concatenated")
    SYSTEMS[system.name] = system
    LABELS[system.name] = system.label
    return system


def unknown_name(kind: str, name: object, known: Iterable[str], have: str) -> str:
    """The sentence for a name that is not known: the closest one, and all there are."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"unknown {kind} {name!r}{f' (did you mean {close[0]!r}?)' if close else ''}: {have} {', '.join(known)}"


def _canonical(name: object) -> str:
    return str(name).strip().lower().replace("+", "_plus").replace("-", "_")


def system_name(name: str) -> str:
    """The canonical name of a system: any letter case, `gdmtl+` for `gdmtl_plus`, a hyphen for an underscore.

    Raises ValueError, with the known names, for anything else; `bm25` is a system of the paper and is accepted.
    """
    canonical = _canonical(name)
    if canonical not in LABELS and canonical not in PUBLISHED:
        raise ValueError(unknown_name("system", name, LABELS, "expected one of"))
    return canonical


def get_system(name: str) -> System:
    """The neural system of that name; ValueError for an unknown name and for `bm25`, which has no model."""
    canonical = system_name(name)
    if canonical == FIRST_STAGE:
        raise ValueError(
            f"{FIRST_STAGE} is the first stage and has no model: use bm25_candidates, or one of {', '.join(SYSTEMS)}"
        )
    return SYSTEMS.get(canonical) or PUBLISHED[canonical]
