"""Toys of all kinds, their weights spread: fresh ones attend almost evenly."""

import pytest
from tests.conftest import spread

from gdmtl_lib.pretrained import build_model


@pytest.fixture(scope="module")
def toys(toy_bert_folder, toy_bart_folder):
    models = {name: build_model(name, checkpoint=toy_bert_folder) for name in ("bert", "gdmtl", "gdmtl_plus")}
    models |= {name: build_model(name, checkpoint=toy_bart_folder) for name in ("gdmtl_s", "gdmtl_c")}
    return {name: spread(model, 5) for name, model in models.items()}
