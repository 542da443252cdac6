r"""Topology files: which layers, and which weights by name, are quantized to which type.

0-8:                      # layers 0 to 7: the end is exclusive
  isq: Q3K
47:
  isq: Q6K
'/self_attn\.o_proj/':   # a regular expression, searched in full names of weights
  isq: Q8_0

A regular expression decides before ranges, and the later of two. Of ranges the one with the higher
end decides, and of equal ends the later. A rule without `isq` leaves weights as stored. What no
rule covers takes the type of --isq.

Source: mistral.rs, `mistralrs-core/src/topology/mod.rs` and docs/TOPOLOGY.md, whose grammar and
precedence these are; keys that nobody knows are an error here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from mimo_v2_flash.json_object import shorten

from .isq_types import parse_isq

__all__ = ["Topology", "TopologyRule", "parse_topology", "read_topology"]

KEYS = ("isq", "device")
NOTHING = ("", "~", "null")  # YAML's spellings of no value
LAYERS = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)
DEVICES = re.compile(r"cpu|(?:cuda|metal)\[\d+\]", re.ASCII)


@dataclass(frozen=True)
class TopologyRule:
    """A rule of a topology file.

    Attributes
    ----------
    selector
        Its key in the file.
    isq
        The format that it asks for; None leaves weights as they are stored.
    layers
        The layers that it covers; None if it has a pattern.
    pattern
        The regular expression on names of weights; None if it has layers.
    """

    selector: str
    isq: str | None
    layers: range | None = None
    pattern: re.Pattern[str] | None = None


@dataclass(frozen=True)
class Topology:
    """The rules of a topology file, in its order."""

    rules: tuple[TopologyRule, ...] = ()

    @classmethod
    def of_entries(cls, entries: Mapping[Any, Any]) -> "Topology":
        """Return the topology of a file's content; ValueError as of `parse_topology`."""
        return cls(tuple(_rule(str(selector), entry) for selector, entry in entries.items()))

    @property
    def ranges(self) -> list[TopologyRule]:
        """The rules of layers, the weakest first."""
        ranges = [rule for rule in self.rules if rule.layers is not None]
        return sorted(ranges, key=lambda rule: rule.layers.stop if rule.layers else 0)  # stable

    @property
    def patterns(self) -> list[TopologyRule]:
        """The rules of regular expressions, the weakest first."""
        return [rule for rule in self.rules if rule.pattern is not None]

    def rule_for(self, name: str, layer: int | None) -> TopologyRule | None:
        """Return the rule that decides for the weight `name` of a layer, None if no rule covers it.

        Parameters
        ----------
        name
            The full name of the weight in a checkpoint.
        layer
            The index of its decoder layer; None for what is in none: embedding, LM head, MTP heads.
        """
        for rule in reversed(self.patterns):
            if rule.pattern and rule.pattern.search(name):
                return rule
        covering = (rule for rule in reversed(self.ranges) if rule.layers and layer in rule.layers)
        return next(covering, None)

    def overlaps(self) -> Iterator[tuple[TopologyRule, TopologyRule, range]]:
        """Yield pairs of overlapping ranges, the weaker first, and the layers of both."""
        ranges = [(rule, rule.layers) for rule in self.ranges if rule.layers is not None]
        for index, (weaker, layers) in enumerate(ranges):
            for stronger, others in ranges[index + 1 :]:
                shared = range(max(layers.start, others.start), min(layers.stop, others.stop))
                if shared:
                    yield weaker, stronger, shared


def read_topology(file: str | PathLike[str]) -> Topology:
    """Return the topology in a YAML file.

    Raises
    ------
    FileNotFoundError
        If the file is missing.
    ValueError
        As of `parse_topology`; the message begins with the file.
    """
    try:
        return parse_topology(Path(file).read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def parse_topology(text: bytes | str) -> Topology:
    """Return the topology that a YAML text is.

    Raises
    ------
    ValueError
        If it is no YAML, has a key twice, a selector or key that nobody knows, an unknown type, a
        range that ends before it begins, or a bad regular expression.

    Examples
    --------
    >>> topology = parse_topology("0-8: {isq: fp8}")
    >>> topology.rule_for("model.layers.7.mlp.up_proj.weight", 7).selector
    '0-8'
    """
    try:
        content = yaml.load(text, _TextLoader)
    except RecursionError:
        raise ValueError("not YAML: it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError("holds no rules: expected lines such as `0-8: {isq: Q4K}`")
    return Topology.of_entries(content)


def _rule(selector: str, entry: Any) -> TopologyRule:
    """Return the rule of a key and its value."""
    try:
        isq = _isq(entry)
        if len(selector) > 1 and selector.startswith("/") and selector.endswith("/"):
            return TopologyRule(selector, isq, pattern=re.compile(selector[1:-1]))
        return TopologyRule(selector, isq, layers=_layers(selector))
    except (ValueError, re.error, RecursionError) as error:
        raise ValueError(f"{shorten(selector)}: {error}") from error


def _isq(entry: Any) -> str | None:
    """Return the format of a rule; the device is checked and has no effect."""
    if not isinstance(entry, dict):
        raise ValueError(f"holds {shorten(entry)}, expected isq: TYPE")
    if unknown := [key for key in entry if key not in KEYS]:
        raise ValueError(f"unknown key {shorten(unknown[0])}, expected {' or '.join(KEYS)}")
    device = entry.get("device", "cpu")
    if not (isinstance(device, str) and DEVICES.fullmatch(device)):
        raise ValueError(f"device is {shorten(device)}, expected cpu, cuda[N] or metal[N]")
    if device != "cpu":
        raise ValueError(f"device is {device}, allowed is cpu: ranks split a model, not topologies")
    isq = entry.get("isq", "")
    if not isinstance(isq, str):
        raise ValueError(f"isq is {shorten(isq)}, expected a type, such as Q4K")
    return None if isq.casefold() in NOTHING else parse_isq(isq)


def _layers(selector: str) -> range:
    """Return the layers of a selector: a range, whose end is exclusive, or a single one."""
    match = LAYERS.fullmatch(selector)
    if match is None:
        raise ValueError("expected START-END, the number of a layer, or /regular expression/")
    start, end = int(match[1]), int(match[2] or int(match[1]) + 1)
    if end <= start:
        raise ValueError(f"its end, {end}, is exclusive and must be above its start, {start}")
    return range(start, end)


class _TextLoader(yaml.BaseLoader):
    """A safe loader, whose every scalar is a text: 0-8 and 010 are what the file says."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; ValueError if it has a key twice: YAML's readers keep the last."""
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"{shorten(twice[0])} is there more than once")
        return dict(super().construct_mapping(node, deep))
