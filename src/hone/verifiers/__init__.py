"""Verifiers: judges of responses, and the worker processes that they run in."""
