"""--mode trace writes the trace of tokens or of a text, and --mode compare reads it."""

import numpy as np
import pytest

import run_example
from mimo_v2_flash.text.chat_template import prompt_tokens
from mimo_v2_flash.text.tokenizer import load_tokenizer
from mimo_v2_flash.tracing.trace_file import open_trace
from tests.support.tiny_text import CONTEXT, write_text_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_text_checkpoint(tmp_path_factory.mktemp("hub")).folder


def run(folder, output, *options: str) -> int:
    args = ["--mode", "trace", "--model", str(folder), "--output", str(output)]
    return run_example.main([*args, *options])


def test_the_commands_write_and_compare_files(folder, tmp_path, capsys):
    path, chunked, other = (tmp_path / f"{name}.safetensors" for name in "abc")
    assert run(folder, path, "--tokens", "3", "1", "4") == 0
    assert "tensors of 3 tokens" in capsys.readouterr().out
    with open_trace(path) as file:
        assert file.integers("tokens").tolist() == [3, 1, 4]
        assert file["layers.1.attention.query"].dtype == np.float32
    assert run(folder, chunked, "--tokens", "3", "1", "4", "--max-step", "2") == 0
    assert run(folder, other, "--tokens", "3", "1", "5") == 0
    rounded = tmp_path / "rounded.safetensors"
    assert run(folder, rounded, "--tokens", "3", "1", "4", "--compute", "bfloat16") == 0
    compared = ["--mode", "compare", str(path)]
    assert run_example.main([*compared, str(chunked)]) == 0
    assert run_example.main([*compared, str(chunked), "--tolerance", "0"]) == 1
    assert run_example.main([*compared, str(rounded), "--tolerance", "1e-5"]) == 1
    assert run_example.main([*compared, str(other)]) == 2
    assert "tokens differ at index 2: 4 in" in capsys.readouterr().err


def test_a_text_is_traced_as_its_tokens(folder, tmp_path):
    path = tmp_path / "trace.safetensors"
    assert run(folder, path, "--prompt", "the thin thing") == 0
    with open_trace(path) as file:
        expected = prompt_tokens(load_tokenizer(folder), "the thin thing")
        assert file.integers("tokens").tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tokens", "3", "1000000"), "--tokens: token id 1000000 in row 0, column 1"),
        (("--tokens", "3", "--max-step", "0"), "--max-step: '0' is not an integer above 0"),
        (("--tokens", *["3"] * (CONTEXT + 1)), f"--tokens has {CONTEXT + 1} tokens, the"),
    ],
)  # fmt: skip
def test_what_cannot_be_traced_is_refused_by_name(folder, tmp_path, capsys, options, message):
    assert run(folder, tmp_path / "trace.safetensors", *options) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_refused_before_anything_is_computed(
    folder, tmp_path, capsys
):
    assert run(folder, tmp_path / "nowhere" / "t.safetensors", "--tokens", "3") == 2
    assert "nowhere/t.safetensors: no such folder" in capsys.readouterr().err
