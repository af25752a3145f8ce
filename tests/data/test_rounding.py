import numpy as np
import pytest

from gdmtl_lib.data.rounding import difference, equal, first_best


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (0.1 + 0.2, 0.3, True), (1 / 3, 1 / 3 + 1e-15, True), (0.0, 9e-19, True), (1e6, 1e6 + 1e-7, True), (0, 0, True),
        (0.3, 0.3 + 1e-9, False), (0.0, 1e-12, False), (1e6, 1e6 + 1e-3, False), (float("nan"), float("nan"), False),
    ],
)  # fmt: skip
def test_rounding_is_no_difference(a, b, expected):
    assert bool(equal(a, b)) == bool(equal(b, a)) == expected
    assert (difference(a, b) == 0) == expected


def test_the_first_of_equals_is_the_best():
    """0.1 + 0.2 is larger than 0.3 in its last bit."""
    assert first_best([0.1, 0.3, 0.1 + 0.2, 0.2]) == 1
    assert first_best([0.1 + 0.2, 0.3]) == first_best([0.5]) == 0
    assert first_best([0.3, 0.300001]) == 1


def test_the_best_of_means_does_not_depend_on_the_order_of_adding():
    rng = np.random.default_rng(0)
    for _ in range(300):
        values = rng.integers(0, 11, 30) / 10
        assert first_best([values.mean(), rng.permutation(values).mean(), values[::-1].sum() / 30]) == 0
