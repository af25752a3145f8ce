"""The systems of the paper (Tables 1 and 2) as data: what each one reads, what it learns, and from which weights."""

from dataclasses import dataclass

TASKS = ("rank", "query_generation", "answer_generation")
FIRST_STAGE = "bm25"


@dataclass(frozen=True)
class System:
    """One neural system of the paper.

    name: what it is called here.
    label: what the paper's tables call it.
    backbone: `encoder` (BERT family) or `encoder_decoder` (BART family).
    tasks: what it is trained on: `rank`, and for the multi-task systems `query_generation` (passage -> query)
        and `answer_generation` (passage and query -> answer).
    rank_layout: `concatenated` (passage and query in one sequence; an encoder-decoder reads it on both sides) or
        `separate` (passage in the encoder, query in the decoder).
    rank_loss: `pairwise` (hinge, Eq. 3) or `pointwise` (cross-entropy of each passage's relevance).
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
LABELS = {FIRST_STAGE: "BM25"} | {name: system.label for name, system in SYSTEMS.items()}


def system_name(name: str) -> str:
    """The canonical name of a system: any letter case, `gdmtl+` for `gdmtl_plus`, a hyphen for an underscore.

    Raises ValueError, with the known names, for anything else; `bm25` is a system of the paper and is accepted.
    """
    canonical = str(name).strip().lower().replace("+", "_plus").replace("-", "_")
    if canonical not in LABELS:
        raise ValueError(f"unknown system {name!r}: expected one of {', '.join(LABELS)}")
    return canonical


def get_system(name: str) -> System:
    """The neural system of that name; ValueError for an unknown name and for `bm25`, which has no model."""
    canonical = system_name(name)
    if canonical == FIRST_STAGE:
        raise ValueError(
            f"{FIRST_STAGE} is the first stage and has no model: use bm25_candidates, or one of {', '.join(SYSTEMS)}"
        )
    return SYSTEMS[canonical]
