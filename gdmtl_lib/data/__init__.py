"""Collections, splits, BM25 and TREC frames; no torch.

The ground floor: imports nothing of the library but `systems` and `settings`.
"""
