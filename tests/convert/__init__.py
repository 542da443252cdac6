"""Tests of the conversion of checkpoints, one file per module."""
