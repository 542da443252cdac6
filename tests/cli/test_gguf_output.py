"""prepare --format gguf writes one file or parts, and refuses what GGUF files have no use for."""

import json

import pytest

from mimo_v2_flash.cli.main import main
from mimo_v2_flash.config import MiMoConfig
from tests.support.shipped import FOLDER

BFLOAT16 = ("--format", "gguf", "--dtype", "bfloat16")


@pytest.fixture
def prepare(tmp_path, capsys):
    """Return a function that prepares mimo-tiny, checks the status and returns the output."""

    def run(*arguments: str, status: int = 0, source=("--checkpoint", str(FOLDER))) -> str:
        output = ("--output", str(tmp_path / "out"))
        assert main(["prepare", *source, *output, *arguments]) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return run


def test_a_file_is_written_and_every_command_takes_it(prepare, tmp_path, capsys):
    file = tmp_path / "out" / "mimo-tiny.gguf"
    numbers = json.loads(
        prepare(*BFLOAT16, "--num-layers", "2", "--expert-subset", "0-7", "--json")
    )
    assert numbers["files"] == [str(file)]
    assert file.stat().st_size > numbers["bytes"] == sum(numbers["bytes_by_type"].values())
    config = MiMoConfig.from_pretrained(file)
    assert (config.num_hidden_layers, config.n_routed_experts) == (2, 8)
    assert main(["generate", "--model", str(file), "--prompt", "A", "--max-new-tokens", "2"]) == 0
    text = tmp_path / "text"
    text.write_text("A list is a list.")
    assert main(["evaluate", "-m", str(file), "--text", str(text), "--window-keys", "2"]) == 0


def test_weights_are_quantized_on_the_way(prepare, tmp_path, capsys):
    numbers = json.loads(prepare("--format", "gguf", "--isq", "8", "--num-layers", "2", "--json"))
    assert set(numbers["bytes_by_type"]) == {"F32", "Q8_0"}
    file = str(tmp_path / "out" / "mimo-tiny.gguf")
    assert main(["generate", "-m", file, "--prompt", "A", "--max-new-tokens", "2"]) == 0
    capsys.readouterr()
    assert main(["generate", "-m", file, "--prompt", "A", "--isq", "8"]) == 2
    assert "a GGUF file has its types" in capsys.readouterr().err


def test_a_type_that_gguf_lacks_is_refused(prepare):
    line = prepare("--format", "gguf", "--isq", "int8", "--num-layers", "1", status=2)
    assert "is int8, which GGUF does not have" in line


def test_parts_are_one_model(prepare, tmp_path):
    prepare(*BFLOAT16, "--split-size", "0.005")
    parts = sorted((tmp_path / "out").iterdir())
    assert len(parts) > 2
    assert main(["generate", "-m", str(parts[1]), "--prompt", "A", "--max-new-tokens", "2"]) == 0


def test_a_dry_run_and_a_second_run_write_nothing(prepare, tmp_path):
    assert "BF16" in prepare(*BFLOAT16, "--dry-run")
    assert not (tmp_path / "out").exists()
    prepare(*BFLOAT16)
    assert "exists already" in prepare(*BFLOAT16, status=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--dtype fp8: --format gguf takes float32 or bfloat16, or --isq TYPE"),
        (("--target", "trainium2"), "--target: --format gguf has no use for it"),
        (("--resume",), "--resume: --format gguf has no use for it"),
    ],
)
def test_what_gguf_has_no_use_for_is_named(prepare, tmp_path, options, message):
    assert message in prepare("--format", "gguf", *options, status=2)
    assert not (tmp_path / "out").exists()


def test_a_repository_is_prepared_first(prepare):
    assert "no use for it" in prepare(*BFLOAT16, status=2, source=("--model", "a/b"))
    assert "reads a folder" in prepare(*BFLOAT16, status=2, source=())


def test_readings_of_a_gguf_file_need_one(capsys):
    assert main(["generate", "--prompt", "A", "--value-scale", "0.7"]) == 2
    assert "--value-scale is for a GGUF file" in capsys.readouterr().err
