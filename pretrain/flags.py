"""The flags of run_pretraining.py: those of the ExtremeBERT manual, and ours."""

import argparse
from collections.abc import Sequence

from pretrain.lr_curves import CURVES

# Names spelled out here so that --help and the planning need not import torch; a test compares
# them with the tables that they stand for.
OPTIMIZERS = ("adamw", "adam", "sgd", "sgd-momentum")
ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu")
NO_LIMIT = 10**9  # steps


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_pretraining.py",
        description="Pretrains a BERT; start it with the deepspeed launcher.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_paths(parser.add_argument_group("paths and names"))
    _add_model(parser.add_argument_group("model"))
    _add_optimization(parser.add_argument_group("optimization"))
    _add_schedule(parser.add_argument_group("learning rate and budget"))
    _add_checkpoints(parser.add_argument_group("checkpoints and logs"))
    _add_validation(parser.add_argument_group("validation and early stopping"))
    _add_engine(parser.add_argument_group("engine"))
    return parser


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The flags as a namespace. Exits with code 2 and a message if they contradict each other."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.lr_schedule == "step" and args.max_steps == NO_LIMIT:
        parser.error("--lr_schedule step needs --max_steps")
    if args.lr_schedule == "time" and args.total_training_time <= 0:
        parser.error("--lr_schedule time needs --total_training_time, in hours")
    if args.fp16 and args.bf16:
        parser.error("--fp16 and --bf16 exclude each other")
    if args.print_steps < 1:
        parser.error(f"--print_steps: expected at least 1, got {args.print_steps}")
    return args


def _add_paths(group) -> None:
    group.add_argument("--dataset_path", required=True, help="folder of train_*.hdf5, test_*.hdf5")
    group.add_argument("--output_dir", required=True, help="checkpoints, metrics.jsonl and model")
    group.add_argument(
        "--tokenizer_name",
        default="",
        help="tokenizer, by name or folder, of a dataset whose folder holds none",
    )
    group.add_argument("--job_name", default="pretraining_experiment", help="name of the W&B run")
    group.add_argument("--project_name", default="budget-bert-pretraining", help="W&B project")
    group.add_argument(
        "--wandb_mode", default="disabled", choices=("disabled", "offline", "online")
    )


def _add_model(group) -> None:
    group.add_argument("--model_type", default="bert-mlm", choices=("bert-mlm",))
    group.add_argument("--encoder_ln_mode", default="pre-ln", choices=("pre-ln", "post-ln"))
    group.add_argument("--hidden_act", default="gelu", choices=ACTIVATIONS)
    group.add_argument("--hidden_size", type=int, default=1024)
    group.add_argument("--num_hidden_layers", type=int, default=24)
    group.add_argument("--num_attention_heads", type=int, default=16)
    group.add_argument("--intermediate_size", type=int, default=4096)
    group.add_argument("--hidden_dropout_prob", type=float, default=0.1)
    group.add_argument("--attention_probs_dropout_prob", type=float, default=0.1)
    group.add_argument("--initializer_range", type=float, default=0.02)
    group.add_argument("--layer_norm_eps", type=float, default=1e-12)


def _add_optimization(group) -> None:
    group.add_argument("--train_batch_size", type=int, default=4096, help="samples per step")
    group.add_argument(
        "--train_micro_batch_size_per_gpu", type=int, default=32, help="most samples at once"
    )
    group.add_argument("--optimizer_type", default="adamw", choices=OPTIMIZERS)
    group.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    group.add_argument("--weight_decay", type=float, default=0.01)
    group.add_argument("--adam_beta1", type=float, default=0.9)
    group.add_argument("--adam_beta2", type=float, default=0.98)
    group.add_argument("--adam_eps", type=float, default=1e-6)
    group.add_argument("--momentum", type=float, default=0.9, help="of sgd-momentum")
    group.add_argument("--gradient_clipping", type=float, default=0.0, help="largest norm; 0: none")
    group.add_argument("--seed", type=int, default=42)


def _add_schedule(group) -> None:
    group.add_argument(
        "--lr_schedule",
        default="step",
        choices=("step", "time"),
        help="what the learning rate follows and the budget counts",
    )
    group.add_argument("--curve", default="elastic_step_decay", choices=tuple(CURVES))
    group.add_argument("--warmup_proportion", type=float, default=0.06, help="share of the run")
    group.add_argument("--esd_r", type=float, default=2**-0.5, help="r of equation (1)")
    group.add_argument("--esd_l", type=int, default=6, help="l of equation (1)")
    group.add_argument("--max_steps", type=int, default=NO_LIMIT, help="optimizer steps")
    group.add_argument("--total_training_time", type=float, default=0.0, help="hours, for time")
    group.add_argument(
        "--early_exit_time_marker", type=float, default=0.0, help="stop after these hours; 0: never"
    )


def _add_checkpoints(group) -> None:
    group.add_argument("--checkpoint_steps", type=int, default=0, help="steps between; 0: none")
    group.add_argument(
        "--num_epochs_between_checkpoints",
        type=int,
        default=0,
        help="passes over the data; 0: none",
    )
    group.add_argument(
        "--keep_checkpoints", type=int, default=2, help="the last ones that are kept"
    )
    group.add_argument("--print_steps", type=int, default=100, help="steps between metrics")


def _add_validation(group) -> None:
    group.add_argument("--do_validation", action="store_true", help="also once at the end")
    group.add_argument(
        "--validation_steps", type=int, default=0, help="steps between; 0: the numbers below decide"
    )
    group.add_argument("--validation_samples", type=int, default=10240, help="held out; 0: all")
    group.add_argument("--validation_micro_batch", type=int, default=16)
    for phase, flag in (("begin", "_begin"), ("middle", ""), ("end", "_end")):
        group.add_argument(
            f"--validation_epochs{flag}",
            type=int,
            default=3 if phase == "middle" else 1,
            help=f"validations in the {phase} of the run, evenly spread",
        )
    group.add_argument("--validation_begin_proportion", type=float, default=0.05)
    group.add_argument("--validation_end_proportion", type=float, default=0.01)
    group.add_argument("--use_early_stopping", action="store_true")
    group.add_argument(
        "--early_stop_time", type=float, default=180.0, help="minutes after which to stop if ..."
    )
    group.add_argument(
        "--early_stop_eval_loss", type=float, default=6.0, help="... the validation loss is above"
    )


def _add_engine(group) -> None:
    group.add_argument("--fp16", action="store_true", help="with dynamic loss scale")
    group.add_argument("--bf16", action="store_true")
    group.add_argument(
        "--scale_cnt_limit",
        type=int,
        default=100,
        help="stop after this many steps with the fp16 loss scale at 1; 0: never",
    )
    group.add_argument(
        "--deepspeed", action="store_true", help="the one engine there is: always on"
    )
    group.add_argument(
        "--data_loader_type",
        default="dist",
        choices=("dist",),
        help="all ranks share out each batch",
    )
    group.add_argument("--local_rank", type=int, default=0, help="set by the launcher")
