"""Tests in Chromium, deselected by default (make test-browser)."""
