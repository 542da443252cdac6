"""Deprecated path, kept for one release: `mimo_v2_flash.convert.encoding` has what was here."""

from mimo_v2_flash.deprecated import moved_attributes

__all__: list[str] = []
__getattr__ = moved_attributes(__name__)
