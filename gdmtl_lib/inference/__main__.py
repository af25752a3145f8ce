"""`python -m gdmtl_lib.inference <folder> <number>`: one of the processes that share a re-ranking (see `processes`)."""

import sys
from pathlib import Path

from .processes import main

main(Path(sys.argv[1]), int(sys.argv[2]))
