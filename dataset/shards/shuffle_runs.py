"""Runs: the sentences of a part of the corpus, grouped by shard.

A worker streams its part and buffers the sentences up to a limit, then flushes them to the end of
the run file, in the order of the shards. A shard is the concatenation of its groups over all runs
and flushes; its bytes do not depend on the times of the flushes.

A run file ends with its index, int64 in the machine's byte order: [flushes, shards + 1] offsets of
the groups, articles per shard, sentences per shard, number of flushes, number of shards.
"""

import os
import struct
from array import array
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import BinaryIO

from dataset.shards.sentences import load_segmenter
from dataset.shards.split_plan import HASH_RANGE, NUM_LARGEST, Census, Layout
from dataset.sources.article_stream import Tally
from dataset.sources.registry import Slice

CHUNK_OVERHEAD = 128  # bytes of an element of the buffer besides its text
COPY_BYTES = 4 << 20
WORD = 8  # bytes of an int64


@dataclass(slots=True)
class Article:
    """The article being read, with its split and current shard."""

    draw: tuple[int, int]
    held_out: bool
    shard: int = -1
    num_sections: int = 0
    section_bytes: int = 0
    num_bytes: int = 0
    num_sentences: int = 0


# --- writing ---------------------------------------------------------------------------------


class RunWriter:
    """Collects articles and writes them grouped by shard. Call `finish` at the end."""

    def __init__(self, file: BinaryIO, layout: Layout, buffer_bytes: int, language: str):
        self.file, self.layout = file, layout
        self.buffer_bytes, self.segment = buffer_bytes, load_segmenter(language)
        self.texts: list[bytes] = []
        self.shards = array("i")  # of each text
        self.num_buffered = self.num_written = 0  # bytes
        self.index, self.num_flushes = array("q"), 0
        self.sizes = _zeros(layout.num_shards)
        self.articles = _zeros(layout.num_shards)
        self.sentences = _zeros(layout.num_shards)
        self.lowest, self.highest, self.nearest = HASH_RANGE, -1, (HASH_RANGE, HASH_RANGE)
        self.largest: list[int] = []  # a heap

    @property
    def census(self) -> Census:
        largest = tuple(sorted(self.largest, reverse=True))
        return Census(self.lowest, self.highest, self.nearest, sum(self.sentences), largest)

    def add_all(self, text_slice: Slice, tally: Tally) -> None:
        """Adds the articles of a slice; counts and skips empty ones."""
        article = None
        for position, text, ends in text_slice.pieces(self.layout.piece_bytes, tally):
            sentences = self.segment(text)
            if sentences:
                article = article or self._begin(text_slice.name, position)
                self._add(article, sentences)
            if ends:
                self._end(article, tally)
                article = None

    def _begin(self, name: str, position: int) -> Article:
        draw = self.layout.draw(name, position)
        return Article(draw, self.layout.holds_out(draw))

    def _add(self, article: Article, sentences: str) -> None:
        first_test = self.layout.first_test_sentence
        if first_test and not article.held_out:
            lines = sentences.split("\n")
            before = max(0, first_test - article.num_sentences)
            if before:
                self._append(article, "\n".join(lines[:before]))
            if not lines[before:]:
                return
            article.held_out, article.section_bytes = True, self.layout.section_bytes
            sentences = "\n".join(lines[before:])
        self._append(article, sentences)

    def _append(self, article: Article, sentences: str) -> None:
        section_bytes = article.section_bytes + len(sentences.encode()) + 1
        if article.shard < 0 or section_bytes > self.layout.section_bytes:
            self._next_section(article)
        num_sentences = sentences.count("\n") + 1
        size = self._buffer(article.shard, f"{sentences}\n", num_sentences)
        article.section_bytes += size
        article.num_bytes += size
        article.num_sentences += num_sentences

    def _buffer(self, shard: int, sentences: str, num_sentences: int) -> int:
        """Buffers text for a shard, after a flush if the buffer is full. Returns its bytes."""
        if self.num_buffered >= self.buffer_bytes:
            self.flush()
        text = sentences.encode()
        self.texts.append(text)
        self.shards.append(shard)
        self.sizes[shard] += len(text)
        self.sentences[shard] += num_sentences
        self.num_buffered += len(text) + CHUNK_OVERHEAD
        return len(text)

    def _next_section(self, article: Article) -> None:
        if article.shard >= 0:
            self._end_section(article)
        article.shard = self.layout.place(article.draw, article.held_out, article.num_sections)
        if article.num_sections == 0 or self.layout.first_test_sentence:
            self.articles[article.shard] += 1
        article.num_sections += 1
        article.section_bytes = 0

    def _end_section(self, article: Article) -> None:
        self.texts[-1] += b"\n"
        self.sizes[article.shard] += 1

    def _end(self, article: Article | None, tally: Tally) -> None:
        if article is None:
            tally.counts["empty_articles"] += 1
            return
        self._end_section(article)
        if article.num_sections > 1:
            tally.counts["articles_over_several_shards"] += 1
        draw, num_bytes = article.draw[0], article.num_bytes
        self.lowest, self.highest = min(self.lowest, draw), max(self.highest, draw)
        self.nearest = min(self.nearest, (abs(num_bytes - self.layout.test_bytes), draw))
        if article.held_out and not self.layout.first_test_sentence:
            heappush(self.largest, num_bytes)
            if len(self.largest) > NUM_LARGEST:
                heappop(self.largest)

    def flush(self) -> None:
        """Writes the buffer, in the order of the shards and within a shard of the text."""
        order = sorted(range(len(self.texts)), key=self.shards.__getitem__)
        self.file.writelines(self.texts[place] for place in order)
        self.index.append(self.num_written)
        for size in self.sizes:
            self.num_written += size
            self.index.append(self.num_written)
        self.num_flushes += 1
        self.texts, self.shards, self.num_buffered = [], array("i"), 0
        self.sizes = _zeros(self.layout.num_shards)

    def finish(self) -> None:
        """Writes the rest of the buffer and the index."""
        self.flush()
        for numbers in (self.index, self.articles, self.sentences):
            self.file.write(numbers.tobytes())
        self.file.write(struct.pack("=2q", self.num_flushes, self.layout.num_shards))


def _zeros(count: int) -> array:
    return array("q", bytes(WORD * count))


# --- reading ---------------------------------------------------------------------------------


def copy_shard(run: Path, shard: int, file: BinaryIO) -> tuple[int, int, int]:
    """Appends a shard's groups in a run to a file. Returns (bytes, articles, sentences)."""
    descriptor = os.open(run, os.O_RDONLY)
    try:
        end = os.fstat(descriptor).st_size - 2 * WORD
        num_flushes, num_shards = _read_numbers(descriptor, end, 2)
        counts = end - 2 * num_shards * WORD
        index = counts - num_flushes * (num_shards + 1) * WORD
        num_bytes = 0
        for flush in range(num_flushes):
            place = index + (flush * (num_shards + 1) + shard) * WORD
            begin, stop = _read_numbers(descriptor, place, 2)
            _copy(descriptor, begin, stop, file)
            num_bytes += stop - begin
        (articles,) = _read_numbers(descriptor, counts + shard * WORD, 1)
        (sentences,) = _read_numbers(descriptor, counts + (num_shards + shard) * WORD, 1)
    finally:
        os.close(descriptor)
    return num_bytes, articles, sentences


def _read_numbers(descriptor: int, offset: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"={count}q", os.pread(descriptor, count * WORD, offset))


def _copy(descriptor: int, begin: int, end: int, file: BinaryIO) -> None:
    while begin < end:
        block = os.pread(descriptor, min(COPY_BYTES, end - begin), begin)
        file.write(block)
        begin += len(block)
