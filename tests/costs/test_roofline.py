"""The roofline plot: labelled points under the limits of memory and matmuls."""

import importlib
import re

import pytest

from mimo_v2_flash.costs.ledger import Ledger, LedgerEntry, StepTime
from mimo_v2_flash.costs.lower_bound import LowerBound
from mimo_v2_flash.costs.projection import roofline_time
from mimo_v2_flash.costs.roofline import draw
from tests.cli.test_cost_report import COST

ENTRY = LedgerEntry(COST, LowerBound(0, 0, 0), roofline_time(COST), 0, 0, 0)
NOTHING = ENTRY._replace(cost=COST._replace(matmuls=()))
LEDGER = Ledger({"head, 1 x 1 tokens": ENTRY, "embedding, 1 x 1 tokens": NOTHING}, ())
STEP = StepTime(1, 0, dict.fromkeys(LEDGER.entries, 1), 1.0, 1.0, 1.0)


def test_it_says_what_it_shows(tmp_path):
    draw(LEDGER, [STEP, STEP._replace(tokens=4)], "32 ranks", tmp_path / "plot.svg")
    texts = re.findall(r">([^<>\n]+)</text>", (tmp_path / "plot.svg").read_text())
    assert {"32 ranks", "projected for Trainium2, not measured"} <= set(texts)
    assert {"head, 1 token", "head, 4 tokens", "memory, then matmuls"} <= set(texts)
    assert {"matmul operations per byte of memory"} <= set(texts)
    assert not any(text.startswith("embedding") for text in texts)


def test_points_lie_under_the_roof(monkeypatch, tmp_path):
    figures = importlib.import_module("matplotlib.figure")
    drawn = []

    def savefig(figure, path, **_):
        drawn.append(figure)
        path.touch()

    monkeypatch.setattr(figures.Figure, "savefig", savefig)
    draw(LEDGER, [STEP], "", tmp_path / "plot.png")
    point, roof = drawn[0].axes[0].lines
    moved = sum(COST.read.values()) + sum(COST.written.values()) + COST.returned
    assert point.get_xdata()[0] == pytest.approx(COST.operations / moved)
    assert point.get_ydata()[0] == pytest.approx(COST.operations / ENTRY.seconds.bound)
    assert point.get_ydata()[0] <= min(point.get_xdata()[0] * 725e9, 158e12)
    assert roof.get_ydata().max() == 158e12
    assert roof.get_ydata()[0] == pytest.approx(roof.get_xdata()[0] * 725e9)


def test_a_picture_is_png_or_svg(tmp_path):
    with pytest.raises(ValueError, match=r"plot.pdf: allowed is a name that ends in .png or .svg"):
        draw(LEDGER, [STEP], "", tmp_path / "plot.pdf")


def test_matplotlib_is_named_if_it_is_missing(monkeypatch, tmp_path):
    def fail(*_):
        raise ModuleNotFoundError("No module named 'matplotlib'")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError, match=r"the plot needs matplotlib: pip install 'mimo-v2-flash"):
        draw(LEDGER, [STEP], "", tmp_path / "plot.png")
