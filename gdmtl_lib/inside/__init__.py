"""What goes on inside a model: attention maps, attributions, gradients.

Imports the top level and `training`, and what these import.
"""
