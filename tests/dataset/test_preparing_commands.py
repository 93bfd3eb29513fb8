"""process_data and merge_shards: articles and books as text, shards as fewer shards."""

import gzip
import json
from pathlib import Path

import pytest

from dataset.merge_shards import concatenate, plan_merge
from dataset.sources.article_stream import Tally
from dataset.sources.blanks import is_blank
from dataset.sources.registry import open_file
from dataset.sources.wiki_and_books import plan_articles, write_articles
from pipeline.errors import StageError

DOCUMENT = '<doc id="{0}" url="?curid={0}" title="{1}">\n{1}\n\n{2}\n</doc>\n'


def wiki_folder(folder):
    for name, numbers in {"AA/wiki_00": range(3), "AB/wiki_00": range(3, 5)}.items():
        path = folder / name
        path.parent.mkdir(parents=True)
        documents = [DOCUMENT.format(n, f"Title {n}", f"R&amp;D {n}.\n\nMore.") for n in numbers]
        path.write_text("".join(documents) + DOCUMENT.format(9, "Empty", ""), encoding="utf-8")
    (folder / "readme.md").write_text("no text")
    return folder


def articles_of(path):
    """As the dataset stage reads them."""
    found, text = [], ""
    for piece in open_file(path, path.name, "text", 1 << 30):
        for _, part, ends in piece.pieces(1 << 20, Tally()):
            text += part
            if ends:
                found.append(text.split())
                text = ""
    return found


def test_wiki(command, tmp_path):
    wiki, output = wiki_folder(tmp_path / "extracted"), tmp_path / "out"
    arguments = ["-f", wiki, "-o", output, "--type", "wiki", "--n_processes", 1]
    done = command("process_data", *arguments)
    assert done.returncode == 0, done.stderr
    assert "5 articles" in done.stdout and "dropped: 2 empty articles" in done.stdout
    assert "1 other files are passed over" in done.stdout
    expected = "".join(f"R&D {n}.\nMore.\n\n" for n in range(5))
    assert (output / "wiki_00000.txt").read_text() == "\n" + expected
    assert json.loads((output / "manifest.json").read_text())["results"]["articles"] == 5
    assert "up to date" in command("process_data", *arguments).stdout


def test_a_book_is_one_article(command, tmp_path):
    """Also one that is larger than a piece, whose paragraphs are long, or that is compressed."""
    books = tmp_path / "books"
    (books / "more").mkdir(parents=True)
    paragraph = "A long paragraph of a novel, " * 60
    (books / "a.txt").write_text(f"\n\n{paragraph}\n\n\n".join("12") * 400, encoding="utf-8")
    (books / "b.txt").write_bytes(b"\xef\xbb\xbfOne.\r\n\r\nTwo caf\xe9.\r\n")
    (books / "more/c.txt.gz").write_bytes(gzip.compress(b"Three.\n\nFour.\n"))
    (books / "empty.txt").write_text(" \n\n")
    done = command("process_data", "-f", books, "-o", tmp_path / "out", "--type=bookcorpus")
    assert done.returncode == 0, done.stderr
    assert "3 articles" in done.stdout
    assert "1 empty article, 1 undecodable character\n" in done.stdout
    articles = articles_of(tmp_path / "out/bookcorpus_00000.txt")
    assert articles[0] == (books / "a.txt").read_text().split()
    assert articles[1:] == [["One.", "Two", "caf."], ["Three.", "Four."]]


@pytest.mark.parametrize("blank", ["\u200b", "\u3000", "\ufeff", "\xa0\u2028"])
def test_blank_lines_of_any_kind_are_left_out_of_a_book(tmp_path, blank):
    """They would part its paragraphs when the file is read again."""
    (tmp_path / "a.txt").write_text(f"One.\n{blank}\nTwo{blank}more.\n{blank}{blank}\n\nThree.\n")
    [job] = plan_articles([tmp_path / "a.txt"], "bookcorpus", tmp_path)
    write_articles(job)
    lines = job.path.read_text().splitlines()
    assert [lines[1], lines[-2], lines[-1]] == ["One.", "Three.", ""]
    assert not any(is_blank(line) for line in lines[1:-1])


def test_a_book_in_utf16_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("A book.", encoding="utf-16")
    [job] = plan_articles([tmp_path / "a.txt"], "bookcorpus", tmp_path / "out")
    with pytest.raises(StageError, match=r"a\.txt: the text is UTF-16, expected UTF-8"):
        write_articles(job)
    assert not job.path.exists()


def test_links_to_nothing_are_passed_over(command, tmp_path):
    (tmp_path / "books").mkdir()
    (tmp_path / "books/a.txt").write_text("A book.\n\nMore.\n")
    (tmp_path / "books/b.txt").symlink_to(tmp_path / "gone.txt")
    done = command("process_data", "-f", tmp_path / "books", "-o", tmp_path / "out",
               "--type=bookcorpus")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 other files are passed over" in done.stdout and "1 article, " in done.stdout
    done = command("process_data", "-f", tmp_path, "-o", tmp_path / "out",
               "--type=bookcorpus")  # fmt: skip
    assert done.returncode == 2 and "-f: " in done.stderr and "overlap" in done.stderr
    done = command("merge_shards", "--data", tmp_path / "books", "--output_dir",
               tmp_path / "merged")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 that are no files are passed over" in done.stdout
    assert "1 shard merged into 1" in done.stdout


def test_many_files_become_few_and_the_same_with_any_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset.sources.wiki_and_books.OUTPUT_BYTES", 100)
    files = []
    for number in range(9):
        files.append(tmp_path / f"{number}.txt")
        files[-1].write_text(f"Book {number}.\n\n{'x' * 40}\n")
    jobs = plan_articles(files, "bookcorpus", tmp_path / "out")
    assert [len(job.files) for job in jobs] == [2, 2, 2, 2, 1]
    counts = [write_articles(job)[0] for job in jobs]
    assert sum(count["articles"] for count in counts) == 9
    books = [article for job in jobs for article in articles_of(job.path)]
    assert [book[1] for book in books] == [f"{number}." for number in range(9)]


def test_nothing_to_process_is_an_error(command, tmp_path):
    (tmp_path / "dump.xml").write_text("<mediawiki>")
    common = ["-o", tmp_path / "out", "--type", "wiki"]
    done = command("process_data", "-f", tmp_path, *common)
    assert done.returncode == 2 and "python -m wikiextractor.WikiExtractor" in done.stderr
    done = command("process_data", "-f", tmp_path / "gone", *common)
    assert done.returncode == 2 and "does not exist" in done.stderr
    assert not (tmp_path / "out").exists()


def test_real_extraction(shared_data, tmp_path):
    folder = shared_data / "corpora/wikiextractor_format"
    files = sorted(path for path in folder.rglob("wiki_*"))
    num_documents = sum(path.read_text().count("<doc ") for path in files)
    [job] = plan_articles(files, "wiki", tmp_path)
    counts, _ = write_articles(job)
    assert counts["articles"] + counts["empty_articles"] == num_documents
    assert len(articles_of(job.path)) == counts["articles"]


def test_merge(command, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    for kind, number in (("train", 5), ("test", 2)):
        for i in range(number):
            (shards / f"{kind}_{i:05d}.txt").write_text(f"{kind} {i}.\n" + "\n" * (i % 2))
    output = tmp_path / "out"
    done = command("merge_shards", "--data", shards, "--output_dir", output, "--ratio", 2)
    assert done.returncode == 0, done.stderr
    assert "7 shards merged into 4" in done.stdout
    assert {path.name: path.read_text() for path in output.glob("*.txt")} == {
        "train_00000.txt": "train 0.\n\ntrain 1.\n\n",
        "train_00001.txt": "train 2.\n\ntrain 3.\n\n",
        "train_00002.txt": "train 4.\n\n",
        "test_00000.txt": "test 0.\n\ntest 1.\n\n",
    }
    done = command("merge_shards", "--data", shards, "--output_dir", output, "--ratio", 3)
    assert done.returncode == 2 and "was made with other settings" in done.stderr
    only = ["--data", shards, "--output_dir", tmp_path / "only", "--ratio", 9, "--grep", "test"]
    assert "2 shards merged into 1" in command("merge_shards", *only).stdout
    done = command(
        "merge_shards", "--data", shards, "--output_dir", tmp_path / "none", "--grep", "x"
    )
    assert done.returncode == 2 and "has no .txt file with x in its name" in done.stderr
    done = command("merge_shards", "--data", shards, "--output_dir", shards)
    assert done.returncode == 2 and "--output_dir: is the folder of --data" in done.stderr
    done = command(
        "merge_shards", "--data", shards, "--output_dir", tmp_path / "none", "--ratio", 0
    )
    assert done.returncode == 2 and "--ratio" in done.stderr


def test_order_and_kinds_of_merged_shards():
    names = ["shard_10.txt", "shard_9.txt", "wiki_shard_0.txt", "notes.txt"]
    merged = plan_merge([Path(name) for name in names], 2)
    found = {name: [path.name for path in paths] for name, paths in merged.items()}
    assert found == {
        "shard_00000.txt": ["notes.txt", "shard_9.txt"],
        "shard_00001.txt": ["shard_10.txt"],
        "wiki_shard_00000.txt": ["wiki_shard_0.txt"],
    }


@pytest.mark.parametrize("end", ["", "a", "a\n", "a\n\n", "\n", "b\na"])
def test_articles_of_two_shards_are_not_glued(tmp_path, end):
    (tmp_path / "1").write_text(end)
    (tmp_path / "2").write_text("next\n\n")
    merged = tmp_path / "merged.txt"
    concatenate([tmp_path / "1", tmp_path / "2"], merged)
    assert merged.read_text().startswith(end)
    assert articles_of(merged) == [*([end.split()] if end.strip() else []), ["next"]]
