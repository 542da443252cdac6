"""Checks of kernels, which the self-check runs."""
