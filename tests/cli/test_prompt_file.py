"""prompt_file: a line is answered as that prompt alone, in the order of the file or as it ends."""

import json

import pytest

from mimo_v2_flash import load_model
from mimo_v2_flash.cli.prompt_file import read_prompts
from mimo_v2_flash.text.completion import complete
from mimo_v2_flash.text.tokenizer import load_tokenizer, prompt_tokens
from tests.support.reports import run_mode
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
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        file.write_text("\n".join(texts) + "\n")
        options = ["--model", folder, "--max-new-tokens", 9, "--prompt-file", file, *arguments]
        out, err = run_mode(capsys, "generate", *options, status=status)
        return [json.loads(line) for line in out.splitlines()], err

    return run


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
        ("{", "line 2: not JSON: "),
        ('{"prompt": 3}', 'line 2: expected "prompt", a text, or "messages"'),
        ('{"prompt": "a", "messages": []}', 'line 2: expected "prompt"'),
        ('{"messages": [{"role": 1}]}', 'line 2: expected "prompt"'),
        ('{"messages": [{"role": "user"}]}', 'line 2: expected "prompt"'),
        ('{"prompt": "a", "heat": 1}', "line 2: 'heat' is unknown; there are temperature, "),
        ('{"prompt": "a", "top_p": 2}', "line 2: top_p is 2, allowed is a number in [0, 1]"),
        ('{"prompt": "a", "n": 4}', "prompt 1: n is 4, allowed is 1..3: each answer has a row"),
    ],
)
def test_a_line_that_cannot_be_answered_is_named_before_anything_is_written(
    answered, line, message
):
    answers, err = answered([{"prompt": "the"}, line], "--max-sequences", 3, status=2)
    assert answers == []
    assert len(err.splitlines()) == 1
    assert message in err


def test_a_line_ends_at_a_newline_alone_and_is_utf_8(folder, tmp_path):
    """JSON's strings may hold U+2028, at which str.splitlines splits."""
    file, tokenizer = tmp_path / "prompts.jsonl", load_tokenizer(folder)
    file.write_bytes('\ufeff{"prompt": "a\u2028b"}\r\n\n{"prompt": "c"}'.encode())
    tokens = [prompt.tokens for prompt in read_prompts(file, tokenizer, {})]
    assert tokens == [prompt_tokens(tokenizer, text) for text in ("a\u2028b", "c")]
    file.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    with pytest.raises(ValueError, match="line 2: not JSON: 'utf-8' codec can't decode byte 0xff"):
        read_prompts(file, tokenizer, {})


def test_a_file_without_a_prompt_is_refused(answered):
    assert "there is no prompt" in answered([""], status=2)[1]
