"""The benchmarks' own arithmetic: whose turn it is, when a target is met, and what becomes of an earlier row."""

import sys
from pathlib import Path

import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.fixture(scope="module")
def harness():
    sys.path.insert(0, str(BENCHMARKS))
    import harness

    yield harness
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize(
    ("ratio", "target", "expected"),
    [
        (1.4, "at least 1.4", True), (1.39, "at least 1.4", False), (3.0, "at least 1.4", True),
        (1.1, "at most 1.1", True), (1.11, "at most 1.1", False), (0.2, "at most 1.1", True),
    ],
)  # fmt: skip
def test_a_target_is_met_on_its_own_side(harness, ratio, target, expected):
    assert harness.is_met(ratio, target) is expected


@pytest.mark.parametrize("target", ["1.4", "about 1.4", "at least", "at least many"])
def test_another_form_of_a_target_is_refused(harness, target):
    with pytest.raises(ValueError):
        harness.is_met(1.0, target)


def test_contenders_take_turns_and_the_median_counts(harness, monkeypatch):
    """A call each that is not counted; then a b, b a, a b, of which a took 1, 5, 2 and b 3, 1, 9 seconds."""
    calls, clock = [], [0.0]
    durations = {"a": iter([100, 1, 5, 2]), "b": iter([100, 3, 1, 9])}
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])

    def contender(name):
        calls.append(name)
        clock[0] += next(durations[name])

    seconds = harness.take_turns({name: lambda name=name: contender(name) for name in "ab"}, rounds=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert seconds == {"a": 2, "b": 3}


def test_a_new_run_replaces_its_row_and_no_other(harness, tmp_path, capsys):
    results = tmp_path / "bench" / "results.csv"
    harness.record("one, seconds", 1.0, 2.0, 2.0, "at least 1.5", "a machine", results)
    harness.record("two, MB", 10.0, 10.0, 1.0, "at most 0.5", "a machine", results)
    harness.record("one, seconds", 2.0, 2.0, 1.0, "at least 1.5", "another, 2 cores", results)
    table = pd.read_csv(results)
    assert list(table.columns) == ["benchmark", "ours", "other", "ratio", "target", "met", "machine"]
    assert table.to_numpy().tolist() == [
        ["one, seconds", 2.0, 2.0, 1.0, "at least 1.5", False, "another, 2 cores"],
        ["two, MB", 10.0, 10.0, 1.0, "at most 0.5", False, "a machine"],
    ]
    assert [path.name for path in results.parent.iterdir()] == ["results.csv"]
    printed = capsys.readouterr().out.split("\n")
    assert "one, seconds: 1 against 2, ratio 2, at least 1.5: met" in printed
    assert "two, MB: 10 against 10, ratio 1, at most 0.5: MISSED" in printed


def test_the_benchmarks_are_not_part_of_the_tests():
    """They take minutes: pytest collects them only under the name that `make bench` gives."""
    assert list(BENCHMARKS.glob("bench_*.py")) and not list(BENCHMARKS.glob("test_*.py"))
