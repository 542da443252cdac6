"""Autoregressive generation from token ids: the decoding loop, sampling, and likelihood."""
