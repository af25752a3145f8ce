"""Figures under controls, for JupyterLab: `explorer` is what they share.

Imports all but `sweep`.
"""
