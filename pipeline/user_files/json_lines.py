"""Reads lines of JSON."""

import json
from typing import Any


def parsed_object(line: str) -> dict[str, Any]:
    """Returns the object in a line, of a repeated key the last value.

    Control characters in strings, like tabs, are allowed. Raises ValueError with the problem.
    """
    try:
        row = json.loads(line, strict=False)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON, {error.msg} in column {error.colno}") from None
    except RecursionError:
        raise ValueError("not JSON, nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return row
