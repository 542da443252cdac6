"""Tests of the weights: checkpoints, conversion, sharding and loading."""
