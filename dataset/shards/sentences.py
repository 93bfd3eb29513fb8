"""Articles to sentences."""

from collections.abc import Callable

from dataset.sources.blanks import is_blank

# The segmenter's time grows with the square of the text; this many characters are near its best.
CHUNK_CHARACTERS = 1024


def load_segmenter(language: str) -> Callable[[str], str]:
    """A function from a text to its sentences, one per line; every run of white space becomes a
    space, and a text of characters that show nothing an empty string.

    language: ISO 639 code; one that the segmenter does not know gets its rules for English.
    """
    import sentencex

    find_sentences = sentencex.segment

    def segment(text: str) -> str:
        text = "" if is_blank(text) else " ".join(text.split())
        if len(text) <= CHUNK_CHARACTERS:
            sentences = find_sentences(language, text)
        else:
            sentences = in_chunks(text, lambda chunk: find_sentences(language, chunk))
        # The space between two sentences belongs to the first.
        return "\n".join(sentences).replace(" \n", "\n")

    return segment


def in_chunks(text: str, find_sentences: Callable[[str], list[str]]) -> list[str]:
    """The last sentence of a chunk is found again in the next one, as it may go on there."""
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
