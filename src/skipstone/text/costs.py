"""Upper bounds for what single operations of a template cost.

An operation that is not named here costs the product of the sizes of all that it is given, where a
number counts as itself: that bounds whatever pads, repeats or searches. Those named cost less.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import prod
from string import Formatter

from jinja2.exceptions import SecurityError

from skipstone.text.sizes import OBJECT, depth, length, nodes, size


class ExhaustedError(SecurityError):
    """A template wants more time or memory than any needs."""


Cost = Callable[[object, tuple[object, ...]], int]

# str(), repr() and JSON write some characters as an escape of many.
_ESCAPED = 10
# More bits are of no use in text; repeated squaring stops here.
_MOST_BITS = 16_384
_MOST_DIGITS = 400


def method_cost(name: str, owner: object, arguments: tuple[object, ...]) -> int:
    """Of a method of a built-in type.

    Raises:
        ExhaustedError: no text needs it done like this.
    """
    return _METHODS.get(name, _product)(owner, arguments)


def filter_cost(name: str, value: object, arguments: tuple[object, ...]) -> int:
    """Of one of Jinja's filters.

    Raises:
        ExhaustedError: no text needs it done like this.
    """
    return _FILTERS.get(name, _product)(value, arguments)


def operator_cost(operator: str, left: object, right: object) -> int:
    """Of a binary operator.

    Raises:
        ExhaustedError: its result is a number that no text needs.
    """
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(operator, left, right)
        return 1
    if operator == "*":
        number = next((x for x in (left, right) if isinstance(x, int)), 1)
        return max(0, number) * max(length(left), length(right))
    if operator == "%" and isinstance(left, str | bytes):
        return _printf(left, right)
    return length(left) + length(right)


def lorem_ipsum_cost(arguments: tuple[object, ...]) -> int:
    """Of Jinja's filler text, which takes numbers of paragraphs and of words."""
    return 1000 * _product(100, arguments)


def _check_bits(operator: str, left: int, right: int) -> None:
    """Refuse a whole number that is too large before it is computed."""
    bits = max(left.bit_length(), right.bit_length())
    if operator == "**":
        bits = max(bits, left.bit_length() * min(abs(right), _MOST_BITS + 1))
    if bits > _MOST_BITS:
        raise ExhaustedError(f"{operator} with numbers this large")


def _linear(factor: int) -> Cost:
    return lambda value, _: factor * length(value)


def _deep(factor: int) -> Cost:
    return lambda value, _: factor * size(value)


def _product(value: object, arguments: tuple[object, ...]) -> int:
    return 8 * prod(size(x) for x in (value, *arguments))


def _square(value: object, arguments: tuple[object, ...]) -> int:
    """Of what goes over its value again and again."""
    return sum(size(x) for x in (value, *arguments)) ** 2


def _pairs(value: object, arguments: tuple[object, ...]) -> int:
    """Of a search that may compare every character with every other."""
    return length(value) * max((length(x) for x in arguments[:1]), default=1)


def _split(value: object, arguments: tuple[object, ...]) -> int:
    """One object for each piece."""
    if not isinstance(value, str | bytes):
        return _product(value, arguments)
    separator = arguments[0] if arguments else None
    if isinstance(value, str) and isinstance(separator, str) and separator:
        return _pairs(value, arguments) + OBJECT * (value.count(separator) + 1)
    return len(value) + OBJECT * (len(value) // 2 + 1)


def _replace(value: object, arguments: tuple[object, ...]) -> int:
    old, new = (*arguments, "", "")[:2]
    return size(value) + (size(value) // max(1, length(old)) + 1) * size(new)


def _join(items: object, arguments: tuple[object, ...]) -> int:
    separator = arguments[0] if arguments else ""
    return _ESCAPED * size(items) + length(items) * length(separator)


def _join_method(separator: object, arguments: tuple[object, ...]) -> int:
    return _join(arguments[0] if arguments else (), (separator,))


def _format(text: object, arguments: tuple[object, ...]) -> int:
    """``str.format``: its fields may pad to any width, and repeat an argument."""
    if not isinstance(text, str):
        return _product(text, arguments)
    fields = [(spec or "") for _, name, spec, _ in Formatter().parse(text) if name is not None]
    if any("{" in spec for spec in fields):
        raise ExhaustedError("a format that is itself formatted")
    widths = sum(int(digits) for spec in fields for digits in re.findall(r"\d+", spec))
    return len(text) + widths + _ESCAPED * len(fields) * size(arguments)


# A width follows the sign or the name in brackets, which may hold brackets itself.
_PRINTF = re.compile(r"[%)][-#0 +]*(\*|\d+)?(?:\.(\*|\d+))?")


def _printf(text: str | bytes, argument: object) -> int:
    """The operator ``%`` and the filter ``format``."""
    shown = text if isinstance(text, str) else text.decode("latin-1")
    widths = 0
    for found in _PRINTF.findall(shown):
        for width in found:
            widths += sum(_numbers(argument)) if width == "*" else int(width or 0)
    # A number among the arguments is written, it repeats nothing.
    written = size(argument) if not isinstance(argument, int | float) else OBJECT
    return len(shown) + widths + _ESCAPED * shown.count("%") * written


def _numbers(argument: object) -> Iterator[int]:
    """The whole numbers that a ``*`` may take as a width."""
    for one in argument if isinstance(argument, tuple) else (argument,):
        if isinstance(one, int):
            yield abs(one)


def _tojson(value: object, arguments: tuple[object, ...]) -> int:
    """Text, and at each node a separator and a line that is indented once for each level."""
    marks = sum(size(x) for x in arguments)
    return _ESCAPED * size(value) + nodes(value) * (depth(value) + 1) * marks


def _round(value: object, arguments: tuple[object, ...]) -> int:
    if any(size(x) > _MOST_DIGITS for x in arguments):
        raise ExhaustedError("round to this many digits")
    return 1


def _int(value: object, arguments: tuple[object, ...]) -> int:
    return _square(length(value), ()) if arguments else length(value)


def _words(*names: str) -> list[str]:
    return " ".join(names).split()


_METHODS: dict[str, Cost] = {
    **dict.fromkeys(
        _words(
            "capitalize casefold count encode endswith find get index isalnum isalpha isascii "
            "isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper "
            "items keys lower partition removeprefix removesuffix startswith swapcase title upper "
            "values copy decode bit_length is_integer"
        ),
        _linear(1),
    ),
    **dict.fromkeys(("strip", "lstrip", "rstrip", "rfind", "rindex", "rpartition"), _pairs),
    **dict.fromkeys(("split", "rsplit", "splitlines"), _split),
    "replace": _replace,
    "join": _join_method,
    "format": _format,
    "format_map": _format,
}

_FILTERS: dict[str, Cost] = {
    **dict.fromkeys(
        _words(
            "abs attr capitalize count d default first float last length lower items map random "
            "reject rejectattr reverse safe select selectattr title truncate upper filesizeformat"
        ),
        _linear(1),
    ),
    **dict.fromkeys(
        ("string", "min", "max", "sort", "unique", "dictsort", "wordcount", "list"), _deep(8)
    ),
    **dict.fromkeys(("e", "escape", "forceescape", "urlencode"), _deep(_ESCAPED)),
    **dict.fromkeys(
        ("groupby", "pprint", "striptags", "sum", "urlize", "wordwrap", "xmlattr"), _square
    ),
    "trim": _pairs,
    "replace": _replace,
    "join": _join,
    "format": lambda value, arguments: _printf(str(value), arguments),
    "tojson": _tojson,
    "round": _round,
    "int": _int,
}
