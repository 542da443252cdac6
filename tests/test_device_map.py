"""The device map "auto": what is chosen for so much memory runs within it, with right results."""

from functools import partial

import numpy as np
import psutil
import pytest

from mimo_v2_flash import device_map, load_model
from mimo_v2_flash.checkpoint.isq_table import IsqRequest
from mimo_v2_flash.cli.main import main
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.device_map import CONTEXT, auto_placement, working_bytes
from mimo_v2_flash.engine import memory_size
from mimo_v2_flash.expert_store import store_stats
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.shipped import FOLDER

CONFIG = MiMoConfig.from_pretrained(FOLDER)
TOKENS = [[1, 45, 300]]
SIZES = {"max_length": 64, "max_step": 16}


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    """Return the shipped model in float32, which quantizing makes smaller."""
    folder = tmp_path_factory.mktemp("floats") / "model"
    words = ["--checkpoint", str(FOLDER), "--output", str(folder), "--dtype", "float32"]
    assert main(["prepare", *words]) == 0
    return folder


@pytest.fixture
def free(monkeypatch):
    """Return a function that leaves so many bytes of memory for a model."""

    def leave(nbytes: int) -> None:
        monkeypatch.setattr(memory_size, "free_memory", lambda: -(-nbytes * 10 // 9))

    return leave


def needed(path, **options) -> int:
    return auto_placement(
        path, CONFIG, IsqRequest(), memory=10**12, **SIZES, **options
    ).needed_bytes


def placed(path, **options):
    chosen = []
    model = load_model(path, device_map="auto", device_report=chosen.append, **SIZES, **options)
    return model, chosen[0]


def test_what_fits_is_as_stored_and_resident(free):
    free(needed(FOLDER))
    model, placement = placed(FOLDER)
    assert (placement.request, placement.expert_cache) == (IsqRequest(), None)
    assert store_stats(model) is None


def test_what_does_not_fit_has_a_store_that_does(free, monkeypatch):
    monkeypatch.setattr(device_map, "SMALLER", ())
    plain = load_model(FOLDER, **SIZES).generate(TOKENS, max_new_tokens=6, temperature=0)
    limit = needed(FOLDER) - 2_000_000
    free(limit)
    model, placement = placed(FOLDER)
    assert placement.needed_bytes == limit
    assert model.generate(TOKENS, max_new_tokens=6, temperature=0) == plain
    stats = store_stats(model)
    assert stats.peak_bytes <= stats.max_bytes == placement.expert_cache
    assert stats.misses > 0


def test_the_most_precise_format_that_fits_comes_before_a_store(free, floats):
    free(needed(floats) - 1)
    model, placement = placed(floats)
    assert (placement.request.isq, placement.expert_cache) == ("q8_0", None)
    assert placement.needed_bytes < needed(floats)
    expected = load_model(floats, isq="8", **SIZES).forward(TOKENS)
    np.testing.assert_array_equal(model.forward(TOKENS), expected)


def test_a_type_that_is_named_is_kept_and_needs_files_for_a_store(free, floats, tmp_path):
    options = {"isq": "8"}
    whole = auto_placement(floats, CONFIG, IsqRequest.of("8"), memory=10**12, **SIZES)
    free(whole.needed_bytes - 1)
    with pytest.raises(ValueError, match=r"nothing fits .* the least is weights Q8_0, all"):
        placed(floats, **options)
    model, placement = placed(floats, isq_cache=tmp_path, **options)
    assert placement.request == IsqRequest("q8_0")
    assert placement.expert_cache == store_stats(model).max_bytes < whole.experts_bytes


def test_nothing_that_fits_is_refused_before_anything_is_quantized(free):
    free(10**6)
    with pytest.raises(ValueError, match=r"nothing fits into 1\.0 MB; the least is weights as st"):
        placed(FOLDER)


def test_fewer_layers_and_experts_take_less():
    whole, few = needed(FOLDER), needed(FOLDER, num_layers=2)
    assert needed(FOLDER, num_layers=2, expert_subset=[0, 1]) < few < whole


def test_ranks_hold_their_share_and_agree(free):
    free(2 * 14_500_000)  # of which each of two ranks has half; it needs 13.7 MB to 15.6 MB
    group, chosen = ThreadGroup(2), []
    options = {"group": group, "parallel": ParallelConfig(data_parallel_size=2)}

    def place(_: int) -> float:
        report = {"device_report": chosen.append}
        model = load_model(FOLDER, device_map="auto", **report, **SIZES, **options)
        return float(model.forward(TOKENS).max())

    assert len(set(group.run(place))) == 1
    budgets = {each.expert_cache for each in chosen}
    assert (len(chosen), len(budgets), None in budgets) == (2, 1, False)


def test_working_bytes_have_the_cache_that_a_model_makes():
    cache = load_model(FOLDER).new_cache(1, 64).nbytes
    of = partial(working_bytes, CONFIG, ParallelConfig())
    logits = 4 * CONFIG.vocab_size
    assert cache + logits < of(**SIZES) < of(max_length=64)  # whose pass has 64 tokens
    assert of(max_step=16) == of(max_length=CONTEXT, max_step=16)
    assert of(cache_dtype="int8", **SIZES) < of(cache_dtype="bfloat16", **SIZES) < of(**SIZES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device_map": "balanced"}, "device_map is 'balanced', allowed is auto"),
        ({"device_map": "auto", "backend": "xla"}, "device_map is for backend numpy"),
        ({"device_map": "auto", "expert_cache": "1MB"}, "name one of both"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        load_model(FOLDER, **options)


def test_the_memory_is_a_part_of_what_is_free():
    free_bytes = psutil.virtual_memory().available
    assert needed(FOLDER) < free_bytes
