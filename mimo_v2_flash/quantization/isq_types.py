"""Types of in-situ quantization (ISQ): mistral.rs's names and numbers, and the formats they are.

Source: mistral.rs, `parse_isq_value` and the promotion of embedding and LM head (ecosystem of
2026): 2- to 5-bit K-quants become Q6K, larger ones Q8_0. What mistral.rs has no rule for (int4,
mxfp4) becomes int8, which runs on every backend, too; FP8 leaves both as they are, as the hub does.
"""

from typing import NamedTuple

from mimo_v2_flash.json_object import shorten

from . import registry

__all__ = ["ISQ_TYPES", "TABLES", "IsqType", "isq_name", "parse_isq"]


class IsqType(NamedTuple):
    """A type of in-situ quantization.

    Attributes
    ----------
    name
        How mistral.rs, and this package's reports, write it.
    spellings
        Other names: numbers of bits, and the format's.
    fallback
        The format of a weight whose rows are no multiple of the blocks; empty for none: it stays as
        stored.
    promoted
        The format of the embedding and the LM head; empty for none: they stay as stored.
    """

    name: str
    spellings: tuple[str, ...]
    fallback: str
    promoted: str


ISQ_TYPES = {
    "q8_0": IsqType("Q8_0", ("8",), "", "q8_0"),
    "q6_k": IsqType("Q6K", ("6",), "q8_0", "q8_0"),
    "q4_k": IsqType("Q4K", ("4",), "q8_0", "q6_k"),
    "q3_k": IsqType("Q3K", ("3",), "q8_0", "q6_k"),
    "int8": IsqType("int8", (), "", "int8"),
    "int4": IsqType("int4", (), "int8", "int8"),
    "mxfp4": IsqType("MXFP4", (), "int8", "int8"),
    "fp8": IsqType("fp8", ("f8e4m3",), "", ""),
}
"""The types by the names of their formats."""

TABLES = {form for form, kind in ISQ_TYPES.items() if kind.promoted}
"""Formats that an embedding may have, whose rows are looked up one by one."""


def parse_isq(text: str) -> str:
    """Return the format of a type, in any case, with or without underscores: "Q4K" is "q4_k".

    Raises
    ------
    ValueError
        If there is no such type; the message lists those that there are.

    Examples
    --------
    >>> parse_isq("8"), parse_isq("fp8")
    ('q8_0', 'fp8')
    """
    formats = {
        _folded(spelling): form
        for form, kind in ISQ_TYPES.items()
        if form in registry.FORMATS
        for spelling in (form, kind.name, *kind.spellings)
    }
    if (form := formats.get(_folded(text))) is None:
        kinds = [kind for form, kind in ISQ_TYPES.items() if form in registry.FORMATS]
        numbers = [s for kind in kinds for s in kind.spellings if s.isdecimal()]
        allowed = ", ".join([*(kind.name for kind in kinds), *numbers])
        raise ValueError(f"isq is {shorten(text)}, allowed is {allowed}")
    return form


def isq_name(form: str) -> str:
    """Return the name of the type that is the format `form`; any other format has its own."""
    return ISQ_TYPES[form].name if form in ISQ_TYPES else form


def _folded(text: str) -> str:
    return text.casefold().replace("_", "")
