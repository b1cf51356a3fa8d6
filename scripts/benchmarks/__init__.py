"""Benchmarks of hone, one idea a file; ``scripts/benchmark.py`` is their command line.

A command (``step``, ``sampling``, ``limit``, ``growth``, ``head``) starts the *engines* that it compares, each in a
process of its own, has them take turns, and writes a table, the raw figures and a picture.
"""
