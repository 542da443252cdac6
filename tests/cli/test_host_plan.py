"""The plan of a host: weights of files and of names, what fits, and the command that runs it."""

from pathlib import Path

import pytest

from mimo_v2_flash.checkpoint.isq_table import IsqRequest
from mimo_v2_flash.cli.host_plan import host_weights, plan_host, report_host
from mimo_v2_flash.cli.options import read_model
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.costs import Workload
from mimo_v2_flash.costs.decode_time import DecodeRates
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.shipped import FOLDER

ALONE = ParallelConfig()
PUBLISHED = 313_053_000_000  # docs/quantization.md, with three MTP heads


def weights_of(model, experts=None, parallel=ALONE):
    return host_weights(model, read_model(model), "fp8", parallel, experts)


def total(weights) -> int:
    return sum(each.number * each.weight.nbytes for each in weights)


@pytest.fixture(scope="module")
def published():
    return weights_of(Path("v2-flash"))


def test_a_published_model_has_the_bytes_of_its_files(published):
    assert total(published[0]) == pytest.approx(PUBLISHED, rel=1e-3)


def test_files_and_their_config_alone_have_the_same_bytes(tmp_path):
    (tmp_path / "config.json").write_text((FOLDER / "config.json").read_text())
    assert total(weights_of(tmp_path)[0]) == pytest.approx(total(weights_of(FOLDER)[0]), rel=0.01)


def test_a_subset_of_experts_takes_its_part(published):
    weights, config = weights_of(FOLDER, [0, 1, 2, 3])
    assert config.n_routed_experts == 4
    whole = {each.weight.name: each for each in weights_of(FOLDER)[0]}
    for each in weights:
        if ".experts." in each.weight.name:
            assert (each.number, whole[each.weight.name].number) == (4, 16)


def test_ranks_share_the_experts():
    half, _ = weights_of(FOLDER, parallel=ParallelConfig(data_parallel_size=2))
    assert {each.number for each in half} == {1, 8}


@pytest.mark.parametrize(
    ("memory", "chosen", "cached"),
    [(400, "as stored", False), (260, "Q6K", False), (180, "Q4K", False), (60, "as stored", True)],
)
def test_what_is_recommended_for_so_many_gigabytes(
    published, memory, chosen, cached, capsys, tmp_path
):
    weights, config = published
    load = Workload(1, 4096, 512, cache_dtype="bfloat16")
    rates = DecodeRates(100e9, 3e9)
    sizes = {"memory": memory * 10**9, "rates": rates}
    plan = plan_host(config, weights, IsqRequest(), load, ALONE, **sizes)
    assert (plan.chosen.label, plan.chosen.expert_cache is not None) == (chosen, cached)
    numbers = report_host(plan, tmp_path, load)
    command = numbers["recommended"]
    assert command.startswith(f"mimo run -m {tmp_path}")
    assert command.endswith(f"{plan.chosen.options} --cache-dtype bfloat16".strip())
    shown = " ".join(capsys.readouterr().out.split())
    assert "Recommended: " in shown
    for each in numbers["placements"]:
        assert each["fits"] == (each["needed_bytes"] <= memory * 10**9)
        assert each["tokens_per_second"] > 0
    precise, *smaller = [p for p in numbers["placements"] if p["expert_cache_bytes"] is None]
    assert all(p["needed_bytes"] < precise["needed_bytes"] for p in smaller)
    assert all(p["tokens_per_second"] > precise["tokens_per_second"] for p in smaller)


def test_nothing_that_fits_is_said_with_the_least(published, capsys, tmp_path):
    weights, config = published
    load = Workload(1, 4096, 512)
    plan = plan_host(config, weights, IsqRequest(), load, ALONE, memory=10**9, rates=None)
    numbers = report_host(plan, tmp_path, load)
    assert numbers["recommended"] is None
    assert "nothing fits into 1.0 GB; the least is" in numbers["reason"]
    assert {each["tokens_per_second"] for each in numbers["placements"]} == {None}
    assert "Nothing fits: " in capsys.readouterr().out


def test_ranks_are_started_by_torchrun(tmp_path):
    parallel = ParallelConfig(data_parallel_size=2)
    weights, config = weights_of(FOLDER, parallel=parallel)
    load = Workload(2, 64, 16)
    plan = plan_host(config, weights, IsqRequest(), load, parallel, memory=10**9, rates=None)
    command = report_host(plan, tmp_path, load)["recommended"]
    assert command.startswith("torchrun --nproc-per-node 2 -m mimo_v2_flash serve")
    assert [each.label for each, _ in plan.placements] == ["as stored"]


def test_the_config_is_the_models():
    assert weights_of(FOLDER)[1] == MiMoConfig.from_pretrained(FOLDER)
