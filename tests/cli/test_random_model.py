"""--mode random at small sizes: the report, refused sizes, and a cache fault that fails."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mimo_v2_flash.cli import random_model
from mimo_v2_flash.cli.main import main
from mimo_v2_flash.cli.parallel_options import RankSetup
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_presets import PRESETS
from mimo_v2_flash.model import MiMoV2FlashModel
from mimo_v2_flash.parallel import SoloGroup
from mimo_v2_flash.parallel_config import ParallelConfig

OPTIONS = {
    "num_experts": 4, "num_layers": 2, "seed": 0, "prompt_tokens": 5, "new_tokens": 4,
}  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    """Shrink the widths of the real model, and nothing else."""
    widths = {
        "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32,
        "num_attention_heads": 8, "swa_num_attention_heads": 8,
    }  # fmt: skip
    whole = random_model.read_model

    def narrow(model):
        named = whole(model)
        return named._replace(config=dataclasses.replace(named.config, **widths))

    monkeypatch.setattr(random_model, "read_model", narrow)


@pytest.mark.usefixtures("small")
def test_the_report_has_what_it_promises(capsys):
    assert random_model.run(**OPTIONS).status == 0
    stdout = capsys.readouterr().out
    for what in (
        "parameters",
        "weights",
        "KV cache",
        "prefill",
        "decode",
        "peak memory",
        "threads",
    ):
        assert what in stdout
    assert "of the range, allowed 1e-04" in stdout


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", PRESETS)
def test_every_published_model_runs(name, capsys):
    numbers, status = random_model.run(**OPTIONS, model=Path(name))
    assert status == 0
    assert f"{numbers['model']} with random weights" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_a_cache_that_forgets_fails(monkeypatch, capsys):
    whole = MiMoV2FlashModel.forward
    monkeypatch.setattr(
        MiMoV2FlashModel, "forward", lambda model, tokens: np.roll(whole(model, tokens), 1, axis=1)
    )
    assert random_model.run(**OPTIONS).status == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_experts", 0), ("num_experts", 257), ("num_layers", 0), ("num_layers", 49),
    ],
)  # fmt: skip
def test_impossible_sizes_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=rf"{option.replace('_', '[-_]')} {value}"):
        random_model.run(**(OPTIONS | {option: value}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_experts": 256, "num_layers": 48},
            "the free memory of this machine: It does not fit",
        ),
        ({"prompt_tokens": 262_144, "new_tokens": 2}, "a context of 262145, allowed is 262144"),
        ({"prompt_tokens": 2**31 - 1}, "--prompt-tokens 2147483647 and --new-tokens 4 are a"),
        ({"prompt_tokens": 200_000}, "the free memory of this machine: It does not fit"),
        ({"num_experts": 3, "setup": RankSetup(SoloGroup(), ParallelConfig(2, 1, 2))}, "of 3 exp"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_weight_is_made(options, message, monkeypatch):
    monkeypatch.setattr(random_model, "random_weights", None)
    monkeypatch.setattr(random_model, "memory_size", lambda *_: 10**10)
    with pytest.raises(ValueError, match=message):
        random_model.run(**(OPTIONS | options))


@pytest.mark.parametrize("option", ["--prompt-tokens", "--new-tokens", "--num-layers"])
def test_no_tokens_and_no_layers_are_refused_by_name(option, capsys):
    assert main(["random", option, "0"]) == 2
    line = f"mimo random: argument {option}: '0' is not an integer above 0\n"
    assert capsys.readouterr() == ("", line)


def test_layers_are_the_first_of_the_real_model():
    real = MiMoConfig()
    config = random_model._config(real, 8, 6)
    assert config.hybrid_layer_pattern == real.hybrid_layer_pattern[:6]
    assert config.num_experts_per_tok == 8
    assert (
        dataclasses.replace(
            config,
            **{
                name: getattr(real, name)
                for name in ("num_hidden_layers", "hybrid_layer_pattern", "moe_layer_freq")
            },
            n_routed_experts=256,
        )
        == real
    )
