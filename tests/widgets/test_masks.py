"""The explorers of masks and attention: every control changes the picture; what they refuse; their speed."""

import base64
import io
import re
import time
from pathlib import Path

import nbformat
import pytest
from matplotlib.text import Text
from nbclient import NotebookClient
from PIL import Image
from tests.conftest import PATIENCE

from gdmtl_lib import figures as plots
from gdmtl_lib import pretrained
from gdmtl_lib.experiments.models import Models
from gdmtl_lib.pretrained import build_model
from gdmtl_lib.systems import System, Task, add_system, add_task
from gdmtl_lib.widgets.masks import AttentionExplorer, MaskExplorer

PASSAGE = "the glacier is old blue ice in the north"
SYSTEMS = ["gdmtl", "gdmtl_plus", "bert", "gdmtl_s"]


@pytest.fixture(scope="module")
def models(toy_bert_folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "build_model", lambda name: build_model(name, checkpoint=toy_bert_folder))
        models = Models(tmp_path_factory.mktemp("results"))
        for name in SYSTEMS:
            models(name)
        yield models


@pytest.fixture(params=[MaskExplorer, AttentionExplorer])
def explorer(request, models):
    return request.param(models, SYSTEMS, PASSAGE, "why is ice blue", "the light")


def options(explorer, name):
    return [value for _, value in explorer.controls[name].options]


def texts(explorer):
    """What is written in the picture."""
    return [text.get_text() for text in explorer.picture.figure.findobj(Text)]


def choose(explorer, **values):
    for name, value in values.items():
        explorer.controls[name].value = value


def test_every_control_changes_the_picture(explorer, pictures):
    assert (explorer.controls["task"].value, explorer.controls["mask"].value) == ("query_generation", "mixed")
    assert pictures(explorer, ("step", 3)) == 2
    assert "“is” attends to 15 tokens; to be predicted: “ice” (probability " in explorer.view
    assert re.search(r"The model expects “[^”]+” [\d.]+%(, “[^”]+” [\d.]+%){4}", explorer.view)
    assert "“sum:” at the start of the input tells the model its task" in explorer.view
    assert pictures(explorer, ("query", "what is a glacier")) == 2
    assert "glacier" in texts(explorer)
    assert pictures(explorer, ("passage", "a river"), ("mask", "mlm")) == 3
    assert "[MASK]" in texts(explorer)
    assert pictures(explorer, ("task", "rank")) == 2
    assert "the score is read here" in explorer.view
    assert pictures(explorer, ("system", "gdmtl_s")) == 2
    assert "GDMTL_S before training" in explorer.view
    choose(explorer, system="gdmtl_plus", task="answer_generation")
    assert pictures(explorer, ("answer", "a long day")) == 2


def test_layer_and_head_change_the_heat_map(models, pictures):
    explorer = AttentionExplorer(models, SYSTEMS, PASSAGE, "why is ice blue")
    assert (explorer.controls["layer"].max, explorer.controls["head"].max) == (2, 4)
    assert pictures(explorer, ("layer", 2), ("head", 4)) == 3
    choose(explorer, step=2)
    weights = explorer.weights[1, 3, explorer.picture.layout.steps[1]]
    [bars] = explorer.picture.bars.collections
    heights = [path.vertices[:, 1].max() for path in bars.get_paths()]
    assert heights == pytest.approx(weights.tolist(), abs=1e-4)
    assert "attention of source tokens: 100% to the source, 0% to the target" in explorer.view


def test_choices_follow_system_and_task(explorer):
    assert options(explorer, "task") == ["rank", "query_generation"]
    assert options(explorer, "mask") == ["mixed", "mlm", "bidirectional", "causal"]
    assert explorer.controls["answer"].layout.display == "none"
    assert all(explorer.controls[name].layout.display is None for name in ("passage", "query", "step"))
    choose(explorer, task="rank")
    assert options(explorer, "mask") == ["bidirectional", "mixed", "causal"]
    choose(explorer, system="gdmtl_plus")
    assert explorer.controls["task"].value == "rank"  # kept, as it learns that too
    choose(explorer, task="answer_generation")
    assert explorer.controls["answer"].layout.display is None
    choose(explorer, system="bert")
    assert options(explorer, "task") == ["rank"] and explorer.controls["step"].disabled
    choose(explorer, system="gdmtl_s")
    assert options(explorer, "mask") == ["cross", "decoder", "encoder"]
    choose(explorer, mask="encoder")
    assert "no token is predicted in this attention" in explorer.view


def test_a_step_out_of_reach_is_brought_back(explorer):
    step = explorer.controls["step"]
    step.value = step.max
    assert step.max == 5
    choose(explorer, query="why")
    assert step.value == step.max == 2


def test_nothing_typed_is_asked_for_in_place_of_a_picture(explorer):
    choose(explorer, query="  ")
    assert explorer.view == "<p>Type a query.</p>"
    choose(explorer, passage="")
    assert explorer.view == "<p>Type a passage and a query.</p>"
    choose(explorer, step=2)  # nothing to draw anew, and no error
    choose(explorer, passage=PASSAGE, query="what is food")
    assert "attends to" in explorer.view and "<img" in explorer.view


def test_what_is_typed_is_text_and_not_markup(explorer):
    choose(explorer, passage="a < b & <b>c</b> $x_{$", query="<b> $")
    assert {"<", "&", "$"} <= set(texts(explorer)) and "<b>" not in explorer.view


def test_every_choice_has_a_picture(explorer, picture):
    for system in SYSTEMS:
        choose(explorer, system=system)
        for task in options(explorer, "task"):
            choose(explorer, task=task)
            for mask in options(explorer, "mask"):
                choose(explorer, mask=mask)
                Image.open(io.BytesIO(base64.b64decode(picture(explorer)))).verify()


def test_the_static_twin_is_a_figure_of_the_same_state(explorer):
    choose(explorer, step=3)
    said, shown = explorer.drawn[:2]
    which = "GDMTL before training" if isinstance(explorer, AttentionExplorer) else "GDMTL"
    assert shown.figure.get_suptitle().startswith(f"{which}, query generation: mixed attention")
    drawn = "“is” attends to 15 tokens; to be predicted: “ice”"
    assert said.startswith(drawn) and drawn in texts(explorer)


def test_answers_come_at_once(tmp_path, one_thread):
    """MiniLM and a passage of the sample's length, on one thread, whose time alone counts: a step in under a tenth of a
    second of computing, a text or mask, which is read and laid out anew, in under half a second."""
    models = Models(tmp_path)
    passage = "When a stream of lava crusts over, the molten rock drains away and leaves a cave. " * 5
    for kind in (MaskExplorer, AttentionExplorer):
        explorer = kind(models, ["gdmtl"], passage, "how do lava caves form")
        assert len(explorer.picture.layout.rows) > 90
        for control, values, seconds in (
            ("step", (2, 3, 4), 0.1),
            ("query", ("what is lava", "where are caves", "who goes there"), 0.5),
            ("mask", ("mlm", "causal", "mixed"), 0.5),
        ):
            taken = []
            for value in values:
                start = time.process_time()
                choose(explorer, **{control: value})
                taken.append(time.process_time() - start)
            assert min(taken) < seconds * PATIENCE


def test_papermill_gets_the_figure_and_jupyterlab_the_widget(tmp_path):
    """nbclient, which papermill runs on, does not say which cell it runs; JupyterLab does."""
    code = f"""
import gdmtl_lib.widgets.masks as widgets
from gdmtl_lib.experiments.models import Models
explorer = widgets.MaskExplorer(Models({str(tmp_path)!r}), ["gdmtl"], "ice is blue", "why")
"""
    named = "get_ipython().kernel.get_parent('shell')['metadata']['cellId'] = 'x'\nexplorer"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in (code, "explorer", named)])
    project = {"metadata": {"path": str(Path(__file__).parents[2])}}
    done = NotebookClient(notebook, timeout=120, resources=project).execute()
    kinds = [set().union(*(output.data for output in cell.outputs)) for cell in done.cells[1:]]
    assert "image/png" in kinds[0] and not any("widget" in kind for kind in kinds[0])
    assert "application/vnd.jupyter.widget-view+json" in kinds[1] and "image/png" not in kinds[1]


def test_a_task_of_ones_own_has_its_mask_and_its_target(toy_bert_folder, tmp_path):
    """As the README shows it: the answer, without the query."""
    add_task(Task("blind_answer", prefix="guess:", source=("passage",), target="answer"))
    add_system(System("mine", "Mine", "encoder", ("rank", "blind_answer"), "concatenated", "pairwise", "x"))
    models = Models(tmp_path)
    build_model("mine", checkpoint=toy_bert_folder).save_pretrained(tmp_path / "mine" / "seed0" / "checkpoint")
    explorer = MaskExplorer(models, ["mine"], PASSAGE, "why is ice blue", "the light")
    assert explorer.controls["task"].value == "blind_answer" and explorer.controls["answer"].layout.display is None
    assert "to be predicted: “the”" in explorer.view and "“guess:” at the start" in explorer.view
    assert "why" not in texts(explorer)
    figure = plots.block_diagrams(["mine"])
    assert "blind answer loss: cross-entropy" in {text.get_text() for text in figure.findobj(Text)}
