"""The joint training step on a CPU, in fp32 and as `auto` has it, against what the authors' code does; time and memory.

`python bench_training.py packed|reference <profile>` prints the memory that one step of 32 instances takes, in MB.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from harness import peak_memory, record, take_turns
from texts import PROFILES, texts_like

from gdmtl_lib.backbones.devices import fast_products, pick_precision
from gdmtl_lib.backbones.dropout import fast_dropout
from gdmtl_lib.backbones.reference import reference
from gdmtl_lib.packing import filled_on, pack, pad
from gdmtl_lib.joint import JointLoss
from gdmtl_lib.pretrained import build_model
from gdmtl_lib.settings import TrainingSettings
from gdmtl_lib.training.loop import loss_of_part, parameter_groups

INSTANCES = 32
CPU = torch.device("cpu")


class Step:
    """A model with its optimiser, and one step over the same instances in two ways."""

    def __init__(
        self, system: str, queries: list[str], passages: list[str], device: torch.device = CPU, number: int = INSTANCES,
        **options,
    ):
        settings = TrainingSettings(batch_size=number, precision="fp32")
        self.joint = JointLoss(build_model(system, **options), settings).to(device)
        self.model, self.device = self.joint.model, device
        self.optimizer = torch.optim.AdamW(parameter_groups(self.joint, settings), fused=True)
        self.sequences = instances(self.model, queries, passages, number)

    def packed(self) -> tuple[torch.Tensor, torch.Tensor]:
        """As `train` does it: all sequences in one row, logits at the positions of targets alone."""
        batch = filled_on(pack(self.sequences), self.device)
        with fast_products(self.device), fast_dropout(self.device):
            sums = self.joint(batch)
            loss = loss_of_part(self.joint, sums, self.joint.counts(batch).to(self.device))
            loss.backward()
        return self._update(loss, sums)

    def reference(self) -> tuple[torch.Tensor, torch.Tensor]:
        """As the authors' code does it: a padded pass for ranking and one for generation, whose logits are computed at
        every position of the padded batch."""
        ranked = [sequence for sequence in self.sequences if sequence.task == "rank"]
        generated = [sequence for sequence in self.sequences if sequence.task != "rank"]
        scores = self.model(pad(ranked, self.model.config.pad_token_id).to(self.device)).scores.float()
        losses = {"rank": F.relu(1 - (scores[::2] - scores[1::2])).mean()}
        if generated:
            batch = pad(generated, self.model.config.pad_token_id).to(self.device)
            states, [task] = self.model.states(batch), batch.targets
            labels = torch.full((len(states),), -100, device=self.device)
            labels[batch.predict_at[task]] = batch.targets[task]
            logits = self.model.generation_heads[task](states, self.model.get_input_embeddings().weight)
            losses[task] = F.cross_entropy(logits.float(), labels)  # -100 is left out
        loss = self.joint.weighting(losses)
        loss.backward()
        return self._update(loss, torch.stack(list(losses.values())).detach())

    def _update(self, loss, sums):
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # all of its arithmetic, and the weights stay what they are
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach(), norm


def instances(model, queries: list[str], passages: list[str], number: int = INSTANCES) -> list:
    """The sequences of so many instances: a relevant passage, another one, and the query to be generated from the first."""
    builder, sequences = model.input_builder(), []
    texts = builder.passage_tokens([passages[i % len(passages)] for i in range(2 * number)])
    for place, query in enumerate(builder.tokens([queries[i % len(queries)] for i in range(number)])):
        positive, negative = texts[2 * place : 2 * place + 2]
        sequences += [builder.rank(positive, query), builder.rank(negative, query)]
        if model.system.generative_tasks:
            sequences.append(builder.query_generation(positive, query))
    return sequences


def assert_same_step(step: Step) -> None:
    """Without dropout, the two ways have one loss and one gradient."""
    step.joint.eval()
    (loss, norm), (expected, expected_norm) = step.packed(), step.reference()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm, expected_norm, rtol=1e-3, atol=1e-4)
    step.joint.train()


def computing_in(precision: str) -> torch.autocast:
    """A context: a CPU's step in fp32 or bf16, as `train` has it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def test_joint_step(profile):
    """Our joint step, in fp32 and in the precision that is fast here, against the reference's, and against the ranking step
    alone of plain padded BERT."""
    name, queries, passages = profile
    precision = pick_precision("auto", CPU, training=True)

    def fastest():
        with computing_in(precision):
            gdmtl.packed()

    gdmtl, bert = Step("gdmtl", queries, passages), Step("bert", queries, passages)
    assert_same_step(gdmtl)
    assert_same_step(bert)
    ways = {"reference": gdmtl.reference, "packed": gdmtl.packed, "fastest": fastest, "bert": bert.reference}
    seconds = take_turns(ways, rounds=2)
    ours = seconds["packed"]
    record(
        f"joint step {name}, gdmtl against the reference, seconds a step",
        ours, seconds["reference"], seconds["reference"] / ours, "at least 3",
    )  # fmt: skip
    record(
        f"joint step {name}, gdmtl against the padded ranking step of bert, seconds a step",
        ours, seconds["bert"], ours / seconds["bert"], "at most 1.1",
    )  # fmt: skip
    record(
        f"joint step {name}, gdmtl in the fastest mode ({precision}) against the reference in fp32, seconds a step",
        seconds["fastest"], seconds["reference"], seconds["reference"] / seconds["fastest"], "at least 3",
    )  # fmt: skip


def test_dropout(profile):
    """The same step, in the precision that is fast here, against torch's dropout and attention a span at a time."""
    name, queries, passages = profile
    gdmtl = Step("gdmtl", queries, passages)
    precision = pick_precision("auto", CPU, training=True)

    def plainly():
        with reference("dropout", "padded spans"):
            gdmtl.packed()

    with computing_in(precision):
        seconds = take_turns({"torch's": plainly, "ours": gdmtl.packed}, rounds=2)
    ours, other = seconds["ours"], seconds["torch's"]
    record(f"joint step {name} in {precision}, dropout against torch's, seconds a step", ours, other, other / ours, "at least 1.1")


@pytest.mark.skipif(sys.platform == "win32", reason="resource is not there")
@pytest.mark.parametrize("profile_name", PROFILES)
def test_memory_of_the_joint_step(profile_name):
    """Each in a process of its own: the peak during a step, less what the process held before it."""
    command = [sys.executable, str(Path(__file__))]
    packed, reference = (
        float(subprocess.run([*command, how, profile_name], check=True, capture_output=True, text=True).stdout)
        for how in ("packed", "reference")
    )
    record(
        f"joint step {profile_name}, peak memory against the reference, MB",
        packed, reference, packed / reference, "at most 0.5",
    )  # fmt: skip


def memory_of(how: str, profile_name: str) -> float:
    step = Step("gdmtl", *texts_like(profile_name, build_model("gdmtl").input_builder()))
    step.joint.train()
    before = peak_memory()
    getattr(step, how)()
    return (peak_memory() - before) / 2**20


if __name__ == "__main__":
    print(memory_of(*sys.argv[1:]))
