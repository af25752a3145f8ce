"""Training: one loop (Section 5.2).

Every optimiser step is a function of the seed and the step's number: the order of the instances, the negatives and
dropout are all derived from them. So a run that is interrupted goes on from its last saved state and ends with the
same bits, and processes, accumulation and the moment of saving change nothing but rounding.
"""

import hashlib
import os
import shutil
import time
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from tqdm.auto import tqdm

from gdmtl_lib.backbones.devices import fast_products, pick_device, pick_precision
from gdmtl_lib.evaluation.measures import evaluate
from .gradients import gradient_cosines
from gdmtl_lib.packing import PackedBatch, pack
from .batches import TrainingInstances, borrowed
from gdmtl_lib.joint import JointLoss
from .launch import run_job, write_job
from gdmtl_lib.losses import generation_cross_entropy
from gdmtl_lib.models import load_model
from gdmtl_lib.inference.rerank import fingerprint_of, rerank
from gdmtl_lib.data.trec import canonical_order, frame_hash
from gdmtl_lib.settings import TrainingSettings
from gdmtl_lib.systems import GENERATIVE_TASKS
from .folder import Progress, TrainingFolder

VALIDATION_MEASURE = "RR@10"
HEAD_WARMUP_LEARNING_RATE = 1e-3
SAVE_EVERY_SECONDS = 600.0


def train(
    model,
    collection,
    candidates: pd.DataFrame,
    settings: TrainingSettings,
    output_dir: str | os.PathLike,
    validation: pd.DataFrame | None = None,
    relevance_level: int = 1,
    resume: bool = True,
    processes: int = 1,
) -> pd.DataFrame:
    """Train a model in place and save it under output_dir (see `training_folder` for what is written).

    model: from `build_model`, as it was built also when a training is resumed. collection: looks up texts, judgments
        and answers by id.
    candidates: the first stage's run over the training queries, from which negatives are drawn.
    validation: the first stage's run over other queries. With it the model is measured (mean RR@10) after every
        epoch and the best epoch is kept, the earlier of equals; without it the last.
    resume: go on from what output_dir holds if it is the same training, or return at once if that is finished.
    processes: train in so many processes of this machine, one a GPU; the batch stays the same, shared among them.

    Returns the history: epoch, step, learning_rate, loss, one loss a task, and sigma squared of each task.

    Raises ValueError for data that cannot be trained on and for an output_dir that holds another training;
    FloatingPointError, naming the step and its queries, for a loss that is not finite;
    RuntimeError, naming the settings to lower, when memory runs out, and naming the process, when another one is
    training into output_dir.
    """
    # In one order, so that processes which read the candidates from a file draw the same negatives.
    candidates = canonical_order(candidates)
    validation = None if validation is None else canonical_order(validation)
    training = _Training(model, collection, candidates, settings, output_dir, validation, relevance_level)
    with training.folder.held():
        return training.run(resume) if processes == 1 else training.run_in_processes(processes, resume)


def gradients_now(
    model, collection, candidates: pd.DataFrame, settings: TrainingSettings, batches: int = 4
) -> pd.DataFrame:
    """The cosines of `gradients.gradient_cosines` for a model as it is, on the first batches of the first epoch that
    `train` would make of the same arguments: `batch` and the columns there."""
    training = _Training(model, collection, canonical_order(candidates), settings, "", None, 1)
    joint, order = JointLoss(model, settings), training.instances.order(0)
    parts = [order[first : first + settings.batch_size] for first in range(0, len(order), settings.batch_size)]
    device = next(model.parameters()).device
    return pd.DataFrame([
        {"batch": number} | row
        for number, part in enumerate(parts[:batches])
        for row in gradient_cosines(joint, training._batch(0, part, training.tasks).to(device))
    ])  # fmt: skip


def learning_rate(step: int, steps_per_epoch: int, settings: TrainingSettings) -> float:
    """Linear warm-up over the first epochs, then linear decay to the floor, reached at the last step (Section 5.2)."""
    warmup, total = round(settings.warmup_epochs * steps_per_epoch), settings.epochs * steps_per_epoch
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    left = (total - 1 - step) / max(total - 1 - warmup, 1)
    return settings.min_learning_rate + (settings.learning_rate - settings.min_learning_rate) * left


def loss_of_part(
    joint: JointLoss, sums: torch.Tensor, counts: torch.Tensor, processes: int = 1, share: float = 1.0
) -> torch.Tensor:
    """What a part of a batch, one process's or one of several accumulated, adds to the joint loss of the whole batch.

    sums: each task's loss summed over the part, counts: what the mean over the whole batch divides it by, float [tasks].
    processes: gradients are averaged over them, so the loss is multiplied by their number. share: of the regulariser,
    which is counted once a step.
    """
    means = dict(zip(joint.tasks, sums / counts.clamp(min=1)))
    return processes * joint.weighting.weighted(means) + share * joint.weighting.regulariser()


def parameter_groups(joint: JointLoss, settings: TrainingSettings) -> list[dict]:
    """AdamW's groups: no decay on biases and layer norms; the uncertainty weights with their own constant rate."""
    decayed, plain = [], []
    for parameter in joint.model.parameters():
        (decayed if parameter.dim() > 1 else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
        {"params": list(joint.weighting.parameters()), "weight_decay": 0.0, "constant_lr": settings.sigma_learning_rate},
    ]
    return [group for group in groups if group["params"]]


class _Training:
    def __init__(self, model, collection, candidates, settings, output_dir, validation, relevance_level):
        self.model, self.collection, self.candidates, self.settings = model, collection, candidates, settings
        self.validation, self.relevance_level = validation, relevance_level
        self.tasks = model.system.tasks
        self.device = pick_device(settings.device)
        self.precision = pick_precision(settings.precision, self.device)
        lengths = {"max_length": settings.max_length, "target_length": settings.target_length}
        self.builder = model.input_builder(**lengths, generation_mask=settings.generation_mask)
        model.config.gdmtl = model.config.gdmtl | {"inputs": lengths}
        self.qrels = collection.qrels_of(candidates["query_id"].unique())
        self.instances = TrainingInstances(
            self.qrels, candidates, settings.negatives, settings.seed, settings.train_fraction
        )
        if validation is not None:
            self.validation_qrels = collection.qrels_of(validation["query_id"].unique())
            if self.validation_qrels.empty:
                raise ValueError(
                    f"collection {collection.name!r} has no judgments of the validation's queries: "
                    f"validate on another split, or train without validation"
                )
        self.answers = self._answers() if model.system.needs_answers else {}
        self.steps_per_epoch = -(-len(self.instances) // settings.batch_size)
        self.total_steps = settings.epochs * self.steps_per_epoch
        self.folder = TrainingFolder(output_dir, self._description())

    def run(self, resume: bool) -> pd.DataFrame:
        accelerator = self._accelerator()
        if self.folder.open(resume):
            self._load_kept_weights()
            return self.folder.history()
        self.joint = JointLoss(self.model, self.settings).to(accelerator.device)
        optimizer = torch.optim.AdamW(parameter_groups(self.joint, self.settings), betas=(0.9, 0.999), fused=True)
        progress = self.folder.load(self.joint, optimizer)
        if progress.step == 0:
            self._start_fresh_heads()
            self._warm_up_generation_heads()
        self.model.config.gdmtl["fresh_heads"] = False
        joint, self.optimizer = accelerator.prepare(self.joint, optimizer)
        if progress.scaler:
            accelerator.scaler.load_state_dict(progress.scaler)
        saved = time.monotonic()
        bar = tqdm(
            total=self.total_steps, initial=progress.step, desc=f"training {self.model.system.name}",
            disable=not accelerator.is_main_process,
        )
        while progress.step < self.total_steps:
            joint.train()
            started = time.perf_counter()
            try:
                progress.gradients += self._gradients(progress.step)
                row, tokens = self._step(joint, progress.step)
            except torch.OutOfMemoryError as error:
                settings = self.settings
                raise RuntimeError(
                    f"out of memory on {accelerator.device}: lower batch_size ({settings.batch_size}) or max_length "
                    f"({settings.max_length}), or raise gradient_accumulation ({settings.gradient_accumulation})"
                ) from error
            progress.history.append(row)
            progress.timing.append({"step": row["step"], "seconds": time.perf_counter() - started, "tokens": tokens})
            progress.step += 1
            bar.update()
            bar.set_postfix(epoch=row["epoch"] + 1, loss=f"{row['loss']:.3f}")
            epoch_ends = progress.step % self.steps_per_epoch == 0
            if epoch_ends and self.validation is not None:
                self._validate(progress)
            if accelerator.is_main_process and (epoch_ends or time.monotonic() - saved > SAVE_EVERY_SECONDS):
                if accelerator.scaler is not None:
                    progress.scaler = accelerator.scaler.state_dict()
                self.folder.save(progress, self.joint, optimizer)
                saved = time.monotonic()
        bar.close()
        if accelerator.is_main_process:
            if self.validation is None:
                self.model.save_pretrained(self.folder.checkpoint)
            self.folder.finish(progress)
        accelerator.wait_for_everyone()
        self._load_kept_weights()
        return pd.DataFrame(progress.history)

    def run_in_processes(self, processes: int, resume: bool) -> pd.DataFrame:
        if processes < 1:
            raise ValueError(f"processes must be at least 1, found {processes}")
        if not self.folder.open(resume):
            job = self.folder.folder / "job"
            write_job(
                job, self.model, self.collection, self.candidates, self.settings, self.folder.folder,
                self.validation, self.relevance_level,
            )
            try:
                run_job(job.resolve(), processes)
            finally:
                shutil.rmtree(job)
        self._load_kept_weights()
        return self.folder.history()

    def _accelerator(self) -> Accelerator:
        # An earlier training of this process may have used another device or precision.
        AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = Accelerator(
            cpu=self.device.type == "cpu", mixed_precision="no" if self.precision == "fp32" else self.precision
        )
        return self.accelerator

    def _step(self, joint: nn.Module, step: int) -> tuple[dict, int]:
        """One optimiser step over one global batch. Returns its row of the history and the tokens of this process."""
        settings, accelerator = self.settings, self.accelerator
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * settings.batch_size
        chosen = self.instances.order(epoch)[first : first + settings.batch_size]
        rate = learning_rate(step, self.steps_per_epoch, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("constant_lr", rate)
        torch.manual_seed(_seed(settings.seed, step, accelerator.process_index))  # dropout

        parts = np.array_split(chosen, accelerator.num_processes * settings.gradient_accumulation)
        mine = parts[accelerator.process_index * settings.gradient_accumulation :][: settings.gradient_accumulation]
        # The last batch of an epoch may leave a part empty: it is computed on something, and counts nothing.
        weights = [float(len(part) > 0) for part in mine]
        batches = [self._batch(epoch, part if len(part) else chosen[:1], self.tasks) for part in mine]
        counts = sum(weight * self.joint.counts(batch) for weight, batch in zip(weights, batches))
        counts = accelerator.reduce(counts.to(accelerator.device), "sum")
        sums = torch.zeros_like(counts)
        for number, (weight, batch) in enumerate(zip(weights, batches)):
            is_last = number == len(batches) - 1
            with nullcontext() if is_last else accelerator.no_sync(joint), fast_products(accelerator.device):
                part_sums = weight * joint(batch.to(accelerator.device))
                loss = loss_of_part(self.joint, part_sums, counts, accelerator.num_processes, 1 / len(batches))
                accelerator.backward(loss)
            sums += part_sums.detach()
        means = accelerator.reduce(sums, "sum") / counts
        row = {"epoch": epoch, "step": step, "learning_rate": rate} | self.joint.describe(means)
        norm = accelerator.clip_grad_norm_(self.model.parameters(), settings.max_gradient_norm)
        # The scaler of fp16 leaves out steps whose gradient overflowed, by design.
        found = {"loss": row["loss"]} | ({} if accelerator.scaler else {"gradient's norm": float(norm)})
        for what, value in found.items():
            if not np.isfinite(value):
                queries = ", ".join(self.instances.pairs[index][0] for index in chosen)
                raise FloatingPointError(
                    f"the {what} is {value} at step {step} (epoch {epoch}, queries {queries}): this step was not made, "
                    f"and what {self.folder.folder} holds is kept. Lower learning_rate, or use precision fp32"
                )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return row, sum(batch.input_ids.numel() for batch in batches)

    def _gradients(self, step: int) -> list[dict]:
        """Before every n-th step, how the tasks' gradients lie to each other: on the step's own instances, on the first
        part of them where the batch is computed in parts."""
        every, accelerator = self.settings.gradient_cosines_every, self.accelerator
        if not every or step % every or not self.model.system.generative_tasks or not accelerator.is_main_process:
            return []
        epoch, position = divmod(step, self.steps_per_epoch)
        chosen = self.instances.order(epoch)[position * self.settings.batch_size :][: self.settings.batch_size]
        part = np.array_split(chosen, accelerator.num_processes * self.settings.gradient_accumulation)[0]
        batch = self._batch(epoch, part, self.tasks).to(accelerator.device)
        # Without its scaler, gradients of fp16 would vanish.
        precise = nullcontext() if accelerator.scaler else accelerator.autocast()
        with precise, fast_products(accelerator.device):
            return [{"epoch": epoch, "step": step} | row for row in gradient_cosines(self.joint, batch)]

    def _batch(self, epoch: int, indices, tasks) -> PackedBatch:
        """The packed sequences of some instances: per instance its relevant passage, its negatives, its generation."""
        instances = [self.instances.instance(epoch, int(index)) for index in indices]
        queries = self.builder.tokens(self.collection.query_texts([each.query_id for each in instances]))
        doc_ids = [doc_id for each in instances for doc_id in (each.positive, *each.negatives)]
        passages = iter(self.builder.passage_tokens(self.collection.text(doc_ids)))
        sequences = []
        for instance, query in zip(instances, queries):
            group = [next(passages) for _ in range(1 + self.settings.negatives)]
            if "rank" in tasks:
                sequences += [self.builder.rank(passage, query) for passage in group]
            sequences += [self._generation(task, epoch, instance, group[0], query) for task in tasks if task != "rank"]
        return pack(sequences)

    def _generation(self, task: str, epoch: int, instance, passage, query):
        """What one generative task makes of an instance. A query without an answer lends its place to another example
        where one is needed, as the authors do it."""
        query_id, target = instance.query_id, query
        if GENERATIVE_TASKS[task].target == "answer":
            if query_id not in self.answers:
                query_id, doc_id = borrowed(self.answered_pairs, self.settings.seed, epoch, query_id)
                [query] = self.builder.tokens(self.collection.query_texts([query_id]))
                [passage] = self.builder.passage_tokens(self.collection.text([doc_id]))
            [target] = self.builder.tokens([self.answers[query_id]])
        return self.builder.generation(task, passage, query, target)

    def _answers(self) -> dict[str, str]:
        frame = self.collection.answers_of([query_id for query_id, _, _ in self.instances.pairs])
        answers = dict(zip(frame["query_id"], frame["text"])) if len(frame) else {}
        if not answers:
            raise ValueError(
                f"{self.model.system.name} learns to generate answers, but collection {self.collection.name!r} has "
                f"none for the training queries: add answers.<split>.tsv, or train gdmtl"
            )
        self.answered_pairs = [(query_id, doc) for query_id, doc, _ in self.instances.pairs if query_id in answers]
        return answers

    def _start_fresh_heads(self) -> None:
        """Give heads that no checkpoint has trained the frequencies of their tokens: from a uniform distribution they
        would begin at 10 nats a token, and learn little but frequencies for hundreds of steps."""
        if not self.model.config.gdmtl["fresh_heads"]:
            return
        query_ids = list(dict.fromkeys(query_id for query_id, _, _ in self.instances.pairs))
        texts = {"query": self.collection.query_texts(query_ids), "answer": self.answers.values()}
        for task, head in self.model.generation_heads.items():
            targets = [tokens[: self.settings.target_length - 1] for tokens in self.builder.tokens(texts[GENERATIVE_TASKS[task].target])]
            ids = torch.tensor([token for tokens in targets for token in (*tokens, self.builder.end)])
            head.start_from_counts(torch.bincount(ids, minlength=self.model.config.vocab_size).to(head.bias))

    def _warm_up_generation_heads(self) -> None:
        """Train the language-model heads alone, on the frozen model's states: a fresh head's gradients would drown
        the ranking's."""
        steps = self.settings.generation_head_warmup_steps
        heads = self.model.generation_heads
        if not steps or not heads:
            return
        optimizer = torch.optim.AdamW(heads.parameters(), lr=HEAD_WARMUP_LEARNING_RATE, weight_decay=0.0)
        embeddings = self.model.get_input_embeddings().weight.detach()
        self.model.eval()
        for step in tqdm(range(steps), desc="training the language-model heads alone", leave=False):
            epoch, position = divmod(step, self.steps_per_epoch)
            # Epochs that the training itself does not reach: other orders, the same instances.
            order = self.instances.order(self.settings.epochs + epoch)
            chosen = order[position * self.settings.batch_size :][: self.settings.batch_size]
            batch = self._batch(0, chosen, tuple(heads)).to(self.accelerator.device)
            with torch.no_grad(), self.accelerator.autocast():
                states, row_of = self.model.read(batch)
            losses = [
                generation_cross_entropy(head(states[row_of(batch.predict_at[task])].float(), embeddings), batch.targets[task])
                for task, head in heads.items()
            ]
            optimizer.zero_grad()
            sum(losses).backward()
            optimizer.step()
        optimizer.zero_grad()

    def _validate(self, progress: Progress) -> None:
        epoch = progress.step // self.steps_per_epoch - 1
        run = rerank(
            self.model, self.collection, self.validation, device=self.accelerator.device.type,
            precision=self.settings.precision, progress=False,
        )
        values = evaluate(run, self.validation_qrels, [VALIDATION_MEASURE], self.relevance_level)
        value = float(values["value"].mean())
        progress.validation.append(
            {"epoch": epoch, "step": progress.step - 1, "measure": VALIDATION_MEASURE, "value": value}
        )
        progress.validation_queries += [
            {"epoch": epoch, "step": progress.step - 1, "query_id": query_id, "value": of_query}
            for query_id, of_query in zip(values["query_id"], values["value"].tolist())
        ]
        if progress.best_value is None or value > progress.best_value:
            progress.best_epoch, progress.best_value = epoch, value
            if self.accelerator.is_main_process:
                self.model.save_pretrained(self.folder.checkpoint)
        self.accelerator.wait_for_everyone()

    def _load_kept_weights(self) -> None:
        kept = load_model(self.folder.checkpoint)
        self.model.load_state_dict(kept.state_dict())
        self.model.config.gdmtl = kept.config.gdmtl
        self.model.eval()

    def _description(self) -> dict:
        """Everything that decides the outcome. The device does not: it changes rounding only. Nor does what is looked
        at on the way."""
        left_out = ("device", "gradient_cosines_every")
        settings = {name: value for name, value in self.settings.as_dict().items() if name not in left_out}
        validation = None
        if self.validation is not None:
            validation = {
                "candidates": frame_hash(self.validation[["query_id", "doc_id"]]),
                "qrels": frame_hash(self.validation_qrels),
                "relevance_level": self.relevance_level,
            }
        return {
            "system": self.model.system.name,
            "settings": settings,
            "collection": self.collection.fingerprint(),
            "initial_weights": fingerprint_of(self.model),
            "candidates": frame_hash(self.candidates[["query_id", "doc_id"]]),
            "qrels": frame_hash(self.qrels),
            "validation": validation,
        }


def _seed(*parts: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest())
