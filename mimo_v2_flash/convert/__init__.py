"""Conversion of checkpoints to prepared weights: plans, tasks, shards and the files they fill."""
