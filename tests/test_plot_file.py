"""plot_file: PNG or SVG, written as a whole, the same bytes each time."""

import importlib

import pytest

from mimo_v2_flash.plot_file import plot_file


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_same_plot_has_the_same_bytes(tmp_path, ending):
    content = []
    for _ in range(2):
        with plot_file(tmp_path / f"plot.{ending}", (2, 1)) as figure:
            figure.subplots().plot([1, 2], [3, 4])
        content.append((tmp_path / f"plot.{ending}").read_bytes())
    assert content[0] == content[1]
    assert len(content[0]) > 1000


def test_a_plot_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError), plot_file(tmp_path / "plot.png", (2, 1)):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_other_names_and_a_missing_library_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"plot .*plot\.pdf: allowed is a name"):
        plot_file(tmp_path / "plot.pdf", (2, 1)).__enter__()

    def fail(*_):
        raise ModuleNotFoundError("No module named 'matplotlib'")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError, match="the plot needs matplotlib: pip install"):
        plot_file(tmp_path / "plot.png", (2, 1)).__enter__()
