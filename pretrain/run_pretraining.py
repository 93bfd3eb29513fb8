"""The command line of pretraining.

deepspeed pretrain/run_pretraining.py --dataset_path data/my --output_dir out --max_steps 1000 ...

Runs on every rank that the launcher starts. Goes on from the newest checkpoint in output_dir and
leaves there checkpoints/, metrics.jsonl and model/, a Hugging Face folder.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> None:
    """Parses the flags, joins the ranks, trains and exports."""
    from pipeline.processes import exit_with_parent
    from pretrain.flags import parse_flags

    args = parse_flags(argv)
    exit_with_parent()
    from pretrain.distributed import rank, start_ranks

    device = start_ranks()
    log = _open_log(args) if rank() == 0 else _silent_log()
    try:
        run(args, device, log)
    finally:
        log.close()


def run(args: Namespace, device, log) -> None:
    """Pretrains with these flags on a device; `log` is rank 0's or a silent one."""
    from pretrain.data import PretrainDatasetProvider, list_shards, validation_batches
    from pretrain.distributed import rank, world_size
    from pretrain.loop import train

    dataset_path = Path(args.dataset_path)
    shards = list_shards(dataset_path, "train")
    vocabulary = _complete_args(args, shards, log)
    held_out = []
    if args.do_validation:
        held_out = validation_batches(
            list_shards(dataset_path, "test"),
            args.validation_samples,
            args.validation_micro_batch,
            rank(),
            world_size(),
        )
    engine, schedule = _build(args, device)
    provider = PretrainDatasetProvider(
        shards,
        args.seed,
        args.train_batch_size,
        args.train_micro_batch_size_per_gpu,
        rank(),
        world_size(),
    )
    with provider:
        train(args, 0, engine, engine.optimizer, schedule, provider, held_out, log)
    _export(args, engine, vocabulary)


def _complete_args(args: Namespace, shards, log):
    """Adds what the dataset decides to the flags, and fits the micro batch; says what it did."""
    from pretrain.data import sequence_length
    from pretrain.distributed import from_first_rank, rank, world_size
    from pretrain.engine import largest_micro_batch
    from pretrain.vocabulary import find_tokenizer, read_vocabulary

    output_dir, dataset_path = Path(args.output_dir), Path(args.dataset_path)
    if rank() == 0:
        directory = find_tokenizer(dataset_path, args.tokenizer_name, output_dir)
    vocabulary = read_vocabulary(from_first_rank(directory if rank() == 0 else None))
    args.vocab_size, args.max_seq_length = vocabulary.size, sequence_length(shards[0].path)
    asked = args.train_micro_batch_size_per_gpu
    fitted = largest_micro_batch(args.train_batch_size, asked, world_size())
    args.train_micro_batch_size_per_gpu = fitted
    if fitted != asked:
        log.say(
            f"micro batch {asked} -> {fitted}, so that {world_size()} rank(s) "
            f"make up the batch of {args.train_batch_size}"
        )
    if args.tokenizer_name and dataset_path in vocabulary.directory.parents:
        log.say(f"the dataset's own tokenizer is used: {vocabulary.directory}")
    return vocabulary


def _build(args: Namespace, device):
    """The engine around a freshly initialised model, and the learning rate schedule."""
    import torch

    from pretrain.distributed import world_size
    from pretrain.engine import build_engine
    from pretrain.lr_curves import CurveShape, LearningRateSchedule
    from pretrain.model import BasePretrainModel
    from pretrain.optimizers import build_optimizer

    torch.manual_seed(args.seed)
    model = BasePretrainModel(args).to(device)
    engine = build_engine(args, model, build_optimizer(model, args), world_size())
    shape = CurveShape(args.warmup_proportion, args.esd_r, args.esd_l)
    return engine, LearningRateSchedule(engine.optimizer, args.lr, args.curve, shape)


def _export(args: Namespace, engine, vocabulary) -> None:
    from pretrain.distributed import barrier, rank
    from pretrain.export import export_model

    if rank() == 0:
        export_model(
            engine.module.state_dict(),
            args,
            vocabulary.directory,
            vocabulary.special_ids,
            Path(args.output_dir) / "model",
        )
    barrier()


def _open_log(args: Namespace):
    from pretrain.loop import METRICS
    from pretrain.metrics import MetricsLog, start_wandb

    output_dir = Path(args.output_dir)
    wandb_run = start_wandb(
        args.wandb_mode, args.project_name, args.job_name, output_dir, vars(args)
    )
    return MetricsLog(output_dir / METRICS, wandb_run)


def _silent_log():
    from pretrain.metrics import SilentLog

    return SilentLog()


if __name__ == "__main__":
    if not __package__:  # started as a file: its folder stands first on the path, not the root
        sys.path[0] = str(Path(__file__).resolve().parents[1])
    main(sys.argv[1:])
