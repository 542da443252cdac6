"""--mode generate: standard output is the text of the Python API, as it is generated."""

import re
import sys
from pathlib import Path

import pytest

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights
from mimo_v2_flash.cli import generate
from mimo_v2_flash.cli.main import main
from mimo_v2_flash.model_runner import ModelRunner
from mimo_v2_flash.text.completion import complete
from mimo_v2_flash.text.tokenizer import load_tokenizer
from tests.support.reports import run_mode
from tests.support.tiny_text import write_json, write_text_checkpoint

DRAWN = ("--seed", "0", "--temperature", "1.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_text_checkpoint(tmp_path_factory.mktemp("text")).folder


@pytest.fixture
def written(capsys, folder):
    """Return a function that runs the mode and returns standard output and standard error."""

    def run(prompt: str, *arguments: object, status: int = 0, model=folder) -> tuple[str, str]:
        options = ["--model", model, "--max-new-tokens", 12, *arguments, "--prompt", prompt]
        return run_mode(capsys, "generate", *options, status=status)

    return run


def from_python(folder, prompt, **options):
    config = MiMoConfig.from_pretrained(folder)
    model = MiMoV2FlashModel(load_weights(folder, config), config)
    limit = {"max_new_tokens": 12, "seed": 0}
    return complete(model, load_tokenizer(folder), prompt, **(limit | options))


@pytest.mark.parametrize("prompt", ["", "the end", "naïve 世界 🙂 and", " a\n", "🚀"])
@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_the_text_is_that_of_python_and_nothing_else_is_in_it(written, folder, prompt, stream):
    assert written(prompt, stream)[0] == f"{from_python(folder, prompt).text}\n"


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("--temperature", 1.5, "--seed", 7), {"temperature": 1.5, "seed": 7}),
        ((*DRAWN, "--top-p", 0.5), {"temperature": 1.5, "top_p": 0.5}),
        ((*DRAWN, "--top-k", 3), {"temperature": 1.5, "top_k": 3}),
        ((*DRAWN, "--min-p", 0.3), {"temperature": 1.5, "min_p": 0.3}),
        (("--repetition-penalty", 0.1), {"repetition_penalty": 0.1}),
        (("--max-new-tokens", 5), {"max_new_tokens": 5}),
        (("--max-new-tokens", 0), {"max_new_tokens": 0}),
    ],
)
def test_every_option_reaches_the_model(written, folder, arguments, options):
    text = written("the", *arguments)[0]
    assert text == f"{from_python(folder, 'the', **options).text}\n"
    assert text != written("the", *DRAWN[: 4 * ("temperature" in options)])[0]


def test_a_message_is_answered(written, folder):
    out, err = written("is it 世?", "--chat")
    assert out == f"{from_python(folder, [{'role': 'user', 'content': 'is it 世?'}]).text}\n"
    assert err.startswith("is it 世?\n")


def test_the_text_is_shown_as_it_comes(folder, monkeypatch):
    events: list[str] = []
    forward = ModelRunner.forward

    class Stream:
        def write(self, text: str) -> None:
            events.append("text")

        def flush(self) -> None:
            events.append("shown")

    def step(*args, **kwargs):
        events.append("step")
        return forward(*args, **kwargs)

    monkeypatch.setattr(ModelRunner, "forward", step)
    monkeypatch.setattr(sys, "stdout", Stream())
    options = {"model": folder, "prompt": "the", "chat": False, "max_new_tokens": 3, "seed": 0}
    generate.run(**options, stream=True, **dict.fromkeys(generate.SAMPLING))
    first, one = events.index("text"), ["text", "shown"]
    assert events[first - 1 :] == [*["step", *one] * 3, *one, *one]


def test_the_checkpoint_says_how_to_sample_unless_the_user_does(tmp_path, written, folder):
    config = {"do_sample": True, "temperature": 1.5, "top_k": 9}
    model = write_text_checkpoint(tmp_path, **config).folder
    sampled = from_python(folder, "the", temperature=1.5, top_k=9).text
    cooler = from_python(folder, "the", temperature=0.7, top_k=9).text
    greedy = from_python(folder, "the").text
    assert len({sampled, cooler, greedy}) == 3
    seed = ("--seed", 0)
    assert written("the", *seed, model=model)[0] == f"{sampled}\n"
    assert written("the", *seed, "--temperature", 0.7, model=model)[0] == f"{cooler}\n"
    assert written("the", *seed, "--temperature", 0, model=model)[0] == f"{greedy}\n"


def test_what_is_used_is_reported_and_says_the_text_again(tmp_path, written, folder):
    model = write_text_checkpoint(tmp_path, do_sample=True, temperature=1.5, eos_token_id=7).folder
    (first, report), (second, _) = (written("the", model=model) for _ in range(2))
    assert first != second
    lines = dict(line.split(": ", 1) for line in report.splitlines() if ": " in line)
    used = "temperature 1.5, top_k 50, top_p 1.0, min_p 0.0, repetition_penalty 1.0, "
    used += "presence_penalty 0.0, frequency_penalty 0.0"
    assert (lines["Sampling"], lines["End tokens"]) == (used, "0, 7")
    assert written("the", "--seed", lines["Seed"], model=model)[0] == first


def test_files_without_do_sample_are_greedy_until_a_temperature_is_set(tmp_path, written, folder):
    model = write_text_checkpoint(tmp_path, temperature=0.3).folder
    assert written("the", model=model)[0] == f"{from_python(folder, 'the').text}\n"
    fifty = from_python(folder, "the", temperature=3.0, top_k=50).text
    every = from_python(folder, "the", temperature=3.0, top_k=0).text
    drawn = written("the", "--seed", 0, "--temperature", 3, model=model)[0]
    assert drawn == f"{fifty}\n" != f"{every}\n"


def test_an_end_token_of_the_checkpoint_ends_the_text(tmp_path, written, folder):
    new = from_python(folder, "the end").new_tokens
    model = write_text_checkpoint(tmp_path, eos_token_id=[299, new[4]]).folder
    out, err = written("the end", model=model)
    assert out == f"{from_python(folder, 'the end', eos_token_id=new[4]).text}\n"
    assert "Stopped by an end token" in err


@pytest.mark.parametrize(
    ("prompt", "arguments", "message"),
    [
        ("Q" * 65, (), "the prompt has 65 tokens, the model's context 64"),
        ("a\udcffb", (), "character 1 of the text is a lone surrogate"),
        ("a", ("--temperature", -1), "--temperature is -1.0, allowed is"),
        ("a", ("--temperature", "nan"), "--temperature is nan, allowed is"),
        ("a", ("--top-k", -2), "--top-k is -2, allowed is"),
        ("a", ("--min-p", 2), "--min-p is 2.0, allowed is"),
        ("a", ("--repetition-penalty", 0), "--repetition-penalty is 0.0, allowed is"),
        ("a", ("--top-p", -1), "--top-p is -1.0, allowed is"),
        ("a", ("--max-new-tokens", -1), "argument --max-new-tokens: '-1' is not an integer"),
        ("a", ("--model", "/nowhere"), "--model /nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(written, prompt, arguments, message):
    out, err = written(prompt, *arguments, status=2)
    assert out == ""
    assert err.startswith(f"run_example.py: {message}")
    assert err.count("\n") == 1


def test_without_a_chat_template_a_message_is_refused(tmp_path, written):
    model = write_text_checkpoint(tmp_path).folder
    (model / "chat_template.jinja").unlink()
    assert "has no chat template" in written("a", "--chat", status=2, model=model)[1]


def test_a_wrong_default_of_the_checkpoint_is_refused_by_name(tmp_path, written):
    model = write_text_checkpoint(tmp_path).folder
    write_json(model / "generation_config.json", {"top_p": 2})
    refusal = f"{model}/generation_config.json: top_p is 2, allowed is"
    assert refusal in written("a", status=2, model=model)[1]


def test_without_transformers_the_install_command_is_said(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    out, err = written("a", status=2)
    assert out == ""
    assert "run_example.py: text needs transformers" in err
    assert 'pip install -e ".[text]"' in err


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_an_error_begins_a_line_of_its_own(written, monkeypatch, stream):
    """The prompt and a part of the text have been written by then, without the end of a line."""

    def failing(*_: object, on_text=str, **__: object) -> None:
        on_text("a")
        on_text("b")
        raise ValueError("no")

    monkeypatch.setattr(generate, "complete", failing)
    out, err = written("the", stream, status=2)
    assert (out, err) == {
        "--stream": ("ab", "the\nrun_example.py: no\n"),
        "--no-stream": ("", "run_example.py: no\n"),
    }[stream]


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--temperature", -1), "--temperature is -1.0, allowed is"),
        (("--top-k", -2), "--top-k is -2, allowed is"),
        (("--prompt-file", "absent.jsonl"), "absent.jsonl: no such file"),
    ],
)
def test_bad_options_are_refused_before_a_model_is_loaded(
    folder, tmp_path, monkeypatch, capsys, option, message, many
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generate, "load_model", None)
    Path("prompts.jsonl").write_text('{"prompt": "a"}')
    prompt = ("--prompt-file", "prompts.jsonl") if many else ("--prompt", "a")
    prompt = () if option[0] == "--prompt-file" else prompt
    assert main(["generate", "--model", str(folder), *prompt, *map(str, option)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "prompt-file", "evaluate"])
def test_more_drafts_than_heads_are_one_line(capsys, folder, tmp_path, command):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n')
    prompts = {
        "generate": ("--prompt", "a"),
        "prompt-file": ("--prompt-file", file),
        "evaluate": ("--text", file),
    }
    mode = command if command == "evaluate" else "generate"
    options = ["--model", folder, "--draft-tokens", 9, *prompts[command]]
    _, err = run_mode(capsys, mode, *options, status=2)
    assert re.search(r": --draft-tokens is 9, but the model has [0-3] MTP heads\n$", err)
    assert err.count("\n") == 1
