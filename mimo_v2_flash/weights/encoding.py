"""Deprecated path, kept for one release: `mimo_v2_flash.convert.encoding` has what was here."""

from typing import Any

from mimo_v2_flash.deprecated import moved_attribute

__all__: list[str] = []


def __getattr__(name: str) -> Any:
    return moved_attribute(__name__, name)
