"""Masks and attention to play with: a picture that follows every control.

What stays from step to step is drawn once (`figures.masks.Picture`), so that dragging feels immediate.
"""

from collections.abc import Sequence

import ipywidgets

from gdmtl_lib.figures.inside import AttentionPicture
from gdmtl_lib.figures.masks import MaskPicture, Picture, sentence
from gdmtl_lib.inside.attention import Layout, attention_weights, block_shares, build_sequence, layouts, likeliest_tokens
from gdmtl_lib.systems import GENERATIVE_TASKS, TASK_LABELS, prefixes
from .explorer import Drawn, Explorer, choice, labelled

_MASK_LABELS = {
    "mixed": "mixed",
    "bidirectional": "bidirectional",
    "causal": "causal",
    "mlm": "bidirectional, target masked (MLM)",
    "encoder": "bidirectional (encoder)",
    "decoder": "causal (decoder)",
    "cross": "cross (decoder to encoder)",
}


class MaskExplorer(Explorer):
    """Who may attend to whom: type a passage and a query, choose system, task and mask, drag through the steps. models:
    opens a system's model by its name (`Models`). passage, query, answer: texts to begin with."""

    def __init__(self, models, systems: Sequence[str], passage: str, query: str, answer: str = "", **sliders):
        self.models, self._read_from = models, None
        # A text counts when Enter is pressed or the field is left, not at every letter.
        text = dict(continuous_update=False, layout={"width": "48%"})
        controls = {
            "passage": ipywidgets.Textarea(passage, description="passage", rows=2, **text),
            "query": ipywidgets.Text(query, description="query", **text),
            "answer": ipywidgets.Text(answer, description="answer", **text),
            "system": choice("system", labelled(systems), systems[0]),
            "task": ipywidgets.Dropdown(description="task"),
            "mask": ipywidgets.Dropdown(description="mask"),
            "step": ipywidgets.IntSlider(1, 1, 1, description="step"),
        }
        self.controls = controls | sliders
        self.adapt(controls["system"])
        super().__init__(self._drawn, self.controls)

    def adapt(self, changed: ipywidgets.Widget) -> None:
        """Tasks are those of the system, masks those of the task."""
        task, mask, system = (self.controls[name] for name in ("task", "mask", "system"))
        learned = self.models(system.value).system
        if changed is system:
            before = task.value
            task.options = [(TASK_LABELS[name], name) for name in learned.tasks]
            # A generative task has steps to drag through: begin with one.
            task.value = before if before in learned.tasks else learned.tasks[:2][-1]
        if changed in (system, task):
            ranks = task.value == "rank"
            masks = ("bidirectional", "mixed", "causal") if ranks else ("mixed", "mlm", "bidirectional", "causal")
            masks = masks if learned.backbone == "encoder" else ("cross", "decoder", "encoder")
            mask.options = [(_MASK_LABELS[name], name) for name in masks]
            mask.value = masks[0]
            reads_answer = not ranks and GENERATIVE_TASKS[task.value].target == "answer"
            self.controls["answer"].layout.display = None if reads_answer else "none"

    def _drawn(self, step: int, **values) -> list[Drawn]:
        if missing := [name for name in ("passage", "query") if not values[name].strip()]:
            raise ValueError(f"Type a {' and a '.join(missing)}.")
        read = [values[name] for name in ("system", "task", "mask", "passage", "query", "answer")]
        if read != self._read_from:
            self._read(*read)
            self._read_from = read
        step = self.controls["step"].value - 1 if self.picture.layout.steps else None
        said = "no token is predicted in this attention" if step is None else sentence(self.picture.layout, step)
        if step is not None and self.expected is not None:
            of_step = self.expected[self.expected["step"] == step]
            best = ", ".join(f"“{row.token}” {row.probability:.1%}" for row in of_step.itertuples())
            said += f" (probability {of_step['target_probability'].iloc[0]:.1%}). The model expects {best}"
        prefix = f"“{prefixes()[values['task']]}” at the start of the input tells the model its task"
        return [said, *self._view_of(step, **values), f"{prefix}. {self.models.describe(values['system'])}"]

    def _read(self, system: str, task: str, mask: str, *texts: str) -> None:
        """What depends on the texts and choices, but not on the sliders."""
        model = self.models(system)
        of_encoder = model.system.backbone == "encoder"
        self.sequence = build_sequence(model, task, *texts, mask=mask if of_encoder else None)
        self.attention = "encoder" if of_encoder else mask
        layout = layouts(model, self.sequence)[self.attention]
        self.expected = likeliest_tokens(model, self.sequence) if self.sequence.targets else None
        self.picture = self._picture(layout, f"{TASK_LABELS[task]}: {_MASK_LABELS[mask]} attention", model)
        with self.still():
            self.controls["step"].max = max(1, len(layout.steps))
            self.controls["step"].disabled = len(layout.steps) < 2

    def _picture(self, layout: Layout, title: str, model) -> Picture:
        return MaskPicture(layout, f"{model.system.label}, {title}")

    def _view_of(self, step: int | None, **_) -> list[Drawn]:
        return [self.picture.show(step)]


class AttentionExplorer(MaskExplorer):
    """What a model attends to: as `MaskExplorer`, with a layer and a head to choose."""

    def __init__(self, models, systems: Sequence[str], passage: str, query: str, answer: str = ""):
        sliders = {name: ipywidgets.IntSlider(1, 1, 1, description=name) for name in ("layer", "head")}
        super().__init__(models, systems, passage, query, answer, **sliders)

    def _picture(self, layout: Layout, title: str, model) -> Picture:
        self.weights = attention_weights(model, self.sequence)[self.attention]
        self.shares = block_shares(self.weights, layout)
        with self.still():
            self.controls["layer"].max, self.controls["head"].max = self.weights.shape[:2]
        return AttentionPicture(layout, f"{self.models.label(model.system.name)}, {title}")

    def _view_of(self, step: int | None, **_) -> list[Drawn]:
        layer, head = (self.controls[name].value for name in ("layer", "head"))
        said = []
        for rows, blocks in self.shares.query("layer == @layer and head == @head").groupby("rows", sort=False):
            spent = ", ".join(f"{block.share:.0%} to the {block.columns}" for block in blocks.itertuples())
            said.append(f"attention of {rows} tokens: {spent}")
        picture = self.picture.show(step, weights=self.weights[layer - 1, head - 1].numpy())
        return [picture, f"Layer {layer}, head {head}: {'; '.join(said)}"]
