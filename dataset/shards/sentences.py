"""Splits articles into sentences."""

from collections.abc import Callable

from dataset.sources.blanks import is_blank

# The segmenter takes quadratic time; this many characters are close to its best speed.
CHUNK_CHARACTERS = 1024


def load_segmenter(language: str) -> Callable[[str], str]:
    """Returns a function from a text to its sentences, one per line.

    It turns runs of white space into a space and blank text into an empty string.
    language: ISO 639 code; an unknown one gets the segmenter's rules for English.
    """
    import sentencex

    find_sentences = sentencex.segment

    def segment(text: str) -> str:
        text = "" if is_blank(text) else " ".join(text.split())
        if len(text) <= CHUNK_CHARACTERS:
            sentences = find_sentences(language, text)
        else:
            sentences = _in_chunks(text, lambda chunk: find_sentences(language, chunk))
        # The space between two sentences belongs to the first.
        return "\n".join(sentences).replace(" \n", "\n")

    return segment


def _in_chunks(text: str, find_sentences: Callable[[str], list[str]]) -> list[str]:
    """Splits a long text in chunks; each begins with the last sentence of the previous one."""
    sentences: list[str] = []
    start, size = 0, CHUNK_CHARACTERS
    while start < len(text):
        found = find_sentences(text[start : start + size])
        if start + size < len(text):
            found = found[:-1]
        sentences += found
        start += sum(map(len, found))
        size = CHUNK_CHARACTERS if found else 2 * size
    return sentences
