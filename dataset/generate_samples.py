"""Command line: text shards to masked samples.

    python generate_samples.py --dir tmp/shards -o data/mine --dup_factor 10 --seed 42 \\
        --do_lower_case 1 --masked_lm_prob 0.15 --max_seq_length 128 \\
        --tokenizer_name bert-large-uncased --model_name bert-large-uncased \\
        --max_predictions_per_seq 20 --n_processes 8
"""

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports start at the repository, not at this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipeline.environment import enter_environment

    enter_environment()

from dataset.command_line import claim, list_text_shards, run_command
from dataset.plan import files_of_samples
from dataset.samples.generation import SampleSettings
from dataset.samples.hdf5_files import MASKING_FILE
from dataset.shards.file_records import read_record, write_record
from dataset.sources.digests import FileDigests, digest_of_files
from dataset.stage import describe, look_at_tokenizer, make_samples
from dataset.tokenizers.build import build_and_forget, problem_with_tokenizer
from dataset.tokenizers.tokenizer_files import tokenizer_files
from dataset.workers import SampleFiles, open_executor, plan_work
from pipeline.console import Console
from pipeline.errors import ConfigError


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--dir", type=Path, required=True, help="folder with train_*.txt and test_*.txt")
    add("-o", "--output_dir", type=Path, required=True, help="folder for the samples")
    add("--dup_factor", type=int, default=10, help="differently masked copies")
    add("--seed", type=int, default=42)
    add("--do_lower_case", type=int, choices=(0, 1), default=1)
    add("--accents", choices=("auto", "strip", "keep"), default="auto", help="of a vocab.txt")
    add("--masked_lm_prob", type=float, default=0.15)
    add("--max_seq_length", type=int, default=128)
    add("--max_predictions_per_seq", type=int, default=20)
    add("--short_seq_prob", type=float, default=0.1)
    add("--masking", choices=("static", "dynamic"), default="static")
    add("--mask_token_share", type=float, default=0.8, help="of the chosen tokens")
    add("--random_token_share", type=float, default=0.1, help="of the chosen tokens")
    add("--whole_word_masking", type=int, choices=(0, 1), default=0)
    add("--packing", type=int, choices=(0, 1), default=0, help="several documents in a row")
    add("--next_sentence_prediction", type=int, choices=(0, 1), default=0)
    add("--tokenizer_name", default="bert-large-uncased", help="Hub name, folder or vocab.txt")
    add("--model_name", default="", help="used for the tokenizer if --tokenizer_name is empty")
    add("--max_memory", type=float, default=16.0, help="GB, over all processes")
    add("--n_processes", type=int, default=0, help="0: one per core")
    add("--dask_scheduler", default="", help="e.g. tcp://server:8786, instead of local processes")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    run_command("generate_samples", parse_arguments(arguments), generate)


def generate(args: argparse.Namespace, console: Console) -> None:
    settings = SampleSettings(
        **{key: getattr(args, key) for key in SampleSettings.__dataclass_fields__}
    )
    shards = list_text_shards(args.dir.absolute())
    name = args.tokenizer_name or args.model_name
    if problem := problem_with_tokenizer(name, bool(args.do_lower_case), args.accents):
        raise ConfigError([problem])
    copies = settings.dup_factor if settings.masking == "static" else 1
    files_to_make = SampleFiles(len(shards) * copies, copies)
    plan_work(args.n_processes, args.max_memory, files_to_make)  # raises if it is too little
    inputs = {**vars(settings), **inputs_of(args, name, shards)}
    artifact = claim(
        *("generate_samples", args.output_dir, "-o", inputs, console),
        scratch=("tokenizer", "records", MASKING_FILE),
        files_in=files_of_samples,
    )
    if artifact is None:
        return
    output_dir = args.output_dir.absolute()  # the workers of a cluster have other folders
    if not read_record(output_dir / "tokenizer", artifact.fingerprint):
        lower = bool(args.do_lower_case)
        build_and_forget(name, lower, output_dir / "tokenizer", args.accents)
        write_record(output_dir / "tokenizer", artifact.fingerprint)
    found = look_at_tokenizer(shards, output_dir / "tokenizer", "", console)
    with open_executor(
        args.dask_scheduler, output_dir, args.n_processes, args.max_memory, files_to_make
    ) as workers:
        results = make_samples(shards, output_dir, settings, artifact.fingerprint, workers, console)
    text: dict[str, dict] = {"shards": {}, "counts": {}}
    results, lines = describe([str(args.dir)], text, results | found, inputs, output_dir)
    artifact.finish(results)
    for line in lines:
        console.say(line)


def inputs_of(args: argparse.Namespace, tokenizer: str, shards: list[Path]) -> dict[str, Any]:
    """Returns the inputs besides the settings: tokenizer and text."""
    digests, files = FileDigests(args.output_dir / "digests.json"), tokenizer_files(tokenizer)
    return {
        "do_lower_case": bool(args.do_lower_case),
        "accents": args.accents,
        "text": digest_of_files(shards, args.dir.absolute(), digests),
        "tokenizer": digest_of_files(files, Path(tokenizer), digests) if files else tokenizer,
    }


if __name__ == "__main__":
    main()
