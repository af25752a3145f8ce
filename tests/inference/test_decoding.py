"""The strategies by themselves, on tables of probabilities that a hand can follow."""

import pytest
import torch

from gdmtl_lib.inference.decoding import Decoding, beam_search, draw

END = 0


class Table:
    """A model that knows a table: the tokens so far, as a tuple, to the probabilities of tokens 0 (the end), 1, 2."""

    def __init__(self, table, rows=1):
        self.table, self.texts = table, [()] * rows

    def start(self):
        return torch.log(torch.tensor([self.table.get(text, (1.0, 0.0, 0.0)) for text in self.texts]))

    def step(self, tokens):
        self.texts = [(*text, token) for text, token in zip(self.texts, tokens.tolist(), strict=True)]
        return self.start()

    def select(self, rows):
        self.texts = [self.texts[row] for row in rows.tolist()]


# Token 1 looks best at first, but what follows 2 is surer: P(1, 1) = .6 * .4 = .24, P(2, 2) = .4 * .9 = .36.
GARDEN_PATH = {(): (0.0, 0.6, 0.4), (1,): (0.3, 0.4, 0.3), (2,): (0.0, 0.1, 0.9)}


def test_greed_walks_the_garden_path_and_the_beam_does_not():
    numbers = torch.zeros(1, 1, 5)
    assert Decoding().write(Table(GARDEN_PATH), numbers, END) == [[[1, 1]]]
    assert Decoding("beam", beams=2).write(Table(GARDEN_PATH), numbers, END) == [[[2, 2]]]


def test_finished_texts_are_ordered_by_their_mean_log_probability():
    """(1) ends with .6 * .55 = .33 over 2 tokens, its end included: exp(mean log P) = .57. (1, 1) and (2, 2) end surely
    with the third: .24^(1/3) = .62 and .36^(1/3) = .71. By the sum (1) would stand before (1, 1)."""
    table = GARDEN_PATH | {(1,): (0.55, 0.4, 0.05)}
    assert beam_search(Table(table), 1, 3, 3, 5, END) == [[[2, 2], [1, 1], [1]]]


def test_at_the_limit_what_has_not_ended_counts():
    assert beam_search(Table(GARDEN_PATH), 1, 2, 2, 1, END) == [[[1], [2]]]


def test_rows_are_searched_apart():
    """The second row begins elsewhere and has ended when the first goes on."""
    both = Table(GARDEN_PATH, 2)
    both.texts[1] = (9,)
    both.table = GARDEN_PATH | {(9,): (0.9, 0.1, 0.0)}
    assert beam_search(both, 2, 1, 1, 5, END) == [[[1, 1]], [[]]]


@pytest.mark.parametrize(
    ("settings", "uniform", "expected"),
    [
        # softmax of log p is p = (.5, .08, .3, .12): in order 0 up to .5, 2 up to .8, 3 up to .92, 1 up to 1.
        ({}, 0.49, 0), ({}, 0.51, 2), ({}, 0.79, 2), ({}, 0.91, 3), ({}, 0.99, 1),
        # The two likeliest are .5 and .3: of .8, 0 has .625.
        ({"top_k": 2}, 0.62, 0), ({"top_k": 2}, 0.63, 2), ({"top_k": 2}, 0.999, 2), ({"top_k": 1}, 0.999, 0),
        # .5 falls short of .6, with .3 it is enough; .5 alone is enough for .5 and for less.
        ({"top_p": 0.6}, 0.62, 0), ({"top_p": 0.6}, 0.999, 2), ({"top_p": 0.1}, 0.999, 0),
        # Of the two likeliest, 0 has .625, which is enough for .6 then, though not before.
        ({"top_k": 2, "top_p": 0.6}, 0.999, 0),
        # Squared: (.25, .0064, .09, .0144) / .3608, so 0 has .693.
        ({"temperature": 0.5}, 0.69, 0), ({"temperature": 0.5}, 0.70, 2),
    ],
)  # fmt: skip
def test_a_uniform_number_draws_the_token(settings, uniform, expected):
    logits = torch.log(torch.tensor([[0.5, 0.08, 0.3, 0.12]]))
    settings = {"top_k": None, "top_p": None, "temperature": 1.0} | settings
    assert draw(logits, torch.tensor([uniform]), **settings).tolist() == [expected]


def test_draws_are_as_frequent_as_they_are_likely():
    logits = torch.log(torch.tensor([[0.5, 0.08, 0.3, 0.12]])).expand(20_000, -1)
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    counts = draw(logits, uniforms, None, None, 1.0).bincount() / 20_000
    assert torch.allclose(counts, torch.tensor([0.5, 0.08, 0.3, 0.12]), atol=0.015)


def test_copies_are_written_apart():
    """Two texts of one row: the first's numbers are small and take the likeliest token, the second's the last."""
    numbers = torch.tensor([[[0.0, 0.0], [0.99, 0.99]]])
    assert Decoding("sample", n=2).write(Table(GARDEN_PATH), numbers, END) == [[[1, 1], [2, 1]]]


def test_texts_that_have_ended_are_dropped_by_the_quarter():
    """Of five rows the first ends at once and is computed once more; with the second the rows are three."""
    model, sizes = Table({(row, *rest): probabilities for row in (5, 6, 7) for rest, probabilities in GARDEN_PATH.items()}, 5), []
    model.texts = [(8,), (9,), (5,), (6,), (7,)]
    model.table |= {(9,): (0.0, 1.0, 0.0)}  # 1, and then the end
    step = model.step
    model.step = lambda tokens: sizes.append(len(tokens)) or step(tokens)
    written = Decoding().write(model, torch.zeros(5, 1, 5), END)
    assert written == [[[]], [[1]], *[[[1, 1]]] * 3] and sizes == [5, 3]
