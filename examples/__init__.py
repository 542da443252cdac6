"""Examples: the checkpoint mimo-tiny, and programs of a page each that use the package."""
