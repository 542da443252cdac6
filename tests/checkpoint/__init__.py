"""Tests of reading checkpoints, one file per module."""
