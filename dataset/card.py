"""Summarises a dataset: a few lines on the console, and dataset_card.md."""

import textwrap
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from dataset.samples.hdf5_files import iter_sample_blocks
from dataset.samples.mixture import FAR_OFF
from dataset.samples.packing import HISTOGRAM_BINS
from dataset.sources.article_stream import counted
from dataset.tokenizers.load import load_tokenizer
from pipeline.console import WARNING_PREFIX, table
from pipeline.store.atomic_files import write_text

LINE_WIDTH = 96
BAR_WIDTH = 40
CARD = "dataset_card.md"
# Minimum of held-out text: about 5,000 tokens, with 750 predictions.
FEW_ARTICLES, FEW_BYTES = 5, 20_000
MOST_TIMES = 3  # accepted factor between DATASET.FRAC_TEST and the held-out share


def headline(results: Mapping[str, Any]) -> str:
    return (
        f"{results['num_train_samples']:,} training rows"
        f"{' per mask copy' if results['masking'] == 'static' else ''}, "
        f"{results['num_test_samples']:,} held out, vocabulary {results['vocab_size']:,}"
    )


def quality(results: Mapping[str, Any]) -> str:
    """Returns a line on unknown tokens, padding and predictions."""
    unknown = 1000 * results["num_unknown_tokens"] / results["num_tokens"]
    characters = results["unknown_character_share"]
    share = results["num_padding"] / results["num_positions"]
    padding = f"{share:.1%} of the positions are padding"
    if share > 0.05 and not (results["packed"] or results["next_sentence"]):
        padding += " (DATASET.PACKING would fill them)"
    masked = f"{results['masked_share']:.1%} of the tokens are predicted"
    if results["masked_share"] < 0.8 * results["masked_lm_prob"]:
        masked += f" (at most {results['max_predictions_per_seq']} in a row, as set)"
    if results["next_sentence"]:
        masked += f", {results['random_share']:.0%} of the second segments are random"
    return (
        f"{results['num_tokens']:,} tokens, {unknown:.2f} of 1000 unknown ({characters:.2%} of the "
        f"characters); {padding}; {masked}"
    )


def decoded_sample(path: Path, tokenizer_dir: Path) -> str:
    """Returns the first masked row as text, with the predicted tokens: `the [MASK]{cat} sat`."""
    tokenizer = load_tokenizer(tokenizer_dir).tokenizer
    row = {name: array[0] for name, array in next(iter_sample_blocks(path)).items()}
    tokens = [f"{tokenizer.id_to_token(token)}" for token in row["input_ids"].tolist()]
    for position, original in zip(row["masked_lm_positions"], row["masked_lm_ids"], strict=True):
        if position:
            tokens[position] += f"{{{tokenizer.id_to_token(int(original))}}}"
    text = " ".join(tokens[: int((row["input_mask"] > 0).sum())])
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
    rows = [["key", "value"], *([key, str(value)] for key, value in settings.items())]
    parts = [
        f"# {directory.name}",
        f"{headline(results)}.\n{quality(results)}.",
        "## Text\n\n" + "\n".join(f"- {source}" for source in sources),
        "\n".join(f"- {line}" for line in [*text_lines(text), *mixture_lines(results)]),
        f"## Lengths of the samples\n\n```\n{histogram(results)}\n```",
        f"## A held-out sample\n\nPredicted tokens are in braces.\n\n```\n{sample}\n```",
        f"## Settings\n\n```\n{table(rows)}\n```",
        "## Use\n\n`pretrain.training.data_loader.PretrainDatasetProvider` reads it; "
        "dataset/samples/hdf5_files.py describes the HDF5 files. "
        "`AutoTokenizer.from_pretrained` loads `tokenizer/`.",
    ]
    write_text(directory / CARD, "\n\n".join(parts) + "\n")


def text_lines(text: Mapping[str, Any]) -> list[str]:
    """Returns lines on the text that was read, dropped, cut and cleaned, with warnings."""
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


def mixture_lines(results: Mapping[str, Any]) -> list[str]:
    """Returns a line on each source in the mixture by DATASET.WEIGHTS, with warnings."""
    lines, warnings = [], []
    for row in results.get("mixture", ()):
        lines.append(
            f"{row['name']}: {row['share']:.2%} of the training tokens (weight {row['weight']:g}), "
            f"{counted(row['articles'], 'articles')} of {row['bytes'] / 1e6:,.1f} MB and "
            f"{counted(row['tokens'], 'tokens')}, taken {row['times']:.4g} times, and "
            f"{row['held_out_articles']:,} held out"
        )
        if abs(row["share"] / row["wanted_share"] - 1) > FAR_OFF:
            warnings.append(
                f"{WARNING_PREFIX}{row['name']}: DATASET.WEIGHTS asks for "
                f"{row['wanted_share']:.2%} of the training tokens, its long articles allow "
                f"{row['share']:.2%}; shorter articles, like chapters, would come closer"
            )
    return [*lines, *warnings]


def held_out_warnings(text: Mapping[str, Any]) -> list[str]:
    """Warns of held-out text that is too small or too uneven for a meaningful loss."""
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
    few, most = next(((k, size) for k, size in enumerate(sums, 1) if 2 * size > num_bytes), (0, 0))
    if few and few <= articles / 5:
        warnings.append(
            f"{few:,} of the {articles:,} held-out articles {'make' if few > 1 else 'makes'} "
            f"{most / num_bytes:.0%} of the held-out text: the loss on it is mostly theirs; "
            "shorter articles, like chapters, would be drawn more evenly"
        )
    return warnings


def histogram(results: Mapping[str, Any]) -> str:
    """Returns a table of the number of samples by length, with [CLS] and [SEP]."""
    length, counts = results["max_seq_length"], results["lengths"]
    borders = [number * length // HISTOGRAM_BINS + 1 for number in range(HISTOGRAM_BINS + 1)]
    rows = [["tokens", "samples", ""]]
    for number, count in enumerate(counts):
        bar = "#" * round(BAR_WIDTH * count / max(1, *counts))
        rows.append([f"{borders[number]}-{borders[number + 1] - 1}", f"{count:,}", bar])
    return table(rows)
