"""Each example is short, says how it is started, and does what it says."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from examples import batch_jsonl, custom_backend, llama_cpp_round_trip, ranks, structured_output
from examples.speculative_decoding import write
from mimo_v2_flash import example_folder, load_model
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.text.tokenizer import load_tokenizer, tokens

FOLDER = Path(__file__).parents[1] / "examples"
NAMES = (
    *("batch_jsonl", "custom_backend", "llama_cpp_round_trip", "ranks", "speculative_decoding"),
    "structured_output",
)
PAGE = (FOLDER.parent / "docs" / "examples.md").read_text()
GREEDY = {"max_new_tokens": 8, "temperature": 0}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_a_page_and_says_how_it_is_started(name):
    source = (FOLDER / f"{name}.py").read_text()
    assert len(source.splitlines()) < 60
    assert f"python -m examples.{name}" in source.partition('"""\n\n')[0]
    assert f"(../examples/{name}.py)" in PAGE


@pytest.mark.parametrize("name", [name for name in NAMES if name != "batch_jsonl"])
def test_an_example_runs_and_prints(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name])
    importlib.import_module(f"examples.{name}").main()
    assert capsys.readouterr().out.strip()


def test_structured_output_is_as_its_schema_says():
    answer = structured_output.describe(structured_output.SCHEMA)
    assert list(answer) == structured_output.SCHEMA["required"]
    assert isinstance(answer["name"], str)
    assert len(answer["name"]) <= 12
    assert answer["kind"] in {"list", "tuple", "set"}
    assert answer["items"] in range(10)


def test_drafts_write_the_same_text_in_fewer_steps():
    plain, drafted = write((0, 3), max_new_tokens=40)
    assert drafted.new_tokens == plain.new_tokens
    assert drafted.stats.tokens_per_step > 1.2
    assert plain.stats.tokens_per_step == 1


def test_a_batch_has_the_texts_of_prompts_alone(tmp_path, capsys, monkeypatch):
    prompts, answers = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    texts = ["The list type", "A tuple is", "é", "Changed in version"]
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    monkeypatch.setattr(sys, "argv", ["batch_jsonl", str(prompts), str(answers)])
    batch_jsonl.main()
    assert capsys.readouterr().out == "4 prompts answered\n"
    lines = sorted(map(json.loads, answers.read_text().splitlines()), key=lambda x: x["number"])
    model, tokenizer = load_model(example_folder()), load_tokenizer(example_folder())
    for line, text in zip(lines, texts, strict=True):
        (alone,) = model.generate([tokens(tokenizer, text)], max_new_tokens=16, temperature=0)
        assert line["prompt"] == text
        assert line["text"] == tokenizer.decode(alone, skip_special_tokens=True)


@pytest.mark.parametrize(
    "split", [ranks.SPLIT, ParallelConfig(2, tensor_parallel_size=2)], ids=["four", "two"]
)
def test_every_rank_has_the_tokens_of_one(split):
    expected = list(load_model(example_folder()).generate(ranks.PROMPTS, **GREEDY))
    assert ranks.generate_on(split) == [expected] * split.world_size


def test_a_custom_backend_sees_every_program_and_changes_nothing():
    backend = custom_backend.ProfilingBackend()
    model = load_model(example_folder(), backend=backend)
    tokens_ = list(model.generate([[1, 45, 300]], **GREEDY))
    assert tokens_ == list(load_model(example_folder()).generate([[1, 45, 300]], **GREEDY))
    assert backend.calls["DecoderLayer"] == 6 * 8  # layers, steps
    assert backend.calls.keys() == backend.seconds.keys()


def test_llama_cpp_reads_what_is_written(tmp_path):
    differences = llama_cpp_round_trip.round_trip(tmp_path / "mimo-tiny.gguf")
    assert "mimo_v2_flash" in differences
    assert max(differences.values()) < 2e-5
