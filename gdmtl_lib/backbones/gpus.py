"""The GPUs of this machine, shared out among the jobs of a sweep."""

import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path

from gdmtl_lib.data.files import try_lock

LOOK_AGAIN_SECONDS = 1.0  # whether a GPU has become free


def visible_gpus() -> list[str]:
    """The GPUs that jobs may be given, as CUDA_VISIBLE_DEVICES names them; CUDA itself takes seconds to start."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names = (name.strip() for name in chosen.split(","))
        return [name for name in takewhile(lambda name: not name.startswith("-"), names) if name]
    # CUDA counts from 0, a container's only device may be called nvidia3.
    return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


@contextmanager
def own_gpus(given: Mapping) -> Iterator[None]:
    """Give a job as many GPUs as it has processes, none of them in use by another job of this machine (a lock says so);
    where too few are free it waits. Without GPUs nothing happens. given: 03_train's parameters, of which `device` and
    `processes` count."""
    gpus = [] if given.get("device") == "cpu" else list(dict.fromkeys(visible_gpus()))
    if not gpus:
        yield
        return
    count, own, waits = min(given.get("processes", 1), len(gpus)), [], False
    with ExitStack() as stack:
        with try_lock(_lock("next"), wait=True):  # one job takes GPUs at a time, or two would wait for each other's
            while len(own) < count:
                for gpu in gpus:
                    with ExitStack() as attempt:
                        if len(own) < count and gpu not in own and attempt.enter_context(try_lock(_lock(gpu))):
                            stack.push(attempt.pop_all())
                            own.append(gpu)
                if len(own) < count:
                    if not waits:
                        print(f"waiting for {count - len(own)} of the GPUs {', '.join(gpus)}, which other jobs have", flush=True)
                    waits = True
                    time.sleep(LOOK_AGAIN_SECONDS)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(sorted(own, key=gpus.index))
        yield


def _lock(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"gdmtl-gpu-{os.getuid()}-{re.sub('[^0-9A-Za-z]', '-', name)}.lock"
