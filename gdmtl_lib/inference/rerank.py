"""Re-ranking: candidates in, run out, by the ranking head, by the query's likelihood, or by both."""

import os
import shutil
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from gdmtl_lib.backbones.devices import pick_device, pick_precision
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.data.files import as_path, hold_lock
from gdmtl_lib.data.provenance import made_from
from gdmtl_lib.data.trec import as_candidates, with_scores, write_ordered
from gdmtl_lib.inputs import as_texts
from gdmtl_lib.packing import BATCH_TOKENS
from gdmtl_lib.pretrained import load_model
from gdmtl_lib.settings import check_count, is_number

from .likelihood import interpolate, query_likelihood
from .processes import score_in_processes
from .scoring import PartialScores, score_candidates, score_pairs

CHUNK_PAIRS = 4096
SCORES = ("rank", "likelihood", "interpolated")


def rerank(
    model, collection, candidates: pd.DataFrame | str | os.PathLike, output: str | os.PathLike | None = None,
    batch_tokens: int | None = None, precision: str = "fp32", device: str = "auto", progress: bool = True,
    score: str = "rank", weight: float | None = None, states=None, processes: int = 1,
) -> pd.DataFrame:
    """Score every candidate with the model and order each query's candidates by it.

    model: from `build_model`, `load_model` or trained; or the folder of a checkpoint. collection: looks up texts by id;
        or what `load_collection` takes. candidates: query_id, doc_id (and whatever else); or a TREC run's path.
    output: also write the run there as a TREC file, and resume a call that was interrupted from what is beside it
        (`<output>.partial`, or `<output>.processes`), if model, candidates and number of processes are the same.
    batch_tokens: tokens of one pass; only speed and memory depend on it.
    precision: `fp32`; `bf16` or `fp16` for the backbone (the heads always compute in fp32); `auto`: bf16 where the
        hardware is fast at it. device: as in TrainingSettings.
    score: `rank`, the ranking head's; `likelihood`, log P(query | passage); `interpolated`, both, the likelihood with
        `weight` (see `likelihood.interpolate`). Only `rank` resumes and takes `processes`.
    states: of the likelihood: a folder that keeps the passages' states for later runs, or `StoredStates` with a limit.
    processes: so many of this machine share the candidates, each with a GPU, or a share of them or of the CPU's cores.
        The collection has to be one that `load_collection` finds by its name.

        run = gdmtl.rerank("mine/checkpoint", "sample", "bm25.run", output="mine.run")

    Returns a run: query_id, doc_id, score, rank. Raises ValueError for candidates that are no run, for an output that is
    their file, for unknown ids and for an unknown score; RuntimeError where another process is writing this output, and,
    with the end of what it printed, where one of several processes fails.
    """
    _check_score(score, weight, states, processes)
    check_count("batch_tokens", batch_tokens, may_lack=True)
    output = None if output is None else as_path(output, "output")
    is_file = isinstance(candidates, str | os.PathLike)
    if output is not None and is_file and output.resolve() == as_path(candidates, "candidates").resolve():
        raise ValueError(f"output: expected another file than that of the candidates, found {str(output)!r}")
    model, collection, candidates = load_model(model), load_collection(collection), as_candidates(candidates)
    if output is not None and (not output.name or output.is_dir()):
        raise ValueError(f"output: expected a file to write the run to, found the folder {str(output)!r}")
    how = dict(batch_tokens=batch_tokens, precision=precision, device=device, progress=progress)
    # Two processes would mix their scores in one partial file.
    lock = output and hold_lock(output.with_name(f".{output.name}.lock"), f"{output} is being written already")
    with lock or nullcontext():
        if score == "rank":
            run = _by_ranking_head(model, collection, candidates, output, processes, **how)
        else:
            run = query_likelihood(model, collection, candidates, states=states, **how)
        if score == "interpolated":
            run = interpolate(_by_ranking_head(model, collection, candidates, None, 1, **how), run, weight)
        if output is not None:
            write_ordered(run, output, tag=model.system.name if score == "rank" else f"{model.system.name}_{score}")
            _beside(output, "partial").unlink(missing_ok=True)
            shutil.rmtree(_beside(output, "processes"), ignore_errors=True)
    return run


def rerank_texts(model, query: str, passages: Iterable[str] | str) -> np.ndarray:
    """Scores of some passages (or of one) for a query, float32, in the order given; the higher, the more relevant.

        gdmtl.rerank_texts(model, "why is ice blue", ["Ice absorbs red light.", "Lava is hot."])

    model: from `build_model`, `load_model` or trained; or the folder of a checkpoint. It computes where it is: a CPU, until
    `model.to("cuda")`. Raises ValueError for a query or a passage that is no text.
    """
    if not isinstance(query, str):
        raise ValueError(f"expected a text as query, found {query!r}: give one query and its passages")
    passages = as_texts(passages, "passage")
    return score_pairs(load_model(model).eval(), [(query, passage) for passage in passages])


def rank(model, query: str, passages: Iterable[str] | str) -> pd.DataFrame:
    """Some passages ordered for a query, the best first: `rank` (from 1), `score`, `text`, and in the index the place
    (from 0) among those given. Equal scores keep that order. Args and raises: as `rerank_texts`.

        gdmtl.rank("mine/checkpoint", "how do lava caves form", ["Ice is blue.", "A lava stream leaves a cave."])
    """
    passages = as_texts(passages, "passage")
    table = pd.DataFrame({"score": rerank_texts(model, query, passages), "text": pd.Series(passages, dtype=str)})
    table = table.sort_values("score", ascending=False, kind="stable")
    return table.assign(rank=range(1, len(table) + 1))[["rank", "score", "text"]]


def _check_score(score: str, weight: float | None, states, processes: int) -> None:
    """Refuse with ValueError an unknown score, and what is missing for it or does not belong to it."""
    check_count("processes", processes)
    if score not in SCORES:
        hint = "; 'joint' is now called 'interpolated'" if score == "joint" else ""
        raise ValueError(f"unknown score {score!r}: expected one of {', '.join(SCORES)}{hint}")
    if processes > 1 and score != "rank":
        raise ValueError(f"several processes share the score 'rank' alone, but score is {score!r}: leave processes out")
    if weight is None and score == "interpolated":
        raise ValueError(
            f"score {score!r} needs a weight for the likelihood: choose it on a validation split with choose_weight"
        )
    if weight is not None and not is_number(weight):
        raise ValueError(f"weight must be a number, found {weight!r}")
    if weight is not None and score != "interpolated":
        raise ValueError(f"weight belongs to score 'interpolated', but score is {score!r}: leave weight out")
    if states is not None and score == "rank":
        raise ValueError("states are those of the likelihood, but score is 'rank': leave states out")


def _by_ranking_head(
    model, collection, candidates, output, processes, batch_tokens, precision, device, progress
) -> pd.DataFrame:
    device = pick_device(device)
    precision, budget = pick_precision(precision, device), batch_tokens or BATCH_TOKENS[device.type]
    is_shared = processes > 1 and len(candidates) > CHUNK_PAIRS  # or there is but one chunk
    record = {}
    if output is not None or is_shared:
        record = made_from(model, collection, candidates, precision, chunk_pairs=CHUNK_PAIRS)
    with tqdm(total=len(candidates), desc=f"re-ranking with {model.system.name}", disable=not progress) as bar:
        if is_shared:
            folder = output and _beside(output, "processes")
            how = (processes, folder, record, budget, device, bar.update)
            scores = score_in_processes(model, collection, candidates, *how)
        else:
            partial = output and PartialScores(_beside(output, "partial"), record)
            how = (CHUNK_PAIRS, budget, precision, device, bar.update, partial)
            scores = score_candidates(model, collection, candidates, *how)
    return with_scores(candidates, scores)


def _beside(output: Path, what: str) -> Path:
    return output.with_name(f"{output.name}.{what}")
