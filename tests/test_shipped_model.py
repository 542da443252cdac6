"""The shipped checkpoint: size, architecture, and equality with transformers' model of it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights
from mimo_v2_flash.generation.generation_config import load_generation_config
from mimo_v2_flash.text.chat_template import prompt_tokens
from mimo_v2_flash.text.completion import complete
from mimo_v2_flash.text.tokenizer import END_OF_TEXT, load_tokenizer, tokens
from tests.support.oracle import assert_same_logits
from tests.support.reports import amounts, run_mode
from tests.support.shipped import FOLDER, shipped_oracle, stored

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "LICENSE").read_text()
PROMPT = "The list is sorted by"
NEW = 200


@pytest.fixture(scope="module")
def shipped():
    """Return the model and the tokenizer of the shipped checkpoint."""
    config = MiMoConfig.from_pretrained(FOLDER)
    return MiMoV2FlashModel(load_weights(FOLDER, config), config), load_tokenizer(FOLDER)


def test_it_is_small_enough_to_be_shipped():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) <= 16 * 2**20


def test_it_has_what_the_real_one_has():
    """Head sizes, kinds of layers and dtypes are the real model's; trained biases are not zero."""
    config, real = MiMoConfig.from_pretrained(FOLDER), MiMoConfig()
    same = ("head_dim", "v_head_dim", "num_key_value_heads", "swa_num_key_value_heads")
    for name in (*same, "sliding_window", "partial_rotary_factor", "attention_value_scale"):
        assert getattr(config, name) == getattr(real, name)
    pattern, mixtures = config.hybrid_layer_pattern, config.moe_layer_freq
    assert pattern.count(0) >= 2
    assert pattern.count(1) >= 4
    assert mixtures == (0, *[1] * (len(pattern) - 1))
    assert (config.n_routed_experts, config.num_experts_per_tok) >= (16, 4)
    weights = stored()
    assert len({name.split(".")[3] for name in weights if name.startswith("model.mtp.")}) == 3
    assert {str(weights[name].dtype) for name in weights if ".mlp.gate." in name} == {
        "torch.float32"
    }
    assert {str(w.dtype) for name, w in weights.items() if f"{name}_scale_inv" in weights} == {
        "torch.float8_e4m3fn"
    }
    for trained in ("e_score_correction_bias", "attention_sink_bias"):
        assert all(w.any() for name, w in weights.items() if name.endswith(trained))


def test_its_logits_are_transformers_on_the_dequantised_weights(shipped):
    model, tokenizer = shipped
    token_T = prompt_tokens(tokenizer, TEXT)[:400]  # three windows
    with torch.no_grad():
        expected_TV = shipped_oracle()(torch.tensor([token_T]), use_cache=False).logits[0].numpy()
    assert_same_logits(model.forward([token_T])[0], expected_TV)


def test_greedy_text_is_the_same_from_transformers_python_and_the_command(shipped, tmp_path):
    ends = [*load_generation_config(FOLDER, shipped[0].config).eos_token_ids]
    completion = complete(*shipped, PROMPT, max_new_tokens=NEW, eos_token_id=ends)
    assert len(completion.new_tokens) == NEW
    prompt = torch.tensor([completion.prompt_tokens])
    output = shipped_oracle().generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=ends,
    )
    assert output[0, prompt.shape[1] :].tolist() == completion.new_tokens
    command = [sys.executable, str(ROOT / "run_example.py"), "--mode", "generate"]
    options = ["--prompt", PROMPT, "--max-new-tokens", str(NEW), "--temperature", "0"]
    done = subprocess.run(
        [*command, *options], capture_output=True, check=True, encoding="utf-8", cwd=tmp_path
    )
    assert done.stdout == f"{completion.text}\n"


def test_its_bits_per_byte_are_those_of_transformers(shipped, capsys, tmp_path):
    file, text = tmp_path / "text.txt", TEXT[:6000]
    file.write_text(text)
    report = amounts(run_mode(capsys, "evaluate", "--text", file)[0])
    _, tokenizer = shipped
    token_T, nats = tokens(tokenizer, text), 0.0
    end, length = tokenizer.convert_tokens_to_ids(END_OF_TEXT), 1024
    for start in range(0, len(token_T), length):
        target = torch.tensor(token_T[start : start + length])
        with torch.no_grad():
            logits = shipped_oracle()(torch.tensor([[end, *target[:-1]]]), use_cache=False).logits
        nats += float(torch.nn.functional.cross_entropy(logits[0], target, reduction="sum"))
    assert float(report["bits per byte"]) == pytest.approx(nats / np.log(2) / len(text), rel=1e-5)
    assert report["windows"] == f"{-(-len(token_T) // length)} of 1,024 tokens"


def test_its_tokenizer_begins_with_the_end_of_text_and_knows_every_character():
    tokenizer = load_tokenizer(FOLDER)
    assert tokenizer.convert_tokens_to_ids(END_OF_TEXT) == 0
    text = "naïve 世界 🙂 def f(x):\n\treturn x"
    token_T = prompt_tokens(tokenizer, text)
    assert token_T == [0, *tokens(tokenizer, text)]
    assert tokenizer.decode(token_T, skip_special_tokens=True) == text


def test_a_message_is_answered(capsys):
    out, err = run_mode(capsys, "generate", "--prompt", "Hello", "--chat", "--max-new-tokens", 5)
    assert len(out) > 1
    assert err.startswith("Hello\n")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_change_no_text_and_are_reported(shipped, capsys, temperature):
    """A seed is passed on, so that a text that is drawn is the same too."""
    drawn = {"temperature": temperature, "top_p": 1.0, "top_k": 0}
    options = {"max_new_tokens": 24, "seed": 5, **drawn}
    plain = complete(*shipped, PROMPT, **options)
    arguments = [each for name, value in options.items() for each in (f"--{name}", value)]
    arguments = [str(each).replace("_", "-") for each in arguments]
    out, err = run_mode(
        capsys, "generate", "--prompt", PROMPT, "--draft-tokens", 3, "--no-stream", *arguments
    )
    report = amounts(err)
    assert out == f"{plain.text}\n"
    assert 1 <= float(report["tokens per step"]) <= 4
    assert len(report["drafts accepted, by head"].split(", ")) == 3


def test_json_has_the_drafts_of_a_prompt_file(capsys, tmp_path):
    prompts, result = tmp_path / "prompts.jsonl", tmp_path / "result.json"
    prompts.write_text(f'{{"prompt": "{PROMPT}"}}\n' * 2)
    options = ["--max-new-tokens", 9, "--temperature", 0, "--draft-tokens", 3, "--json", result]
    run_mode(capsys, "generate", "--prompt-file", prompts, *options)
    numbers = json.loads(result.read_text())
    stats = numbers["stats"]
    assert numbers["draft_tokens"] == 3
    assert stats["tokens_per_step"] > 1
    assert sum(stats["drafted"]) >= sum(stats["accepted"]) > 0
    assert stats["draft_seconds"] > 0


def test_evaluation_compares_the_heads(capsys, tmp_path):
    file, result = tmp_path / "text.txt", tmp_path / "result.json"
    file.write_text(TEXT[:800])
    options = ["--length", 100, "--draft-tokens", 2, "--json", result]
    report = amounts(run_mode(capsys, "evaluate", "--text", file, *options)[0])
    agreements = json.loads(result.read_text())["mtp_agreement"]
    for head, numbers in enumerate(agreements, start=1):
        share = numbers["agreed"] / numbers["predicted"]
        tokens_of_head = f"{share:.2%} of {numbers['predicted']:,} tokens"
        assert report[f"MTP head {head} agrees"] == tokens_of_head
        assert 0.1 < share < 0.9
    assert len(agreements) == 2
