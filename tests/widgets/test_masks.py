"""The explorers: every control changes the picture; what they refuse; their speed; their static twins."""

import re
import time
from pathlib import Path

import nbformat
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from nbclient import NotebookClient

from gdmtl_lib.inside import attention as attention_maps
from gdmtl_lib.inside.attention import Models
from gdmtl_lib.widgets.masks import AttentionExplorer, MaskExplorer
from gdmtl_lib.pretrained import build_model

PASSAGE = "the glacier is old blue ice in the north"
SYSTEMS = ["gdmtl", "gdmtl_plus", "bert", "gdmtl_s"]


@pytest.fixture(scope="module")
def models(toy_bert_folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            attention_maps, "build_model", lambda name: build_model(name, checkpoint=toy_bert_folder)
        )
        models = Models(tmp_path_factory.mktemp("results"))
        for name in SYSTEMS:
            models(name)
        yield models


@pytest.fixture(params=[MaskExplorer, AttentionExplorer])
def explorer(request, models):
    return request.param(models, SYSTEMS, PASSAGE, "why is ice blue", "the light")


def options(dropdown):
    return [value for _, value in dropdown.options]


def changes(explorer, control, value):
    """Set a control; whether the picture followed."""
    before = explorer.picture.value
    control.value = value
    return explorer.picture.value != before


def test_every_control_changes_the_picture(explorer):
    assert explorer.task.value == "query_generation" and explorer.mask.value == "mixed"
    assert changes(explorer, explorer.step, 3)
    assert "\u201cis\u201d attends to 15 tokens and predicts \u201cice\u201d" in explorer.note.value
    assert changes(explorer, explorer.query, "what is a glacier")
    assert ">glacier</text>" in explorer.picture.value
    assert changes(explorer, explorer.passage, "a river")
    assert changes(explorer, explorer.mask, "mlm")
    assert ">[MASK]</text>" in explorer.picture.value
    assert changes(explorer, explorer.task, "rank")
    assert "the score is read here" in explorer.note.value
    assert changes(explorer, explorer.system, "gdmtl_s")
    assert "GDMTL_S before training" in explorer.note.value
    explorer.system.value, explorer.task.value = "gdmtl_plus", "answer_generation"
    assert changes(explorer, explorer.answer, "a long day")


def test_layer_and_head_change_the_heat_map(models):
    explorer = AttentionExplorer(models, SYSTEMS, PASSAGE, "why is ice blue")
    assert (explorer.layer.max, explorer.head.max) == (2, 4)
    assert changes(explorer, explorer.layer, 2)
    assert changes(explorer, explorer.head, 4)
    explorer.step.value = 2
    weights = explorer.weights[1, 3, explorer.layout.steps[1]]
    shown = [
        float(number) for number in re.findall(r"<title>[^<]*: ([\d.]+)</title>", explorer.picture.value)
    ]
    assert shown == pytest.approx(weights[weights > 0].tolist(), abs=1e-4)
    assert "attention of source tokens: 100% to the source, 0% to the target" in explorer.picture.value


def test_choices_follow_system_and_task(explorer):
    assert options(explorer.task) == ["rank", "query_generation"]
    assert options(explorer.mask) == ["mixed", "mlm", "bidirectional", "causal"]
    assert explorer.answer.layout.display == "none"
    assert all(shown.layout.display is None for shown in (explorer.passage, explorer.query, explorer.step))
    explorer.task.value = "rank"
    assert options(explorer.mask) == ["bidirectional", "mixed", "causal"]
    explorer.system.value = "gdmtl_plus"
    assert explorer.task.value == "rank"  # kept, as it learns that too
    explorer.task.value = "answer_generation"
    assert explorer.answer.layout.display is None
    explorer.system.value = "bert"
    assert options(explorer.task) == ["rank"] and explorer.step.disabled
    explorer.system.value = "gdmtl_s"
    assert options(explorer.mask) == ["cross", "decoder", "encoder"]
    explorer.mask.value = "encoder"
    assert "no token is predicted in this attention" in explorer.note.value


def test_a_step_out_of_reach_is_brought_back(explorer):
    explorer.step.value = explorer.step.max
    assert explorer.step.max == 5
    explorer.query.value = "why"
    assert explorer.step.value == explorer.step.max == 2


def test_nothing_typed_is_asked_for(explorer):
    before = explorer.picture.value
    explorer.query.value = "  "
    assert explorer.note.value == "Type a query." and explorer.picture.value == before
    explorer.passage.value = ""
    assert explorer.note.value == "Type a passage and a query."
    explorer.step.value = 2  # nothing to draw anew, and no error
    explorer.passage.value, explorer.query.value = PASSAGE, "what is food"
    assert "attends to" in explorer.note.value and explorer.picture.value != before


def test_what_is_typed_is_text_and_not_markup(explorer):
    explorer.passage.value = "a < b & <b>c</b>"
    picture = explorer.picture.value
    assert "&lt;" in picture and "&amp;" in picture and "<b>" not in picture


def test_pictures_are_well_formed(explorer):
    import xml.etree.ElementTree as tree

    for system in SYSTEMS:
        explorer.system.value = system
        for task in options(explorer.task):
            explorer.task.value = task
            for mask in options(explorer.mask):
                explorer.mask.value = mask
                tree.fromstring(explorer.picture.value)


def test_the_static_twin_is_a_figure_of_the_same_state(explorer):
    explorer.step.value = 3
    figure = explorer.figure()
    assert isinstance(figure, Figure)
    which = "GDMTL before training" if isinstance(explorer, AttentionExplorer) else "GDMTL"
    assert figure.get_suptitle().startswith(f"{which}, query generation: mixed attention")
    words = {text.get_text() for text in figure.findobj(Text)}
    assert "\u201cis\u201d attends to 15 tokens and predicts \u201cice\u201d" in words


def test_answers_come_at_once(tmp_path):
    """MiniLM and a passage of the sample's length; every control in under 0.2 s of computing."""
    models = Models(tmp_path)
    passage = "When a stream of lava crusts over, the molten rock drains away and leaves a cave. " * 5
    for kind in (MaskExplorer, AttentionExplorer):
        explorer = kind(models, ["gdmtl"], passage, "how do lava caves form")
        assert len(explorer.layout.rows) > 90
        for control, values in {
            explorer.step: (2, 3, 4),
            explorer.query: ("what is lava", "where are caves", "who goes there"),
            explorer.mask: ("mlm", "causal", "mixed"),
        }.items():
            taken = []
            for value in values:
                start = time.process_time()
                control.value = value
                taken.append(time.process_time() - start)
            assert min(taken) < 0.2


def test_papermill_gets_the_figure_and_jupyterlab_the_widget(tmp_path):
    """nbclient, which papermill runs on, does not say which cell it runs; JupyterLab does."""
    code = f"""
import gdmtl_lib.widgets.masks as widgets
from gdmtl_lib.inside.attention import Models
explorer = widgets.MaskExplorer(Models({str(tmp_path)!r}), ["gdmtl"], "ice is blue", "why")
"""
    named = "get_ipython().kernel.get_parent('shell')['metadata']['cellId'] = 'x'\nexplorer"
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c) for c in (code, "explorer", named)]
    )
    project = {"metadata": {"path": str(Path(__file__).parents[2])}}
    done = NotebookClient(notebook, timeout=120, resources=project).execute()
    kinds = [set().union(*(output.data for output in cell.outputs)) for cell in done.cells[1:]]
    assert "image/png" in kinds[0] and not any("widget" in kind for kind in kinds[0])
    assert "application/vnd.jupyter.widget-view+json" in kinds[1] and "image/png" not in kinds[1]
