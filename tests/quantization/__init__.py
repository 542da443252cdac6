"""Tests of storage formats, one file per format."""
