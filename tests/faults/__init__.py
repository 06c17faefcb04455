"""Faults of system calls and of memory, at every place of a router: see run.py."""
