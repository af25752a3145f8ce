"""A result's record: equal for equal inputs, and each input that changes is named."""

import pandas as pd
import pytest

from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.data.provenance import differences, fingerprint_of, made_from
from gdmtl_lib.pretrained import build_model

CANDIDATES = pd.DataFrame({"query_id": ["q", "q"], "doc_id": ["a", "b"], "score": [2.0, 1.0]})


@pytest.fixture
def model(toy_bert_folder):
    return build_model("gdmtl", checkpoint=toy_bert_folder)


def test_a_record_names_what_changed_and_nothing_else(model):
    collection = load_collection("sample")
    record = made_from(model, collection, CANDIDATES, "fp32", qrels=CANDIDATES, level=2)
    assert list(record) == ["model", "texts", "candidates", "precision", "versions", "qrels", "level"]
    assert record["texts"] == collection.fingerprint() and record["model"] == fingerprint_of(model)
    # What the record does not hold changes nothing: a score of the first stage, a column more.
    same = made_from(model, collection, CANDIDATES.assign(score=0.0, rank=1), "fp32", qrels=CANDIDATES.copy(), level=2)
    assert same == record and differences(record, same) == []
    turned = made_from(model, collection, CANDIDATES[::-1], "bf16", qrels=CANDIDATES, level=1)
    changed = [difference.split(" is ")[0] for difference in differences(record, turned)]
    assert changed == ["candidates", "level", "precision"]
    model.classifier.bias.data += 1e-3
    assert [each.split(" is ")[0] for each in differences(record, {**record, "model": fingerprint_of(model)})] == ["model"]


def test_versions_are_kept_and_compared_where_bits_count():
    record = made_from(precision="fp32")
    other = {**record, "versions": record["versions"] | {"torch": "0.1"}}
    assert differences(record, other) == []
    [difference] = differences(record, other, with_versions=True)
    assert difference == f"versions.torch is {record['versions']['torch']!r} there and '0.1' here"


def test_a_checkpoint_is_hashed_by_its_files(model, tmp_path):
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "same")
    model.classifier.bias.data += 1e-3
    model.save_pretrained(tmp_path / "other")
    one, same, other = (made_from(tmp_path / name)["model"] for name in ("one", "same", "other"))
    assert one == same != other
