"""Training in several processes: torchrun outside of the notebook's kernel, which may have touched the GPU already.

The job is a folder, `<output_dir>/job`: what to train, as files. `python -m gdmtl_lib.training <folder>` is what
torchrun runs in every process, on one machine or, with torchrun's own rendezvous, on several.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch

from gdmtl_lib.data.candidates import Candidates
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.data.trec import read_run, write_run
from gdmtl_lib.pretrained import load_model
from gdmtl_lib.settings import TrainingSettings, check_count


def check_processes(processes: int, device: torch.device) -> None:
    """Refuse, with ValueError, so many processes where they could not run: each has a GPU of its own."""
    check_count("processes", processes)
    if device.type == "cuda" and processes > (there := torch.cuda.device_count()):
        raise ValueError(
            f"processes must be at most {there}, the number of GPUs that are visible here, found {processes}: lower "
            "it, or train with device cpu"
        )


def write_job(
    folder: Path, output_dir: Path, model, collection, candidates: pd.DataFrame | Candidates,
    settings: TrainingSettings, validation: pd.DataFrame | None, relevance_level: int,
) -> None:
    """Write a training as files that other processes can read."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder / "initial")
    stored = candidates.folder if isinstance(candidates, Candidates) else None  # every process maps the same files
    if stored is None:
        frame = candidates.frame() if isinstance(candidates, Candidates) else candidates
        write_run(frame, folder / "candidates.trec.gz")
    if validation is not None:
        write_run(validation, folder / "validation.trec.gz")
    job = {
        "collection": collection.name, "read": collection.read_splits, "candidates": stored and str(stored.resolve()),
        "settings": settings.as_dict(), "output_dir": str(output_dir), "relevance_level": relevance_level,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job, indent=2), encoding="utf-8")


def run_job(folder: Path, processes: int, device: torch.device = torch.device("cpu")) -> None:
    """Run a job in some processes of this machine and show what they print. Raises RuntimeError, with the end of it,
    when one of them fails."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
        "-m", "gdmtl_lib.training", str(folder),
    ]
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    environment = {"OMP_NUM_THREADS": threads} | os.environ
    if device.type == "cpu":  # else the first barrier would look for a GPU for each of them
        environment |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    printed = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as child:
        try:
            while chunk := child.stdout.read1(4096):
                sys.stderr.write(chunk.decode(errors="replace"))
                printed = (printed + chunk)[-20_000:]
        except BaseException:
            child.terminate()
            raise
    if child.returncode != 0:
        lines = printed.decode(errors="replace").strip().splitlines()
        # What a process ended with stands above what torchrun says of that.
        said = [line for line in lines if re.match(r"(\[rank\d+\]: ?)?[\w.]+(Error|Exception): ", line)][:1]
        failed = f"training in {processes} processes failed (exit code {child.returncode}):"
        raise RuntimeError("\n".join([failed, *said, *lines[-25:]]))


def read_job(folder: Path) -> dict:
    """The arguments of `train` for one process of a job."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    stored, validation = job["candidates"], folder / "validation.trec.gz"
    return job | {
        "model": load_model(folder / "initial"),
        "collection": load_collection(job["collection"]).reading(job.pop("read")),
        "candidates": Candidates.open(stored, check=False) if stored else read_run(folder / "candidates.trec.gz"),
        "settings": TrainingSettings(**job["settings"]),
        "validation": read_run(validation) if validation.is_file() else None,
    }
