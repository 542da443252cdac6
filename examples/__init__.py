"""Examples: the tiny checkpoint, and a trace of another implementation."""
