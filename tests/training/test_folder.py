"""The folder of a training: who may use it, and that a state comes back whole or not at all."""

import json

import pytest
import safetensors.torch
import torch

from gdmtl_lib.training.folder import Progress, TrainingFolder

from .conftest import DESCRIPTION, HISTORY, assert_equal_bits, state_of, trained

@pytest.fixture
def folder(tmp_path):
    folder = TrainingFolder(tmp_path / "seed0", DESCRIPTION)
    assert folder.open(resume=True) is False
    return folder


def files(folder):
    return sorted(path.name for path in folder.folder.iterdir())


def finish(folder):
    folder.checkpoint.mkdir()
    (folder.checkpoint / "model.safetensors").write_bytes(b"weights")
    folder.finish(Progress(step=3, history=HISTORY))


def test_a_state_comes_back_with_equal_bits(folder):
    model, optimizer = trained()
    progress = Progress(
        step=3, best_epoch=0, best_value=0.1 + 0.2, scaler={"scale": 65536.0, "_growth_tracker": 2}, history=HISTORY,
        validation=[{"epoch": 0, "step": 2, "measure": "RR@10", "value": 1 / 3}],
        validation_queries=[{"epoch": 0, "step": 2, "query_id": query, "value": 1 / 7} for query in ("007", "NA", "31_1")],
        timing=[{"step": step, "seconds": 0.1, "tokens": 7} for step in range(3)],
    )  # fmt: skip
    folder.save(progress, model, optimizer)
    assert files(folder) == [
        "history.csv", "settings.json", "timing.csv", "training_state.safetensors", "validation.csv",
        "validation_queries.csv",
    ]  # fmt: skip
    other, other_optimizer = trained(steps=0)
    assert folder.load(other, other_optimizer) == progress
    assert_equal_bits(state_of(other, other_optimizer), state_of(model, optimizer))
    # And goes on alike.
    for each, each_optimizer in ((model, optimizer), (other, other_optimizer)):
        each_optimizer.zero_grad()
        each["used"](torch.ones(3)).sum().backward()
        each_optimizer.step()
    assert_equal_bits(state_of(other, other_optimizer), state_of(model, optimizer))


def test_a_folder_without_state_begins_anew(folder):
    model, optimizer = trained()
    before = state_of(model, optimizer)
    assert folder.load(model, optimizer) == Progress()
    assert_equal_bits(state_of(model, optimizer), before)


def test_rows_written_after_the_state_are_made_again(folder):
    """The tables are written first: a kill in between leaves rows of steps that the state has not made."""
    folder.save(Progress(step=2, history=HISTORY[:2]), *trained(2))
    (folder.folder / "history.csv").write_text("epoch,step,loss\n0,0,0.3333333333333333\n0,1,0.25\n0,2,0.2\n")
    assert folder.load(*trained(0)).history == HISTORY[:2]


@pytest.mark.parametrize("interruption", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_the_state_before(folder, monkeypatch, interruption):
    model, optimizer = trained(1)
    folder.save(Progress(step=1, history=HISTORY[:1]), model, optimizer)
    expected = state_of(model, optimizer)

    def write_half(tensors, path, metadata):
        whole = safetensors.torch.save(tensors, metadata)
        with open(path, "wb") as file:
            file.write(whole[: len(whole) // 2])
        raise interruption

    monkeypatch.setattr(safetensors.torch, "save_file", write_half)
    with pytest.raises(type(interruption)):
        folder.save(Progress(step=2, history=HISTORY[:2]), *trained(2))
    assert files(folder) == ["history.csv", "settings.json", "training_state.safetensors"]
    other, other_optimizer = trained(0)
    assert folder.load(other, other_optimizer) == Progress(step=1, history=HISTORY[:1])
    assert_equal_bits(state_of(other, other_optimizer), expected)


def test_a_truncated_state_is_refused_wherever_it_is_cut(folder):
    folder.save(Progress(step=3, history=HISTORY), *trained())
    file = folder.folder / "training_state.safetensors"
    whole = file.read_bytes()
    for length in [*range(0, len(whole), len(whole) // 40), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError) as error:
            folder.load(*trained(0))
        assert str(error.value).startswith(f"{file} is damaged (")
        assert str(error.value).endswith("): delete it to start this training anew")


def test_what_the_optimizer_keeps_is_where_the_weights_are(folder):
    """Its step, too, which a GPU's fused AdamW reads there; `meta` stands for the GPU."""
    folder.save(Progress(step=3, history=HISTORY), *trained())
    model, optimizer = trained(0)
    model = model.to("meta")
    optimizer = torch.optim.AdamW(model.parameters())
    folder.load(model, optimizer)
    assert {part.device.type for state in optimizer.state.values() for part in state.values()} == {"meta"}


def test_a_state_of_another_model_is_refused(folder):
    folder.save(Progress(step=3, history=HISTORY), *trained())
    model = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"training_state.safetensors is damaged .*parameter/weight"):
        folder.load(model, torch.optim.AdamW(model.parameters()))


@pytest.mark.parametrize("history", [None, "epoch,step,loss\n0,0,0.3\n", "epoch,step,loss\n0,1,0.3\n0,2,0.2\n", ""])
def test_a_history_that_lost_rows_is_refused(folder, history):
    folder.save(Progress(step=3, history=HISTORY), *trained())
    file = folder.folder / "history.csv"
    file.unlink() if history is None else file.write_text(history)
    with pytest.raises(ValueError, match=r"training_state.safetensors is damaged \(.+\): delete it to start this"):
        folder.load(*trained(0))


# --- whose folder it is -------------------------------------------------------------------------------------


def test_a_finished_training_is_known(folder):
    folder.save(Progress(step=3, history=HISTORY), *trained())
    finish(folder)
    assert files(folder) == ["checkpoint", "history.csv", "settings.json"]
    again = TrainingFolder(folder.folder, DESCRIPTION)
    assert again.open(resume=True) is True
    assert again.history().to_dict("records") == HISTORY


def test_finished_without_its_weights_is_not_finished(folder):
    finish(folder)
    (folder.checkpoint / "model.safetensors").unlink()
    assert folder.open(resume=True) is False


def test_an_unfinished_training_goes_on(folder):
    folder.save(Progress(step=3, history=HISTORY), *trained())
    assert folder.open(resume=True) is False
    assert folder.load(*trained(0)).step == 3


def test_settings_say_what_is_trained(folder):
    written = json.loads((folder.folder / "settings.json").read_text())
    assert written == {"training": DESCRIPTION, "finished": None}
    folder.checkpoint.mkdir()
    folder.finish(Progress(step=3, best_epoch=1, best_value=0.5, history=HISTORY))
    written = json.loads((folder.folder / "settings.json").read_text())
    assert written == {"training": DESCRIPTION, "finished": {"best_epoch": 1, "best_value": 0.5}}


INSTEAD = "choose another output_dir, or resume=False to replace it"


@pytest.mark.parametrize(
    ("changes", "different"),
    [
        ({"system": "gdmtl"}, "system is 'bert' there and 'gdmtl' here"),
        ({"settings": {"seed": 1, "learning_rate": 2e-5}}, "settings.seed is 0 there and 1 here"),
        (
            {"settings": {"seed": 1}},
            "settings.learning_rate is 2e-05 there and None here; settings.seed is 0 there and 1 here",
        ),
        ({"validation": {"qrels": "abc"}}, "validation is None there and {'qrels': 'abc'} here"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_training_is_refused_by_what_differs(folder, changes, different, finished):
    finish(folder) if finished else folder.save(Progress(step=3, history=HISTORY), *trained())
    before = {path: path.read_bytes() for path in folder.folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError) as error:
        TrainingFolder(folder.folder, DESCRIPTION | changes).open(resume=True)
    assert str(error.value) == f"{folder.folder} holds another training: {different}; {INSTEAD}"
    assert {path: path.read_bytes() for path in folder.folder.rglob("*") if path.is_file()} == before


def test_resume_false_replaces_what_is_there(folder):
    finish(folder)
    (folder.folder / "run.dev.trec.gz").write_bytes(b"not of the training")
    other = TrainingFolder(folder.folder, DESCRIPTION | {"system": "gdmtl"})
    assert other.open(resume=False) is False
    assert files(folder) == ["run.dev.trec.gz", "settings.json"]
    assert json.loads((folder.folder / "settings.json").read_text())["training"]["system"] == "gdmtl"


def test_files_of_somebody_else_are_not_touched(tmp_path):
    """A folder by mistake: it holds a checkpoint, and no word of a training."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "precious").touch()
    (tmp_path / "history.csv").touch()
    with pytest.raises(ValueError) as error:
        TrainingFolder(tmp_path, DESCRIPTION).open(resume=True)
    assert str(error.value) == (
        f"{tmp_path} holds checkpoint, history.csv, but no settings.json that says of what: {INSTEAD}"
    )
    assert (tmp_path / "checkpoint" / "precious").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"training": {}}'])
def test_damaged_settings_are_refused(folder, text):
    (folder.folder / "settings.json").write_text(text)
    with pytest.raises(ValueError) as error:
        folder.open(resume=True)
    assert str(error.value).startswith(f"{folder.folder / 'settings.json'} is damaged (")
    assert str(error.value).endswith(f"): {INSTEAD}")


def test_what_a_killed_process_was_writing_is_removed(folder):
    for name in ("checkpoint.tmp7", "checkpoint.old7"):
        (folder.folder / name).mkdir()
        (folder.folder / name / "config.json").touch()
    for name in (".training_state.safetensors.7.unfinished", ".history.csv.12.unfinished"):
        (folder.folder / name).touch()
    folder.open(resume=True)
    assert files(folder) == ["settings.json"]
