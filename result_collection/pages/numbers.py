"""Texts of numbers and values in tables, charts and pages."""

from collections.abc import Sequence
from typing import Any

UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k"))


def points(score: float) -> str:
    """Returns a score x 100: `86.1`; `0.0` has no sign."""
    text = f"{100 * score:.1f}"
    return "0.0" if text == "-0.0" else text


def difference(score: float) -> str:
    """Returns a difference of scores x 100 with its sign: `+0.4`; `0.0` has no sign."""
    text = f"{100 * score:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def epochs(number: float) -> str:
    """Returns `1 epoch`, `3 epochs`."""
    return f"{number:g} epoch{'s' if number != 1 else ''}"


def rate(value: float) -> str:
    """Returns a learning rate: `5e-5`, `1e-4`, `0.001`, `0`."""
    if not 0 < abs(value) < 1e-3:
        return f"{value:g}"
    mantissa, _, power = f"{value:.5e}".partition("e")
    return f"{float(mantissa):g}e{int(power)}"


def amount(value: float) -> str:
    """Returns a short count or speed: `950`, `9,500`, `23k`, `1.2M`."""
    for size, letter in UNITS:
        if abs(value) >= size:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:,.3g}{letter}"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"


def grouped(value: int | None) -> str:
    """Returns `30,522`; empty for None."""
    return "" if value is None else f"{value:,}"


def percent(share: float | None) -> str:
    """Returns `2.1 %`; empty for None."""
    return "" if share is None else f"{100 * share:.1f} %"


def decimals(value: float | None, digits: int) -> str:
    """Returns `2.4100`; empty for None."""
    return "" if value is None else f"{value:.{digits}f}"


def last_known(values: Sequence[float | None]) -> str:
    """Returns the last known value with three digits."""
    known = [value for value in values if value is not None]
    return f"{known[-1]:.3g}" if known else "unknown"


def config_value(value: Any) -> str:
    """Returns the value of a key in YAML's notation, on one line; empty for an unset key."""
    if value is None:
        return ""
    if isinstance(value, list):
        return f"[{', '.join(map(config_value, value))}]" if value else ""
    return rate(value) if isinstance(value, float) else str(value)
