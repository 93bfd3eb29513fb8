"""Figures of NVIDIA's data sheets, and the expected speeds of this project."""

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Card:
    """Dense peaks in TFLOP/s, memory bandwidth in GB/s.

    half: fp16 and bf16 on tensor cores with fp32 sums, as in torch. tf32: 0 without support.
    samples_per_second: expected in pretraining at 128 tokens, by model size; a roofline over our
    own operations, calibrated at NVIDIA's 580/s for BERT-large on an A100 with 80 GB.
    """

    name: str
    half: float
    tf32: float
    fp32: float
    bandwidth: float
    samples_per_second: dict[str, float] = field(default_factory=dict)


HOPPER = {"24x1024": 1159.0, "12x768": 2891.0}
# Pattern in torch's name of the card -> its data sheet. Of GeForce cards, the appendices of the
# whitepapers on GA102, AD102 and Blackwell (half: "with FP32 accumulate"). The first match counts.
CARDS = {
    r"H200|GH200": Card("H200", 989, 494, 67, 4800, HOPPER),
    r"H100 PCIe": Card("H100 PCIe", 756, 378, 51, 2039),
    r"H100|H800": Card("H100 SXM", 989, 494, 67, 3350, HOPPER),
    r"B200": Card("B200", 2250, 1125, 75, 8000),
    r"A100.*80GB": Card("A100 80GB", 312, 156, 19.5, 2039, {"24x1024": 529.0, "12x768": 1628.0}),
    r"A100|A800": Card("A100 40GB", 312, 156, 19.5, 1555),
    r"A10G": Card("A10G", 70, 35, 31.5, 600),
    r"A10\b": Card("A10", 125, 62.5, 31.2, 600),
    r"A40\b": Card("A40", 149.7, 74.8, 37.4, 696),
    r"RTX A6000": Card("RTX A6000", 154.8, 77.4, 38.7, 768),
    r"L40S": Card("L40S", 362, 183, 91.6, 864),
    r"L4\b": Card("L4", 121, 60, 30.3, 300),
    r"T4\b": Card("T4", 65, 0, 8.1, 320),
    r"V100": Card("V100", 125, 0, 15.7, 900),
    r"RTX 5090": Card("RTX 5090", 209.5, 104.8, 104.8, 1792),
    r"RTX 4090": Card("RTX 4090", 165.2, 82.6, 82.6, 1008, {"24x1024": 318.0, "12x768": 976.0}),
    r"RTX 3090": Card("RTX 3090", 71, 35.6, 35.6, 936, {"24x1024": 163.0, "12x768": 531.0}),
    r"RTX 2080 Ti": Card("RTX 2080 Ti", 53.8, 0, 13.4, 616),
}


def find_card(name: str) -> Card | None:
    """Returns the data sheet for torch's name of a device, e.g. `NVIDIA A100-SXM4-80GB`."""
    return next((card for pattern, card in CARDS.items() if re.search(pattern, name)), None)
