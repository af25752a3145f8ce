"""`python -m gdmtl_lib.training <folder>`: one process of a training that `launch` has written down."""

import sys
from pathlib import Path

from .launch import read_job
from .loop import train

if __name__ == "__main__":
    train(**read_job(Path(sys.argv[1])))
