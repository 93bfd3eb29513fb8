"""What a person wants to know of a dataset: a few lines on the console, and dataset_card.md."""

import textwrap
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from dataset.samples.hdf5_files import iter_sample_blocks
from dataset.samples.packing import HISTOGRAM_BINS
from dataset.sources.article_stream import counted
from dataset.tokenizers.load import load_tokenizer
from pipeline.console import WARNING_PREFIX, table
from pipeline.store.atomic_files import write_text

LINE_WIDTH = 96
BAR_WIDTH = 40
CARD = "dataset_card.md"
# Of held-out text; about 5,000 tokens, of which 750 are predicted.
FEW_ARTICLES, FEW_BYTES = 5, 20_000
MOST_TIMES = 3  # the share that is held out may be off by this factor


def headline(results: Mapping[str, Any]) -> str:
    return (
        f"{results['num_train_samples']:,} training rows"
        f"{' per mask copy' if results['masking'] == 'static' else ''}, "
        f"{results['num_test_samples']:,} held out, vocabulary {results['vocab_size']:,}"
    )


def quality(results: Mapping[str, Any]) -> str:
    """One line on what was not understood, what is empty and what is to be predicted."""
    unknown = 1000 * results["num_unknown_tokens"] / results["num_tokens"]
    characters = results["unknown_character_share"]
    padding = f"{padding_share(results):.1%} of the positions are padding"
    if padding_share(results) > 0.05 and not (results["packed"] or results["next_sentence"]):
        padding += " (DATASET.PACKING would fill them)"
    masked = f"{results['masked_share']:.1%} of the tokens are to be predicted"
    if results["masked_share"] < 0.8 * results["masked_lm_prob"]:
        masked += f" (at most {results['max_predictions_per_seq']} in a row, as set)"
    if results["next_sentence"]:
        masked += f", {results['random_share']:.0%} of the second segments are random"
    return (
        f"{results['num_tokens']:,} tokens, {unknown:.2f} of 1000 unknown ({characters:.2%} of the "
        f"characters); {padding}; {masked}"
    )


def padding_share(results: Mapping[str, Any]) -> float:
    return results["num_padding"] / results["num_positions"]


def decoded_sample(path: Path, tokenizer_dir: Path, row: int = 0) -> str:
    """A masked row as text, what is to be predicted beside it: `the [MASK]{cat} sat`."""
    loaded = load_tokenizer(tokenizer_dir)
    samples = next(iter_sample_blocks(path))
    tokens = [loaded.tokenizer.id_to_token(int(token)) for token in samples["input_ids"][row]]
    for position, original in zip(
        samples["masked_lm_positions"][row], samples["masked_lm_ids"][row], strict=True
    ):
        if position:
            tokens[position] += "{" + loaded.tokenizer.id_to_token(int(original)) + "}"
    text = " ".join(tokens[: int((samples["input_mask"][row] > 0).sum())])
    return "\n".join(textwrap.wrap(text, LINE_WIDTH, initial_indent="  ", subsequent_indent="  "))


def write_card(
    directory: Path,
    sources: list[str],
    text: Mapping[str, Any],
    results: Mapping[str, Any],
    settings: Mapping[str, Any],
    sample: str,
) -> None:
    """Writes dataset_card.md: sources, counts, lengths, settings, and the sample."""
    parts = [
        f"# {directory.name}",
        f"{headline(results)}.\n{quality(results)}.",
        "## Text\n\n" + "\n".join(f"- {source}" for source in sources),
        "\n".join(f"- {line}" for line in text_lines(text)),
        f"## Lengths of the samples\n\n```\n{histogram(results)}\n```",
        f"## A held-out sample\n\nWhat is to be predicted stands in braces.\n\n```\n{sample}\n```",
        f"## Settings\n\n```\n{table_of(settings)}\n```",
        "## Use\n\n`pretrain.training.data_loader.PretrainDatasetProvider` reads it; "
        "dataset/samples/hdf5_files.py describes "
        "the HDF5 files. `tokenizer/` is what `AutoTokenizer.from_pretrained` takes.",
    ]
    write_text(directory / CARD, "\n\n".join(parts) + "\n")


def text_lines(text: Mapping[str, Any]) -> list[str]:
    """What was read, and what was dropped, cut or cleaned, with the first places."""
    if not text["shards"]:
        return []
    total = {
        key: sum(shard[key] for shard in text["shards"].values())
        for key in ("bytes", "articles", "sentences")
    }
    held_out = sum(
        shard["articles"] for name, shard in text["shards"].items() if name.startswith("test")
    )
    dropped = [counted(count, name.replace("_", " ")) for name, count in text["counts"].items()]
    articles, is_cut = counted(total["articles"], "articles"), text.get("is_one_article", False)
    return [
        f"text: {total['bytes'] / 1e6:,.1f} MB, "
        f"{'1 article (its end held out)' if is_cut else f'{articles} ({held_out:,} held out)'}, "
        f"{counted(total['sentences'], 'sentences')}, {counted(len(text['shards']), 'shards')}",
        f"dropped, cut or cleaned: {', '.join(dropped) or 'nothing'}",
        *text["notes"],
        *(f"{WARNING_PREFIX}{line}" for line in held_out_warnings(text)),
    ]


def held_out_warnings(text: Mapping[str, Any]) -> list[str]:
    """Why the loss on the held-out text may say little about other text."""
    shards = text["shards"].items()
    test = [shard for name, shard in shards if name.startswith("test")]
    num_bytes, articles = (sum(shard[key] for shard in test) for key in ("bytes", "articles"))
    total = sum(shard["bytes"] for _, shard in shards)
    share, asked = num_bytes / total, text.get("frac_test", 0)
    warnings = []
    if articles < FEW_ARTICLES or num_bytes < FEW_BYTES:
        size = f"{num_bytes / 1e3:,.1f} KB"
        what = f"{articles:,} articles of {size} in all are held out: the loss on them"
        if text.get("is_one_article", False):
            what = f"the end of one article, {size}, is held out: the loss on it"
        elif articles == 1:
            what = f"1 article of {size} is held out: the loss on it"
        warnings.append(
            f"only {what} says little; more text would help, or a larger DATASET.FRAC_TEST"
        )
    if asked and not asked / MOST_TIMES <= share <= asked * MOST_TIMES:
        warnings.append(f"{share:.2%} of the text are held out, DATASET.FRAC_TEST is {asked:.2%}")
    sums = accumulate(text.get("largest_held_out", ()))
    few, size = next(((k, size) for k, size in enumerate(sums, 1) if 2 * size > num_bytes), (0, 0))
    if few and few <= articles / 5:
        warnings.append(
            f"{few:,} of the {articles:,} held-out articles {'make' if few > 1 else 'makes'} "
            f"{size / num_bytes:.0%} of the "
            "held-out text: the loss on it is mostly theirs; shorter articles, like chapters, "
            "would be drawn more evenly"
        )
    return warnings


def histogram(results: Mapping[str, Any]) -> str:
    """How many samples have how many tokens, [CLS] and [SEP] included."""
    length, counts = results["max_seq_length"], results["lengths"]
    borders = [number * length // HISTOGRAM_BINS + 1 for number in range(HISTOGRAM_BINS + 1)]
    rows = [["tokens", "samples", ""]]
    for number, count in enumerate(counts):
        bar = "#" * round(BAR_WIDTH * count / max(1, *counts))
        rows.append([f"{borders[number]}-{borders[number + 1] - 1}", f"{count:,}", bar])
    return table(rows)


def table_of(settings: Mapping[str, Any]) -> str:
    return table([["key", "value"], *([key, str(value)] for key, value in settings.items())])
