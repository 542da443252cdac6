"""The self-check reports every kernel, and fails if one is wrong."""

import argparse

import numpy as np

from mimo_v2_flash.checks.check import Check
from mimo_v2_flash.cli import self_check
from mimo_v2_flash.cpu.thread_count import thread_count


def test_every_kernel_passes(capsys):
    assert self_check.run(seed=0).status == 0
    stdout = capsys.readouterr().out
    assert "28 of 28 checks passed; errors are relative to max |expected|." in stdout
    assert "FAILED" not in stdout
    assert f"The kernels had {thread_count()}." in stdout


def test_other_inputs_pass_too():
    assert self_check.run(seed=1).status == 0


def wrong(actual, monkeypatch, capsys) -> str:
    """Return the output of a self-check of one kernel that returns `actual`, where 1.0 is right."""
    bad = Check("softmax", "a fault", 1e-6, lambda _: [(np.array([actual]), np.array([1.0]))])
    monkeypatch.setattr(self_check, "CHECKS", (bad,))
    assert self_check.run(seed=0).status == 1
    return capsys.readouterr().out


def test_a_wrong_number_fails(monkeypatch, capsys):
    stdout = wrong(1.1, monkeypatch, capsys)
    assert "FAILED" in stdout
    assert "1.0e-01" in stdout


def test_not_a_number_fails(monkeypatch, capsys):
    assert "FAILED" in wrong(np.nan, monkeypatch, capsys)


def test_another_shape_fails(monkeypatch, capsys):
    assert "FAILED" in wrong([1.0, 1.0], monkeypatch, capsys)


def test_the_seed_is_an_option():
    parser = argparse.ArgumentParser()
    self_check.add_arguments(parser)
    assert parser.parse_args(["--seed", "3"]).seed == 3
