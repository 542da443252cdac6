"""load_model gives the model that its parts would give, with defaults for each backend."""

import dataclasses
import os
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_model, load_weights, model_loader
from mimo_v2_flash.costs import device_memory
from mimo_v2_flash.cpu.thread_count import ThreadCount
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.generation.generation_config import GenerationConfig
from mimo_v2_flash.generation.likelihood import total_bits
from mimo_v2_flash.kernels.lm_head import lm_head
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.model_loader import build_model
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.text.completion import CONTEXT as CONTEXT_FULL
from mimo_v2_flash.text.completion import complete
from mimo_v2_flash.text.tokenizer import load_tokenizer
from mimo_v2_flash.tracing.trace_prompt import trace_prompt
from tests.support.tiny import random_tokens, running, tiny
from tests.support.tiny_text import CONTEXT, write_text_checkpoint

MODEL = tiny()
PROMPTS = [[5, 6, 7, 8], [9], [3, 1, 4, 1, 5]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_text_checkpoint(
        tmp_path_factory.mktemp("hub"),
        do_sample=True,
        temperature=0.7,
        top_k=9,
        eos_token_id=[1, 2],
    ).folder


@pytest.fixture(scope="module")
def parts(folder):
    config = MiMoConfig.from_pretrained(folder)
    return load_weights(folder, config), config


class CompilingBackend(NumpyBackend):
    """A stand-in for a backend of compiled programs: NumPy, with static shapes."""

    execution_mode = "static"

    def __init__(self, **options) -> None:
        self.options = options


@pytest.fixture
def opened(monkeypatch):
    """Return the backends that have been opened so far."""
    made: list[CompilingBackend] = []

    def get_backend(name: str, **options) -> NumpyBackend:
        if name == "numpy":
            return NumpyBackend(**options)
        made.append(CompilingBackend(name=name, **options))
        return made[-1]

    monkeypatch.setattr(model_loader, "get_backend", get_backend)
    return made


def sizes(model) -> tuple:
    cache = model.new_cache(1, 3)
    return model.max_length, model.max_step, cache.max_length, cache.layers[0].k_ZKQ.dtype


def test_it_is_the_model_of_its_parts(folder, parts):
    model, token_BT = load_model(folder), random_tokens(MODEL, 2, 11)
    np.testing.assert_array_equal(
        model.forward(token_BT), MiMoV2FlashModel(*parts).forward(token_BT)
    )
    assert sizes(model) == (CONTEXT, 512, 3, np.float32)


def test_the_checkpoint_says_how_to_generate(folder, parts):
    model, greedy = load_model(folder), MiMoV2FlashModel(*parts)
    defaults = GenerationConfig(temperature=0.7, top_k=9, eos_token_ids=(0, 1, 2))
    assert model.generation_config == defaults
    assert greedy.generation_config == GenerationConfig()
    sampling = {"temperature": 0.7, "top_k": 9, "eos_token_id": [0, 1, 2]}
    limit = {"max_new_tokens": 12, "seed": 3}
    assert model.generate(PROMPTS, **limit) == greedy.generate(PROMPTS, **limit, **sampling)
    greedily = model.generate(PROMPTS, **limit, temperature=0, top_k=0, eos_token_id=())
    assert greedily == greedy.generate(PROMPTS, **limit)
    with pytest.raises(ValueError, match="heat: not a setting; there are temperature"):
        model.generate(PROMPTS, heat=1)


@pytest.mark.parametrize("tokens", [1, 9])
def test_layers_are_the_first(folder, parts, tokens):
    """Independently: norm and head of what the whole model's second layer put out."""
    token_T, (weights, config) = np.arange(3, 3 + tokens), parts
    output_TD = trace_prompt(*parts, token_T)["layers.1.output"]
    norm_TD = rmsnorm(output_TD, weights.final_norm_D, epsilon=config.layernorm_epsilon)
    model = load_model(folder, num_layers=2)
    assert model.config.num_hidden_layers == 2
    np.testing.assert_array_equal(
        model.forward([token_T])[0], lm_head(norm_TD, weights.w_logits_VD)
    )
    with pytest.raises(ValueError, match=r"num_layers 9 is not in 1\.\."):
        load_model(folder, num_layers=9)


def test_experts_are_those_of_the_checkpoints_ids(folder, parts):
    token_BT = random_tokens(MODEL, 2, 5)
    expected = MiMoV2FlashModel(*parts, expert_subset=[4, 0, 2]).forward(token_BT)
    model = load_model(folder, expert_subset=[4, 0, 2])
    np.testing.assert_array_equal(model.forward(token_BT), expected)
    assert model.config.n_routed_experts == 3
    with pytest.raises(ValueError, match=r"expert_subset names \[99\]"):
        load_model(folder, expert_subset=[99])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (CONTEXT, 512, 3, np.float32)),
        ({"max_length": 40, "max_step": 7}, (40, 7, 3, np.float32)),
        ({"max_length": 40, "max_step": 90}, (40, 90, 3, np.float32)),  # of several rows
        ({"backend": "xla"}, (CONTEXT, 128, CONTEXT, np.float32)),
        ({"backend": "xla", "max_length": 40}, (40, 128, 40, np.float32)),
        ({"backend": "xla", "max_step": 9}, (CONTEXT, 9, CONTEXT, np.float32)),
        ({"backend": "neuron"}, (CONTEXT, 128, CONTEXT, ml_dtypes.bfloat16)),
        ({"backend": "neuron", "cache_dtype": "float32"}, (CONTEXT, 128, CONTEXT, np.float32)),
        ({"cache_dtype": ml_dtypes.bfloat16}, (CONTEXT, 512, 3, ml_dtypes.bfloat16)),
        ({"backend": CompilingBackend()}, (CONTEXT, 128, CONTEXT, np.float32)),
    ],
)
def test_sizes_and_dtypes_are_those_of_the_backend(folder, opened, options, expected):
    assert sizes(load_model(folder, **options)) == expected


def test_a_long_context_is_cut_for_programs_alone(opened):
    weights, config = MODEL.weights, MODEL.config
    assert config.max_position_embeddings > 4096
    assert sizes(build_model(weights, config))[:2] == (config.max_position_embeddings, 512)
    assert sizes(build_model(weights, config, backend="xla"))[:3] == (4096, 128, 4096)


def test_programs_are_for_one_length_whatever_is_asked(folder, opened):
    model = load_model(folder, backend="xla", max_length=40, cache_dtype="bfloat16")
    assert {model.new_cache(1, length).max_length for length in (None, 0, 1, 17, 40)} == {40}
    assert model.new_cache(1, 3, np.float32).layers[0][0].dtype == np.float32
    too_long = "max_new_tokens after a prompt of 40 tokens must be at most 1, got 2"
    with pytest.raises(ValueError, match=too_long):
        model.generate([[1] * 40], max_new_tokens=2)
    with pytest.raises(ValueError, match=f"max_length must be at most {CONTEXT}, got 999"):
        load_model(folder, backend="xla", max_length=999)


def test_a_static_backends_text_is_that_of_numpy(folder, opened):
    greedy = {"max_new_tokens": 9, "temperature": 0}
    static = load_model(folder, backend="xla", max_length=40).generate(PROMPTS, **greedy)
    assert static == load_model(folder).generate(PROMPTS, **greedy)


def test_suppressed_tokens_are_those_of_numpy_where_programs_take_the_argmax(folder, opened):
    static, eager = load_model(folder, backend="xla", max_length=40), load_model(folder)
    options = {"max_new_tokens": 9, "temperature": 0, "eos_token_id": ()}
    free = {token for row in eager.generate(PROMPTS, **options) for token in row}
    options["generation_config"] = GenerationConfig(suppress_tokens=(*sorted(free),))
    new = static.generate(PROMPTS, **options)
    assert new == eager.generate(PROMPTS, **options)
    assert not free & {token for row in new for token in row}


def test_the_cache_dtype_is_that_of_generation_too(folder):
    model = load_model(folder, cache_dtype="bfloat16")
    kwargs = {"max_new_tokens": 20, "temperature": 0}
    expected = load_model(folder).generate(PROMPTS, cache_dtype=ml_dtypes.bfloat16, **kwargs)
    assert model.generate(PROMPTS, **kwargs) == expected
    with pytest.raises(ValueError, match="fp8 or int8, got float16"):
        load_model(folder, cache_dtype="float16")


@pytest.mark.parametrize(
    ("parallel", "experts", "rows"),
    [(None, 2, 1), (ParallelConfig(1, 1, 2), 4, 1), (ParallelConfig(2, 1, 2), 2, 1)],
    ids=str,
)
def test_two_ranks_are_one(folder, parallel, experts, rows):
    """Experts and the batch are split over all ranks if nothing is said."""
    group, token_BT = ThreadGroup(2), random_tokens(MODEL, 2, 7)
    options = {"expert_subset": range(4)}
    expected = load_model(folder, **options).forward(token_BT)

    def on_rank(_: int):
        model = load_model(folder, group=group, parallel=parallel, **options)
        assert len(model.weights.layers[-1].feed_forward.experts) == experts
        assert len(model.new_cache(2, 5).layers[0].k_ZKQ) == rows * 5 + 1
        return model.forward(token_BT)

    for logits_BTV in group.run(on_rank):
        np.testing.assert_allclose(logits_BTV, expected, atol=1e-4 * np.ptp(expected))


def test_the_parallel_config_must_be_that_of_the_ranks(folder):
    with pytest.raises(ValueError, match="world size mismatch: the parallel config has 2 ranks"):
        load_model(folder, parallel=ParallelConfig(data_parallel_size=2))


def test_under_torchrun_it_joins_the_ranks_once(folder, monkeypatch):
    """All models of a process share the group, which one hook ends."""
    joined, left, hooks = [], [], []

    class Joined:
        def __init__(self, env) -> None:
            assert env is os.environ
            joined.append(self)

        def __enter__(self):
            return model_loader.ALONE

        def __exit__(self, *error) -> None:
            left.append(error[:2])

    monkeypatch.setattr(model_loader, "init_process_group", Joined)
    monkeypatch.setattr(model_loader.atexit, "register", lambda *hook: hooks.append(hook))
    model_loader._process_group.cache_clear()
    try:
        for _ in range(2):
            load_model(folder)
        load_model(folder, group=model_loader.ALONE)
    finally:
        model_loader._process_group.cache_clear()
    assert (len(joined), len(hooks), left) == (1, 1, [])
    ((leave, *args),) = hooks
    monkeypatch.delattr(model_loader.sys, "last_value", raising=False)
    leave(*args)
    failure = KeyError("uncaught")
    monkeypatch.setattr(model_loader.sys, "last_value", failure, raising=False)
    leave(*args)
    assert left == [(None, None), (KeyError, failure)]


def test_threads_are_those_of_the_process(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(
        model_loader, "set_thread_count", lambda number: seen.append(number) or ThreadCount(1, "")
    )
    load_model(folder, threads=3)
    load_model(folder)
    assert seen == [3, None]


def test_what_does_not_fit_is_refused_before_a_backend_is_opened(folder, opened, monkeypatch):
    monkeypatch.setattr(device_memory, "NEURON_CORE", {1: 10**9, 2: 1000})
    with pytest.raises(ValueError, match="lnc 2: It does not fit"):
        load_model(folder, backend="neuron")
    with pytest.raises(ValueError, match="lnc 2: It does not fit"):
        load_model(folder, backend="neuron", lnc=2, num_layers=1)
    assert load_model(folder, backend="xla")
    assert load_model(folder, backend="neuron", lnc=1, skip_compile=True)
    assert [backend.options for backend in opened] == [
        {"name": "xla"},
        {"name": "neuron", "group": model_loader.ALONE, "lnc": 1, "skip_compile": True},
    ]


def test_what_counts_is_what_is_kept(folder, opened, monkeypatch):
    """A model that does not fit may fit with one layer."""
    monkeypatch.setattr(device_memory, "verdict", lambda device, _: f"{device.total} bytes")
    monkeypatch.setattr(device_memory, "NEURON_CORE", {2: 0})
    totals = []
    for options in ({}, {"num_layers": 1}, {"expert_subset": [0]}):
        with pytest.raises(ValueError, match=" bytes") as refused:
            load_model(folder, backend="neuron", **options)
        totals.append(int(str(refused.value).split()[-2]))
    assert totals[0] > max(totals[1:])


def test_xla_does_not_run_on_several_processes(folder, opened):
    group = SimpleNamespace(size=2, rank=0)
    with pytest.raises(ValueError, match="backend xla runs on one rank"):
        load_model(folder, backend="xla", group=group)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backend": "cuda"}, ValueError, "backend 'cuda': allowed is numpy or xla or neuron"),
        ({"max_lenght": 3}, TypeError, "max_lenght: no option of load_model"),
        ({"threads": 0}, ValueError, "threads is 0, allowed is an integer above 0"),
        ({"max_length": 0}, ValueError, "max_length must be at least 1, got 0"),
        ({"max_step": 0}, ValueError, "max_step must be at least 1, got 0"),
        ({"activation_dtype": "int8"}, ValueError, "activation_dtype must be float32 or bfloat16"),
    ],
)
def test_what_is_not_allowed_is_named(folder, options, error, message):
    with pytest.raises(error, match=message):
        load_model(folder, **options)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/none"):
        load_model(tmp_path / "none")


def test_a_model_without_a_loader_is_as_it_was():
    model = running(MODEL)
    assert (model.max_length, model.max_step) == (MODEL.config.max_position_embeddings, 512)
    assert model.new_cache(2, 9).layers[0].k_ZKQ.dtype == np.float32


@pytest.mark.parametrize("backend", ["numpy", "xla"])
def test_a_text_ends_where_max_length_does(folder, opened, backend):
    model, tokenizer = load_model(folder, backend=backend, max_length=12), load_tokenizer(folder)
    completion = complete(model, tokenizer, "the thin", temperature=0, eos_token_id=())
    assert completion.stopped == CONTEXT_FULL
    assert len(completion.prompt_tokens) + len(completion.new_tokens) - 1 == 12
    with pytest.raises(ValueError, match=r"the prompt has \d+ tokens, the model's context 12"):
        complete(model, tokenizer, "Q" * 13)
    assert np.isfinite(total_bits(model, [3] * 30, length=12, begin=0))
    with pytest.raises(ValueError, match=r"length is 13, allowed is 1..12"):
        total_bits(model, [3] * 30, length=13, begin=0)


def test_prompts_of_many_lengths_share_the_programs_of_a_model_of_parts(parts):
    """The length of a cache is in the shape of every program, so it is in a bucket."""
    weights, config = parts
    config = dataclasses.replace(config, max_position_embeddings=5000)
    model = MiMoV2FlashModel(weights, config, backend=CompilingBackend())
    lengths = {model.new_cache(1, length).max_length for length in range(0, 5001, 50)}
    assert lengths == {256, 512, 1024, 2048, 4096, 5000}
