"""mimo plan --tensors: what a model's files hold, for names and for configs on disk.

tests/costs/test_tensor_counts.py holds the numbers to the published ones.
"""

import json

import pytest

from mimo_v2_flash.cli.main import main
from tests.support.published import FIGURES, V2_5


def counts(capsys, model: object) -> tuple[str, dict]:
    """Return the table, and the object of JSON."""
    assert main(["plan", "--model", str(model), "--tensors"]) == 0
    table = " ".join(capsys.readouterr().out.split())
    assert main(["plan", "--model", str(model), "--tensors", "--json"]) == 0
    return table, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["v2.5-pro", "v2.6-flash"])
def test_a_published_model(name, capsys):
    table, numbers = counts(capsys, name)
    published, parts = FIGURES[name], numbers["parts"]
    assert (numbers["tensors"], numbers["bytes"]) == (published.tensors, published.bytes)
    assert published.elements in (None, numbers["elements"])
    assert f"{published.bytes:,}" in table
    assert set(parts) == {"model", "mtp_heads", "other_modalities"}
    for key in ("tensors", "bytes"):
        assert sum(part[key] for part in parts.values()) == numbers[key]
    assert "Not counted" not in table


def test_a_config_on_disk_tells_the_layout_and_nothing_of_towers(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(V2_5))
    table, numbers = counts(capsys, tmp_path)
    assert (numbers["model"], numbers["tensors"]) == (str(tmp_path), 73_081 - 459)
    assert "Not counted: tensors of other modalities" in table
    assert "other_modalities" not in numbers["parts"]
