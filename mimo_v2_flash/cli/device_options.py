"""The option of the device map, and the line that says what it chose and why."""

import sys
from typing import TYPE_CHECKING, Any

from .console import console

if TYPE_CHECKING:
    from mimo_v2_flash.costs.placement import Placement

__all__ = ["add_device_map_argument", "print_placement"]

DEVICE_MAPS = ("auto",)


def add_device_map_argument(group: Any) -> None:
    """Declare the device map."""
    group.add_argument(
        "--device-map",
        choices=DEVICE_MAPS,
        help="Choose what fits into the free memory: auto, with experts resident or in an expert "
        "cache, as stored or quantized; for numpy only (default: files are mapped whole).",
    )


def print_placement(placement: "Placement") -> None:
    """Say on standard error what was chosen, why, and what of it changes results or speed."""
    console(sys.stderr).print(f"device map: {placement}: {_reason(placement)}")


def _reason(placement: "Placement") -> str:
    if placement.expert_cache is not None:
        return "the first that fits; experts are read from their files when tokens choose them"
    if placement.request.isq:
        return (
            "the most precise that fits whole; results are those of --isq, and --expert-cache 50% "
            "keeps the weights as stored"
        )
    return "all of it fits"
