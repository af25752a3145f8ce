"""Tables 1 and 2 of the paper as data."""

import re

import pytest

from gdmtl_lib import systems
from gdmtl_lib.systems import (
    GENERATIVE_TASKS,
    LABELS,
    SYSTEMS,
    System,
    Task,
    add_system,
    add_task,
    get_system,
    system_name,
)

ENCODER, BOTH = "encoder", "encoder_decoder"
RANK, QUERY, ANSWER = "rank", "query_generation", "answer_generation"
BERT, BART = "bert-base-uncased", "facebook/bart-base"

# name: label, backbone, tasks, rank_layout, rank_loss, checkpoint
TABLES = {
    "mono": ("mono", ENCODER, (RANK,), "concatenated", "pointwise", "bert-large-uncased"),
    "bert": ("BERT", ENCODER, (RANK,), "concatenated", "pairwise", BERT),
    "gdmtl": ("GDMTL", ENCODER, (RANK, QUERY), "concatenated", "pairwise", BERT),
    "gdmtl_plus": ("GDMTL+", ENCODER, (RANK, QUERY, ANSWER), "concatenated", "pairwise", BERT),
    "bart_s": ("BART_S", BOTH, (RANK,), "separate", "pairwise", BART),
    "gdmtl_s": ("GDMTL_S", BOTH, (RANK, QUERY), "separate", "pairwise", BART),
    "bart_c": ("BART_C", BOTH, (RANK,), "concatenated", "pairwise", BART),
    "gdmtl_c": ("GDMTL_C", BOTH, (RANK, QUERY), "concatenated", "pairwise", BART),
}


def test_the_eight_systems_are_those_of_the_paper():
    found = {
        name: (s.label, s.backbone, s.tasks, s.rank_layout, s.rank_loss, s.checkpoint)
        for name, s in SYSTEMS.items()
    }
    assert found == TABLES
    assert list(SYSTEMS) == list(TABLES)
    assert all(system.name == name for name, system in SYSTEMS.items())


def test_generative_tasks_are_all_but_ranking():
    assert {name: (task.prefix, task.source, task.target) for name, task in GENERATIVE_TASKS.items()} == {
        QUERY: ("sum:", ("passage",), "query"), ANSWER: ("answer:", ("passage", "query"), "answer"),
    }  # fmt: skip
    assert [name for name, system in SYSTEMS.items() if system.needs_answers] == ["gdmtl_plus"]
    assert SYSTEMS["bert"].generative_tasks == ()
    assert SYSTEMS["gdmtl"].generative_tasks == ("query_generation",)
    assert SYSTEMS["gdmtl_plus"].generative_tasks == ("query_generation", "answer_generation")


def test_labels_are_the_papers_and_hold_the_first_stage():
    assert LABELS == {"bm25": "BM25"} | {name: columns[0] for name, columns in TABLES.items()}


@pytest.mark.parametrize(
    ("written", "name"),
    [("gdmtl+", "gdmtl_plus"), ("GDMTL+", "gdmtl_plus"), ("Gdmtl-Plus", "gdmtl_plus"), (" bert\n", "bert"),
     ("BART_S", "bart_s"), ("bart-c", "bart_c"), ("MONO", "mono")],
)  # fmt: skip
def test_names_are_forgiving(written, name):
    assert system_name(written) == name
    assert get_system(written) is SYSTEMS[name]


def test_every_label_is_a_name():
    assert {name: system_name(label) for name, label in LABELS.items()} == {name: name for name in LABELS}


@pytest.mark.parametrize("written", ["gpt", "", "bert+", "gdmtl++", None, 3])
@pytest.mark.parametrize("look_up", [system_name, get_system])
def test_an_unknown_system_is_refused_with_the_known_names(look_up, written):
    with pytest.raises(ValueError) as error:
        look_up(written)
    assert re.sub(r" \(did you mean '\w+'\?\)", "", str(error.value)) == (
        f"unknown system {written!r}: expected one of "
        "bm25, mono, bert, gdmtl, gdmtl_plus, bart_s, gdmtl_s, bart_c, gdmtl_c"
    )


def test_the_first_stage_has_a_name_but_no_model():
    assert system_name("BM25") == "bm25"
    with pytest.raises(ValueError) as error:
        get_system("bm25")
    assert str(error.value) == (
        "bm25 is the first stage and has no model: use bm25_candidates, or one of "
        "mono, bert, gdmtl, gdmtl_plus, bart_s, gdmtl_s, bart_c, gdmtl_c"
    )


BLIND = Task("blind_answer", "guess:", ("passage",), "answer")


def test_a_task_and_a_system_of_ones_own():
    add_task(BLIND)
    added = add_system(System("guesser", "Guesser", "encoder", (RANK, "blind_answer"), "concatenated", "pairwise", "x"))
    assert get_system("Guesser") is added and added.generative_tasks == ("blind_answer",) and added.needs_answers
    assert list(systems.LABELS)[-1] == "guesser" and systems.LABELS["guesser"] == "Guesser"
    add_task(BLIND)  # as a cell of a notebook that is run again
    again = add_system(System("guesser", "Who guesses", "encoder", (RANK, "blind_answer"), "concatenated", "pointwise", "x"))
    assert get_system("guesser") is again and systems.LABELS["guesser"] == "Who guesses"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task("rank", "x:", ("passage",), "query"), "there is a task 'rank' already: choose another name"),
        (Task(QUERY, "x:", ("passage",), "query"), "there is a task 'query_generation' already"),
        (Task("x", "x:", ("query",), "answer"), "expected the source ('passage',) or ('passage', 'query') and the target"),
        (Task("x", "x:", ("passage",), "passage"), "found ('passage',) and 'passage'"),
        (Task("x", "x:", ("passage", "query"), "query"), "its target, the query, is part of its source: it would be copied"),
    ],
)
def test_a_task_that_cannot_be_is_refused(task, message):
    with pytest.raises(ValueError) as error:
        add_task(task)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *[({"name": name}, f"a system's name is new and in lower case, without spaces, + and -, found {name!r}; there are bm25, ")
          for name in ("Mine", "my-own", "mono+", "my own", " mine", "", "bert", "bm25", "monobert")],
        ({"backbone": "decoder"}, "unknown backbone 'decoder', expected one of ('encoder', 'encoder_decoder')"),
        ({"tasks": (QUERY,)}, "unknown first task ('query_generation',), expected one of (('rank',),)"),
        ({"tasks": (RANK, "sing")}, "unknown task 'sing', expected one of ('query_generation', 'answer_generation')"),
        ({"rank_layout": "both"}, "unknown rank_layout 'both'"),
        ({"rank_loss": "bipartite"}, "unknown rank_loss 'bipartite', expected one of ('pairwise', 'pointwise', 'listwise', 'margin_mse')"),
        ({"rank_layout": "separate"}, "an encoder reads passage and query concatenated"),
    ],
)
def test_a_system_that_cannot_be_is_refused(change, message):
    fine = dict(name="mine", label="Mine", backbone="encoder", tasks=(RANK,), rank_layout="concatenated",
                rank_loss="pairwise", checkpoint="x")  # fmt: skip
    with pytest.raises(ValueError) as error:
        add_system(System(**fine | change))
    assert message in str(error.value)
