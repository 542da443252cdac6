"""--isq and --topology: the guide's lines, what is reported, and one line for what is wrong."""

import io
import json
import re
import shutil
import sys

import pytest

from mimo_v2_flash.checkpoint.isq_table import IsqRow
from mimo_v2_flash.cli.isq_options import isq_numbers, print_table
from mimo_v2_flash.cli.main import main
from tests.support.shipped import FOLDER

SHORT = ("--max-new-tokens", "3", "--temperature", "0")
REPORT = re.compile(r"quantizing [\d.]+ MB: about \d+ s\n.*\npeak memory: [\d.]+ [MG]B\n", re.S)


@pytest.fixture
def guide(tmp_path, monkeypatch):
    """Be in a folder that has what the guide's lines name."""
    shutil.copytree(FOLDER, tmp_path / "path" / "to" / "mimov2-flash-model")
    shutil.copytree(FOLDER.parents[1] / "topologies", tmp_path / "topologies")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is a list?\n"))


def test_the_guides_line_of_a_type_runs(guide, capsys):
    line = "-i --isq 8 run -m path/to/mimov2-flash-model"
    assert main([*line.split(), *SHORT]) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert REPORT.search(err)
    assert re.search(r"Q8_0 +--isq Q8_0 +293 +12.2 MB", err)
    assert "F32    stays precise" in err


@pytest.mark.filterwarnings("ignore:topology")
def test_the_guides_line_of_a_topology_runs(guide, capsys):
    line = "-i --topology topologies/isq.yml run -m path/to/mimov2-flash-model"
    assert main([*line.split(), *SHORT]) == 0
    assert "0-8; rows of 128 have no blocks of 256" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["run", "-i", "a", "--isq", "9"],
        ["-i", "--isq", "9", "run"],
        ["--isq=9", "-i", "run"],
        ["generate", "--prompt", "a", "--isq", "9"],
        ["serve", "--isq", "9"],
        ["evaluate", "--text", "README.md", "--isq", "9"],
        ["prepare", "--checkpoint", str(FOLDER), "--isq", "9"],
        ["quantize", str(FOLDER), "-o", "x", "--isq", "9"],
    ],
    ids=" ".join,
)
def test_an_unknown_type_is_one_line(words, capsys):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"mimo \w+: --isq is '9', allowed is Q8_0, .*", line)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--topology", "t.yml"], "t.yml: '0-8': unknown key 'isk', expected isq or device"),
        (["--topology", "nothing.yml"], "--topology nothing.yml: no such file or directory"),
        (["--isq-cache", "x"], "--isq-cache is for weights that isq or topology quantizes"),
    ],
)
def test_options_that_make_no_sense_are_one_line(options, line, tmp_path, monkeypatch, capsys):
    (tmp_path / "t.yml").write_text("0-8:\n  isk: 8\n")
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--prompt", "a", *options]) == 2
    assert capsys.readouterr().err == f"mimo generate: {line}\n"


def test_a_cache_keeps_the_result(tmp_path, capsys):
    command = ["generate", "--prompt", "The list", *SHORT, "--isq", "8", "--isq-cache"]
    texts = []
    for is_first in (True, False):
        assert main([*command, str(tmp_path / "cache")]) == 0
        out, err = capsys.readouterr()
        texts.append(out)
        assert bool(REPORT.search(err)) == is_first
    assert texts[0] == texts[1]


ROWS = [
    IsqRow("a", (1, 1), "q8_0", "fp8", 5, "--isq Q8_0"),
    IsqRow("b", (1, 1), "q8_0", "BF16", 7, "--isq Q8_0"),
    IsqRow("c", (1,), "", "BF16", 20, "stays precise"),
]


def test_the_table_sums_what_a_rule_brings_to_a_type(capsys):
    print_table(ROWS)
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert lines[4:6] == [
        ["BF16", "stays", "precise", "1", "20", "bytes"],
        ["Q8_0", "--isq", "Q8_0", "2", "12", "bytes"],
    ]


def test_json_has_every_weight():
    numbers = isq_numbers(ROWS)
    assert json.loads(json.dumps(numbers)) == {
        "bytes_by_type": {"BF16": 20, "Q8_0": 12},
        "weights": [
            {"name": "a", "type": "Q8_0", "bytes": 5, "rule": "--isq Q8_0"},
            {"name": "b", "type": "Q8_0", "bytes": 7, "rule": "--isq Q8_0"},
            {"name": "c", "type": "BF16", "bytes": 20, "rule": "stays precise"},
        ],
    }
