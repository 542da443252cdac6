"""--mode evaluate: bits per byte and perplexity equal those of transformers."""

import re

import numpy as np
import pytest
import torch

from mimo_v2_flash.cpu.thread_count import thread_count
from tests.support.reports import amounts, run_mode
from tests.support.tiny_text import (
    CONTEXT,
    END_OF_TEXT,
    small_tokenizer,
    text_oracle,
    write_text_checkpoint,
)

TEXT = "the thin thing 世界 🙂 is\r\nthere, naïve Q" * 9
END = small_tokenizer().added_tokens_encoder[END_OF_TEXT]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return write_text_checkpoint(tmp_path_factory.mktemp("text"))


@pytest.fixture
def evaluated(capsys, hub, tmp_path):
    """Return a function that runs the mode on a text and returns its output."""

    def run(content: str | bytes, *arguments: object, status: int = 0) -> str:
        file = tmp_path / "file.txt"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        options = ["--model", hub.folder, "--text", file, *arguments]
        out, err = run_mode(capsys, "evaluate", *options, status=status)
        assert out == "" or re.fullmatch(r"\S*file.txt: \d+\.\d s\n", err)  # progress
        return out or err

    return run


def nats_of_transformers(hub, length: int) -> tuple[float, int]:
    """Return the negative log-likelihood of the text in windows of `length`, and its tokens."""
    token_T = small_tokenizer().encode(TEXT)
    model, nats = text_oracle(hub), 0.0
    for start in range(0, len(token_T), length):
        target = torch.tensor(token_T[start : start + length])
        with torch.no_grad():
            logits = model(torch.tensor([[END, *target[:-1]]]), use_cache=False).logits[0]
        nats += float(torch.nn.functional.cross_entropy(logits.double(), target, reduction="sum"))
    return nats, len(token_T)


@pytest.mark.parametrize("length", [CONTEXT, 17, 1])
def test_bits_and_perplexity_are_those_of_transformers(hub, evaluated, length):
    report = amounts(evaluated(TEXT, *([] if length == CONTEXT else ["--length", length])))
    nats, count = nats_of_transformers(hub, length)
    size = len(TEXT.encode())
    assert report["bytes, tokens"] == f"{size:,}, {count:,}"
    assert report["windows"] == f"{-(-count // length)} of {length} tokens"
    assert float(report["bits per byte"]) == pytest.approx(nats / np.log(2) / size, rel=1e-5)
    assert float(report["perplexity"]) == pytest.approx(np.exp(nats / count), rel=1e-4)


def test_the_report_names_text_model_and_speed(hub, evaluated):
    report = evaluated(TEXT)
    assert "file.txt" in "".join(report.split())
    assert amounts(report)["model"] == hub.folder.name
    assert re.fullmatch(r"[\d.]+ tokens/s", amounts(report)["speed"])
    assert amounts(report)["threads"] == "{} ({})".format(*thread_count())


def test_compute_types_are_compared(evaluated):
    plain, rounded = (
        amounts(evaluated(TEXT, "--compute", "bfloat16", "--compare", compute))
        for compute in ("bfloat16", "float32")
    )
    assert plain["compute"] == rounded["compute"] == "bfloat16"
    assert plain["bits per byte"] == plain["bits per byte, bfloat16"] == rounded["bits per byte"]
    assert plain["KL divergence"] == "0.0e+00 nats"
    assert plain["same best token"] == "100.00%"
    exact = amounts(evaluated(TEXT))
    assert exact["compute"] == "float32"
    bits = float(exact["bits per byte"])
    assert float(rounded["bits per byte, float32"]) == pytest.approx(bits, rel=1e-6)
    assert float(rounded["bits per byte"]) == pytest.approx(bits, rel=1e-2)
    assert rounded["bits per byte"] != exact["bits per byte"]
    for name in ("largest difference", "rms difference", "KL divergence"):
        assert 0 < float(rounded[name].split()[0]) < 0.5


def test_one_character_is_a_text(evaluated):
    assert amounts(evaluated("a"))["bytes, tokens"] == "1, 1"


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", (), "file.txt is empty: there is nothing to measure"),
        (b"abc\xff", (), "file.txt is not UTF-8: byte 3 is 0xff"),
        ("世".encode() + b"\xe4\xb8", (), "file.txt is not UTF-8: byte 3 is 0xe4"),
        (
            b"a",
            ("--compute", "bfloat16", "--backend", "xla"),
            "--compute is 'bfloat16', allowed with a backend that compiles is float32",
        ),
        (
            b"a",
            ("--cache-dtype", "int8", "--backend", "xla"),
            "--cache-dtype must be float32 or bfloat16 with a backend that compiles, got int8",
        ),
        (b"a", ("--length", 0), "argument --length: '0' is not an integer above 0"),
        (b"a", ("--length", 65), "--length is 65, allowed is 1..64"),
        (b"a", ("--text", "/nowhere"), "--text /nowhere: no such file or directory"),
        (b"a", ("--model", "/nowhere"), "--model /nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line(evaluated, content, arguments, message):
    line = evaluated(content, *arguments, status=2)
    assert line.startswith("run_example.py: ")
    assert line.endswith(f"{message}\n")
    assert line.count("\n") == 1
