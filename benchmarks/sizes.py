"""How large the models of the benchmarks are; free of torch, so that the tools start at once."""

HEAD_DIM = 64


def feed_forward_width(hidden: int, gated: bool) -> int:
    """4 * hidden; with the gate's third matrix as many weights as that has, in steps of 16."""
    return round(hidden * 8 / 3 / 16) * 16 if gated else 4 * hidden
