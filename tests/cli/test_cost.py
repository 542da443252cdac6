"""--mode cost: deployments from options, tables, files, and refusals."""

import argparse
import json

import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.cli import cost
from mimo_v2_flash.cli.main import main
from mimo_v2_flash.config_presets import PRESETS, HubLayout
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.config_files import SMALL


def parsed(*options: str) -> dict:
    parser = argparse.ArgumentParser()
    cost.add_arguments(parser)
    return vars(parser.parse_args(options))


def deployment(*options: str):
    kwargs = parsed(*options)
    del kwargs["plot"], kwargs["best"]
    return cost.parse_deployment(**kwargs)


def test_a_deployment_is_the_real_model_unless_another_is_named(tmp_path):
    default = deployment("--expert-parallel", "32", "--tensor-parallel", "4")
    assert default.config == MiMoConfig()
    assert default.plan == ParallelConfig(32, 4, 8)
    assert (default.batch_size, default.context, default.chunk) == (8, 4096, 128)
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_dict()))
    options = ["--model", str(tmp_path), "--batch-size", "3", "--dtype", "bfloat16"]
    other = deployment(*options, "--cache-dtype", "float32")
    assert other.config == SMALL
    assert (other.batch_size, other.weight_dtype, other.cache_dtype) == (3, "bfloat16", "float32")
    context = SMALL.max_position_embeddings  # less than the defaults
    assert (other.context, other.chunk) == (min(context, 4096), min(context, 128))


@pytest.mark.parametrize("name", PRESETS)
def test_a_published_model_has_its_config_and_its_fused_projections(name):
    named = deployment("--model", name)
    assert named.config == MiMoConfig.from_preset(name)
    assert named.layout == HubLayout(PRESETS[name].layout.fused, None, named.layout.router_dtype)


@pytest.mark.parametrize(
    ("plot", "message"),
    [
        ("a.pdf", "a.pdf: allowed is a name that ends in .png or .svg"),
        ("/absent/a.svg", "/absent/a.svg: no such folder"),
    ],
)
def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_traced(plot, message, capsys):
    assert main(["cost", "--plot", plot]) == 2
    assert capsys.readouterr() == ("", f"mimo cost: argument --plot: {message}\n")


@pytest.mark.nkipy
def test_tables_numbers_and_a_plot_are_made(tmp_path, capsys):
    pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
    model, numbers, plot = (tmp_path / name for name in ("config.json", "all.json", "plot.svg"))
    model.write_text(json.dumps(SMALL.to_dict()))
    options = ["--model", str(model), "--context", "64", "--chunk", "16"]
    assert main(["cost", *options, "--json", str(numbers), "--plot", str(plot)]) == 0
    stdout = " ".join(capsys.readouterr().out.split())
    assert (
        "1 ranks: expert parallel 1, tensor parallel 1, data parallel 1; 1 sequences of 64 tokens"
        in stdout
    )
    assert "projected for Trainium2, not measured" in stdout
    numbers = json.loads(numbers.read_text())
    assert "not measured" in numbers["note"]
    assert numbers["decode"]["launches"] == 3  # embedding, all layers, head
    assert numbers["prefill"]["tokens_per_second"] > numbers["decode"]["tokens_per_second"] > 0
    assert "<svg" in plot.read_text()


@pytest.mark.parametrize(
    "options", [("--expert-parallel", "2"), ("--plot", "a.svg"), ("--data-parallel", "4")], ids=str
)
def test_the_best_plan_is_none_that_is_asked_for(options, capsys):
    assert main(["cost", "--best", *options]) == 2
    message = "--best is for plans of its own: leave out parallel sizes and --plot"
    assert message in capsys.readouterr().err


@pytest.mark.nkipy
def test_what_cannot_be_is_refused():
    pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
    with pytest.raises(
        ValueError, match="expert_parallel_size = 3: allowed is a divisor of 256 experts"
    ):
        cost.run(**parsed("--expert-parallel", "3"))
