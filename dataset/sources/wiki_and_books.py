"""Converts WikiExtractor's output and books to plain text with a blank line after each article."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.sources.article_stream import PIECE_BYTES, Piece, Tally, raw_row_pieces
from dataset.sources.blanks import is_blank
from dataset.sources.corpus_files import checked_head, format_of, iter_blocks, list_files, text_size
from dataset.sources.registry import open_file
from pipeline.store.atomic_files import written_aside

OUTPUT_BYTES = 64 << 20  # of input for each output file
FORMATS = {"wiki": ("wiki", "json"), "bookcorpus": ("txt",)}


@dataclass(frozen=True)
class ArticlesJob:
    """Input files of one output file.

    kind: wiki (elements or JSON lines of WikiExtractor) | bookcorpus (a file is a book).
    """

    path: Path
    files: tuple[Path, ...]
    kind: str

    @property
    def num_bytes(self) -> int:
        return sum(text_size(str(file)) for file in self.files)


def find_files(folder: Path, kind: str) -> tuple[list[Path], int]:
    """Returns (the files of a kind below a folder, number of other files)."""
    known, others = list_files(folder)
    files = [file for file in known if format_of(str(file)) in FORMATS[kind]]
    return files, len(known) + len(others) - len(files)


def plan_articles(files: Sequence[Path], kind: str, output_dir: Path) -> list[ArticlesJob]:
    """Groups consecutive files of together about 64 MiB into one output file."""
    groups: list[list[Path]] = []
    size = OUTPUT_BYTES
    for file in files:
        if size >= OUTPUT_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += text_size(str(file))
    return [
        ArticlesJob(output_dir / f"{kind}_{number:05d}.txt", tuple(group), kind)
        for number, group in enumerate(groups)
    ]


def write_articles(job: ArticlesJob) -> tuple[Counter, list[str]]:
    """Writes a file. Returns counts (articles, empty_articles, bytes, dropped text) and notes.

    Each paragraph is a line, without blank lines inside an article. The file begins with a blank
    line: otherwise a long first book would be read as an article per line. Memory does not depend
    on the length of articles.
    """
    tally = Tally()
    with (
        written_aside(job.path) as aside,
        open(aside, "w", encoding="utf-8", newline="\n") as output,
    ):
        output.write("\n")
        for file in job.files:
            with tally.of_file(str(file)):
                for text in paragraphs(article_pieces(file, job.kind, tally), tally):
                    output.write(text)
    tally.counts["bytes"] = job.path.stat().st_size
    return tally.counts, tally.notes


def article_pieces(file: Path, kind: str, tally: Tally) -> Iterator[Piece]:
    if kind == "bookcorpus":
        checked_head(str(file))
        yield from raw_row_pieces(0, iter_blocks(str(file)), PIECE_BYTES, tally)
        return
    for piece in open_file(file, file.name, "text", OUTPUT_BYTES):
        yield from piece.pieces(PIECE_BYTES, tally)


def paragraphs(pieces: Iterable[Piece], tally: Tally) -> Iterator[str]:
    """Yields the lines to write, without blank ones except after each article."""
    is_empty = True
    for _, text, ends in pieces:
        lines = [line.strip() for line in text.splitlines()]
        lines = [f"{line}\n" for line in lines if not is_blank(line)]
        is_empty = is_empty and not lines
        yield "".join(lines)
        if ends:
            tally.counts["empty_articles" if is_empty else "articles"] += 1
            yield "" if is_empty else "\n"
            is_empty = True
