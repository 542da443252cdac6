"""Activation traces: every named tensor of a prompt, as a file, and the differences of two."""
