"""A config run headlessly: its trainings, its jobs, what each one does, the overview page.

Imports `experiments` and what that imports.
"""
