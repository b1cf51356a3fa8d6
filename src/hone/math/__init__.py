"""The arithmetic of the papers: pure functions over records and tensors, each with its equation and its source.

Runtime arguments come first; keyword-only parameters are settings, and their defaults are the paper's numbers.
"""
