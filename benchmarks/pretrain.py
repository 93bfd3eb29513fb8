"""Speed of pretraining on the CPU, against transformers, the processor, and a bare loop.

    python -m benchmarks.pretrain                                  all that fits into memory
    python -m benchmarks.pretrain --sizes 12x768 --skip gated,modernbert,loop
    python -m benchmarks.pretrain --precision fp32                 both sides multiply alike

Our models compute as a real run with that PRECISION does: with auto they multiply in bf16, from
fp32 weights, where the processor is built for it, else in fp32. transformers' models are trained
as transformers has them, in fp32. The table says who multiplies in what.

Everything is measured in one run on one machine, in turns: every contestant takes a step, then
every contestant the next one. Speeds are those of the fastest step, as anything else that runs on
the machine only ever makes steps slower; ratios of steps taken in the same turn are shown beside
them. The limit is the speed of matrix products, measured in the same turns.

Shares count what our model has to compute to learn from these sequences, so that what others
compute for tokens that nobody predicts counts as lost. They are shares of the speed at which
torch.matmul multiplies large squares, at which our layers do (the processor's limit, as far as
torch can reach it), and at which our layers alone, one after the other, compute products of this
model's shapes (the rest of a step is everything else that there is to do). All three multiply in
what our model does; the shares of transformers' models are of the same speeds.

The bare loop takes steps of the same model in the same precision, on batches that lie ready.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from benchmarks.stage_runs import PROJECT, find_vocabulary, repeated_text, text_folders
from pretrain.kernels.cpu_settings import spin_briefly

SIZES = "4x256,12x768,24x1024"
TEXT_MEGABYTES = 3


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sizes", default=SIZES, help="layers x hidden size, separated by commas")
    add("--batch", type=int, default=16, help="sequences of 128 tokens per step")
    add("--rounds", type=int, default=5, help="steps of each contestant that count")
    add(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of our models and of the loop, as in a real run (default: auto)",
    )
    add("--dropout", default="0.1,0", help="of hidden states and attention; one table for each")
    add("--skip", default="", help="of bert, gated, modernbert, loop; separated by commas")
    add("--dataset", type=Path, help="samples of 128 tokens; default: made of real text")
    add("--work_dir", type=Path, help="where everything is written; default: a temporary folder")
    add("--json", type=Path, help="file for all numbers")
    return parser.parse_args()


def make_dataset(work_dir: Path) -> Path:
    """Samples of 128 tokens, masked anew in each epoch, of the text that is at hand."""
    text = repeated_text(text_folders(""), work_dir / "text", TEXT_MEGABYTES * 1e6)
    config = {
        "TOKENIZER": {"NAME_OR_PATH": str(find_vocabulary(text, work_dir))},
        "DATASET": {"ID": "benchmark", "CUSTOMIZED_DATASETS": [str(text)], "MASKING": "dynamic"},
    }
    path = work_dir / "config.yaml"
    path.write_text(json.dumps(config))
    command = [sys.executable, str(PROJECT / "main.py"), "--config", str(path)]
    command += ["--stages", "dataset", "--output-root", str(work_dir)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return work_dir / "data" / "benchmark"


def main() -> None:
    args = parse_arguments()
    # As in a real run without GPU. They are read when torch is imported, hence the import below.
    spin_briefly()
    os.environ["DS_ACCELERATOR"] = "cpu"
    from benchmarks.training_speed import measure

    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=args.work_dir) as folder:
        results = measure(args, args.dataset or make_dataset(Path(folder)), Path(folder))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
