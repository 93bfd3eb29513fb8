"""Model sizes of the benchmarks, without torch, for tools with a fast start."""

from dataclasses import dataclass

HEAD_DIM = 64


@dataclass(frozen=True)
class Size:
    layers: int
    hidden: int

    @property
    def heads(self) -> int:
        return self.hidden // HEAD_DIM

    def feed_forward(self, gated: bool) -> int:
        """Returns 4 * hidden; with a gate, the width (a multiple of 16) for as many weights."""
        return round(self.hidden * 8 / 3 / 16) * 16 if gated else 4 * self.hidden

    def __str__(self) -> str:
        return f"{self.layers}x{self.hidden}"


def parse_size(text: str) -> Size:
    """Reads "layers x hidden size", such as 12x768."""
    layers, hidden = map(int, text.split("x"))
    if hidden % HEAD_DIM:
        raise ValueError(f"{text}: expected a hidden size that is a multiple of {HEAD_DIM}")
    return Size(layers, hidden)
