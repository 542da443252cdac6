"""Comparison of storage formats and compute types on a text, against the model as stored."""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mimo_v2_flash.checkpoint.params import ModelWeights, nbytes
from mimo_v2_flash.generation.logits_error import LogitsError
from mimo_v2_flash.json_object import shorten
from mimo_v2_flash.quantization.compute import COMPUTE_TYPES
from mimo_v2_flash.quantization.isq_types import isq_name, parse_isq

from .console import amount, console, table

__all__ = ["Comparison", "comparisons", "format_numbers", "report_formats"]


class Comparison(NamedTuple):
    """A format that weights are quantized to, None for as stored, and a compute type."""

    isq: str | None
    compute: str


def comparisons(text: str) -> tuple[Comparison, ...]:
    """Return what is compared; ArgumentTypeError if `text` is no list of it."""
    return tuple(map(_comparison, text.split(",")))


def _comparison(item: str) -> Comparison:
    """Return a compute type alone, or TYPE:COMPUTE, of which COMPUTE is float32 by default."""
    isq, _, compute = item.partition(":")
    if item in COMPUTE_TYPES:
        return Comparison(None, item)
    if compute not in ("", *COMPUTE_TYPES):
        allowed = ", ".join(COMPUTE_TYPES)
        raise argparse.ArgumentTypeError(f"{shorten(item)} computes {compute}, allowed: {allowed}")
    try:
        return Comparison(parse_isq(isq), compute or "float32")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{shorten(item)}: {error}") from error


def format_numbers(
    measured: Mapping[Comparison, tuple[int, LogitsError]],
    reference: Comparison,
    weights: ModelWeights,
    size: int,
) -> list[dict[str, Any]]:
    """Return the numbers of the reference, then of each that was compared with it.

    Parameters
    ----------
    measured
        Bytes of the weights of each, and the error of its logits; at least one.
    reference, weights
        What all are compared with.
    size
        The text's bytes.
    """
    bits = next(iter(measured.values()))[1].reference_bits
    exact = LogitsError(0.0, 0.0, 0.0, 1.0, bits, bits)
    rows = {reference: (nbytes(weights), exact), **measured}
    return [_numbers(item, *row, size) for item, row in rows.items()]


def _numbers(item: Comparison, nbytes: int, error: LogitsError, size: int) -> dict[str, Any]:
    numbers = error._asdict()
    bits, reference_bits = numbers.pop("bits"), numbers.pop("reference_bits")
    names = {"isq": item.isq and isq_name(item.isq), "compute": item.compute, "bytes": nbytes}
    relative = {"bits_per_byte": bits / size, "relative_bits": bits / reference_bits - 1}
    return names | relative | numbers


def report_formats(rows: Iterable[dict[str, Any]]) -> None:
    """Print a row for each."""
    columns = ("weights", "bits per byte", "change", "KL, nats", "same best token")
    lines = (
        (
            f"{each['isq'] or 'as stored'}:{each['compute']}",
            amount(each["bytes"]),
            f"{each['bits_per_byte']:.6f}",
            f"{each['relative_bits']:+.3%}",
            f"{each['kl_nats']:.1e}",
            f"{each['same_top1']:.2%}",
        )
        for each in rows
    )
    console().print(table("formats", ("type:compute",), columns, lines))
