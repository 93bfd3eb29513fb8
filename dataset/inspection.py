"""A look at the data: the cheapest check there is."""

import textwrap
from pathlib import Path

from dataset.samples import iter_sample_blocks
from dataset.tokenizer import load_tokenizer

LINE_WIDTH = 96


def decoded_sample(path: Path, tokenizer_dir: Path, row: int = 0) -> str:
    """A sample as text, what is to be predicted beside it: `the [MASK]{cat} sat`."""
    loaded = load_tokenizer(tokenizer_dir)
    samples = next(iter_sample_blocks(path))
    tokens = [loaded.tokenizer.id_to_token(int(token)) for token in samples["input_ids"][row]]
    for position, original in zip(
        samples["masked_lm_positions"][row], samples["masked_lm_ids"][row], strict=True
    ):
        if position:
            tokens[position] += "{" + loaded.tokenizer.id_to_token(int(original)) + "}"
    text = " ".join(tokens[: int(samples["input_mask"][row].sum())])
    return "\n".join(textwrap.wrap(text, LINE_WIDTH, initial_indent="  ", subsequent_indent="  "))
