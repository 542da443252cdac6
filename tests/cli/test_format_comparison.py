"""--compare of types: what it reads, and what it says of mimo-tiny on a text."""

import json

import pytest

from mimo_v2_flash.cli.format_comparison import Comparison, comparisons
from mimo_v2_flash.cli.main import main

TEXT = "A list is a sequence of values, and a tuple is one that cannot be changed.\n" * 3


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("bfloat16", (Comparison(None, "bfloat16"),)),
        ("8", (Comparison("q8_0", "float32"),)),
        ("q8_0,fp8:bfloat16", (Comparison("q8_0", "float32"), Comparison("fp8", "bfloat16"))),
        ("Q8_0:,float32", (Comparison("q8_0", "float32"), Comparison(None, "float32"))),
    ],
)
def test_a_list_is_of_types_and_compute_types(text, items):
    assert comparisons(text) == items


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--compare", "q9"], "argument --compare: 'q9': isq is 'q9', allowed is Q8_0"),
        (["--compare", "8,"], "argument --compare: '': isq is '', allowed is Q8_0"),
        (["--compare", "8:int9"], "argument --compare: '8:int9' computes int9, allowed: float32"),
        (["--compare", "8", "--isq", "8"], "--compare of types is with the model as stored"),
    ],
)
def test_what_is_no_type_is_one_line(options, line, capsys):
    assert main(["evaluate", "--text", "README.md", *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"mimo evaluate: {line}")
    assert err.count("\n") == 1


def test_formats_are_compared_with_the_model_as_stored(tmp_path, capsys):
    (tmp_path / "t.txt").write_text(TEXT)
    options = ["--text", str(tmp_path / "t.txt"), "--compare", "8,bfloat16"]
    assert main(["evaluate", *options, "--json", str(tmp_path / "n.json")]) == 0
    out = capsys.readouterr().out
    numbers = json.loads((tmp_path / "n.json").read_text())
    stored, quantized, rounded = numbers["formats"]
    assert stored["bits_per_byte"] == pytest.approx(numbers["bits_per_byte"], rel=1e-6)
    assert (stored["kl_nats"], stored["same_top1"], stored["relative_bits"]) == (0, 1, 0)
    assert [row["isq"] for row in numbers["formats"]] == [None, "Q8_0", None]
    assert [row["compute"] for row in numbers["formats"]] == ["float32", "float32", "bfloat16"]
    assert quantized["bytes"] < stored["bytes"] == rounded["bytes"]
    for row in (quantized, rounded):
        assert 0 < row["kl_nats"] < 0.01
        assert row["bits_per_byte"] == pytest.approx(stored["bits_per_byte"], rel=0.01)
        assert row["relative_bits"] != 0
    assert numbers["compare"] is None
    assert "Q8_0:float32" in out
    assert "as stored:bfloat16" in out
