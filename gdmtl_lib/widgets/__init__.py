"""Figures under controls, for JupyterLab.

Imports all but `sweep`.
"""
