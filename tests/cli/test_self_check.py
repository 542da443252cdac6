"""The self-check says what it found, and fails when a kernel is wrong."""

import argparse

import numpy as np

from mimo_v2_flash.cli import self_check
from mimo_v2_flash.cli.check import Check


def test_every_kernel_passes(capsys):
    assert self_check.run(seed=0) == 0
    said = capsys.readouterr().out
    assert "18 of 18 checks passed" in said
    assert "FAILED" not in said


def test_other_inputs_pass_too():
    assert self_check.run(seed=1) == 0


def wrong(found, monkeypatch, capsys) -> str:
    """Return what is said of one check that finds `found` where 1.0 is expected."""
    bad = Check("softmax", "a fault", 1e-6, lambda _: [(np.array([found]), np.array([1.0]))])
    monkeypatch.setattr(self_check, "CHECKS", (bad,))
    assert self_check.run(seed=0) == 1
    return capsys.readouterr().out


def test_a_wrong_number_fails(monkeypatch, capsys):
    said = wrong(1.1, monkeypatch, capsys)
    assert "FAILED" in said
    assert "1.0e-01" in said


def test_not_a_number_fails(monkeypatch, capsys):
    assert "FAILED" in wrong(np.nan, monkeypatch, capsys)


def test_another_shape_fails(monkeypatch, capsys):
    assert "FAILED" in wrong([1.0, 1.0], monkeypatch, capsys)


def test_the_seed_is_an_option():
    parser = argparse.ArgumentParser()
    self_check.add_arguments(parser)
    assert parser.parse_args(["--seed", "3"]).seed == 3
