import pandas as pd
import pytest

from gdmtl_lib.inside.gradients import cosines
from gdmtl_lib.pretrained import build_model


def not_needed():
    pytest.fail("asked for in vain")


def test_what_a_training_logged_is_read_and_gathered(tmp_path):
    """30 steps, every second one logged, into at most four columns: of four logged steps each."""
    home = tmp_path / "gdmtl" / "seed3"
    home.mkdir(parents=True)
    rows = [(0, step, "query_generation", layer, 0.1) for step in range(0, 30, 2) for layer in ("embeddings", "encoder 1")]
    names = ["epoch", "step", "task", "layer", "cosine"]
    pd.DataFrame(rows, columns=names).to_csv(home / "gradients.csv", index=False)
    table, column, said = cosines(home, None, not_needed, not_needed, columns=4)
    assert column == "step" and said == "logged at 15 steps of the training, before each was made"
    assert table["step"].value_counts(sort=False).to_dict() == {0: 8, 8: 8, 16: 8, 24: 6}


def test_without_a_log_and_a_checkpoint_it_says_so(tmp_path):
    (tmp_path / "gdmtl" / "seed0").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        cosines(tmp_path / "gdmtl" / "seed0", None, not_needed)


@pytest.mark.parametrize("settings", [None, "{", '{"training": {"settings": {"epoch": 1}}}'])
def test_without_its_settings_it_says_so(tmp_path, toy_bert_folder, settings):
    build_model("gdmtl", checkpoint=toy_bert_folder).save_pretrained(tmp_path / "checkpoint")
    if settings is not None:
        (tmp_path / "settings.json").write_text(settings)
    with pytest.raises(ValueError, match="settings.json does not say how this system was trained: train it anew"):
        cosines(tmp_path, None, not_needed)
