"""Checks the sizes of a model that grows from a smaller one; imports no torch."""

from collections.abc import Iterator, Mapping

SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")


def problems_of_growth(small: Mapping[str, int], large: Mapping[str, int]) -> Iterator[tuple]:
    """Yields (name of a size, problem) for each reason against growing from small to large.

    small, large: SIZES by name.
    """
    for name in SIZES:
        if large[name] < small[name]:
            yield name, f"cannot grow to {large[name]}, expected at least {small[name]}"
    head = small["hidden_size"] // small["num_attention_heads"]
    if large["hidden_size"] != head * large["num_attention_heads"]:
        yield (
            "num_attention_heads",
            f"heads keep their size {head}, got {large['num_attention_heads']} for a width of "
            f"{large['hidden_size']}, expected {large['hidden_size'] / head:g}",
        )
