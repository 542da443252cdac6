"""Tests of the layers, one file per module."""
