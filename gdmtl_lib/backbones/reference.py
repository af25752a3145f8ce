"""One switch for all that is computed fast: inside of `reference()` the plain computation runs that it is tested against."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

FAST_PATHS = frozenset({
    "products",  # of fp32 matrices by what is fast here, with bias and GELU at once (devices, linear)
    "stacked spans",  # spans of one shape at once (attention)
    "few rows",  # attend by plain products (attention)
    "padded spans",  # to few shapes, where a CPU trains, and weights that are computed again (attention)
    "dropout",  # drawn four at a time (dropout)
    "compiled",  # layers, where a training asks for it (compiled)
    "flash",  # one kernel for sequences of various lengths (flash)
    "last layer",  # where it is read (attention)
    "filled",  # passes of re-ranking and steps of a training, to few numbers of tokens (packing)
    "pairs",  # of re-ranking packed as arrays (inference.scoring)
})  # fmt: skip
_OFF: ContextVar[frozenset[str]] = ContextVar("fast paths that are off", default=frozenset())


@contextmanager
def reference(*paths: str) -> Iterator[None]:
    """While the block runs, everything is computed the plain way; paths: of `FAST_PATHS`, only these are.

    Raises ValueError for a path that there is not.
    """
    unknown = set(paths) - FAST_PATHS
    if unknown:
        raise ValueError(f"unknown fast path {sorted(unknown)[0]!r}: expected some of {', '.join(sorted(FAST_PATHS))}")
    before = _OFF.set(_OFF.get() | (frozenset(paths) or FAST_PATHS))
    try:
        yield
    finally:
        _OFF.reset(before)


def is_fast(path: str) -> bool:
    """Whether the path may be taken here and now."""
    return path not in _OFF.get()
