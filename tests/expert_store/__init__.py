"""Tests of the expert store and of recorded routing."""
