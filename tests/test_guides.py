"""The command lines and the Python of other guides run, as docs/guides.md writes them."""

import io
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import prepare_weights
import run_example
from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.cli import main, random_model
from tests.support.local_hub import LocalHub, never_waiting, visited
from tests.support.shipped import FOLDER
from tests.test_doc_blocks import blocks_of

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guides.md").read_text()
NEAREST = dict(re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", PAGE, re.MULTILINE))
SERVER, EXAMPLE, DEMO = (
    "./mistralrs-server ", "python run_example.py ", "python examples/generation_mimo_v2_demo.py ",
)  # fmt: skip
CHATS = [
    "-i run -m path/to/mimov2-flash-model",
    "-i --isq 8 run -m path/to/mimov2-flash-model",
    "-i run -m path/to/mimov2-flash-model --architecture mimov2flash",
    "-i --device-map auto run -m path/to/mimov2-flash-model",
    "-i --topology topologies/isq.yml run -m path/to/mimov2-flash-model",
    "-i run -m ../models/MiMo-V2-Flash/",
]
RANDOM = ["--mode random --num-experts 8 --num-layers 2", "--mode random --num-experts 8"]
DOWNLOADS = ["--mode download --expert-subset 0 1 2 3 4 5 6 7", "--mode download"]
INSTALL = "pip install torch transformers safetensors accelerate"
COMPILE = "--tp-degree 4 --batch-size 1 --max-context-length 128 --seq-len 512 --compile-only"
SKIP_COMPILE = '--tp-degree 4 --skip-compile --prompt "Hello, how are you?"'
TOPOLOGY = {"0-8": "Q3K", "8-24": "Q4K", "24-32": "Q6K"}
MODULES = {"config": "mimo_v2_flash.config", "model": "mimo_v2_flash"}
SNIPPET = """\
from config import MiMoConfig
from model import MiMoV2FlashModel
from prepare_weights import load_weights

config = MiMoConfig()
weights = load_weights("tmp_mimo_weights/mimo_weights.safetensors", config)
model = MiMoV2FlashModel(weights, config, expert_subset=list(range(8)))

import numpy as np

input_ids = np.array([[1, 2, 3, 4, 5]], dtype=np.uint32)
output = model.forward(input_ids)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Be in a folder that has what the guides' lines name."""
    checkout = tmp_path / "checkout"
    for place in ("checkout/path/to/mimov2-flash-model", "models/MiMo-V2-Flash"):
        shutil.copytree(FOLDER, tmp_path / place)
    shutil.copytree(ROOT / "topologies", checkout / "topologies")
    monkeypatch.chdir(checkout)
    return checkout


@pytest.fixture
def narrow(monkeypatch):
    """Shrink the widths and layers of the real model that random weights are made for."""
    whole = random_model.read_model
    widths = {"vocab_size": 300, "hidden_size": 64, "moe_intermediate_size": 32}
    heads = {"num_attention_heads": 8, "swa_num_attention_heads": 8, "intermediate_size": 96}

    def read_model(model):
        named = whole(model)
        return named._replace(config=replace(named.config, **widths, **heads))

    monkeypatch.setattr(random_model, "read_model", read_model)


def test_the_page_has_every_line_of_the_guides():
    lines = [SERVER + words for words in CHATS]
    lines += [EXAMPLE + words for words in ("--mode test", *RANDOM, *DOWNLOADS)]
    lines += [INSTALL, DEMO + COMPILE, DEMO + SKIP_COMPILE]
    assert set(NEAREST) == set(lines)


@pytest.mark.parametrize("words", CHATS)
def test_mimo_stands_for_the_server(words):
    assert NEAREST[SERVER + words] == f"mimo {words}"


@pytest.mark.filterwarnings("ignore:topology")
@pytest.mark.parametrize("words", CHATS)
def test_a_chat_of_the_guide_answers(words, folder, monkeypatch, capsys):
    lines = "/set max_tokens 2\n/set temperature 0\nHello, how are you?\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    assert main.main(words.split()) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert ("device map: " in err) == ("--device-map" in words)
    assert ("quantizing " in err) == ("--isq" in words or "--topology" in words)


def test_the_topology_is_the_guides():
    rules = re.findall(
        r"^([\d-]+):\n  isq: (\w+)$", (ROOT / "topologies/isq.yml").read_text(), re.M
    )
    assert dict(rules) == TOPOLOGY


@pytest.mark.parametrize("words", ["--mode test", *RANDOM, *DOWNLOADS])
def test_the_examples_lines_are_the_same(words):
    assert NEAREST[EXAMPLE + words] == EXAMPLE + words
    assert run_example._parse(words.split()).options  # tests/test_scripts.py runs --mode test


@pytest.mark.parametrize("words", RANDOM[:1])
def test_random_weights_run(words, narrow, capsys):
    assert run_example.main(words.split()) == 0
    assert "decode against one prefill" in capsys.readouterr().out


def test_a_download_of_experts_and_the_python_that_reads_it(folder, monkeypatch, tmp_path, capsys):
    never_waiting(monkeypatch)
    with visited(LocalHub(FOLDER), monkeypatch, tmp_path / "home"):
        assert run_example.main(DOWNLOADS[0].split()) == 0
    assert "8 of 16 experts" in capsys.readouterr().out
    source = SNIPPET
    for guide, module in MODULES.items():
        source = source.replace(f"from {guide} import", f"from {module} import")
    (block,) = (b.source for b in blocks_of(PAGE) if b.reason and b.language == "python")
    assert block == source
    names = {}
    small = 'MiMoConfig.from_pretrained("tmp_mimo_weights")'
    exec(source.replace("MiMoConfig()", small), names)
    assert names["output"].shape == (1, 5, names["config"].vocab_size)
    assert np.isfinite(names["output"]).all()
    assert MiMoConfig() == MiMoConfig.from_preset("v2-flash")


def test_load_weights_is_that_of_the_package():
    from mimo_v2_flash import load_weights

    assert prepare_weights.load_weights is load_weights


def test_32_devices_have_8_experts_each():
    config = MiMoConfig(num_devices=32)
    assert config.n_routed_experts // config.num_devices == 8


@pytest.mark.parametrize("line", [DEMO + COMPILE, DEMO + SKIP_COMPILE])
def test_options_of_the_demo_have_a_nearest_form(line):
    words = shlex.split(NEAREST[line])
    options = run_example._parse(words[words.index("run_example.py") + 1 :]).options
    assert (options["tensor_parallel"], options["chunk"], options["context"]) == (4, 128, 512)
    if "--compile-only" in line:
        assert (options["batch_size"], options["backend"]) == (1, "neuron")
    else:
        assert words[:3] == ["torchrun", "--nproc-per-node", "4"]
        assert (options["backend"], options["skip_compile"]) == ("neuron", True)
        assert options["prompt"] == "Hello, how are you?"
    for option in re.findall(r"--[a-z-]+", line):
        assert f"| `{option}" in PAGE.partition("| option there |")[2], option


def test_the_install_line_names_an_extra_that_exists():
    (extra,) = re.findall(r"\.\[(\w+)\]", NEAREST[INSTALL])
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
