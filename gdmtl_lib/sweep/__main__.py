"""`python -m gdmtl_lib.sweep <results folder> <stamp>`, as the Snakefile calls it: run the job of that stamp. `page` instead
of a stamp writes the page of all figures and tables and names its folder."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from .jobs import PAGE, read_plan
from .page import write_page


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gdmtl_lib.sweep")
    parser.add_argument("folder", type=Path)
    parser.add_argument("stamp")
    chosen = parser.parse_args(arguments)
    if chosen.stamp == PAGE:
        print(f"\nResults: {chosen.folder}\nAll figures and tables: {write_page(chosen.folder)}", flush=True)
        return 0
    from .execute import execute  # what jobs do is slow to import, and the page does without

    config, jobs = read_plan(chosen.folder)
    os.chdir(config.project)
    try:
        job = next((job for job in jobs if job.stamp.name == chosen.stamp), None)
        if job is None:
            raise RuntimeError(f"the inputs of {chosen.stamp} have changed since the sweep was started: start it again")
        execute(config, jobs, job, partial(write_page, chosen.folder))
    except (RuntimeError, ValueError, OSError) as error:
        if not isinstance(error, RuntimeError):  # which is a sentence of our own already
            error = f"{chosen.stamp.rpartition('.')[0]} failed. {type(error).__name__}: {error}"
        if job is not None:
            job.failure.write_text(str(error), encoding="utf-8")
            write_page(chosen.folder)
        print("", error, *getattr(error, "__notes__", []), "", sep="\n", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
