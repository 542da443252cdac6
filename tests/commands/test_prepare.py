"""The command says what it would do, does it once, and goes on only where it is told to."""

import argparse
from pathlib import Path

import pytest

from mimo_v2_flash.commands import prepare
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.weights import load_weights
from mimo_v2_flash.weights.store import Store
from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.tiny import tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_hub_checkpoint(tiny(RECIPE).oracle, tmp_path_factory.mktemp("hub")).folder


@pytest.fixture
def command(checkpoint, tmp_path):
    """Return what runs the command with some words on the command line."""

    def run(*words: str) -> int:
        parser = argparse.ArgumentParser()
        prepare.add_arguments(parser)
        given = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out"), *words]
        return prepare.run(**vars(parser.parse_args(given)))

    return run


def test_a_dry_run_says_all_and_writes_nothing(command, tmp_path, capsys):
    assert command("--dry-run", "--expert-subset", "0", "2-3") == 0
    said = capsys.readouterr().out
    for what in ("tensors", "3 of 5", "bytes to read", "bytes on disk", "memory to hold all"):
        assert what in said
    assert "fits in" in said
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_said(command, monkeypatch, capsys):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda _: usage)
    command("--dry-run")
    assert "DOES NOT FIT in 10 bytes" in capsys.readouterr().out


def test_experts_and_layers_are_those_asked_for(command, tmp_path):
    assert command("--expert-subset", "4", "1-2", "--num-layers", "2") == 0
    config = MiMoConfig.from_pretrained(tmp_path / "out")
    assert config.num_hidden_layers == 2
    assert config.n_routed_experts == RECIPE.experts
    assert load_weights(tmp_path / "out", config).expert_ids == (1, 2, 4)


def test_once_it_is_complete_nothing_is_done(command, tmp_path, capsys):
    command()
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert command() == 0
    assert "complete already" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == files


def test_what_was_interrupted_goes_on_only_with_resume(command, tmp_path, monkeypatch):
    write, written = Store.write, []

    def fail_at_the_tenth(store, key, parts):
        if len(written) == 10:
            raise OSError("no space left")
        written.append(key)
        write(store, key, parts)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", fail_at_the_tenth)
        with pytest.raises(OSError, match="no space left"):
            command()
    assert not list((tmp_path / "out").glob("*.safetensors"))
    with pytest.raises(ValueError, match="--resume continues it"):
        command()
    assert command("--resume") == 0
    load_weights(tmp_path / "out", MiMoConfig.from_pretrained(tmp_path / "out"))


def test_what_halving_rounds_is_counted(command, capsys):
    assert command("--target", "trainium2") == 0
    assert "FP8 values rounded when halved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--expert-subset", "1", "1"], r"names \[1\] more than once"),
        (["--expert-subset", "5"], r"names \[5\], there are 0-4"),
        (["--expert-subset", "one"], "'one' is neither an id nor a range"),
        (["--num-layers", "0"], r"--num-layers 0 is not in 1\.\.3"),
        (["--num-layers", "4"], r"--num-layers 4 is not in 1\.\.3"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(command, words, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        command(*words)
    assert not (tmp_path / "out").exists()
