"""What several tests of this folder use."""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np

from dataset.samples.hdf5_files import read_samples
from dataset.shards.sharding import write_text_shards
from dataset.shards.split_plan import ShardSettings, plan_layout
from dataset.sources.article_stream import PIECE_BYTES, Tally
from dataset.sources.registry import open_sources
from dataset.tokenizers.formats import bert_pipeline, save_tokenizer
from dataset.tokenizers.tokenizer_files import SPECIAL_TOKENS
from dataset.workers import Workers


def save_bert_tokenizer(vocabulary: Sequence[str], do_lower_case: bool, folder: Path) -> None:
    """Writes a BERT tokenizer; an entry's id is its index in `vocabulary`."""
    ids = {entry: number for number, entry in enumerate(vocabulary)}
    tokenizer = bert_pipeline(ids, do_lower_case)
    tokenizer.add_special_tokens([*SPECIAL_TOKENS.values()])
    save_tokenizer(tokenizer, SPECIAL_TOKENS, folder)


def files_of(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """Content by relative name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
    }


class Here(Executor):
    """Runs jobs in this process, and may be killed after some of them."""

    num_workers = 1

    def __init__(self, dies_after: int = 10**9):
        self.left = dies_after

    def submit(self, function, job):
        future = Future()
        self.left -= 1
        if self.left < 0:
            future.set_exception(KeyboardInterrupt())
        else:
            future.set_result(function(job))
        return future


def read_source(source, work_dir, limit=PIECE_BYTES):
    """(articles with their white space as it is, tally, what was said)."""
    said, tally, articles, begun = [], Tally(), [], False
    for piece in open_sources([source], work_dir, said.append):
        for _, text, ends in piece.pieces(limit, tally):
            articles.append(articles.pop() + text if begun else text)
            begun = not ends
    return articles, tally, said


def shard(
    source, directory, executor=None, frac_test=0.1, num=(3, 2), buffer_bytes=1 << 20, seed=1
):
    """Text shards of a source; returns the summary."""
    slices = open_sources([source], directory / "sources", lambda line: None)
    layout = plan_layout(
        sum(piece.num_bytes for piece in slices), ShardSettings(*num, frac_test, seed)
    )
    return write_text_shards(
        slices,
        directory,
        layout,
        "fingerprint",
        Workers(executor or Here(), buffer_bytes),
        lambda amount: None,
        "en",
    )


def articles_of(directory, split="*"):
    """Text of all articles (or sections) of the shards, sorted."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(directory.glob(f"{split}_*.txt"))]
    assert all(not text or text.endswith("\n\n") for text in texts)
    return sorted(
        article.replace("\n", " ") for text in texts for article in text.split("\n\n")[:-1]
    )


def token_stream(path):
    """Original tokens of a file of samples, in order, without special tokens and padding."""
    samples = read_samples(path)
    ids = samples["input_ids"].astype(int)
    if "masked_lm_ids" in samples:
        rows, columns = np.nonzero(samples["masked_lm_positions"])
        at = rows, samples["masked_lm_positions"][rows, columns]
        ids[at] = samples["masked_lm_ids"][rows, columns]
    is_text = (samples["input_mask"] > 0) & (ids != 2) & (ids != 3)  # [CLS] and [SEP]
    return ids[is_text].tolist()
