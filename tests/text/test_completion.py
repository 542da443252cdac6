"""complete: the text of the generated tokens, streamed, and why generation stopped."""

import copy
import json
from dataclasses import replace

import hypothesis
import ml_dtypes
import pytest
import torch
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_model, load_weights
from mimo_v2_flash.model_runner import ModelRunner
from mimo_v2_flash.text.chat_template import prompt_tokens
from mimo_v2_flash.text.completion import CONTEXT, END, LIMIT, complete
from mimo_v2_flash.text.tokenizer import load_tokenizer
from tests.support import tiny_text
from tests.support.reports import run_mode
from tests.support.tiny_text import any_text, text_oracle, write_json, write_text_checkpoint

DRAWN = {"temperature": 1.5, "seed": 3}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return write_text_checkpoint(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def loaded(hub):
    """Return the model and its tokenizer, the first arguments of `complete`."""
    config = MiMoConfig.from_pretrained(hub.folder)
    return MiMoV2FlashModel(load_weights(hub.folder, config), config), load_tokenizer(hub.folder)


@pytest.mark.parametrize("prompt", ["", "the", "naïve 世界 🙂 and", "\n", "🚀"])
def test_greedy_text_is_that_of_transformers(hub, loaded, prompt):
    _, tokenizer = loaded
    token_T = prompt_tokens(tokenizer, prompt)
    input_ids = torch.tensor([token_T])
    output = text_oracle(hub).generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
    )
    new = output[0, len(token_T) :]
    completion = complete(*loaded, prompt, max_new_tokens=20)
    assert completion.new_tokens == new.tolist()
    assert completion.text == tokenizer.decode(new, skip_special_tokens=True)
    stopped = LIMIT if len(new) == 20 else END
    assert (completion.prompt_tokens, completion.stopped) == (token_T, stopped)


@hypothesis.settings(max_examples=10)
@hypothesis.given(any_text.filter(lambda text: len(text.encode()) < 50), st.integers(0, 12))
def test_what_comes_piece_by_piece_is_the_text(loaded, prompt, limit):
    pieces: list[str] = []
    completion = complete(*loaded, prompt, max_new_tokens=limit, on_text=pieces.append, **DRAWN)
    assert "".join(pieces) == completion.text
    assert len(pieces) == len(completion.new_tokens) + 1
    assert completion.text == loaded[1].decode(completion.new_tokens, skip_special_tokens=True)
    assert len(completion.new_tokens) == limit


def test_text_is_given_before_the_next_token_is_drawn(loaded, monkeypatch):
    model, events = loaded[0], []
    forward = ModelRunner.forward

    def recorded_forward(*args, **kwargs):
        events.append("step")
        return forward(*args, **kwargs)

    monkeypatch.setattr(ModelRunner, "forward", recorded_forward)
    complete(model, loaded[1], "the", max_new_tokens=3, on_text=lambda _: events.append("text"))
    assert events == [*["step", "text"] * 3, "text"]


def test_a_seed_says_the_same_again_and_another_one_something_else(loaded):
    def sampled(seed: int) -> str:
        return complete(*loaded, "the", max_new_tokens=20, temperature=1.5, seed=seed).text

    assert sampled(1) == sampled(1) != sampled(2)


def test_without_a_seed_each_text_is_another_and_its_seed_says_it_again(loaded):
    options = {"max_new_tokens": 20, "temperature": 1.5}
    first, second = (complete(*loaded, "the", **options) for _ in range(2))
    assert first.text != second.text
    assert complete(*loaded, "the", seed=first.seed, **options) == first


def test_an_end_token_ends_the_text(loaded):
    free = complete(*loaded, "the end", max_new_tokens=20, **DRAWN)
    end = free.new_tokens[7]
    index = free.new_tokens.index(end)
    completion = complete(*loaded, "the end", max_new_tokens=20, eos_token_id=[end], **DRAWN)
    assert completion.new_tokens == free.new_tokens[: index + 1]
    assert completion.stopped == END


def test_the_config_names_the_end_token_if_nobody_else_does(hub, loaded):
    free = complete(*loaded, "the end", max_new_tokens=9)
    end = free.new_tokens[4]
    model = MiMoV2FlashModel(loaded[0].weights, with_end(hub.folder, end))
    completion = complete(model, loaded[1], "the end", max_new_tokens=9)
    assert completion.stopped == END
    assert completion.new_tokens == free.new_tokens[: free.new_tokens.index(end) + 1]
    unstopped = complete(model, loaded[1], "the end", max_new_tokens=9, eos_token_id=())
    assert unstopped.new_tokens == free.new_tokens


def with_end(folder, end: int) -> MiMoConfig:
    return replace(MiMoConfig.from_pretrained(folder), eos_token_id=end)


ENDS = ("config.json", "generation_config.json", "tokenizer_config.json")


@pytest.mark.parametrize("name", ENDS)
def test_each_file_may_name_an_end_token_of_python_and_the_command(loaded, tmp_path, capsys, name):
    """Whatever the two other files name, all entrances stop at the same token."""
    free = complete(*loaded, "the end", max_new_tokens=14, eos_token_id=()).new_tokens
    end, folder = free[6], write_text_checkpoint(tmp_path, eos_token_id=[1, 2]).folder
    old = json.loads((folder / name).read_text())
    new = {"eos_token": loaded[1].convert_ids_to_tokens(end)}
    write_json(folder / name, old | (new if name == ENDS[2] else {"eos_token_id": end}))
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    completion = complete(model, tokenizer, "the end", max_new_tokens=14)
    assert completion.new_tokens == free[: free.index(end) + 1]
    assert completion.stopped == END
    assert model.generate([completion.prompt_tokens], max_new_tokens=14) == [completion.new_tokens]
    config = MiMoConfig.from_pretrained(folder)
    parts = MiMoV2FlashModel(load_weights(folder, config), config)
    again = complete(parts, tokenizer, "the end", max_new_tokens=14)
    assert replace(again, seed=completion.seed) == completion
    options = ("--prompt", "the end", "--max-new-tokens", 14)
    out, err = run_mode(capsys, "generate", "--model", folder, *options)
    assert out == f"{completion.text}\n"
    assert "Stopped by an end token" in err


def test_a_model_of_its_parts_stops_at_the_tokenizers_end(loaded):
    free = complete(*loaded, "the end", max_new_tokens=14, eos_token_id=()).new_tokens
    tokenizer = copy.deepcopy(loaded[1])
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(free[6])
    completion = complete(loaded[0], tokenizer, "the end", max_new_tokens=14)
    assert completion.new_tokens == free[: free.index(free[6]) + 1]


@pytest.fixture(scope="module")
def smaller(tmp_path_factory):
    """Return a checkpoint whose tokenizer has 270 tokens, for 300 rows of the vocabulary."""
    folder = write_text_checkpoint(tmp_path_factory.mktemp("smaller")).folder
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {token: i for token, i in vocabulary.items() if i < 270}
    content["model"]["merges"] = content["model"]["merges"][: 270 - len(vocabulary)]
    write_json(folder / "tokenizer.json", content)
    return folder


@pytest.mark.parametrize("chosen", [{}, {"temperature": 3.0, "top_k": 0}])
def test_ids_past_the_tokenizer_are_never_drawn(smaller, loaded, chosen):
    options = {"max_new_tokens": 40, "eos_token_id": (), "seed": 1} | chosen
    assert max(complete(*loaded, "the", **options).new_tokens) >= 270
    tokenizer = load_tokenizer(smaller)
    of_folder = complete(load_model(smaller), tokenizer, "the", **options).new_tokens
    of_parts = complete(loaded[0], tokenizer, "the", **options).new_tokens
    assert of_folder == of_parts
    assert max(of_folder) < 270


def test_a_token_past_the_vocabulary_is_refused_in_one_line(loaded):
    tokenizer = copy.deepcopy(loaded[1])
    tokenizer.add_tokens(["<more>"])
    assert len(complete(loaded[0], tokenizer, "the", max_new_tokens=3).new_tokens) == 3
    with pytest.raises(
        ValueError, match=r"^token id 300 in row 0, column \d is outside of the voc"
    ):
        complete(loaded[0], tokenizer, "the <more>")


@pytest.mark.parametrize(("free", "limit"), [(0, 99), (1, 3), (5, 7), (5, 99)])
def test_a_full_context_ends_the_text(loaded, free, limit):
    """The last new token is never an input, so one token more than positions fits."""
    completion = complete(*loaded, prompt_of(tiny_text.CONTEXT - free), max_new_tokens=limit)
    assert len(completion.prompt_tokens) == tiny_text.CONTEXT - free
    assert (len(completion.new_tokens), completion.stopped) == (free + 1, CONTEXT)


def test_a_context_that_is_just_long_enough_ends_nothing(loaded):
    completion = complete(*loaded, prompt_of(tiny_text.CONTEXT - 5), max_new_tokens=6)
    assert (len(completion.new_tokens), completion.stopped) == (6, LIMIT)


def prompt_of(length: int) -> str:
    """Return a text of `length` tokens: a character that no merge of the tokenizer contains."""
    return "Q" * length


def test_a_prompt_longer_than_the_context_is_refused(loaded):
    with pytest.raises(ValueError, match="the prompt has 65 tokens, the model's context 64"):
        complete(*loaded, prompt_of(65))


def test_no_tokens_are_no_text(loaded):
    completion = complete(*loaded, "the", max_new_tokens=0)
    assert (completion.text, completion.new_tokens, completion.stopped) == ("", [], LIMIT)


def test_a_message_is_answered(loaded):
    messages = [{"role": "user", "content": "世?"}]
    completion = complete(*loaded, messages, max_new_tokens=3)
    written = f"<|im_start|>user\n世?{tiny_text.MESSAGE_END}<|im_start|>assistant\n"
    same = complete(*loaded, written, max_new_tokens=3, seed=completion.seed)
    assert completion == same


@pytest.mark.parametrize(
    "option",
    [{"top_p": 2}, {"seed": -1}, {"max_new_tokens": -1}, {"eos_token_id": 300}, {"heat": 1}],
)
def test_an_option_that_is_not_allowed_is_refused_by_name(loaded, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        complete(*loaded, "the", **option)


def test_the_cache_may_be_of_bfloat16(loaded):
    completion = complete(*loaded, "the", max_new_tokens=2, cache_dtype=ml_dtypes.bfloat16)
    assert len(completion.new_tokens) == 2
