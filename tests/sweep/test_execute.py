"""A notebook executed, and a job of the plan: done while what it made is there, and as it was."""

import dataclasses
import json
import os
from pathlib import Path

import nbformat
import papermill
import pytest

from gdmtl_lib.sweep import __main__ as command
from gdmtl_lib.sweep import execute as executing
from gdmtl_lib.sweep import notebooks
from gdmtl_lib.sweep.jobs import Job, prepare

PROJECT = Path(__file__).parents[2]


def notebook(path, *cells):
    parameters = nbformat.v4.new_code_cell("value: int = 1  # a number", metadata={"tags": ["parameters"]})
    cells = [parameters, *map(nbformat.v4.new_code_cell, cells)]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def execute(tmp_path, *cells, **parameters):
    output = tmp_path / "executed" / "out.ipynb"
    notebooks.execute_notebook(notebook(tmp_path / "in.ipynb", *cells), output, parameters, tmp_path, "a title")
    return nbformat.read(output, 4)


def test_parameters_folder_and_progress(tmp_path, monkeypatch, capfd):
    """The line of progress shows the cells and what the notebook's own bar says."""
    monkeypatch.setattr(notebooks, "_LOG_SECONDS", 0.0)
    loop = "from tqdm.auto import tqdm\nimport time\nfor _ in tqdm(range(3), desc='counting'): time.sleep(0.2)"
    executed = execute(tmp_path, "import os\nprint(value, os.getcwd())", loop, value=2)
    assert executed.cells[2].outputs[0].text == f"2 {tmp_path}\n"
    shown = capfd.readouterr().err
    assert "a title: 4/4 cells" in shown
    assert "counting: " in shown and "2/3 [" in shown
    assert "WARNING" not in shown


def test_the_page_of_a_notebook_shows_a_picture_where_a_widget_stands(tmp_path):
    """And not the widget, which is blank without a kernel and a network."""
    both = {"application/vnd.jupyter.widget-view+json": {"model_id": "a"}, "text/html": "<b>the picture</b>", "text/plain": "a widget"}
    execute(tmp_path, f"from IPython.display import display\ndisplay({both!r}, raw=True)")
    text = (tmp_path / "executed" / "out.html").read_text()
    assert "<b>the picture</b>" in text and text.count("a widget") == 1  # in the cell that made it


def test_the_page_of_a_notebook_leaves_out_what_is_folded_but_what_draws(tmp_path):
    folded = {"jupyter": {"source_hidden": True}}
    sources = {"import sorts": folded, "figure = gdmtl.plots.twinned()": folded, "print(unfolded)": {}}
    cells = [nbformat.v4.new_code_cell(source, metadata=metadata) for source, metadata in sources.items()]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    notebooks.write_html(tmp_path / "a.ipynb")
    text = (tmp_path / "a.html").read_text()
    assert [word in text for word in ("sorts", "twinned", "unfolded")] == [False, True, True]


def test_a_failure_names_the_executed_notebook_and_the_last_error(tmp_path):
    with pytest.raises(RuntimeError) as error:
        execute(tmp_path, "print('before')", "raise ValueError('expected 1, found 2')", "print('after')")
    assert str(error.value) == (
        f"a title failed. ValueError: expected 1, found 2\n  executed notebook: {tmp_path}/executed/out.ipynb"
    )
    executed = nbformat.read(tmp_path / "executed" / "out.ipynb", 4)
    assert [cell.source for cell in executed.cells if cell.get("outputs")][-1].startswith("raise")


def test_a_kernel_that_dies(tmp_path):
    with pytest.raises(RuntimeError, match=r"^a title failed\. Its kernel died, as it does when memory runs out") as error:
        execute(tmp_path, "import os\nos._exit(1)")
    assert str(error.value).endswith(f"executed notebook: {tmp_path}/executed/out.ipynb")


def test_a_kernel_that_does_not_start_is_started_again(tmp_path, monkeypatch):
    """Two notebooks that start at the same time can pick the same port."""
    attempts = []

    def collide(*given, **named):
        attempts.append(1)
        if len(attempts) <= collisions:
            raise RuntimeError("Kernel died before replying to kernel_info")
        notebook(tmp_path / "out.ipynb")

    monkeypatch.setattr(papermill, "execute_notebook", collide)
    collisions = 2
    notebooks.execute_notebook("in.ipynb", tmp_path / "out.ipynb", {}, tmp_path, "a title")
    assert len(attempts) == 3
    attempts.clear()
    collisions = 3
    with pytest.raises(RuntimeError, match="^a title failed to start. Kernel died before replying to kernel_info\n  notebook: in"):
        notebooks.execute_notebook("in.ipynb", tmp_path / "out.ipynb", {}, tmp_path, "a title")
    assert len(attempts) == 3


# ---- jobs and their stamps


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A job that does what a function says."""

    def make(run) -> Job:
        monkeypatch.setitem(executing.KINDS, "test", lambda config: run())
        return Job("name", "test", "a" * 64, str(tmp_path), {}, [])

    return make


def execute_job(job):
    executing.execute(None, [job], job)


@pytest.fixture
def job(tmp_path, make):
    def run():
        for name, text in {"bert/seed0/run.trec": "run", "tables/t.csv": "t", "notebooks/n.ipynb": "n"}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return [tmp_path / "bert/seed0/run.trec", tmp_path / "tables/t.csv", tmp_path / "notebooks/n.ipynb"]

    return make(run)


def test_a_job_is_done_while_what_it_made_is_there(job, tmp_path):
    assert not job.is_done()
    execute_job(job)
    assert job.is_done() and job.stamp == tmp_path / ".jobs" / ("name." + "a" * 16)
    (tmp_path / "bert/seed0/run.trec").touch()
    (tmp_path / "tables/t.csv").write_text("drawn anew by hand")
    assert job.is_done()


@pytest.mark.parametrize("name", ["bert/seed0/run.trec", "tables/t.csv", "notebooks/n.ipynb", ".jobs/name.aaaaaaaaaaaaaaaa"])
def test_a_job_is_not_done_without_what_it_made(job, tmp_path, name):
    execute_job(job)
    (tmp_path / name).unlink()
    assert not job.is_done()


@pytest.mark.parametrize("name", ["bert/seed0/run.trec", ".jobs/name.aaaaaaaaaaaaaaaa"])
def test_a_job_is_not_done_where_its_result_was_changed(job, tmp_path, name):
    execute_job(job)
    (tmp_path / name).write_text("other")
    assert not job.is_done()


def test_a_stamp_of_earlier_inputs_goes(job):
    execute_job(job)
    later = dataclasses.replace(job, key="b" * 64)
    assert not later.is_done()
    execute_job(later)
    assert later.is_done() and not job.is_done()


def test_a_job_that_fails_leaves_no_stamp(make):
    job = make(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        execute_job(job)
    assert list(job.stamp.parent.glob("name*")) == []


def test_a_job_that_is_being_run_is_not_run_twice(make):
    again = []
    job = make(lambda: again.append(pytest.raises(RuntimeError, execute_job, job)) or [])
    execute_job(job)
    assert str(again[0].value) == f"name is being run already, by process {os.getpid()}: let it end, or end it"
    executing.KINDS["test"] = lambda config: []
    execute_job(job)  # and when it has ended, it can be


# ---- what jobs do


@pytest.fixture
def training(values, read, monkeypatch):
    """Training that only notes its parameters and leaves the files of one."""
    executed = []

    def execute(notebook, output, parameters, cwd, title):
        executed.append((title, parameters))
        home = Path(parameters["output_dir"])
        assert not (home / "settings.json").exists() or json.loads((home / "settings.json").read_text()) == parameters, (
            "holds another training"
        )
        (home / "settings.json").write_text(json.dumps(parameters))
        (home / "per_query.dev.csv").write_text("query_id,measure,value,residual\nq,RR@10,0.5,\n")
        (home / "timing.csv").write_text(str(len(executed)))
        (home / "run.cast.trec.gz").write_text("of another job")

    monkeypatch.setattr(notebooks, "execute_notebook", execute)
    values |= {"systems": ["bert"], "seeds": [0], "overrides": {}}

    def train(**change):
        config = read(**change)
        jobs = prepare(config)
        job = next(job for job in jobs if job.name == "train_bert_seed0")
        executing.execute(config, jobs, job)
        return job

    train.executed = executed
    train.folder = Path(values["results"]) / "test"
    return train


def test_a_training_is_given_its_parameters_and_listed(training, capsys):
    job = training()
    [(title, parameters)] = training.executed
    assert title == "BERT, seed 0"
    assert parameters == {
        "epochs": 1, "learning_rate": 1e-4, "model": "bert", "collection": "sample", "train_split": "train",
        "validation_split": "dev", "relevance_level": 1, "depth": 5, "seed": 0,
        "output_dir": str(training.folder / "bert" / "seed0"),
    }  # fmt: skip
    assert set(json.loads(job.stamp.read_text())) == {f"bert/seed0/{n}" for n in ("inputs.json", "settings.json", "per_query.dev.csv")}
    assert "BERT     0.500" in capsys.readouterr().out
    assert (training.folder / "tables" / "effectiveness.dev.csv").read_text() == "system,MRR@10\nBERT,0.500\n"


def test_a_training_of_other_inputs_makes_room(training, capsys):
    training()
    training(parameters={"epochs": 2})
    assert "BERT, seed 0: its inputs have changed, it is trained anew" in capsys.readouterr().out
    assert json.loads((training.folder / "bert/seed0/settings.json").read_text())["epochs"] == 2


def test_an_interrupted_training_goes_on(training):
    training().stamp.unlink()
    (training.folder / "bert/seed0/training_state.safetensors").write_text("half")
    training()
    assert (training.folder / "bert/seed0/training_state.safetensors").read_text() == "half"


def test_a_training_that_somebody_else_made_is_kept(training):
    home = training.folder / "bert" / "seed0"
    home.mkdir(parents=True)
    (home / "settings.json").write_text('"mine"')
    with pytest.raises(AssertionError, match="holds another training"):
        training()
    assert (home / "settings.json").read_text() == '"mine"'


def test_the_table_so_far_shows_no_system_of_earlier_inputs(training, values, capsys):
    values["systems"] = ["mono", "bert"]
    stale = training.folder / "mono" / "seed0" / "per_query.dev.csv"
    stale.parent.mkdir(parents=True)
    stale.write_text("query_id,measure,value,residual\nq,RR@10,0.9,\n")
    training()
    assert "mono" not in capsys.readouterr().out


def test_a_job_that_is_not_in_the_plan_does_not_run(read, capsys, monkeypatch):
    monkeypatch.chdir(PROJECT)  # main goes to the project's folder
    prepare(read())
    assert command.main([read().folder, "train_bert_seed0.0123456789abcdef"]) == 1
    assert capsys.readouterr().err.strip() == (
        "the inputs of train_bert_seed0.0123456789abcdef have changed since the sweep was started: start it again"
    )


def test_a_re_ranking_that_fails_says_so_in_a_sentence(read, capsys, monkeypatch):
    monkeypatch.chdir(PROJECT)
    job = next(job for job in prepare(read()) if job.name == "rerank_bert_seed0_cast")
    assert command.main([read().folder, job.stamp.name]) == 1
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("rerank_bert_seed0_cast failed. FileNotFoundError: ")
    assert printed.endswith("train it with notebook 03") and "\n" not in printed


def test_the_notebooks_are_given_what_the_config_says(read, monkeypatch):
    executed = {}
    monkeypatch.setattr(notebooks, "execute_notebook", lambda *given: executed.update({given[4]: given[2]}))
    config = read(first_stage={"k1": 2, "b": 0.7})
    for job in prepare(config):
        if job.name in ("02_collection_and_candidates", "06_win_tie_loss_dev", "10_transfer"):
            executing.KINDS[job.kind](config, **job.given)
    assert (executed["10_transfer"]["k1"], executed["10_transfer"]["b"]) == (2, 0.7)
    assert executed["02_collection_and_candidates"]["k1"] == 2
    assert "k1" not in executed["06_win_tie_loss_dev"]  # which searches nothing


def test_bm25_on_another_collection_is_measured_while_that_of_the_own_is_tuned(read, monkeypatch):
    measured = []
    monkeypatch.setattr(executing, "measure_first_stage", lambda *_, **first_stage: measured.append(first_stage))
    monkeypatch.setattr(executing, "measured_files", lambda *_: [])
    config = read(first_stage={"tune": 5}, transfer={"collection": "sample", "split": "cast", "level": 2})
    [job] = [job for job in prepare(config) if job.name == "measure_bm25_sample.cast"]
    assert not job.needs  # and so there is no tuned.json yet
    executing.KINDS[job.kind](config, **job.given)
    assert measured == [{}]
