"""Sweeps without their starts. Every job and every kernel of a sweep imports torch and transformers anew, ten seconds
of processor time each; here both are forked from a server that has imported them once. What they do is the same."""

import importlib
import json
import multiprocessing
import os
import runpy
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import yaml

PROJECT = Path(__file__).parents[1]
_IMPORTED = [
    "torch", "transformers.models.bert.modeling_bert", "transformers.models.bart.modeling_bart", "seaborn",
    "ipywidgets", "IPython", "ipykernel.kernelapp", "matplotlib.backends.backend_pdf", "tqdm.notebook",
    "nbconvert.exporters", "snakemake.cli", "gdmtl_lib.sweep.execute", "gdmtl_lib.sweep.notebooks", "gdmtl_lib.sweep.page",
    "gdmtl_lib.training.loop", "gdmtl_lib.training.pretraining", "gdmtl_lib.widgets.results",
    "gdmtl_lib.inside.attribution", "tests.warm",
]  # fmt: skip


def start(function: Callable, *arguments: object, cwd: Path, printed: Path) -> multiprocessing.Process:
    """Call a function in a process that has imported everything, with this one's environment and in a session of its
    own. What it prints goes to a file; what it returns is its exit status."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as kernels have it before they import
    try:
        process = context.Process(target=_call, args=(function, arguments, environment, cwd, printed))
        process.start()
    finally:
        del os.environ["MPLBACKEND"]
    return process


def forked(function: Callable, *arguments: object, cwd: Path, printed: Path) -> int:
    """`start` it and wait; returns its exit status."""
    process = start(function, *arguments, cwd=cwd, printed=printed)
    process.join()
    return process.exitcode


def _call(function: Callable, arguments: tuple, environment: Mapping[str, str], cwd: Path, printed: Path) -> None:
    os.setsid()
    _enter(environment, cwd)
    with open(printed, "ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(function(*arguments))


def sweep(name: str, values: Mapping[str, object], only: tuple[str, ...] = ()) -> int:
    """What the Snakefile does, one job after the other in this process: prepare a config of the project, some of its
    values changed, or one of runs of one's own, which is in values whole; run what is not done, and write the page. only: the
    jobs wanted, with what they need; all when empty.

    Returns 0, or the status of the first job that fails. Call it with `forked`.
    """
    from jupyter_client.provisioning import local_provisioner

    from gdmtl_lib.sweep import __main__ as command
    from gdmtl_lib.sweep.config import read_config
    from gdmtl_lib.sweep.jobs import PAGE, prepare

    local_provisioner.launch_kernel = _Forks().kernel  # before anything has a thread
    file = PROJECT / "papermill_runs" / "configs" / f"{name}.yaml"
    of_file = {} if "runs" in values else yaml.safe_load(file.read_text())
    config = read_config(of_file | values, name, PROJECT)
    jobs = {job.name: job for job in prepare(config)}
    wanted = set(only or jobs)
    for job in reversed(jobs.values()):
        wanted |= set(job.needs) if job.name in wanted else set()
    for job in jobs.values():
        if job.name in wanted and not job.stamp.exists() and (status := command.main([config.folder, job.stamp.name])):
            return status
    return command.main([config.folder, PAGE])


def snakemake(arguments: Sequence[str]) -> None:
    """Snakemake itself; its jobs are forked where it would start them. Call it with `forked`."""
    from snakemake.cli import main

    shell = importlib.import_module("snakemake.shell")
    shell.sp = SimpleNamespace(**vars(subprocess) | {"Popen": _Forks().job})
    main(arguments)


def script(path: Path) -> None:
    """Python itself, with everything imported. Call it with `forked`."""
    runpy.run_path(str(path), run_name="__main__")


def papermill(arguments: Sequence[str]) -> None:
    """papermill's command, whose kernel is forked. Call it with `forked`."""
    from jupyter_client.provisioning import local_provisioner
    from papermill.__main__ import papermill

    local_provisioner.launch_kernel = _Forks().kernel
    papermill(["--no-progress-bar", *arguments])


def of_sweep(config: str | Path, folder: Path, *arguments: str, **values: object) -> list[str]:
    """Snakemake's arguments for the sweep of a config, one of the project by its name, some of its values changed, with
    the results and Snakemake's own files in a folder."""
    file = config if isinstance(config, Path) else PROJECT / "papermill_runs" / "configs" / f"{config}.yaml"
    return [
        *arguments, "-s", str(PROJECT / "papermill_runs" / "Snakefile"), "--cores", "2", "--configfile", str(file),
        "--directory", str(folder), "--max-threads", "1",  # starting takes longer than computing here: two jobs at a time
        "--config", f"results={folder}", *(f"{name}={json.dumps(value)}" for name, value in values.items()),
    ]  # fmt: skip


class _Forks:
    """A process that forks others when it is asked to: it has imported what they need, and has no thread."""

    def __init__(self):
        self.pipe, theirs = multiprocessing.Pipe()
        self.lock = threading.Lock()
        if not os.fork():
            self.pipe.close()
            _serve(theirs)
        theirs.close()

    def ask(self, *request: object):
        with self.lock:
            self.pipe.send(request)
            return self.pipe.recv()

    def kernel(self, command: list[str], env: Mapping[str, str] | None = None, cwd: str | None = None, **_):
        """In place of `jupyter_client.launcher.launch_kernel`."""
        arguments = command[command.index("ipykernel_launcher") + 1 :]
        return _Fork(self, self.ask(_run_kernel, arguments, dict(env or os.environ), cwd or os.getcwd()))

    def job(self, command: str, env: Mapping[str, str], **_):
        """In place of the `subprocess.Popen` of a job's shell."""
        words = shlex.split(command)
        return _Fork(self, self.ask(_run_job, words[words.index("gdmtl_lib.sweep") + 1 :], env, os.getcwd()))


class _Fork:
    """What is asked of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, forks: _Forks, pid: int):
        self.forks, self.pid, self.returncode = forks, pid, None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.forks.ask("poll", self.pid)
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
    """Fork and tell how those forked are, until nobody is there who asks; a job goes on then."""
    while True:
        try:
            what, *given = pipe.recv()
        except EOFError:
            os._exit(0)
        if what == "poll":
            pid, status = os.waitpid(given[0], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                pipe.close()
                what(*given)
            if what == _run_kernel:
                # Before anybody asks for it: signals go to the whole group of a kernel.
                os.setpgid(answer, answer)
        pipe.send(answer)


def _enter(environment: Mapping[str, str], cwd: str | Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)


def _run_job(arguments: list[str], environment: Mapping[str, str], cwd: str) -> None:
    from jupyter_client.provisioning import local_provisioner

    from gdmtl_lib.sweep import __main__ as command

    status = 1
    try:
        _enter(environment, cwd)
        local_provisioner.launch_kernel = _Forks().kernel
        status = command.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run_kernel(arguments: list[str], environment: Mapping[str, str], cwd: str) -> None:
    from ipykernel.kernelapp import IPKernelApp
    from tqdm import auto, notebook

    plain = auto.tqdm  # chosen on import, where there was no kernel yet
    for module in list(sys.modules.values()):
        if vars(module).get("tqdm") is plain:  # getattr would load what a lazy module has
            module.tqdm = notebook.tqdm
    try:
        _enter(environment, cwd)
        # It ends with the process that has forked it, and that one with the one whose notebook it runs.
        IPKernelApp.launch_instance(argv=[*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])
    finally:
        os._exit(0)
