"""Arguments of a tool call: values that the model wrote as text, as JSON of the schema's types."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["ArgumentsWriter", "convert_value", "resolve_reference", "schema_types"]

UNIONS = ("anyOf", "oneOf", "allOf")
KINDS: tuple[tuple[type, str], ...] = (
    (type(None), "null"),
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (dict, "object"),
)
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class NotThisTypeError(ValueError):
    """A text is no value of a type."""


def schema_types(schema: Any, root: Any = None) -> set[str]:
    """Return the JSON types that a schema allows, an empty set if it names none.

    Parameters
    ----------
    schema
        A JSON schema. Types are those of `type`, `enum`, `const`, `anyOf`, `oneOf`, `allOf`, and of
        what a `$ref` such as "#/$defs/Colour" points to.
    root
        The schema that references are looked up in.
    """
    types: set[str] = set()
    pending, seen = [schema], set[int]()
    while pending:
        each = pending.pop()
        if isinstance(each, Mapping) and id(each) not in seen:
            seen.add(id(each))
            types |= _direct_types(each)
            pending += [inner for union in UNIONS for inner in _list(each.get(union))]
            pending.append(_resolve(each.get("$ref"), root))
    return types


def resolve_reference(schema: Any, root: Any) -> Mapping[str, Any]:
    """Return a schema, or the one that its `$ref` points to; an empty one if there is none."""
    if isinstance(schema, Mapping) and "$ref" in schema:
        schema = _resolve(schema["$ref"], root)
    return schema if isinstance(schema, Mapping) else {}


def _direct_types(schema: Mapping[str, Any]) -> set[str]:
    """Return the types that `type` names, else those of the values that are allowed."""
    kind = schema.get("type")
    if kind is not None:
        return {name for name in (*_list(kind), kind) if isinstance(name, str)}
    values = [*_list(schema.get("enum")), *([schema["const"]] if "const" in schema else [])]
    return {_type_of(value) for value in values}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _resolve(reference: Any, root: Any) -> Any:
    if not isinstance(reference, str):
        return None
    for key in reference.removeprefix("#/").split("/"):
        root = root.get(key) if isinstance(root, Mapping) else None
    return root


def _type_of(value: Any) -> str:
    return next((name for kind, name in KINDS if isinstance(value, kind)), "array")


def convert_value(text: str, types: set[str]) -> Any:
    """Return the value that a text is, of the first of `types` that it fits; else the text itself.

    Types are tried in this order: null, integer, number, boolean, object, array. Python's None,
    True and False, which templates write, are null and booleans. What JSON cannot hold, such as
    NaN, fits nothing.

    Examples
    --------
    >>> convert_value("5", {"integer", "string"}), convert_value("5", {"string"})
    (5, '5')
    """
    for name, convert in CONVERSIONS.items():
        if name in types:
            try:
                return convert(text)
            except (ValueError, RecursionError):
                continue
    return text


def _null(text: str) -> None:
    if text.strip().lower() not in {"null", "none"}:
        raise NotThisTypeError


def _integer(text: str) -> int:
    number = _number(text)
    if number != int(number):
        raise NotThisTypeError
    return int(number)


def _number(text: str) -> int | float:
    return _json(text, int, float)


def _boolean(text: str) -> bool:
    value = BOOLEANS.get(text.strip().lower())
    if value is None:
        raise NotThisTypeError
    return value


def _json(text: str, *kinds: type) -> Any:
    value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise NotThisTypeError
    json.dumps(value, ensure_ascii=False).encode()  # lone surrogates are a ValueError
    return value


def _refuse(constant: str) -> None:
    raise NotThisTypeError(constant)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NotThisTypeError
    return value


CONVERSIONS: dict[str, Callable[[str], Any]] = {
    "null": _null,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "object": lambda text: _json(text, dict),
    "array": lambda text: _json(text, list),
}


class ArgumentsWriter:
    """Writes the arguments of a call as JSON while their texts come.

    Texts of strings are written at once, others when they are whole. All that the methods return
    together is a JSON object.

    Parameters
    ----------
    parameters
        The JSON schema of the function's parameters. A parameter without a type is a string.
    """

    def __init__(self, parameters: Any) -> None:
        root = parameters if isinstance(parameters, Mapping) else {}
        properties = root.get("properties")
        self._root, self._count = root, 0
        self._properties = properties if isinstance(properties, Mapping) else {}
        self.missing = {str(key) for key in self._properties}
        """Names of declared parameters that have no value yet."""
        self._key, self._text = "", ""
        self._types: set[str] = set()

    def begin_value(self, key: str) -> str:
        """Begin the value of the parameter `key`."""
        self.missing.discard(key)
        self._key, self._text = key, ""
        types = schema_types(self._properties.get(key), self._root)
        self._types = types & CONVERSIONS.keys()
        return "" if self._types else f'{self._name()}"'

    def write(self, text: str) -> str:
        """Add to the text of the value."""
        if not self._types:
            return _dump(text)[1:-1]
        self._text += text
        return ""

    def end_value(self) -> str:
        """End the value."""
        if not self._types:
            return '"'
        return self._name() + _dump(convert_value(self._text, self._types))

    def cut_value(self) -> str:
        """End a value whose text is not whole: a string is kept as it is, others are dropped."""
        return "" if self._types else '"'

    def end(self) -> str:
        """End the arguments."""
        return "}" if self._count else "{}"

    def _name(self) -> str:
        self._count += 1
        return f"{'{' if self._count == 1 else ', '}{_dump(self._key)}: "


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
