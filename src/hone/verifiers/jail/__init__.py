"""The inside of the sandbox: a package of its own, started by path in a fresh interpreter; only the standard library.

Three processes share the work. The *supervisor* builds the sandbox, and runs a task's tests; the *candidate* holds the
model's program, in further namespaces of its own; between them pass plain values (:mod:`~hone.verifiers.jail.wire`).
What is expected of the program is never in the candidate's process, and nothing that it says is a verdict.
"""
