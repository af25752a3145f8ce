"""What the benchmarks share: texts and a model, no notices in between, and a table at the end."""

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import harness
import pandas as pd
import pytest
import texts


def pytest_terminal_summary(terminalreporter):
    if harness.RESULTS.exists():
        terminalreporter.section(str(harness.RESULTS))
        terminalreporter.write_line(pd.read_csv(harness.RESULTS).to_string(index=False))


@pytest.fixture(scope="session")
def model():
    """`gdmtl` on MiniLM with a fresh ranking head: what it ranks by changes nothing about speed."""
    from gdmtl_lib.pretrained import build_model

    return build_model("gdmtl")


@pytest.fixture(scope="session", params=texts.PROFILES)
def profile(request, model):
    """A name, queries and passages."""
    return request.param, *texts.texts_like(request.param, model.input_builder())
