"""Rounding is no difference: which numbers are equal, in one place for all that compares.

Means of the same values, added in another order, differ in their last bits, at most by 1e-13 for a million numbers.
"""

from collections.abc import Iterable

import numpy as np

TOLERANCE = 1e-12


def equal(a, b):
    """Whether numbers (or arrays of them, place by place) differ by less than `TOLERANCE`, or that part of the larger
    one where it is above 1. NaN equals nothing."""
    return np.abs(np.subtract(a, b)) < TOLERANCE * np.maximum(1, np.maximum(np.abs(a), np.abs(b)))


def difference(a, b):
    """a - b as float64, 0 where they are equal but for rounding."""
    return np.where(equal(a, b), 0.0, np.subtract(a, b))


def first_best(values: Iterable[float]) -> int:
    """The place of the largest number, from 0; of equal ones the first."""
    best = 0
    for place, value in enumerate(values := list(values)):
        if value > values[best] and not equal(value, values[best]):
            best = place
    return best
