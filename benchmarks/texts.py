"""Text and vocabulary for the benchmarks."""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from benchmarks.harness import SHARED

PYTHON_DOCS = "builtin:python-docs"


def text_folders(text: str = "") -> list[Path | str]:
    """Returns --text, or else the shared corpora, or else Python's documentation."""
    if text:
        return [Path(text)]
    shared = [SHARED / "corpora" / name for name in ("wikipedia_articles", "books_fiction")]
    return list(shared) if shared[0].is_dir() else [PYTHON_DOCS]


def repeated_text(folders: Sequence[Path | str], folder: Path, num_bytes: float) -> Path:
    """Writes .txt files with `num_bytes` of the text, repeated as needed (0: all of it, once)."""
    if PYTHON_DOCS in folders:
        from dataset.sources.builtin_text import write_python_docs

        folders = [write_python_docs(folder.with_name("python-docs"))]
    files = [path for source in folders for path in sorted(Path(source).rglob("*.txt"))]
    left = num_bytes or sum(path.stat().st_size for path in files)
    folder.mkdir(parents=True)
    for number in count():
        content = files[number % len(files)].read_bytes()[: int(left)]
        (folder / f"{number:06d}.txt").write_bytes(content)
        left -= len(content)
        if left < 1:
            break
    return folder


def read_articles(folder: Path, num_bytes: float) -> Iterator[str]:
    """Yields articles, separated by blank lines, from about the first `num_bytes` of a folder."""
    for path in sorted(folder.glob("*.txt")):
        for article in path.read_text(encoding="utf-8", errors="ignore").split("\n\n"):
            yield article
            num_bytes -= len(article.encode()) + 2
            if num_bytes <= 0:
                return


def find_vocabulary(text: Path, folder: Path) -> Path:
    """Returns the shared vocab.txt of BERT, or trains one on a few MB of the text."""
    shared = SHARED / "vocab" / "bert-uncased-vocab.txt"
    if shared.exists():
        return shared
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer()
    tokenizer.train_from_iterator(read_articles(text, 5e6), vocab_size=8192, show_progress=False)
    tokenizer.save_model(str(folder))
    return folder / "vocab.txt"
