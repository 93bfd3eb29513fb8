"""Command line: WikiExtractor's output, or a folder of books, to plain text.

    python process_data.py -f FOLDER -o data/wiki --type wiki
    python process_data.py -f FOLDER -o data/books --type bookcorpus

Writes files of articles with a blank line after each, for DATASET.CUSTOMIZED_DATASETS and
`shard_data.py --dataset custom`. In bookcorpus each .txt file is one article, as blank lines in a
book separate paragraphs.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

if __name__ == "__main__":  # imports start at the repository, not at this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipeline.environment import enter_environment

    enter_environment()

from dataset.command_line import claim, run_command
from dataset.sources.article_stream import counted
from dataset.sources.digests import FileDigests, digest_of_files
from dataset.sources.registry import customized_source
from dataset.sources.source_checks import problems_with_output
from dataset.sources.wiki_and_books import find_files, plan_articles, write_articles
from pipeline.console import Console
from pipeline.errors import ConfigError
from pipeline.runtime.executor import local_pool, num_cores, run_unordered


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("-f", "--input", type=Path, required=True, help="folder of WikiExtractor, or of books")
    add("-o", "--output_dir", type=Path, required=True, help="folder for the .txt files")
    add("--type", choices=("wiki", "bookcorpus"), required=True)
    add("--n_processes", type=int, default=0, help="0: one per core")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    run_command("process_data", parse_arguments(arguments), process)


def process(args: argparse.Namespace, console: Console) -> None:
    files = input_files(args.input, args.type, console)
    source = customized_source(str(args.input), "-f")
    if problems := problems_with_output([source], [args.output_dir]):
        raise ConfigError(problems)
    digests = FileDigests(args.output_dir / "digests.json")
    inputs = {"type": args.type, "input": digest_of_files(files, args.input, digests)}
    artifact = claim("process_data", args.output_dir, "-o", inputs, console)
    if artifact is not None:
        artifact.finish(write_all(files, args, console))


def input_files(folder: Path, kind: str, console: Console) -> list[Path]:
    """Lists the files of a kind. Raises ConfigError if there are none."""
    if not folder.exists():
        raise ConfigError([f"-f: {folder} does not exist"])
    files, num_others = find_files(folder, kind)
    expected = {
        "wiki": "files like AA/wiki_00 (of a dump: python -m wikiextractor.WikiExtractor DUMP)",
        "bookcorpus": ".txt files",
    }[kind]
    if not files:
        raise ConfigError([f"-f: {folder} holds no text for --type {kind}, expected {expected}"])
    if num_others:
        console.say(f"{num_others:,} other files are passed over")
    return files


def write_all(files: list[Path], args: argparse.Namespace, console: Console) -> dict[str, int]:
    """Writes all files, with progress. Returns and prints the counts."""
    jobs = plan_articles(files, args.type, args.output_dir)
    counts: Counter = Counter()
    workers = min(args.n_processes or num_cores(), len(jobs))
    total = sum(job.num_bytes for job in jobs) / 1e6
    with console.progress("reading", total, "MB") as progress, local_pool(workers) as pool:
        for job, (found, notes) in run_unordered(pool, write_articles, jobs):
            counts.update(found)
            progress.advance(job.num_bytes / 1e6)
            for note in notes:
                console.note(f"dropped: {note}")
    size, articles = counts.pop("bytes"), counts.pop("articles")
    dropped = [counted(count, name.replace("_", " ")) for name, count in sorted(counts.items())]
    console.say(
        f"{counted(articles, 'articles')}, {size / 1e6:,.1f} MB, in {counted(len(jobs), 'files')}"
    )
    console.say(f"dropped: {', '.join(dropped) or 'nothing'}")
    return {"articles": articles, "bytes": size, **counts}


if __name__ == "__main__":
    main()
