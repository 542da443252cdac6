"""Examples: the checkpoint mimo-tiny, and traces of transformers to compare with."""
