"""Training: one loop (Section 5.2).

Every optimiser step is a function of the seed and the step's number, from which the order of the instances, the
negatives and dropout are derived. So a run that is interrupted ends with the same bits, whenever it saved; processes and
accumulation change rounding and, since each part draws its own, what dropout leaves out.
"""

import hashlib
import inspect
import math
import os
import shutil
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import is_tensorboard_available, is_wandb_available
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm.auto import tqdm

from gdmtl_lib.backbones.compiled import compiled_layers
from gdmtl_lib.backbones.devices import fast_products, moved, pick_device, pick_precision
from gdmtl_lib.backbones.dropout import fast_dropout
from gdmtl_lib.data.candidates import Candidates
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.data.files import as_path
from gdmtl_lib.data.provenance import fingerprint_of
from gdmtl_lib.data.rounding import first_best
from gdmtl_lib.data.trec import as_run, canonical_order, frame_hash, whole_queries, write_run
from gdmtl_lib.evaluation.measures import evaluate
from gdmtl_lib.inference.generation import check_learns
from gdmtl_lib.inference.likelihood import likelihoods, targets_of
from gdmtl_lib.inference.processes import require_name
from gdmtl_lib.inference.rerank import CHUNK_PAIRS, rerank
from gdmtl_lib.joint import JointLoss
from gdmtl_lib.losses import LISTWISE, added_losses, generation_cross_entropy
from gdmtl_lib.packing import filled_on
from gdmtl_lib.pretrained import check_model, load_model
from gdmtl_lib.settings import LIKELIHOODS, TrainingSettings
from gdmtl_lib.systems import GENERATIVE_TASKS

from .batches import Batches
from .folder import Progress, TrainingFolder
from .gradients import gradient_cosines
from .launch import check_processes, run_job, write_job

SAVE_EVERY_SECONDS = 600.0
HEADS_LEARNING_RATE = 1e-3  # of language-model heads that are trained alone
# A step that the device was given: its numbers, float [names], are on their way. arrived: says when they are there.
_Made = namedtuple("_Made", "step rate tokens names values arrived")
CARD_SETTINGS = ("epochs", "batch_size", "learning_rate", "loss_weighting", "max_length")


def train(
    model, collection, candidates: pd.DataFrame | Candidates, settings: TrainingSettings, output_dir: str | os.PathLike,
    validation: pd.DataFrame | None = None, relevance_level: int = 1, resume: bool = True, processes: int = 1,
) -> pd.DataFrame:
    """Train a model in place and save it under output_dir (see `folder` for what is written).

    model: from `build_model`, as it was built also when a training is resumed. collection: or what `load_collection`
        takes.
    candidates: the first stage's run over the training queries, from which negatives are drawn, its path, or its compact
        form.
    validation: the first stage's run over other queries. With it the model is measured after every epoch and the best
        epoch by the mean of `selection_measure` is kept, the earlier of equals; without it the last.
    resume: go on from what output_dir holds if it is the same training, or return at once if that is finished.
    processes: train in so many processes of this machine, one a GPU; the batch stays the same, shared among them.

        history = gdmtl.train(gdmtl.build_model("gdmtl"), collection, candidates, settings, "mine")

    Returns the history: epoch, step, learning_rate, loss, one loss a task, and sigma squared of each task.

    Raises ValueError for data that cannot be trained on and for an output_dir that holds another training;
    FloatingPointError, naming the step, for a loss that is not finite; RuntimeError, naming the settings to lower, when
    memory runs out, and naming the process, when another one is training into output_dir.
    """
    if not isinstance(settings, TrainingSettings):
        raise ValueError(f"settings: expected TrainingSettings(...), found {settings!r}")
    check_model(model)
    output_dir = as_path(output_dir, "output_dir")
    check_processes(processes, pick_device(settings.device))
    collection = load_collection(collection)
    # In one order, so that processes which read the candidates from a file draw the same negatives.
    candidates = candidates if isinstance(candidates, Candidates) else as_run(candidates)
    validation = None if validation is None else as_run(validation)
    training = _Training(model, collection, candidates, settings, output_dir, validation, relevance_level)
    folder = training.folder
    with folder.held():
        if processes > 1:
            require_name(collection)
        if folder.open(resume):
            history = folder.history()
        elif processes == 1:
            history = pd.DataFrame(training.run().history)
        else:
            job = folder.folder / "job"
            write_job(job, folder.folder, model, collection, candidates, settings, validation, relevance_level)
            try:
                run_job(job.resolve(), processes, training.device)
            finally:
                shutil.rmtree(job)
            history = folder.history()
        kept = load_model(folder.checkpoint)
        model.load_state_dict(kept.state_dict())
        model.config.gdmtl, model.config.gdmtl_card = kept.config.gdmtl, kept.config.gdmtl_card
        model.eval()
    return history


def learning_rate(step: int, steps_per_epoch: int, settings: TrainingSettings) -> float:
    """Linear warm-up over the first epochs, then linear decay to the floor, reached at the last step (Section 5.2)."""
    warmup, total = round(settings.warmup_epochs * steps_per_epoch), settings.epochs * steps_per_epoch
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    left = (total - 1 - step) / max(total - 1 - warmup, 1)
    return settings.min_learning_rate + (settings.learning_rate - settings.min_learning_rate) * left


def loss_of_part(joint: JointLoss, sums: Tensor, counts: Tensor, processes: int = 1, share: float = 1.0) -> Tensor:
    """What a part of a batch, one process's or one of several accumulated, adds to the joint loss of the whole batch.

    sums: each task's loss over the part, counts: what the mean over the batch divides it by, float [tasks]. processes:
    gradients are averaged over them. share: of the regulariser, which is counted once a step.
    """
    means = dict(zip(joint.tasks, sums / counts.clamp(min=1)))
    return processes * joint.weighting.weighted(means) + share * joint.weighting.regulariser()


def parameter_groups(joint: JointLoss, settings: TrainingSettings) -> list[dict]:
    """AdamW's groups: no decay on biases and layer norms; the uncertainty weights have a `rate` of their own, or a
    `share` of the others'."""
    rate, parameters = settings.sigma_learning_rate, list(joint.model.parameters())
    sigma = {"share": rate / settings.learning_rate} if settings.sigma_schedule == "warmup" else {"rate": rate}
    groups = [
        {"params": [each for each in parameters if each.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [each for each in parameters if each.dim() <= 1], "weight_decay": 0.0},
        {"params": list(joint.weighting.parameters()), "weight_decay": 0.0, **sigma},
    ]
    return [group for group in groups if group["params"]]


def start_fresh_heads(model, batches: Batches) -> None:
    """Give heads that no checkpoint has trained the frequencies of their tokens, or they would learn little else for
    hundreds of steps."""
    if not model.config.gdmtl["fresh_heads"]:
        return
    for task, head in model.generation_heads.items():
        tokens = torch.from_numpy(batches.target_tokens(task))
        head.start_from_counts(torch.bincount(tokens, minlength=model.config.vocab_size).to(head.bias))


def warm_up_heads(model, batches: Batches, accelerator: Accelerator) -> None:
    """Train the heads alone, on the frozen model's states: a fresh head's gradients would drown the ranking's."""
    steps, heads = batches.settings.generation_head_warmup_steps, model.generation_heads
    if not steps or not heads:
        return
    optimizer = torch.optim.AdamW(heads.parameters(), lr=HEADS_LEARNING_RATE, weight_decay=0.0)
    embeddings = model.get_input_embeddings().weight.detach()
    unreached = batches.settings.epochs * batches.steps_per_epoch  # by the training: other orders, the same instances
    model.eval()
    for step in tqdm(range(steps), desc="training the language-model heads alone", leave=False):
        _, chosen = batches.chosen(unreached + step)
        batch = batches.packed(0, chosen, tuple(heads)).to(accelerator.device)
        with torch.no_grad(), accelerator.autocast():
            states, row_of = model.read(batch)
        losses = [
            generation_cross_entropy(
                head(states[row_of(batch.predict_at[task])].float(), embeddings), batch.targets[task]
            )
            for task, head in heads.items()
        ]
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
    optimizer.zero_grad()


class _Training:
    """One training: its batches, its folder, and the loop over its steps."""

    def __init__(self, model, collection, candidates, settings, output_dir, validation, relevance_level):
        self.model, self.collection, self.settings = model, collection, settings
        self.validation, self.relevance_level = validation, relevance_level
        self.device = pick_device(settings.device)
        self.precision = pick_precision(settings.precision, self.device, training=True)
        if self.precision == "fp16" and self.device.type != "cuda":  # accelerate would train in fp32, and say nothing
            raise ValueError(f"precision 'fp16' trains on a GPU alone, and this is {self.device}: use bf16, fp32 or auto")
        is_there = {None: bool, "tensorboard": is_tensorboard_available, "wandb": is_wandb_available}[settings.tracker]
        if settings.tracker and not is_there():
            instead = f"`pip install {settings.tracker}`, or leave it out"
            raise ValueError(f"tracker {settings.tracker!r} is not installed: {instead}")
        self.batches = Batches(model, collection, candidates, settings)
        if validation is not None:
            self.validation_qrels = collection.qrels_of(validation["query_id"].unique())
            if self.validation_qrels.empty:
                raise ValueError(
                    f"collection {collection.name!r} has no judgments of the validation's queries: "
                    f"validate on another split, or train without validation"
                )
            if (highest := self.validation_qrels["relevance"].max()) < relevance_level:
                raise ValueError(
                    f"validation: expected a judgment of relevance {relevance_level} or more to choose an epoch by, found {highest} "
                    "at most: lower relevance_level, or validate on another split"
                )
            if task := LIKELIHOODS.get(settings.selection_measure):  # or an epoch is trained before it is refused
                check_learns(model, task)
                targets_of(collection, self.validation_qrels, task, relevance_level)
            else:  # which has to have a value where nothing relevant is found, too
                nothing = validation.drop_duplicates("query_id").assign(doc_id="-")
                evaluate(nothing, self.validation_qrels, [settings.selection_measure], relevance_level)
        self.folder = TrainingFolder(output_dir, self._description(candidates), TrainingSettings().as_dict())

    @property
    def gdmtl(self) -> dict:
        """Of the model's own settings, what they are once it is trained: with the lengths of this training's inputs."""
        return self.model.config.gdmtl | {"inputs": self.batches.lengths}

    def _model(self) -> dict:
        """What else than weights and settings decides what is learned: a name stands for another system, task or loss once
        one of one's own is replaced."""
        system = self.model.system
        loss = self.settings.rank_loss_of(system)
        with suppress(OSError, TypeError):  # there is no text of what was typed into a shell
            loss = inspect.getsource(LISTWISE[loss]) if loss in added_losses() else loss
        tasks = [asdict(GENERATIVE_TASKS[task]) for task in system.generative_tasks]
        dropout = {name: value for name, value in self.model.config.to_dict().items() if "dropout" in name}
        return {"layout": [system.backbone, system.rank_layout], "tasks": tasks, "rank_loss": loss, "dropout": dropout}

    def _description(self, candidates: pd.DataFrame | Candidates) -> dict:
        """All that decides the outcome: not the device, which changes rounding, nor what is looked at on the way."""
        left_out = ("device", "gradient_cosines_every", "tracker")
        learns_scores = self.settings.rank_loss_of(self.model.system) == "margin_mse"
        columns = ["query_id", "doc_id", *(["score"] if learns_scores else [])]
        validation = None if self.validation is None else {
            "candidates": frame_hash(self.validation[["query_id", "doc_id"]]), "qrels": frame_hash(self.validation_qrels),
            "relevance_level": self.relevance_level,
        }  # fmt: skip
        return {
            "system": self.model.system.name,
            "model": self._model(),
            "denoising_steps": self.model.config.gdmtl.get("denoised"),
            "settings": {name: value for name, value in self.settings.as_dict().items() if name not in left_out},
            "collection": self.collection.fingerprint(),
            "initial_weights": fingerprint_of(self.model, self.gdmtl),
            # The compact form has the hash of the frame that it is of.
            "candidates": candidates.hash() if isinstance(candidates, Candidates) else frame_hash(candidates[columns]),
            "qrels": frame_hash(self.batches.qrels),
            "validation": validation,
        }

    def run(self) -> Progress:
        """Train, from the last saved state on, in this process or as one of several that accelerate knows."""
        # An earlier training of this process may have used another device or precision.
        AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = accelerator = Accelerator(
            cpu=self.device.type == "cpu", mixed_precision="no" if self.precision == "fp32" else self.precision,
            log_with=self.settings.tracker, project_dir=self.folder.folder,
        )
        accelerator.init_trackers("tracker", {name: str(value) for name, value in self.settings.as_dict().items()})
        self.model.config.gdmtl = self.gdmtl
        self.joint = JointLoss(self.model, self.settings).to(accelerator.device)
        optimizer = torch.optim.AdamW(parameter_groups(self.joint, self.settings), betas=(0.9, 0.999), fused=True)
        progress = self.folder.load(self.joint, optimizer)
        if progress.step == 0:
            start_fresh_heads(self.model, self.batches)
            warm_up_heads(self.model, self.batches, accelerator)
        self.model.config.gdmtl["fresh_heads"] = False
        self.layers = compiled_layers(self.model) if self.settings.compile else nullcontext
        joint, self.optimizer = accelerator.prepare(self.joint, optimizer)
        if progress.scaler:
            accelerator.scaler.load_state_dict(progress.scaler)
        self._loop(joint, optimizer, progress)
        if accelerator.is_main_process:
            if self.validation is None:
                self._save()
            self.folder.finish(progress)
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.wait_for_everyone()
        return progress

    def _loop(self, joint: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """The steps. While one is computed the next one's batch is made, and the numbers of the last one are read."""
        accelerator, steps_per_epoch = self.accelerator, self.batches.steps_per_epoch
        place = accelerator.process_index, accelerator.num_processes
        saved, total = time.monotonic(), self.settings.epochs * steps_per_epoch
        about = dict(desc=f"training {self.model.system.name}", disable=not accelerator.is_main_process)
        bar = tqdm(total=total, initial=progress.step, **about)
        self.failed = torch.zeros((), device=accelerator.device)
        parts = upcoming = last = None
        with bar, ThreadPoolExecutor(1) as preparing:
            while progress.step < total:
                joint.train()
                started, step = time.perf_counter(), progress.step
                parts = upcoming.result() if upcoming else self.batches.parts(step, *place)
                epoch_ends = (step + 1) % steps_per_epoch == 0
                # Not over an epoch's end, where the tokenizer has other work.
                upcoming = None if epoch_ends else preparing.submit(self.batches.parts, step + 1, *place)
                try:
                    progress.gradients += self._gradients(step, parts)
                    made = self._step(joint, optimizer, step, parts)
                except torch.OutOfMemoryError as error:
                    given = self.settings
                    raise RuntimeError(
                        f"out of memory on {accelerator.device}: lower batch_size ({given.batch_size}) or max_length "
                        f"({given.max_length}), or raise gradient_accumulation ({given.gradient_accumulation})"
                    ) from error
                if last:
                    self._read(last, progress, bar)
                last = made
                is_due = epoch_ends or time.monotonic() - saved > SAVE_EVERY_SECONDS
                if is_due or accelerator.scaler:  # whose own way to leave out a step knows one step alone
                    self._read(last, progress, bar)
                    last = None
                seconds = time.perf_counter() - started
                progress.timing.append({"step": step, "seconds": seconds, "tokens": made.tokens})
                progress.step += 1
                bar.update()
                if epoch_ends and self.validation is not None:
                    self._validate(progress)
                if accelerator.is_main_process and is_due:
                    if accelerator.scaler is not None:
                        progress.scaler = accelerator.scaler.state_dict()
                    self.folder.save(progress, self.joint, optimizer)
                    saved = time.monotonic()

    def _step(self, joint: nn.Module, optimizer: torch.optim.Optimizer, step: int, parts: list) -> "_Made":
        """One optimiser step over one global batch, of which these parts are this process's. Nothing waits for the
        device: where a loss or the gradient's norm is not finite, it leaves the step out itself, and all after it."""
        settings, accelerator = self.settings, self.accelerator
        rate = learning_rate(step, self.batches.steps_per_epoch, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("rate", rate * group.get("share", 1.0))
        of_step = hashlib.blake2b(repr((settings.seed, step, accelerator.process_index)).encode(), digest_size=7)
        torch.manual_seed(int.from_bytes(of_step.digest()))  # dropout
        counts = sum(weight * self.joint.counts(batch) for weight, batch in parts)
        counts = accelerator.reduce(moved(counts, accelerator.device), "sum")
        sums = torch.zeros_like(counts)
        for number, (weight, batch) in enumerate(parts):
            is_last = number == len(parts) - 1
            on_its_own = nullcontext() if is_last else accelerator.no_sync(joint)
            with on_its_own, fast_products(accelerator.device), fast_dropout(accelerator.device), self.layers():
                part_sums = weight * joint(filled_on(batch, accelerator.device))
                loss = loss_of_part(self.joint, part_sums, counts, accelerator.num_processes, 1 / len(parts))
                accelerator.backward(loss)
            sums += part_sums.detach()
        row = self.joint.row(accelerator.reduce(sums, "sum") / counts)
        limit = math.inf if settings.max_gradient_norm is None else settings.max_gradient_norm
        row["gradient's norm"] = accelerator.clip_grad_norm_(self.model.parameters(), limit)
        values = torch.stack([value.detach().float() for value in row.values()])
        if accelerator.scaler is None and accelerator.device.type != "mps":
            self.failed = torch.maximum(self.failed, 1 - torch.stack((values[0], values[-1])).isfinite().all().float())
            optimizer.found_inf = self.failed  # what AdamW's fused form asks before it changes anything
        else:
            self._require_finite(step, float(values[0]), float(values[-1]))
        self.optimizer.step()
        self.optimizer.zero_grad()
        tokens = sum(batch.input_ids.numel() for _, batch in parts)
        return _Made(step, rate, tokens, list(row), *_on_its_way(values))

    def _read(self, made: "_Made", progress: Progress, bar) -> None:
        """Put the numbers of a step into the history; FloatingPointError where the step was not made."""
        if made.arrived is not None:
            made.arrived.synchronize()
        numbers = dict(zip(made.names, made.values.tolist()))
        norm = numbers.pop("gradient's norm")
        self._require_finite(made.step, numbers["loss"], norm)
        epoch = made.step // self.batches.steps_per_epoch
        row = {"epoch": epoch, "step": made.step, "learning_rate": made.rate} | numbers
        progress.history.append(row)
        bar.set_postfix(epoch=epoch + 1, loss=f"{row['loss']:.3f}")
        self.accelerator.log(numbers | {"learning_rate": made.rate, "gradient_norm": norm}, step=made.step)

    def _require_finite(self, step: int, loss: float, norm: float) -> None:
        # The scaler of fp16 leaves out steps whose gradient overflowed, by design.
        for what, value in {"loss": loss, "gradient's norm": 0.0 if self.accelerator.scaler else norm}.items():
            if not math.isfinite(value):
                epoch, chosen = self.batches.chosen(step)
                queries = ", ".join(self.batches.instances.pairs[index][0] for index in chosen)
                raise FloatingPointError(
                    f"the {what} is {value} at step {step} (epoch {epoch}, queries {queries}): this step was not made, "
                    f"and what {self.folder.folder} holds is kept. Lower learning_rate{', or use precision fp32' * (self.precision != 'fp32')}"
                )

    def _gradients(self, step: int, parts: list) -> list[dict]:
        """Before every n-th step, how the tasks' gradients lie to each other, on the first of the step's parts."""
        every, accelerator = self.settings.gradient_cosines_every, self.accelerator
        together = "rank" in self.joint.tasks and len(self.joint.tasks) > 1
        if not every or step % every or not together or not accelerator.is_main_process:
            return []
        [(_, batch), *_] = parts
        # Without its scaler, gradients of fp16 would vanish.
        precise = nullcontext() if accelerator.scaler else accelerator.autocast()
        with precise, fast_products(accelerator.device):
            rows = gradient_cosines(self.joint, batch.to(accelerator.device))
        return [{"epoch": step // self.batches.steps_per_epoch, "step": step} | row for row in rows]

    def _validate(self, progress: Progress) -> None:
        accelerator, settings, measure = self.accelerator, self.settings, self.settings.selection_measure
        epoch = progress.step // self.batches.steps_per_epoch - 1
        run = self._reranked() if measure not in LIKELIHOODS or settings.keep_epoch_runs else None
        if task := LIKELIHOODS.get(measure):
            values = likelihoods(self.model, self.collection, self.validation_qrels, self.relevance_level, task)
        else:
            values = evaluate(run, self.validation_qrels, [measure], self.relevance_level)
        value = float(values["value"].mean())
        where = {"epoch": epoch, "step": progress.step - 1}
        progress.validation.append(where | {"measure": measure, "value": value})
        progress.validation_queries += [where | row for row in values[["query_id", "value"]].to_dict("records")]
        accelerator.log({measure: value}, step=progress.step - 1)
        if settings.keep_epoch_runs and accelerator.is_main_process:
            write_run(run, self.folder.epoch_run(epoch), tag=self.model.system.name)
        if progress.best_value is None or first_best((progress.best_value, value)):
            progress.best_epoch, progress.best_value = epoch, value
            if accelerator.is_main_process:
                self._save(values)
        accelerator.wait_for_everyone()

    def _reranked(self) -> pd.DataFrame:
        """The validation's run. The processes share the chunks of a single one, so that all scores are what they would be
        there."""
        accelerator = self.accelerator
        chunks = list(whole_queries(self.validation["query_id"], CHUNK_PAIRS))
        mine, runs = chunks[accelerator.process_index :: accelerator.num_processes], []
        if mine:
            candidates, device = self.validation.iloc[np.concatenate(mine)], accelerator.device.type
            how = dict(device=device, precision=self.settings.precision, progress=False)
            runs.append(rerank(self.model, self.collection, candidates, **how))
        if accelerator.num_processes > 1:
            runs = gather_object(runs)
        return runs[0] if len(runs) == 1 else canonical_order(pd.concat(runs, ignore_index=True))

    def _save(self, values: pd.DataFrame | None = None) -> None:
        """Write the checkpoint, and on its card what it was trained on. values: of the validation's queries."""
        default, settings = TrainingSettings().as_dict(), self.settings.as_dict()
        trained = {
            "collection": Path(self.collection.name).name,
            "queries": len({query_id for query_id, _, _ in self.batches.instances.pairs}),
            "steps": self.settings.epochs * self.batches.steps_per_epoch,
            "settings": {
                name: value for name, value in settings.items() if name in CARD_SETTINGS or value != default[name]
            },
        }
        if values is not None:
            mean, error = float(values["value"].mean()), float(values["value"].sem()) if len(values) > 1 else math.nan
            margin = 1.96 * error
            measured = {"measure": self.settings.selection_measure, "value": mean, "queries": len(values)}
            trained["measured"] = [measured | {"low": mean - margin, "high": mean + margin}]
        self.model.config.gdmtl_card = getattr(self.model.config, "gdmtl_card", {}) | {"trained": trained}
        self.model.save_pretrained(self.folder.checkpoint)


def _on_its_way(values: Tensor) -> "tuple[Tensor, torch.cuda.Event | None]":
    """Numbers copied to the host without waiting for them, and the event that says when they are there."""
    if not values.is_cuda:
        return values.cpu(), None
    there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    there.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return there, arrived

