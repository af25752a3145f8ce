"""How language-model heads start: from their tokens' frequencies where no checkpoint has trained them, and trained
alone for some steps where settings ask for it."""

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from gdmtl_lib.losses import generation_cross_entropy

from .batches import Batches

LEARNING_RATE = 1e-3


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
    optimizer = torch.optim.AdamW(heads.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
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
