"""prompt_file: a line is answered as that prompt alone, in the order of the file or as it ends."""

import io
import json
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest

from mimo_v2_flash import Engine, load_model
from mimo_v2_flash.cli.prompt_file import PromptFile, in_order
from mimo_v2_flash.text.completion import complete
from mimo_v2_flash.text.tokenizer import load_tokenizer
from tests.support.reports import amounts, run_mode
from tests.support.tiny_text import write_text_checkpoint

LINES = (
    {"prompt": "the end"},
    {"prompt": "naïve 世界", "temperature": 1.5, "seed": 7, "max_tokens": 4},
    {"prompt": "a", "max_tokens": 1},
    {"prompt": "the", "temperature": 1.0, "top_k": 5, "seed": 3, "n": 3, "max_tokens": 5},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_text_checkpoint(tmp_path_factory.mktemp("text")).folder


@pytest.fixture
def answered(capsys, folder, tmp_path):
    """Return a function that answers lines of a file: (objects of the output, standard error)."""

    def run(lines, *arguments: object, status: int = 0):
        file = tmp_path / "prompts.jsonl"
        texts = [line if isinstance(line, bytes) else as_bytes(line) for line in lines]
        file.write_bytes(b"\n".join(texts))
        options = ["--model", folder, "--max-new-tokens", 9, "--prompt-file", file, *arguments]
        out, err = run_mode(capsys, "generate", *options, status=status)
        return [json.loads(line) for line in out.split("\n")[:-1]], err

    return run


def as_bytes(line: str | dict) -> bytes:
    return (line if isinstance(line, str) else json.dumps(line)).encode()


@pytest.mark.parametrize("rows", [3, 8])
def test_each_line_is_answered_as_its_prompt_alone(answered, folder, rows):
    answers, _ = answered([*LINES, ""], "--max-sequences", rows)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert [answer["index"] for answer in answers] == [0, 1, 2, 3]
    for line, answer in zip(LINES[:3], answers, strict=False):
        options = {key: line[key] for key in line if key not in {"prompt", "max_tokens"}}
        options["max_new_tokens"] = line.get("max_tokens", 9)
        alone = complete(model, tokenizer, line["prompt"], **options)
        assert (answer["text"], answer["tokens"]) == (alone.text, alone.new_tokens)
        assert answer["prompt_tokens"] == len(alone.prompt_tokens)
        assert answer["seed"] == line.get("seed", answer["seed"])
    several = [answer["tokens"] for answer in answers[3]["answers"]]
    assert len(several) == 3
    assert len(set(map(tuple, several))) > 1


def test_a_prompt_may_be_a_message_to_answer(answered, folder):
    messages = [{"role": "user", "content": "the end"}]
    prompted, answer = answered([{"prompt": "the end"}, {"messages": messages}], "--chat")[0]
    assert prompted["tokens"] == answer["tokens"]
    alone = complete(load_model(folder), load_tokenizer(folder), messages, max_new_tokens=9)
    assert prompted["tokens"] == alone.new_tokens


def test_answers_may_be_written_as_they_end(answered):
    answers, _ = answered(LINES, "--no-ordered")
    assert answers[0]["index"] == 2
    assert sorted(answer["index"] for answer in answers) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON: "),
        (b'{"prompt": "\xff"}', "not JSON: 'utf-8' codec can't decode byte 0xff"),
        ("[]", "a JSON object is needed, not []"),
        ({"prompt": 3}, 'expected "prompt", a text, or "messages"'),
        ({"prompt": "a", "messages": []}, 'expected "prompt"'),
        ({"prompt": [{"role": "user", "content": "a"}]}, 'expected "prompt"'),
        ({"messages": "a"}, 'expected "prompt"'),
        ({"messages": []}, "messages is [], expected is a list of messages"),
        ({"messages": [{"role": 1}]}, "messages[0].role is 1, allowed is system, "),
        ({"messages": [{"role": "user"}]}, "messages[0] has no content"),
        ({"prompt": "\ud800"}, "character 0 of the text is a lone surrogate"),
        ({"prompt": "a", "custom_id": 3}, "custom_id is 3, allowed is a text"),
        ({"prompt": "a", "custom_id": "\ud800"}, "'utf-8' codec can't encode character"),
        ({"prompt": "a", "heat": 1}, "'heat' is unknown; there are temperature, "),
        ({"prompt": "a", "top_p": 2}, "top_p is 2, allowed is a number in [0, 1]"),
        ({"prompt": "a", "n": 4}, "n is 4, allowed is 1..3: each answer has a row"),
        ({"prompt": "Q" * 99}, "the prompt has 99 tokens, the engine's max_length is 64"),
    ],
)
def test_a_line_that_cannot_be_answered_is_an_error_beside_the_answers_of_others(
    answered, line, message
):
    lines = [{"prompt": "the"}, "", line, {"prompt": "the"}]
    (first, error, last), err = answered(lines, "--max-sequences", 3, status=1)
    assert first["tokens"] == last["tokens"]
    assert (error["index"], last["index"]) == (1, 2)
    assert error["error"].startswith(f"line 3: {message}")
    assert "tokens" not in error
    assert amounts(err)["prompts, errors"] == "3, 1"


def test_a_request_that_fails_has_its_error_in_its_line(answered, monkeypatch):
    finished = PromptFile._answers

    def failing(prompts, output):
        object.__setattr__(output.answers[-1], "error", ValueError("NaN"))
        return finished(prompts, output)

    monkeypatch.setattr(PromptFile, "_answers", failing)
    ((one,), _), ((two,), _) = (answered([{"prompt": "a", "n": n}], status=1) for n in (1, 2))
    assert one["error"] == two["answers"][1]["error"] == "NaN"
    assert "error" not in two["answers"][0]


def test_a_line_has_its_name_and_its_settings(answered):
    lines = [
        {"prompt": "the", "custom_id": "naïve\u2028 \u0085", "max_tokens": 2},
        {"prompt": "the", "max_tokens": 8, "ignore_eos": True},
    ]
    raw = json.dumps(lines[0], ensure_ascii=False)  # with characters that are lines of a text
    (first, second), err = answered([raw, lines[1]])
    assert (first["custom_id"], len(first["tokens"])) == (lines[0]["custom_id"], 2)
    assert "custom_id" not in second
    stop = second["tokens"][1]
    (stopped,), _ = answered([lines[1] | {"stop_token_ids": [stop]}])
    assert stopped["tokens"] == second["tokens"][: second["tokens"].index(stop) + 1]
    assert stopped["finish_reason"] == "stop"
    assert amounts(err)["prompts, errors"] == "2, 0"


def test_numbers_of_the_run_are_those_of_its_engine(answered, tmp_path):
    file = tmp_path / "numbers.json"
    answers, err = answered([*LINES, "{"], f"--json={file}", status=1)
    numbers, rows = json.loads(file.read_text()), amounts(err)
    stats = numbers["stats"]
    assert (numbers["prompts"], numbers["errors"], stats["finished"]) == (5, 1, 6)
    assert (stats["running"], stats["waiting"]) == (0, 0)
    assert stats["prefill_tokens"] == sum(each["prompt_tokens"] for each in answers[:4])
    assert set(stats["token_seconds"]) == {"p50", "p90", "p99"}
    assert rows["decode"] == f"{stats['decode_tokens_per_second']:.1f} tokens/s"
    assert rows["time to first token"].startswith(f"{stats['first_token_seconds']['p50']:.3f} s")
    assert rows["sequences per step"] == f"{stats['batch_size']:.1f}"


def test_a_file_without_a_prompt_is_refused(answered):
    assert "there is no prompt" in answered([""], status=2)[1]
    assert "there is no prompt" in answered([], status=2)[1]


def test_lines_are_read_as_there_is_room_for_them(folder, monkeypatch):
    """Of a long file at most `ahead` prompts are read and not answered."""
    read = []
    lines = (read.append(n) or b'{"prompt": "a"}\n' for n in range(500))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=lines))
    defaults = {"max_tokens": 3, "ignore_eos": True}
    prompts = PromptFile(Path("-"), load_tokenizer(folder), defaults)
    with Engine(load_model(folder), 2) as engine:
        answers = in_order(prompts.answer(engine, ahead=5))
        for index, answer in enumerate(islice(answers, 20)):
            assert (answer["index"], len(answer["tokens"])) == (index, 3)
            assert len(read) <= engine.stats.finished + 5


def start_long(folder) -> subprocess.Popen:
    """Return a process that answers standard input, which has prompts enough for minutes."""
    command = [sys.executable, "-m", "mimo_v2_flash", "generate", "--prompt-file", "-"]
    process = subprocess.Popen(
        [*command, "--model", folder, "--max-new-tokens", "40", "--max-sequences", "2"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdin.write(b'{"prompt": "the", "ignore_eos": true}\n' * 1500)  # less than a pipe holds
    process.stdin.flush()
    return process


def test_an_interrupt_leaves_whole_lines(folder):
    with start_long(folder) as process:
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out = first + process.stdout.read()
        assert process.wait(60) == 130
        assert process.stderr.read() == b""
    assert out.endswith(b"\n")
    assert [json.loads(line)["index"] for line in io.BytesIO(out)] == list(range(out.count(b"\n")))


def test_nobody_who_reads_is_a_quiet_end(folder):
    with start_long(folder) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""
