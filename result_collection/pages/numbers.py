"""How the numbers of tables and charts are written."""

UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k"))


def points(score: float) -> str:
    """A score x 100: `86.1`; `0.0` has no sign."""
    text = f"{100 * score:.1f}"
    return "0.0" if text == "-0.0" else text


def epochs(number: float) -> str:
    """`1 epoch`, `3 epochs`."""
    return f"{number:g} epoch{'s' if number != 1 else ''}"


def difference(score: float) -> str:
    """A difference of scores x 100, with its sign: `+0.4`; `0.0` has none."""
    text = f"{100 * score:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def rate(value: float) -> str:
    """A learning rate: `5e-5`, `1e-4`, `0.001`, `0`."""
    if not 0 < abs(value) < 1e-3:
        return f"{value:g}"
    mantissa, _, power = f"{value:.5e}".partition("e")
    return f"{float(mantissa):g}e{int(power)}"


def amount(value: float) -> str:
    """A count or speed that is read at a glance: `950`, `9,500`, `23k`, `1.2M`."""
    for size, letter in UNITS:
        if abs(value) >= size:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:,.3g}{letter}"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"
