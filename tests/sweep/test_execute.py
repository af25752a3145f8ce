import nbformat
import papermill
import pytest

from gdmtl_lib.sweep import execute as executing


def notebook(path, *cells):
    parameters = nbformat.v4.new_code_cell("value: int = 1  # a number", metadata={"tags": ["parameters"]})
    cells = [parameters, *map(nbformat.v4.new_code_cell, cells)]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def execute(tmp_path, *cells, **parameters):
    output = tmp_path / "executed" / "out.ipynb"
    executing.execute_notebook(notebook(tmp_path / "in.ipynb", *cells), output, parameters, tmp_path, "a title")
    return nbformat.read(output, 4)


def test_parameters_folder_and_progress(tmp_path, monkeypatch, capfd):
    """The line of progress shows the cells and what the notebook's own bar says."""
    monkeypatch.setattr(executing, "_LOG_SECONDS", 0.0)
    loop = "from tqdm.auto import tqdm\nimport time\nfor _ in tqdm(range(3), desc='counting'): time.sleep(0.2)"
    executed = execute(tmp_path, "import os\nprint(value, os.getcwd())", loop, value=2)
    assert executed.cells[2].outputs[0].text == f"2 {tmp_path}\n"
    shown = capfd.readouterr().err
    assert "a title: 4/4 cells" in shown
    assert "counting: " in shown and "2/3 [" in shown
    assert "WARNING" not in shown


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

    monkeypatch.setattr(papermill, "execute_notebook", collide)
    collisions = 2
    executing.execute_notebook("in.ipynb", tmp_path / "out.ipynb", {}, tmp_path, "a title")
    assert len(attempts) == 3
    attempts.clear()
    collisions = 3
    with pytest.raises(RuntimeError, match="^a title failed to start. Kernel died before replying to kernel_info\n  notebook: in"):
        executing.execute_notebook("in.ipynb", tmp_path / "out.ipynb", {}, tmp_path, "a title")
    assert len(attempts) == 3
