"""Tests of the compiled kernels and the thread pool, one file per module."""
