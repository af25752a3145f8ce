"""A notebook executed with papermill, its progress on one line of the terminal, and the page that is made of it."""

import html
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import nbformat
import papermill
from jinja2 import DictLoader
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from gdmtl_lib.data.files import write_lines

_ATTEMPTS = 3
_BAR = re.compile(r"\d+%\|.*\| \d+/\d+ \[")  # what tqdm's widget is called where it is not drawn
# Code is folded in a page, and of what JupyterLab folds only what draws is there: a table has parameters and settings.
_FOLDED = """{% extends "index.html.j2" %}{% block input_group %}{% set of = cell.metadata -%}
{% set settings = (of.jupyter or {}).source_hidden and "gdmtl.plots." not in cell.source -%}
{% if not (settings or "injected-parameters" in (of.tags or [])) -%}
<details style="margin-left: .4rem"><summary>code</summary>{{ super() }}</details>
{%- endif %}{% endblock %}"""
_LOG_SECONDS = 30.0  # between two lines of progress where they go to a file


def execute_notebook(
    notebook: str | os.PathLike, output: str | os.PathLike, parameters: Mapping[str, object],
    cwd: str | os.PathLike, title: str,
) -> None:
    """Execute a notebook; what it came to, also where it fails, is `output`. title: what the line of progress calls it.
    Raises RuntimeError, in a sentence that names the executed notebook and the last error."""
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    bar = {"desc": title, "mininterval": 0.1 if sys.stderr.isatty() else _LOG_SECONDS, "ascii": " ="}
    bar["bar_format"] = "{desc}: {n_fmt}/{total_fmt} cells [{elapsed}{postfix}]"
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            papermill.execute_notebook(
                str(notebook), str(output), dict(parameters), engine_name=_Engine.name, progress_bar=bar, cwd=str(cwd)
            )
            _drop_bars(output)
            write_html(output)
            return
        except (PapermillExecutionError, DeadKernelError) as error:
            died = f"Its kernel died, as it does when memory runs out ({error})"
            words = died if isinstance(error, DeadKernelError) else f"{error.ename}: {error.evalue}"
            raise RuntimeError(f"{title} failed. {words}\n  executed notebook: {output}") from None
        except RuntimeError as error:
            # Kernels that start at the same time can pick the same port, and die before they answer.
            if "Kernel died before replying" not in str(error) or attempt == _ATTEMPTS:
                raise RuntimeError(f"{title} failed to start. {error}\n  notebook: {notebook}") from None


def _drop_bars(notebook: Path) -> None:
    """Remove what is left of progress bars: without a kernel they stand at their beginning for ever."""
    executed = nbformat.read(notebook, 4)
    for cell in executed.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if not _BAR.search(each.get("data", {}).get("text/plain", ""))]
    nbformat.write(executed, notebook)


def write_html(notebook: Path) -> None:
    """An executed notebook as a page beside it, to be looked at without Jupyter and without a network."""
    from nbconvert.exporters import HTMLExporter  # slow to import

    # In the order of preference. Without widgets, which need a kernel: where one stands, the picture beside it is shown.
    shown = ["text/html", "text/markdown", "image/svg+xml", "text/latex", "image/png", "image/jpeg", "text/plain"]
    config = HTMLExporter().default_config
    config.NbConvertBase.display_data_priority = shown
    exporter = HTMLExporter(config=config, extra_loaders=[DictLoader({"page": _FOLDED})], template_file="page",
                            exclude_input_prompt=True, exclude_output_prompt=True)  # fmt: skip
    write_lines(notebook.with_suffix(".html"), [exporter.from_filename(str(notebook))[0] + "\n"])


class _Client(PapermillNotebookClient):
    """papermill's client, which also shows what the progress bars of the notebook say."""

    shown = 0.0
    texts = ("", "")  # of tqdm's bar: what and how many per cent; how many of how many, how long

    def process_message(self, *arguments, **keywords):
        output = super().process_message(*arguments, **keywords)
        content = arguments[0]["content"]
        text = content.get("data", {}).get("state", {}).get("value") if arguments[0]["msg_type"] == "comm_msg" else None
        if isinstance(text, str) and self.nb_man.pbar is not None:
            text = " ".join(html.unescape(text).split())  # tqdm fills up with figure spaces
            if re.search(r": \d+%$", text):
                self.texts = (text, self.texts[1])
            elif re.match(r"\d+/\d+ \[", text):
                self.texts = (self.texts[0], text)
                self._show(" ".join(self.texts))
        return output

    def _show(self, text: str) -> None:
        bar = self.nb_man.pbar
        bar.set_postfix_str(text, refresh=False)
        if time.monotonic() - self.shown >= bar.mininterval:
            self.shown = time.monotonic()
            bar.refresh()


class _Engine(NBClientEngine):
    name = "gdmtl"

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, start_timeout=60, execution_timeout=None, **_):
        how = dict(timeout=execution_timeout, startup_timeout=start_timeout, extra_arguments=["--log-level=CRITICAL"])
        return _Client(nb_man, kernel_name=kernel_name, **how).execute()


papermill_engines.register(_Engine.name, _Engine)
