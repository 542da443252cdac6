"""Text from text: what the model says to the prompt's tokens, as text, and why it ended."""

from dataclasses import replace

import hypothesis
import ml_dtypes
import pytest
import torch
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights
from mimo_v2_flash.text.completion import CONTEXT, END, LIMIT, complete
from mimo_v2_flash.text.tokenizer import load_tokenizer, prompt_tokens
from tests.support import tiny_text
from tests.support.tiny_text import any_text, text_oracle, write_text_checkpoint

DRAWN = {"temperature": 1.5, "seed": 3}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return write_text_checkpoint(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def given_by(hub):
    """Return the model and its tokenizer, the first arguments of `complete`."""
    config = MiMoConfig.from_pretrained(hub.folder)
    return MiMoV2FlashModel(load_weights(hub.folder, config), config), load_tokenizer(hub.folder)


@pytest.mark.parametrize("prompt", ["", "the", "naïve 世界 🙂 and", "\n", "🚀"])
def test_greedy_text_is_that_of_transformers(hub, given_by, prompt):
    _, tokenizer = given_by
    token_T = prompt_tokens(tokenizer, prompt)
    given = torch.tensor([token_T])
    answer = text_oracle(hub).generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=20, do_sample=False
    )
    new = answer[0, len(token_T) :]
    said = complete(*given_by, prompt, max_new_tokens=20)
    assert said.new_tokens == new.tolist()
    assert said.text == tokenizer.decode(new, skip_special_tokens=True)
    assert (said.prompt_tokens, said.stopped) == (token_T, LIMIT)


@hypothesis.settings(max_examples=10)
@hypothesis.given(any_text.filter(lambda text: len(text.encode()) < 50), st.integers(0, 12))
def test_what_comes_piece_by_piece_is_the_text(given_by, prompt, limit):
    pieces: list[str] = []
    said = complete(*given_by, prompt, max_new_tokens=limit, on_text=pieces.append, **DRAWN)
    assert "".join(pieces) == said.text
    assert len(pieces) == len(said.new_tokens) + 1
    assert said.text == given_by[1].decode(said.new_tokens, skip_special_tokens=True)
    assert len(said.new_tokens) == limit


def test_text_is_given_before_the_next_token_is_drawn(given_by, monkeypatch):
    model, happened = given_by[0], []
    step = MiMoV2FlashModel.greedy

    def watched(*given, **options):
        happened.append("step")
        return step(*given, **options)

    monkeypatch.setattr(MiMoV2FlashModel, "greedy", watched)
    complete(model, given_by[1], "the", max_new_tokens=3, on_text=lambda _: happened.append("text"))
    assert happened == [*["step", "text"] * 3, "text"]


def test_a_seed_says_the_same_again_and_another_one_something_else(given_by):
    def drawn(seed: int) -> str:
        return complete(*given_by, "the", max_new_tokens=20, temperature=1.5, seed=seed).text

    assert drawn(1) == drawn(1) != drawn(2)


def test_an_end_token_ends_the_text(given_by):
    free = complete(*given_by, "the end", max_new_tokens=20, **DRAWN)
    end = free.new_tokens[7]
    place = free.new_tokens.index(end)
    said = complete(*given_by, "the end", max_new_tokens=20, eos_token_id=[end], **DRAWN)
    assert said.new_tokens == free.new_tokens[: place + 1]
    assert said.stopped == END


def test_the_config_names_the_end_token_if_nobody_else_does(hub, given_by):
    free = complete(*given_by, "the end", max_new_tokens=9)
    end = free.new_tokens[4]
    model = MiMoV2FlashModel(given_by[0].weights, with_end(hub.folder, end))
    said = complete(model, given_by[1], "the end", max_new_tokens=9)
    assert said.stopped == END
    assert said.new_tokens == free.new_tokens[: free.new_tokens.index(end) + 1]
    assert complete(model, given_by[1], "the end", max_new_tokens=9, eos_token_id=()) == free


def with_end(folder, end: int) -> MiMoConfig:
    return replace(MiMoConfig.from_pretrained(folder), eos_token_id=end)


@pytest.mark.parametrize(("free", "limit"), [(0, 99), (1, 3), (5, 7), (5, 99)])
def test_a_full_context_ends_the_text(given_by, free, limit):
    """The last token that is drawn is not shown to the model, so one more fits than positions."""
    said = complete(*given_by, prompt_of(tiny_text.CONTEXT - free), max_new_tokens=limit)
    assert len(said.prompt_tokens) == tiny_text.CONTEXT - free
    assert (len(said.new_tokens), said.stopped) == (free + 1, CONTEXT)


def test_a_context_that_is_just_long_enough_ends_nothing(given_by):
    said = complete(*given_by, prompt_of(tiny_text.CONTEXT - 5), max_new_tokens=6)
    assert (len(said.new_tokens), said.stopped) == (6, LIMIT)


def prompt_of(length: int) -> str:
    """Return a text of `length` tokens: characters that the tokenizer has no pairs of."""
    return "Q" * length


def test_a_prompt_longer_than_the_context_is_refused(given_by):
    with pytest.raises(ValueError, match="the prompt has 65 tokens, the model's context 64"):
        complete(*given_by, prompt_of(65))


def test_no_tokens_are_no_text(given_by):
    said = complete(*given_by, "the", max_new_tokens=0)
    assert (said.text, said.new_tokens, said.stopped) == ("", [], LIMIT)


def test_a_message_is_answered(given_by):
    messages = [{"role": "user", "content": "世?"}]
    said = complete(*given_by, messages, max_new_tokens=3)
    written = f"<|im_start|>user\n世?{tiny_text.MESSAGE_END}<|im_start|>assistant\n"
    assert said == complete(*given_by, written, max_new_tokens=3)


@pytest.mark.parametrize("option", [{"top_p": 0}, {"seed": -1}, {"max_new_tokens": -1}])
def test_an_option_that_is_not_allowed_is_refused_by_name(given_by, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        complete(*given_by, "the", **option)


def test_the_cache_may_be_of_bfloat16(given_by):
    said = complete(*given_by, "the", max_new_tokens=2, cache_dtype=ml_dtypes.bfloat16)
    assert len(said.new_tokens) == 2
