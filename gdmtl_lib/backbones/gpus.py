"""The GPUs of this machine, shared out among the jobs of a sweep."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gdmtl_lib.data.files import try_lock


def visible_gpus() -> list[str]:
    """The GPUs that jobs may be given, as CUDA_VISIBLE_DEVICES names them; CUDA itself takes seconds to start."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    return sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))


@contextmanager
def own_gpus(given: Mapping) -> Iterator[None]:
    """Give a job as many GPUs as it has processes, none of them in use by another job of this machine (a lock says so);
    without GPUs nothing happens. given: 03_train's parameters, of which `device` and `processes` count."""
    gpus = [] if given.get("device") == "cpu" else visible_gpus()
    size = given.get("processes", 1)
    groups = [",".join(gpus[first : first + size]) for first in range(0, len(gpus), size)]
    if not groups:
        yield
        return
    with ExitStack() as stack:
        for group in groups:
            name = re.sub(r"[^\w-]", "-", group)
            path = Path(tempfile.gettempdir()) / f"gdmtl-gpu-{os.getuid()}-{name}.lock"
            if stack.enter_context(try_lock(path)):
                break
        else:  # all are in use, by another sweep
            stack.enter_context(try_lock(path, wait=True))
        os.environ["CUDA_VISIBLE_DEVICES"] = group
        yield
