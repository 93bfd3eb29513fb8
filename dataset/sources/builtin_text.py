"""`builtin:python-docs`: English prose from the documentation shipped with Python.

The language reference (pydoc's topics), and the docstrings and longer comments of the standard
library, whose sources are parsed, not imported. Code, tables and markup are left out. The text
depends only on the Python version and the installed modules.
"""

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.store.atomic_files import write_text

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
MIN_WORDS = 6
MIN_PROSE_SHARE = 0.9  # of letters, spaces and ordinary punctuation in a paragraph
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

MARKUP = [
    (re.compile(r":[a-zA-Z:+-]+:`~?!?([^`<]+)(?:<[^`]*>)?`"), r"\1"),  # :func:`name`
    (re.compile(r"`+([^`]*)`+_{0,2}"), r"\1"),  # ``code``, `name`, `link`_
    (re.compile(r"(?<!\w)\*{1,2}(\w[^*\n]*)\*{1,2}(?!\w)"), r"\1"),  # *emphasis*
    (re.compile(r"\s\[\d+\]"), ""),  # footnote marks
    (re.compile(r"\s+"), " "),
]
NOT_PROSE = re.compile(r"^(\.\. |>>>|\.\.\. |[=~^*#+|-]{3}|:\w+)|::=|>>>| = |\|  |\w\(self|\t")


def write_python_docs(folder: Path) -> Path:
    """Writes the text into `folder` unless it exists, articles separated by blank lines."""
    path = folder / "python-docs.txt"
    if not path.exists():
        write_text(path, "\n\n".join(iter_python_docs()) + "\n")
    return folder


def iter_python_docs() -> Iterator[str]:
    """Yields articles: one paragraph per line, one article per topic and per module."""
    from pydoc_data.topics import topics

    for _, topic in sorted(topics.items()):
        yield from as_article(prose_paragraphs(topic))
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py"), key=lambda path: path.relative_to(library).parts):
        if not LEFT_OUT.intersection(path.relative_to(library).parts):
            yield from as_article(module_paragraphs(path.read_bytes()))


def as_article(paragraphs: Iterable[str]) -> list[str]:
    """Joins the paragraphs, without repetitions, to one article or none."""
    distinct = list(dict.fromkeys(paragraphs))
    return ["\n".join(distinct)] if distinct else []


def module_paragraphs(source: bytes) -> Iterator[str]:
    """Yields prose from a module's docstrings and comments; nothing on a syntax error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for docstring in iter_docstrings(tree):
        yield from prose_paragraphs(docstring)
    for comment in iter_comments(source.decode("utf-8", errors="ignore")):
        yield from prose_paragraphs(comment)


def iter_docstrings(node: ast.AST) -> Iterator[str]:
    """Yields all docstrings in a tree, in the order of the source."""
    if isinstance(node, DOCUMENTED):
        yield ast.get_docstring(node) or ""
    for block in ("body", "orelse", "handlers", "finalbody"):
        statements = getattr(node, block, ())
        for statement in statements if isinstance(statements, list) else ():
            yield from iter_docstrings(statement)


def iter_comments(source: str) -> Iterator[str]:
    """Yields blocks of whole-line comments without their marks."""
    for block in re.findall(r"(?:^[ \t]*#(?!!).*\n)+", source, flags=re.MULTILINE):
        yield "\n".join(re.sub(r"^[ \t]*#+ ?", "", line) for line in block.splitlines())


def prose_paragraphs(text: str) -> Iterator[str]:
    """Yields the paragraphs of sentences in a reStructuredText, each as one line."""
    for block in re.split(r"\n\s*\n", text):
        lines = block.splitlines()
        if not lines or lines[0].startswith("    ") or any(NOT_PROSE.search(x) for x in lines):
            continue
        paragraph = " ".join(line.strip() for line in lines)
        paragraph = re.sub(r"^(?:[*+-]|\d+[.)]|[A-Za-z]\))\s+", "", paragraph)
        for pattern, replacement in MARKUP:
            paragraph = pattern.sub(replacement, paragraph)
        if is_prose(paragraph.strip()):
            yield paragraph.strip()


def is_prose(paragraph: str) -> bool:
    ordinary = sum(char.isalpha() or char in " ,.'-" for char in paragraph)
    long_enough = len(paragraph.split()) >= MIN_WORDS
    ends_well = paragraph.endswith((".", "!", "?", ":", ")", '"'))
    return long_enough and ends_well and ordinary >= MIN_PROSE_SHARE * len(paragraph)
