"""Command-line modes of `run_example.py`, one module each, and what they share."""
