"""Frames in, matplotlib Figures out; no statistics are computed here.

Imports `evaluation`, `inside` and what these import.
"""
