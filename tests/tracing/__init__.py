"""Activation traces."""
