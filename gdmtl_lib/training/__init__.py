"""One training loop, the batches it reads, the heads it warms up and the folder it leaves.

Imports the top level, `backbones`, `data`, `evaluation` and `inference`.
"""
