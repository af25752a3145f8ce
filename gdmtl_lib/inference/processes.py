"""Re-ranking in several processes of this machine: of n, number i scores the chunks i, i + n, ... of the candidates.

The job is a folder: the model, each process's candidates, and its scores so far (`scores.<i>`), which stay when it is
interrupted. The chunks are those of a single process, so the scores are the same: to the bit on as many threads, or on
GPUs.
"""

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import torch

from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.backbones.gpus import visible_gpus
from gdmtl_lib.pretrained import load_model
from .scoring import PartialScores, score_candidates
from gdmtl_lib.data.trec import read_run, whole_queries, write_ordered

SCORED = "pairs scored: "  # begins a line by which a process tells its progress


def score_in_processes(
    model, collection, candidates: pd.DataFrame, processes: int, folder: Path | None, key: Mapping, batch_tokens: int,
    device: torch.device, on_progress: Callable[[int], object],
) -> np.ndarray:
    """`score_candidates` in so many processes, at most one a chunk. folder: keeps the scores of an interrupted call.
    key: what the scores depend on. Raises as `run_processes`, and ValueError for a collection without a name."""
    require_name(collection)
    chunks = list(whole_queries(candidates["query_id"], key["chunk_pairs"]))
    processes = min(processes, len(chunks))
    keys = [{**key, "process": [number, processes]} for number in range(processes)]
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as home:
        home = Path(home).resolve()
        try:
            model.save_pretrained(home / "model")
            for number in range(processes):
                # As a run that keeps their order, which decides what is computed together.
                rows = np.concatenate(chunks[number::processes])
                pairs = candidates[["query_id", "doc_id"]].iloc[rows].reset_index(drop=True)
                rank = pairs.groupby("query_id", sort=False).cumcount() + 1
                ordered = pairs.assign(score=-rank.astype(np.float32), rank=rank)
                write_ordered(ordered, home / f"candidates.{number}.trec")
            job = {"collection": collection.name, "read": collection.read_splits, "keys": keys, "batch_tokens": batch_tokens,
                   "device": device.type}  # fmt: skip
            (home / "job.json").write_text(json.dumps(job, indent=2), encoding="utf-8")
            commands = [[sys.executable, "-m", "gdmtl_lib.inference", str(home), str(i)] for i in range(processes)]
            run_processes(commands, environments(processes, device.type), on_progress)
            scores = np.empty(len(candidates), dtype=np.float32)
            for number in range(processes):
                partial = PartialScores(home / f"scores.{number}", keys[number])
                for place, rows in enumerate(chunks[number::processes]):
                    scores[rows] = partial.chunks[place]
        finally:  # nothing stays but the scores
            shutil.rmtree(home / "model", ignore_errors=True)
            for path in [*home.glob("candidates.*"), *home.glob("job.json")]:
                path.unlink()
            if home.is_dir() and not any(home.iterdir()):
                home.rmdir()
    return scores


def environments(processes: int, device: str) -> list[dict[str, str]]:
    """Each process's environment: a share of this one's threads, and a GPU of its own as long as there are enough;
    where they compute on the CPU they see none, so that nothing can look for one."""
    gpus = visible_gpus() if device == "cuda" else [""]
    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes))}
    return [
        os.environ | threads | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})
        for number in range(processes)
    ]


def run_processes(
    commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]], on_progress: Callable[[int], object]
) -> None:
    """Run commands side by side until all have ended; whatever ends this ends them. on_progress: called with the
    numbers that they print after `SCORED`. Raises RuntimeError, with the end of what it printed, when one fails."""
    children, printed = [], queue.SimpleQueue()
    tails = [deque(maxlen=25) for _ in commands]
    try:
        for number, (command, environment) in enumerate(zip(commands, environments, strict=True)):
            # A pipe to read from that is never written to: where it ends, this process has.
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
                text=True, encoding="utf-8", errors="replace",
            )  # fmt: skip
            children.append(child)
            Thread(target=_follow, args=(number, child, printed), daemon=True).start()
        running = len(children)
        while running:
            number, line = printed.get()
            if line is None:
                running -= 1
                if code := children[number].wait():
                    raise RuntimeError(
                        f"re-ranking in {len(commands)} processes failed (number {number}, exit code {code}):\n"
                        + "\n".join(tails[number])
                    )
            elif line.startswith(SCORED):
                on_progress(int(line.removeprefix(SCORED)))
            else:
                tails[number].append(line)
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdin.close()


def _follow(number: int, child: subprocess.Popen, printed: queue.SimpleQueue) -> None:
    with child.stdout:
        for line in child.stdout:
            printed.put((number, line.rstrip()))
    printed.put((number, None))


def require_name(collection) -> None:
    """Refuse, with ValueError, a collection that other processes cannot open."""
    try:
        found = load_collection(collection.name).fingerprint()
    except (FileNotFoundError, ValueError) as error:
        found = error
    if found != collection.fingerprint():
        raise ValueError(
            "several processes open the collection by its name: expected one that load_collection finds, found "
            f"{collection.name!r} ({found if isinstance(found, Exception) else 'whose texts are others'}); use one "
            "process, or write it into a folder"
        )


def main(folder: Path, number: int) -> None:
    """One process of a job."""
    Thread(target=_end_with_parent, daemon=True).start()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    key, collection = job["keys"][number], load_collection(job["collection"]).reading(job["read"])
    score_candidates(
        load_model(folder / "model"), collection, read_run(folder / f"candidates.{number}.trec"),
        key["chunk_pairs"], job["batch_tokens"], key["precision"], torch.device(job["device"]),
        lambda pairs: print(f"{SCORED}{pairs}", flush=True), PartialScores(folder / f"scores.{number}", key),
    )  # fmt: skip


def _end_with_parent() -> None:
    """End at once where the process that started this one has been killed: a second call may write these scores."""
    os.read(sys.stdin.fileno(), 1)  # past Python's buffer, whose lock would be held when this process ends by itself
    os._exit(1)
