"""One module a question that the notebooks ask, and `results`, which alone knows where results lie.

Imports all but `inside`, `figures`, `widgets` and `sweep`.
"""
