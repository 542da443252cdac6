"""A session: standard output has what was asked for alone, JSON is whole, rank 0 speaks."""

import json

import pytest

import prepare_weights
import run_example
from mimo_v2_flash.cli.commands import COMMANDS
from mimo_v2_flash.cli.main import main
from tests.support.tiny_text import write_text_checkpoint

UNITS = ("_seconds", "_bytes", "_per_second", "_tokens")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_text_checkpoint(tmp_path_factory.mktemp("text")).folder


@pytest.fixture
def commands(folder, tmp_path):
    """Return the arguments of commands on a small model, by command."""
    text = tmp_path / "text.txt"
    text.write_text("the thin thing is there")
    trace, model = tmp_path / "trace.safetensors", ["--model", str(folder)]
    assert main(["trace", *model, "--tokens", "3", "1", "--output", str(trace)]) == 0
    return {
        "generate": [*model, "--prompt", "the", "--max-new-tokens", "3"],
        "evaluate": [*model, "--text", str(text)],
        "trace": [*model, "--prompt", "the", "--output", str(tmp_path / "new.safetensors")],
        "compare": [str(trace), str(trace)],
        "plan": [*model, "--context", "64"],
        "prepare": ["--checkpoint", str(folder), "--output", str(tmp_path / "prepared")],
        "test": [],
        "doctor": model,
    }


KEYS = {
    "generate": {"prompt", "text", "new_tokens", "finish_reason", "seed", "seconds", "threads",
                 "decode_tokens_per_second", "kv_cache_bytes", "sampling"},
    "evaluate": {"nats_per_token", "perplexity", "tokens", "bytes", "seconds", "bits_per_byte"},
    "trace": {"file", "tensors", "tokens", "bytes", "seconds"},
    "compare": {"a", "b", "tolerance", "first_divergence", "tensors"},
    "plan": {"plan", "load", "devices", "memory", "fits", "sent_per_token_and_layer"},
    "prepare": {"folder", "read_bytes", "bytes", "experts", "layers", "seconds", "shards"},
    "test": {"seed", "checks", "passed", "outcomes"},
    "doctor": {"problems", "checks"},
}  # fmt: skip


@pytest.mark.parametrize("command", KEYS)
def test_json_alone_is_one_object_on_standard_output(commands, command, capsys):
    capsys.readouterr()
    assert main([command, *commands[command], "--json"]) == 0
    out, err = capsys.readouterr()
    numbers = json.loads(out)
    assert KEYS[command] <= numbers.keys()
    assert err != ""  # the report
    for key, value in numbers.items():
        if key.endswith(UNITS) and not key.startswith(("prompt", "new", "draft")):
            assert isinstance(value, int | float), key


@pytest.mark.parametrize("command", KEYS)
@pytest.mark.parametrize("joined", [True, False])
def test_json_in_a_file_leaves_standard_output_as_it_is(
    commands, command, joined, capsys, tmp_path
):
    file = tmp_path / "numbers.json"
    option = [f"--json={file}"] if joined else ["--json", str(file)]
    capsys.readouterr()
    assert main([command, *commands[command], *option]) == 0
    out = capsys.readouterr().out
    assert out != ""
    assert not out.startswith("{")
    assert KEYS[command] <= json.loads(file.read_text()).keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_cannot_be_written_is_refused_before_the_command_runs(
    command, monkeypatch, capsys
):
    monkeypatch.setattr("mimo_v2_flash.cli.session.run", None)
    script = prepare_weights.main if command == "prepare" else run_example.main
    mode = [] if command == "prepare" else ["--mode", command]
    lines = []
    for run, words in ((main, [command]), (script, mode)):
        assert run([*words, "--json", "/absent/x.json"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        lines.append(err.partition(": ")[2])
    assert lines == ["argument --json: /absent/x.json: no such folder\n"] * 2


def test_the_text_is_alone_on_standard_output(commands, capsys):
    capsys.readouterr()
    assert main(["generate", *commands["generate"], "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert main(["generate", *commands["generate"]]) == 0
    out, err = capsys.readouterr()
    assert out == f"{numbers['text']}\n"
    assert "Seed: " in err


def test_an_answer_of_no_is_status_1_with_json(commands, capsys):
    capsys.readouterr()
    assert main(["plan", *commands["plan"], "--memory", "1MB", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["fits"] is False


def test_an_error_leaves_standard_output_empty_and_no_file(folder, capsys, tmp_path):
    file, words = tmp_path / "a.json", ["plan", "--model", str(folder), "--context", "65"]
    for option in (["--json"], ["--json", str(file)]):
        assert main([*words, *option]) == 2
        assert capsys.readouterr() == ("", "mimo plan: --context 65: allowed is 1 to 64 tokens\n")
    assert not file.exists()


@pytest.mark.parametrize("command", [name for name in KEYS if not COMMANDS[name].on_ranks])
@pytest.mark.parametrize(
    "left_over", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "2", "RANK": "x"}]
)
def test_a_command_of_one_rank_ignores_what_a_launcher_left_over(
    commands, command, left_over, monkeypatch
):
    for name, text in left_over.items():
        monkeypatch.setenv(name, text)
    assert main([command, *commands[command]]) == 0


@pytest.mark.parametrize("command", [name for name in KEYS if COMMANDS[name].on_ranks])
def test_a_command_on_ranks_names_the_variable_that_is_wrong(
    commands, command, monkeypatch, capsys
):
    capsys.readouterr()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([command, *commands[command]]) == 2
    error = "RANK is missing, expected an integer, 0 to 1"
    assert capsys.readouterr() == ("", f"mimo {command}: {error}\n")
    monkeypatch.setenv("RANK", "2")
    assert main([command, *commands[command]]) == 2
    error = "rank 2: RANK is '2', expected an integer, 0 to 1"
    assert capsys.readouterr() == ("", f"mimo {command}: {error}\n")
