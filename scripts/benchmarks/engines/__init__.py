"""What is measured, each in a process of its own: ``python -m benchmarks.engines.<name>``, see :mod:`..engine`."""
