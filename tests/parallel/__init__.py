"""Tests of process groups: one file for each module of `mimo_v2_flash.parallel`."""
