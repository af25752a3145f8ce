"""Executing a notebook with papermill, its progress on one line of the terminal: cells, and the bar inside of a cell."""

import html
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

_ATTEMPTS = 3
_LOG_SECONDS = 30.0  # between two lines of progress where they go to a file


def execute_notebook(
    notebook: str | os.PathLike, output: str | os.PathLike, parameters: Mapping[str, object],
    cwd: str | os.PathLike, title: str,
) -> None:
    """Execute a notebook; what it came to, also where it fails, is `output`.

    title: what the line of progress calls it. Raises RuntimeError, in a sentence that names the executed notebook and
    the last error.
    """
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    bar = {"desc": title, "mininterval": 0.1 if sys.stderr.isatty() else _LOG_SECONDS, "ascii": " ="}
    bar["bar_format"] = "{desc}: {n_fmt}/{total_fmt} cells [{elapsed}{postfix}]"
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            papermill.execute_notebook(
                str(notebook), str(output), dict(parameters), engine_name=_Engine.name, progress_bar=bar, cwd=str(cwd)
            )
            return
        except PapermillExecutionError as error:
            raise RuntimeError(f"{title} failed. {error.ename}: {error.evalue}\n  executed notebook: {output}") from None
        except DeadKernelError as error:
            raise RuntimeError(
                f"{title} failed. Its kernel died, as it does when memory runs out ({error})\n"
                f"  executed notebook: {output}"
            ) from None
        except RuntimeError as error:
            # Kernels that start at the same time can pick the same port, and die before they answer.
            if "Kernel died before replying" not in str(error) or attempt == _ATTEMPTS:
                raise RuntimeError(f"{title} failed to start. {error}\n  notebook: {notebook}") from None


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
    def execute_managed_notebook(
        cls, nb_man, kernel_name, log_output=False, stdout_file=None, stderr_file=None, start_timeout=60,
        execution_timeout=None, **keywords,
    ):
        keywords.pop("input_path", None)
        client = _Client(
            nb_man, kernel_name=kernel_name, timeout=execution_timeout, startup_timeout=start_timeout,
            extra_arguments=["--log-level=CRITICAL"],
        )  # fmt: skip
        return client.execute()


papermill_engines.register(_Engine.name, _Engine)
