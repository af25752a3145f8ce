"""A trained model scores and writes: re-ranking, query likelihood, generation, and the caches they share.

Imports the top level, `backbones`, `data` and `evaluation`.
"""
