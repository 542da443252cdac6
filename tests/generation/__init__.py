"""Tests of `mimo_v2_flash.generation`."""
