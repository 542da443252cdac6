"""Errors begin with the option that was typed, where a library's parameter or a file stood."""

import pytest

from mimo_v2_flash.cli.spelling import as_typed


def message(error: Exception | str, *, options: dict | None = None, **spelled: str) -> str:
    return as_typed(ValueError(error) if isinstance(error, str) else error, options or {}, spelled)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("max_step must be at least 1, got -1", "--chunk must be at least 1, got -1"),
        ("expert_parallel_size = 7: allowed is 8", "--expert-parallel 7: allowed is 8"),
        ("batch_size = 0: allowed", "--batch-size 0: allowed"),
        ("top_p is 2, allowed is", "top_p is 2, allowed is"),
        ("max_length is 9, allowed is 8", "--context is 9, allowed is 8"),
        ("a NeuronCore is too small", "a NeuronCore is too small"),
        ("model.safetensors: damaged", "model.safetensors: damaged"),
        ("", "ValueError"),
    ],
)
def test_what_was_not_typed_is_a_parameter_with_another_name_alone(error, expected):
    options = dict.fromkeys(("chunk", "expert_parallel", "batch_size", "context", "top_p"))
    assert message(error, options=options) == expected


@pytest.mark.parametrize("error", ["max_step must be at least 1", "max_length is 9, allowed"])
def test_a_command_without_the_option_keeps_the_parameter(error):
    assert message(error, options={"prompt": "a"}, prompt="--prompt") == error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("top_p is 2, allowed is", "--top-p is 2, allowed is"),
        ("context = 9: allowed", "--context 9: allowed"),
        ("context lengths differ", "context lengths differ"),
        ("the context is full", "the context is full"),
        ("max_step must be 1", "--old-chunk must be 1"),
    ],
)
def test_an_option_is_named_as_it_was_typed(error, expected):
    spelled = {"top_p": "--top-p", "context": "--context", "chunk": "--old-chunk"}
    assert message(error, options=dict.fromkeys(spelled), **spelled) == expected


def test_a_token_is_of_its_option():
    error = "token id 9 in row 0 is outside of the vocabulary"
    assert message(error, prompt_ids="--prompt-ids") == f"--prompt-ids: {error}"
    assert message(error, prompt="--prompt") == error


def test_a_file_is_of_the_option_that_names_it():
    error = FileNotFoundError(2, "No such file or directory", "/nowhere")
    expected = "/nowhere: no such file or directory"
    assert message(error) == expected
    assert message(error, options={"text": "/nowhere"}, text="--text") == f"--text {expected}"
    assert message(error, options={"text": "/other"}, text="--text") == expected
