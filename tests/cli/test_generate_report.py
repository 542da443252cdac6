"""The report of --mode generate: every number is that of the run."""

import re

import pytest

from mimo_v2_flash import Engine, MiMoV2FlashModel
from mimo_v2_flash.cli.console import amount
from mimo_v2_flash.cpu.thread_count import thread_count
from mimo_v2_flash.layers.eager_kernels import eager_router
from mimo_v2_flash.layers.eager_mode import EagerMode
from mimo_v2_flash.model_runner import ModelRunner
from mimo_v2_flash.text.chat_template import prompt_tokens
from mimo_v2_flash.text.tokenizer import load_tokenizer
from tests.support.reports import amounts, run_mode
from tests.support.tiny_text import CONTEXT, write_text_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_text_checkpoint(tmp_path_factory.mktemp("text")).folder


@pytest.fixture
def reported(capsys, folder):
    """Return a function that runs the mode and returns standard error."""

    def run(prompt: str, *arguments: object) -> str:
        args = ["--model", folder, "--max-new-tokens", 12, *arguments, "--prompt", prompt]
        return run_mode(capsys, "generate", *args)[1]

    return run


def test_the_report_says_what_the_run_took(reported, folder, monkeypatch):
    held = []
    new_cache = MiMoV2FlashModel.new_cache
    monkeypatch.setattr(
        MiMoV2FlashModel,
        "new_cache",
        lambda *args, **kwargs: held.append(new_cache(*args, **kwargs)) or held[-1],
    )
    err = reported("the end")
    report, prompt = amounts(err), len(prompt_tokens(load_tokenizer(folder), "the end"))
    assert err.startswith("the end\n")
    assert report["prompt, new tokens"] == f"{prompt}, 12"
    assert re.fullmatch(r"\d+\.\d{3} s", report["time to first token"])
    assert all(re.fullmatch(r"\d+\.\d tokens/s", report[what]) for what in ("prefill", "decode"))
    assert report[f"KV cache of {prompt + 11} tokens"] == amount(held[1].nbytes)
    assert report["threads"] == "{} ({})".format(*thread_count())
    assert report["compute"] == "float32"
    assert amounts(reported("the end", "--compute", "bfloat16"))["compute"] == "bfloat16"
    assert "Stopped by max_new_tokens" in err


def test_rates_are_tokens_by_seconds(reported, folder, monkeypatch):
    """The first token comes after four seconds, each further one after a quarter."""
    now, forward = [0.0], ModelRunner.forward

    def timed(runner, output, step, cache, **options):
        now[0] += 4 if max(step.count_B) > 1 else 0.25
        return forward(runner, output, step, cache, **options)

    monkeypatch.setattr(ModelRunner, "forward", timed)
    monkeypatch.setitem(Engine.__init__.__kwdefaults__, "clock", lambda: now[0])
    report = amounts(reported("the end"))
    prompt = len(prompt_tokens(load_tokenizer(folder), "the end"))
    assert report["time to first token"] == "4.000 s"
    assert report["prefill"] == f"{prompt / 4:.1f} tokens/s"
    assert report["decode"] == "4.0 tokens/s"
    assert report["time between tokens"] == "0.250 s"


def test_experts_touched_are_those_that_the_routers_chose(reported, folder, monkeypatch):
    chosen: list[set[int]] = []

    def recording_route(*args, **kwargs):
        output = eager_router(*args, **kwargs)
        chosen.append(set(output[1].flat))
        return output

    monkeypatch.setattr(EagerMode, "router", staticmethod(recording_route))
    for prompt, limit in (*((letter, 1) for letter in "Qxz?"), ("the end", 12)):
        chosen.clear()
        report = amounts(reported(prompt, "--max-new-tokens", limit))
        routed = chosen[2:]  # two MoE layers; the first step is a warm-up
        pairs = set.union(*routed[::2]), set.union(*routed[1::2])
        assert report["experts touched"] == f"{sum(map(len, pairs))} of 10"


def test_no_tokens_are_reported_as_none(reported):
    report = amounts(reported("the", "--max-new-tokens", 0))
    rates = "time to first token", "time between tokens", "prefill", "decode"
    assert {report[what] for what in rates} == {"none"}


def test_of_one_token_there_is_no_decoding(reported):
    report = amounts(reported("the", "--max-new-tokens", 1))
    assert report["decode"] == "none"
    assert report["prefill"] != "none"


def test_a_full_context_is_said(reported):
    err = reported("Q" * (CONTEXT - 2))
    assert "Stopped by a full context" in err
    assert f"The context is full: the model knows {CONTEXT} positions." in err
