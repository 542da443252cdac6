"""One file per kind of group."""
