"""Sweeps without their starts. Every job and every kernel of a sweep imports torch and transformers anew, ten seconds
of processor time each; here both are forked from a server that has imported them once. What they do is the same."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

PROJECT = Path(__file__).parents[1]
_IMPORTED = [
    "torch", "transformers.models.bert.modeling_bert", "transformers.models.bart.modeling_bart", "seaborn",
    "ipywidgets", "IPython", "ipykernel.kernelapp", "matplotlib.backends.backend_pdf", "tqdm.notebook",
    "nbconvert.exporters", "snakemake.cli", "gdmtl_lib.sweep.execute", "gdmtl_lib.sweep.page",
    "gdmtl_lib.training.loop", "gdmtl_lib.training.pretraining", "gdmtl_lib.widgets.results",
    "gdmtl_lib.inside.attribution", "tests.warm",
]  # fmt: skip


def forked(function: Callable, *arguments: object, cwd: Path, printed: Path) -> int:
    """Call a function in a process that has imported everything, with this one's environment. What it prints goes to a
    file. Returns its exit status."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as kernels have it before they import
    try:
        process = context.Process(target=_call, args=(function, arguments, environment, cwd, printed))
        process.start()
    finally:
        del os.environ["MPLBACKEND"]
    process.join()
    return process.exitcode


def _call(function: Callable, arguments: tuple, environment: Mapping[str, str], cwd: Path, printed: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    with open(printed, "ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(function(*arguments))


def sweep(name: str, values: Mapping[str, object], only: tuple[str, ...] = ()) -> int:
    """What the Snakefile does, one job after the other in this process: prepare a config of the project, some of its
    values changed, run what is not done, and write the page. only: the jobs wanted, with what they need; all when empty.

    Returns 0, or the status of the first job that fails. Call it with `forked`.
    """
    from jupyter_client.provisioning import local_provisioner

    from gdmtl_lib.sweep import __main__ as command
    from gdmtl_lib.sweep.config import read_config
    from gdmtl_lib.sweep.jobs import PAGE, prepare

    # Before anything has a thread.
    local_provisioner.launch_kernel = _Kernels().launch
    file = PROJECT / "papermill_runs" / "configs" / f"{name}.yaml"
    config = read_config(yaml.safe_load(file.read_text()) | values, name, PROJECT)
    jobs = {job.name: job for job in prepare(config)}
    wanted = set(only or jobs)
    for job in reversed(jobs.values()):
        wanted |= set(job.needs) if job.name in wanted else set()
    for job in jobs.values():
        if job.name in wanted and not job.stamp.exists() and (status := command.main([config.folder, job.stamp.name])):
            return status
    return command.main([config.folder, PAGE])


def snakemake(arguments: list[str]) -> None:
    """Snakemake itself, whose jobs start as they do for everybody. Call it with `forked`."""
    from snakemake.cli import main

    main(arguments)


class _Kernels:
    """A process that forks kernels: it has imported what they need, and no thread of a running sweep."""

    def __init__(self):
        self.pipe, theirs = multiprocessing.Pipe()
        if not os.fork():
            self.pipe.close()
            _serve(theirs)
        theirs.close()

    def ask(self, *request: object):
        self.pipe.send(request)
        return self.pipe.recv()

    def launch(self, command: list[str], env: Mapping[str, str] | None = None, cwd: str | None = None, **_):
        """In place of `jupyter_client.launcher.launch_kernel`."""
        arguments = command[command.index("ipykernel_launcher") + 1 :]
        return _Kernel(self, self.ask("start", arguments, dict(env or os.environ), cwd or os.getcwd()))


class _Kernel:
    """What jupyter_client asks of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, kernels: _Kernels, pid: int):
        self.kernels, self.pid, self.returncode = kernels, pid, None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.kernels.ask("poll", self.pid)
        return self.returncode

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.02)
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _serve(pipe) -> None:
    """Fork kernels and tell how they are, until nobody is there who asks."""
    while True:
        try:
            what, *given = pipe.recv()
        except EOFError:
            os._exit(0)
        if what == "start":
            answer = os.fork()
            if not answer:
                pipe.close()
                _run_kernel(*given)
            # Of its own before anybody asks for it: signals go to the whole group of a kernel.
            os.setpgid(answer, answer)
        else:
            pid, status = os.waitpid(given[0], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        pipe.send(answer)


def _run_kernel(arguments: list[str], environment: Mapping[str, str], cwd: str) -> None:
    from ipykernel.kernelapp import IPKernelApp
    from tqdm import auto, notebook

    plain = auto.tqdm  # chosen on import, where there was no kernel yet
    for module in list(sys.modules.values()):
        if getattr(module, "tqdm", None) is plain:
            module.tqdm = notebook.tqdm
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    try:
        IPKernelApp.launch_instance(argv=arguments)
    finally:
        os._exit(0)
