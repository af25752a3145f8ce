"""How the next token is chosen: greedy, beam search, sampling. They ask a model for logits and know nothing of it.

b rows, v vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gdmtl_lib.settings import check_count, is_number, is_whole

STILL_WORTH = 0.75  # of the rows going on: dropping the others copies all that is kept
METHODS = ("greedy", "beam", "sample")
# Which settings belong to which methods: one given in vain is a mistake.
_BELONGS = {"n": ("beam", "sample"), "beams": ("beam",), "top_k": ("sample",), "top_p": ("sample",),
            "temperature": ("sample",), "seed": ("sample",)}  # fmt: skip


@dataclass(frozen=True)
class Decoding:
    """A strategy with its settings; those not given are None.

    method: `greedy`, the likeliest token each time; `beam`, the likeliest texts that a search over `beams` at a time
    (4) finds, by log P divided by the number of tokens, the end included; `sample`, each token drawn from the
    `top_k` likeliest, of these from the fewest that have `top_p` of the probability, at `temperature` (1.0).
    n: texts a passage (1). seed: of the draws (0). Raises ValueError for what is unknown, out of range, or in vain.
    """

    method: str = "greedy"
    n: int | None = None
    beams: int | None = None
    top_k: int | None = None
    top_p: float | None = None
    temperature: float | None = None
    seed: int | None = None

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}: expected one of {', '.join(METHODS)}")
        for name, methods in _BELONGS.items():
            if getattr(self, name) is not None and self.method not in methods:
                wanted = " or ".join(map(repr, methods))
                raise ValueError(f"{name} belongs to method {wanted}, but method is {self.method!r}: leave {name} out")
        for name in ("n", "beams", "top_k"):
            check_count(name, getattr(self, name), may_lack=True)
        if self.top_p is not None and not (is_number(self.top_p) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p must be above 0 and at most 1, found {self.top_p!r}")
        if self.seed is not None and not is_whole(self.seed):
            raise ValueError(f"seed must be a whole number, found {self.seed!r}")
        if self.temperature is not None and not (is_number(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be above 0, found {self.temperature!r}; for none use method 'greedy'")
        if self.method == "beam" and (self.n or 1) > self.width:
            raise ValueError(f"n must be at most beams, found n {self.n} and beams {self.width}: raise beams")

    @property
    def width(self) -> int:
        """Rows that a passage takes at a time."""
        return (self.beams or 4) if self.method == "beam" else (self.n or 1)

    def write(self, steps, uniforms: Tensor, end: int) -> list[list[list[int]]]:
        """Write `n` texts for each row of `steps`, token ids without the end.

        steps: what writes several texts, one a row. `start()`: the logits of every text's first token, float [b, v];
        `step(tokens)` appends one to every row, int64 [b], and returns the logits of the next; `select(rows)` goes on
        with these rows, int64, in this order, of which one may be taken several times.
        uniforms: float [b, n, tokens] from 0 to 1, what the draws of each text's tokens are made from.
        """
        count, copies, limit = uniforms.shape
        if self.method == "beam":
            return beam_search(steps, count, self.width, self.n or 1, limit, end)
        numbers = uniforms.flatten(0, 1)

        def choose(logits: Tensor, rows: Tensor, position: int) -> Tensor:
            if self.method == "greedy":
                return logits.argmax(-1)
            return draw(logits, numbers[rows, position], self.top_k, self.top_p, self.temperature or 1.0)

        written = token_by_token(steps, choose, count, copies, limit, end)
        return [written[i : i + copies] for i in range(0, len(written), copies)]


def token_by_token(
    steps, choose: Callable[[Tensor, Tensor, int], Tensor], count: int, copies: int, limit: int, end: int
) -> list[list[int]]:
    """Write `copies` texts for each of `count` rows, one token at a time. choose: given logits, float [b, v], the texts
    they are of, int64 [b], and the position, the tokens, int64 [b]."""
    logits = steps.start()
    rows = torch.arange(count * copies, device=logits.device)
    if copies > 1:
        steps.select(rows // copies)
        logits = logits[rows // copies]
    written: list[list[int]] = [[] for _ in rows]
    goes_on = torch.ones_like(rows, dtype=torch.bool)
    for position in range(limit):
        tokens = choose(logits, rows, position)
        goes_on &= tokens != end
        for row, token in zip(rows[goes_on].tolist(), tokens[goes_on].tolist()):
            written[row].append(token)
        if position + 1 == limit or not goes_on.any():
            break
        if goes_on.sum() <= STILL_WORTH * len(rows):
            chosen = goes_on.nonzero()[:, 0]
            steps.select(chosen)
            rows, tokens, goes_on = rows[chosen], tokens[chosen], goes_on[chosen]
        logits = steps.step(tokens)
    return written


def draw(logits: Tensor, uniforms: Tensor, top_k: int | None, top_p: float | None, temperature: float) -> Tensor:
    """Draw a token for each row: the one at which the probabilities, the largest first, add up to more than a uniform
    number. logits: float [b, v]; uniforms: float [b], from 0 to 1. Returns int64 [b]."""
    # The largest first; of a whole vocabulary few are enough, and sorting all would cost more than computing them.
    largest, tokens = logits.float().topk(min(top_k or logits.shape[1], logits.shape[1]))
    probabilities = torch.softmax(largest / temperature, dim=-1)
    if top_p is not None:
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities[before >= top_p] = 0
    total = probabilities.cumsum(dim=-1)
    place = (total <= uniforms[:, None] * total[:, -1:]).sum(dim=-1, keepdim=True)
    return tokens.gather(1, place.clamp(max=tokens.shape[1] - 1))[:, 0]


def beam_search(steps, count: int, beams: int, n: int, limit: int, end: int) -> list[list[list[int]]]:
    """The `n` best texts that the search finds for each of `count` rows, the best first: at each step the `beams`
    likeliest continuations are kept, and a row is done with `beams` texts that have ended, or at the limit."""
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(count)]
    live: dict[int, list[tuple[float, list[int]]]] = {row: [(0.0, [])] for row in range(count)}
    logits = steps.start()
    for position in range(limit):
        log_p = torch.log_softmax(logits.float(), dim=-1)
        parents, tokens, going, first = [], [], {}, 0
        for row, texts in live.items():
            before = log_p.new_tensor([total for total, _ in texts])
            totals = (before[:, None] + log_p[first : first + len(texts)]).flatten()
            # Each text has one end, so among twice as many there are `beams` that go on.
            best = totals.topk(min(2 * beams, len(totals)))
            chosen = []
            for place, (total, at) in enumerate(zip(best.values.tolist(), best.indices.tolist())):
                parent, token = divmod(at, log_p.shape[1])
                if token == end:
                    if place < beams:
                        finished[row].append((total / (position + 1), texts[parent][1]))
                elif len(chosen) < beams:
                    chosen.append((total, [*texts[parent][1], token], first + parent))
            first += len(texts)
            if position + 1 == limit:
                finished[row] += [(total / limit, text) for total, text, _ in chosen]
            elif len(finished[row]) < beams:
                going[row] = [(total, text) for total, text, _ in chosen]
                parents += [parent for _, _, parent in chosen]
                tokens += [text[-1] for _, text, _ in chosen]
        live = going
        if not live:
            break
        steps.select(torch.tensor(parents, device=logits.device))
        logits = steps.step(torch.tensor(tokens, device=logits.device))
    return [[text for _, text in sorted(found, key=lambda pair: -pair[0])[:n]] for found in finished]
