"""Contenders side by side: they take turns within one process, and what came out is kept, a row a benchmark.

Times are wall-clock seconds of whole calls. Contenders take turns, in the one order and then in the other, so that a
machine that gets slower or faster meanwhile does so for all of them; what is compared is the median of the rounds.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import pandas as pd

from gdmtl_lib.data.files import write_lines

RESULTS = Path(__file__).parents[2] / "papermill_runs" / "bench" / "results.csv"
COLUMNS = ["benchmark", "ours", "other", "ratio", "target", "met", "machine"]


def take_turns(contenders: Mapping[str, Callable[[], object]], rounds: int = 3) -> dict[str, float]:
    """Median seconds of each contender, after a call each that is not counted."""
    seconds = {name: [] for name in contenders}
    for name in contenders:
        contenders[name]()
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            started = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in seconds.items()}


def is_met(ratio: float, target: str) -> bool:
    """target: `at least 1.4` or `at most 0.5`. Raises ValueError for another form."""
    words, _, limit = target.rpartition(" ")
    if words not in ("at least", "at most"):
        raise ValueError(f"a target is `at least <number>` or `at most <number>`, found {target!r}")
    return ratio >= float(limit) if words == "at least" else ratio <= float(limit)


def record(
    benchmark: str, ours: float, other: float, ratio: float, target: str, machine: str | None = None,
    results: Path | None = None,
) -> None:
    """Print one result, and put it in the place of the one that an earlier run left.

    benchmark: what was measured, against what, in which unit. ours, other: in that unit. ratio: what target is about.
    """
    results = results or RESULTS
    row = dict(zip(COLUMNS, (benchmark, ours, other, ratio, target, is_met(ratio, target), machine or machine_name())))
    print(f"\n{benchmark}: {ours:.4g} against {other:.4g}, ratio {ratio:.3g}, {target}: {'met' if row['met'] else 'MISSED'}")
    kept = pd.read_csv(results) if results.exists() else pd.DataFrame(columns=COLUMNS)
    rows = [row if old["benchmark"] == benchmark else old for old in kept.to_dict("records")]
    if row not in rows:
        rows.append(row)
    write_lines(results, [pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, float_format="%.4g")])


def peak_memory() -> int:
    """The most bytes that this process has had in memory at once.

    Linux's own count for this program: the portable one (`ru_maxrss`) starts from what the process that started it held.
    """
    status = Path("/proc/self/status")
    if status.exists():
        [line] = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


def machine_name(device: str = "cpu") -> str:
    """The processor and how many threads compute on it, or the GPU."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} cores"
