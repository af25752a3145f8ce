"""Denoising: BART's own pre-training (text infilling; Lewis et al., 2020), for an encoder-decoder without it.

BART comes with a cross-attention that denoising has trained. One that is warm-started from an encoder comes with a copy
of self-attention in its place, which does not know where in the source to look and hardly learns it from a few hundred
queries. So it first writes passages of the collection out of damaged copies of them. No query, judgment or answer is
read. Some passages are held out, and what is kept is the state that writes those best.
"""

import math
import os
import time

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from gdmtl_lib.backbones.devices import fast_products, pick_device, pick_precision
from gdmtl_lib.backbones.dropout import fast_dropout
from gdmtl_lib.data.collection import load_collection
from gdmtl_lib.data.files import as_path
from gdmtl_lib.data.provenance import fingerprint_of
from gdmtl_lib.data.splits import stable_hash
from gdmtl_lib.data.trec import frame_hash
from gdmtl_lib.inputs import InputBuilder, TokenSequence
from gdmtl_lib.losses import generation_cross_entropy
from gdmtl_lib.packing import PackedBatch, filled_on, pack
from gdmtl_lib.pretrained import build_model
from gdmtl_lib.settings import TrainingSettings, check_count
from gdmtl_lib.systems import get_system

from .folder import Progress, TrainingFolder
from .loop import learning_rate

SETTINGS = {
    "epochs": 1, "warmup_epochs": 0.1, "batch_size": 4, "max_length": 128, "learning_rate": 2e-4, "min_learning_rate": 0
}  # fmt: skip
"""What differs from TrainingSettings' defaults: the cheapest that was found on the embedded collection. An epoch is all
steps; max_length counts the tokens of a passage's window."""
WINDOWS = (4, 2, 1, 1, 1, 1, 1, 1)
"""Where to look is learned first from short texts, and does not carry over to longer ones by itself: in each eighth of
the steps windows are so many times shorter than max_length, and there are so many times more of them."""
CROSS_ATTENTION = 2.0  # times the learning rate: it has most to learn, and the rest of the weights something to lose
MASKED, SPAN = 0.12, 3.0  # the share of places at which a masked span starts, and the spans' mean length (Poisson)
HELD_OUT = 48  # passages, and at most a tenth of them
EVERY = 50  # steps between two looks at the passages that are held out, once windows are whole
PATIENCE = 2  # looks without a lower loss, after which it ends
SYSTEM, TASK = "gdmtl_s", "query_generation"  # has a head to write with; below the heads all four systems are the same


def denoised_start(
    collection, system: str, steps: int, output_dir: str | os.PathLike, checkpoint: str | None = None,
    layers: int | None = None, **settings,
) -> str | None:
    """The checkpoint that a system starts from: the one given, or, for an encoder-decoder with steps > 0, the one
    denoised into output_dir, now if need be. The rest as of `denoise`."""
    if steps == 0 or get_system(system).backbone != "encoder_decoder":
        return checkpoint
    denoise(collection, steps, output_dir, checkpoint, layers, **settings)
    return str(as_path(output_dir, "output_dir") / "checkpoint")


def denoise(
    collection, steps: int, output_dir: str | os.PathLike, checkpoint: str | None = None, layers: int | None = None,
    resume: bool = True, **settings,
) -> pd.DataFrame:
    """Pre-train an encoder-decoder, warm-started from an encoder, by text infilling on a collection's passages.

    What is left under output_dir is that of a training (see `folder`): `checkpoint/` is what `build_model` takes for
    any encoder-decoder system, validation.csv holds the held-out loss.

    collection: or what `load_collection` takes. steps: optimiser steps; fewer where the held-out loss rises.
    checkpoint, layers: as for `build_model`. resume: as for `train`. settings: those of TrainingSettings in which it
    differs from `SETTINGS`: seed, device, batch_size, ...

    Returns the history: step, learning_rate, loss (nats a token). Raises as `train`, and ValueError for a checkpoint
    that needs no denoising and a collection of fewer than ten passages.
    """
    check_count("steps", steps)
    settings = TrainingSettings(**SETTINGS | settings)
    denoising = _Denoising(load_collection(collection), int(steps), settings, output_dir, checkpoint, layers)
    with denoising.folder.held():
        if not denoising.folder.open(resume):
            denoising.run()
        return denoising.folder.history()


def infilled(tokens: list[int], mask: int, random: np.random.Generator, share: float = MASKED, mean: float = SPAN):
    """The tokens with spans of them replaced by one mask each, list[int]; a span of no tokens is a mask put between
    two.
    """
    damaged, at = [], 0
    while at < len(tokens):
        span = 0
        if random.random() < share:
            damaged.append(mask)
            span = int(random.poisson(mean))
        damaged += [] if span else [tokens[at]]
        at += max(span, 1)
    return damaged


def infilling(builder: InputBuilder, passage: list[int], window: int, random: np.random.Generator) -> TokenSequence:
    """A window of a passage, token ids from an encoder-decoder's `passage_tokens`: damaged, for the encoder; whole, one
    token later, for the decoder, which writes it."""
    first = int(random.integers(max(1, len(passage) - window + 1)))
    tokens = passage[first : first + window]
    damaged = infilled(tokens, builder.tokenizer.mask_token_id, random)  # by empty spans longer than the window
    source = [builder.first, *damaged[: builder.max_length - 2], builder.end]
    decoder = [builder.decoder_start_id, *tokens]
    return TokenSequence(TASK, source, [0] * len(source), len(source), decoder, [*tokens, builder.end])


class _Denoising:
    """One denoising: its model, its passages, its folder, and the loop over its steps."""

    def __init__(self, collection, steps, settings, output_dir, checkpoint, layers):
        self.steps, self.settings = steps, settings
        self.device = pick_device(settings.device)
        self.precision = pick_precision(settings.precision, self.device, training=True)
        self.model = build_model(SYSTEM, checkpoint, layers, settings.seed)
        if not self.model.config.gdmtl["fresh_heads"]:
            raise ValueError(
                f"checkpoint {checkpoint} was pre-trained by denoising and brings its cross-attention: "
                "set denoising_steps to 0, or start from an encoder (by default MiniLM)"
            )
        positions = self.model.config.max_position_embeddings
        if (found := settings.max_length) > positions - 2:  # a start and an end
            raise ValueError(f"max_length: expected at most {positions - 2} with {positions} positions, found {found}: lower it")
        # By a hash of the ids, so that every seed holds the same passages out.
        doc_ids = sorted(collection.doc_ids(), key=lambda doc_id: stable_hash("denoising", doc_id))
        held_out = min(HELD_OUT, len(doc_ids) // 10)
        if not held_out:
            raise ValueError(
                f"denoising holds a tenth of the passages out: expected 10 or more, "
                f"and {collection.name!r} has {len(doc_ids)}"
            )
        doc_ids = doc_ids[: held_out + max(WINDOWS) * steps * settings.batch_size]  # no more than can be drawn
        texts = collection.text(doc_ids)
        self.builder = self.model.input_builder(max_length=positions)
        passages = self.builder.passage_tokens(texts)
        self.passages = passages[held_out:]
        # Most of a vocabulary never occurs in a small collection, and its logits are a third of a step's time.
        self.pieces = torch.tensor(sorted({self.builder.end}.union(*passages)), device=self.device)
        random = np.random.default_rng(stable_hash("held out"))
        held = [infilling(self.builder, tokens, settings.max_length, random) for tokens in passages[:held_out]]
        self.held_out = [pack(held[at : at + settings.batch_size]) for at in range(0, held_out, settings.batch_size)]
        self.model.config.gdmtl |= {"denoised": steps}
        description = {
            "denoising_steps": steps,
            "settings": {name: value for name, value in settings.as_dict().items() if name != "device"},
            "passages": frame_hash(pd.DataFrame({"doc_id": doc_ids, "text": texts})),
            "initial_weights": fingerprint_of(self.model),
        }
        self.folder = TrainingFolder(output_dir, description, TrainingSettings().as_dict())

    def run(self) -> None:
        model = self.model.to(self.device).eval()  # without dropout: too few steps to learn any passage by heart
        [self.head] = model.generation_heads.values()
        ids = torch.tensor([piece for tokens in self.passages for piece in tokens])
        self.head.start_from_counts(torch.bincount(ids, minlength=model.config.vocab_size).to(self.head.bias))
        optimizer = torch.optim.AdamW(self._groups(), weight_decay=0.0, fused=True)
        progress = self.folder.load(model, optimizer)
        bar = tqdm(total=self.steps, initial=progress.step, desc="denoising passages")
        while progress.step < self.steps and len(progress.validation) - 1 - (progress.best_epoch or 0) < PATIENCE:
            started = time.perf_counter()
            batch, rate = self._batch(progress.step), learning_rate(progress.step, self.steps, self.settings)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["times"]
            loss = self._loss(batch)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), self.settings.max_gradient_norm or math.inf)
            if not torch.isfinite(norm):
                raise FloatingPointError(
                    f"the gradient's norm is {float(norm)} at step {progress.step} of denoising: this step was not "
                    f"made, and what {self.folder.folder} holds is kept. Lower learning_rate{', or use precision fp32' * (self.precision != 'fp32')}"
                )
            optimizer.step()
            optimizer.zero_grad()
            step = {"step": progress.step}
            progress.history.append(step | {"learning_rate": rate, "loss": loss.item()})
            progress.timing.append(step | {"seconds": time.perf_counter() - started, "tokens": batch.input_ids.numel()})
            progress.step += 1
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
            if progress.step % EVERY == 0 or progress.step == self.steps:
                if self._times(progress.step - 1) == 1 or progress.step == self.steps:
                    self._look(progress)
                self.folder.save(progress, model, optimizer)
        bar.close()
        self.folder.finish(progress)

    def _groups(self) -> list[dict]:
        """AdamW's groups, each with what its learning rate is multiplied by. Positions are frozen: windows would move
        the first of them away from the others."""
        self.model.requires_grad_(False)
        fresh, own = list(self.head.parameters()), []
        for name, parameter in self.model.model.named_parameters():
            if "embed_positions" not in name:
                (fresh if "encoder_attn" in name else own).append(parameter)
        for parameter in (*fresh, *own):
            parameter.requires_grad_(True)
        return [{"params": own, "times": 1.0}, {"params": fresh, "times": CROSS_ATTENTION}]

    def _batch(self, step: int) -> PackedBatch:
        """What is read at a step: a function of the seed and the step alone."""
        random, times = np.random.default_rng([self.settings.seed, step]), self._times(step)
        chosen = random.choice(len(self.passages), times * self.settings.batch_size)
        window = self.settings.max_length // times
        return pack([infilling(self.builder, self.passages[index], window, random) for index in chosen])

    def _times(self, step: int) -> int:
        return WINDOWS[len(WINDOWS) * step // self.steps]

    def _loss(self, batch: PackedBatch) -> Tensor:
        """Nats a token, over all tokens of the windows."""
        batch, embeddings = filled_on(batch, self.device), self.model.get_input_embeddings().weight
        # fp16 would take a scaler of gradients, and is computed in fp32.
        precise = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with fast_products(self.device), fast_dropout(self.device), precise:
            states = self.model.states(batch)[batch.predict_at[TASK]]
            logits = F.linear(states, embeddings[self.pieces], self.head.bias[self.pieces])
        return generation_cross_entropy(logits, torch.searchsorted(self.pieces, batch.targets[TASK]))

    @torch.no_grad()
    def _look(self, progress: Progress) -> None:
        """The loss on the passages that were held out; the weights are kept where none was lower."""
        counts = [len(batch.targets[TASK]) for batch in self.held_out]
        value = float(np.average([float(self._loss(batch)) for batch in self.held_out], weights=counts))
        look = len(progress.validation)
        row = {"epoch": look, "step": progress.step - 1, "measure": "held-out loss", "value": value}
        progress.validation.append(row)
        if progress.best_value is None or value < progress.best_value:
            progress.best_epoch, progress.best_value = look, value
            self.model.save_pretrained(self.folder.checkpoint)

