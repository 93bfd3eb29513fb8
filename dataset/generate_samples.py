"""Command line: text shards to masked samples.

    python generate_samples.py --dir tmp/shards -o data/mine --dup_factor 10 --seed 42 \\
        --do_lower_case 1 --masked_lm_prob 0.15 --max_seq_length 128 \\
        --tokenizer_name bert-large-uncased --model_name bert-large-uncased \\
        --max_predictions_per_seq 20 --n_processes 8
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--dir", type=Path, required=True, help="folder with train_*.txt and test_*.txt")
    add("-o", "--output_dir", type=Path, required=True, help="folder for the samples")
    add("--dup_factor", type=int, default=10, help="differently masked copies")
    add("--seed", type=int, default=42)
    add("--do_lower_case", type=int, choices=(0, 1), default=1)
    add("--masked_lm_prob", type=float, default=0.15)
    add("--max_seq_length", type=int, default=128)
    add("--max_predictions_per_seq", type=int, default=20)
    add("--short_seq_prob", type=float, default=0.1)
    add("--tokenizer_name", default="bert-large-uncased", help="Hub name, folder or vocab.txt")
    add("--model_name", default="", help="used for the tokenizer if --tokenizer_name is empty")
    add("--max_memory", type=float, default=16.0, help="GB, over all processes")
    add("--n_processes", type=int, default=0, help="0: one per core")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    from dataset.command_line import claim, list_text_shards, run_command
    from dataset.digests import FileDigests, digest_of_files
    from dataset.generation import SampleSettings
    from dataset.stage import describe, make_samples
    from dataset.tokenizer import build_tokenizer, problem_with_tokenizer, tokenizer_files
    from dataset.workers import plan_workers, worker_pool
    from pipeline.errors import ConfigError

    args = parse_arguments(arguments)
    name, lower = args.tokenizer_name or args.model_name, bool(args.do_lower_case)
    settings = SampleSettings(
        args.max_seq_length,
        args.masked_lm_prob,
        args.max_predictions_per_seq,
        args.short_seq_prob,
        args.dup_factor,
        args.seed,
    )

    def run(console) -> None:
        shards = list_text_shards(args.dir)
        if problem := problem_with_tokenizer(name, lower):
            raise ConfigError([problem])
        digests = FileDigests(args.output_dir / "digests.json")
        files = tokenizer_files(name)
        inputs = {
            **vars(settings),
            "do_lower_case": lower,
            "text": digest_of_files(shards, args.dir, digests),
            "tokenizer": digest_of_files(files, Path(name), digests) if files else name,
        }
        artifact = claim("generate_samples", args.output_dir, "-o", inputs, console)
        if artifact is None:
            return
        if not (args.output_dir / "tokenizer").exists():
            build_tokenizer(name, lower, args.output_dir / "tokenizer")
        workers = plan_workers(args.n_processes, args.max_memory, console.say)
        with worker_pool(workers) as executor:
            results = make_samples(
                shards, args.output_dir, settings, artifact.fingerprint, executor, console
            )
        artifact.finish(describe({"counts": {}}, results, args.output_dir, console))

    run_command("generate_samples", args, run)


if __name__ == "__main__":
    main()
