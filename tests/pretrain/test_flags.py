"""Flags and keys: one for each other, with the same defaults and the same checks."""

import pytest

from configs.defaults import ACTIVATIONS, CURVES, OPTIMIZERS, get_default_config
from configs.keys import flatten
from pretrain.flags import build_parser, flag_keys, parse_flags
from pretrain.model.encoder import ACTIVATIONS as MODEL_ACTIVATIONS
from pretrain.optimization import lr_curves, optimizers

PATHS = ["--dataset_path=d", "--output_dir=o"]
MANUAL = """--dataset_path d --output_dir o --model_type bert-mlm
    --tokenizer_name bert-large-uncased --hidden_act gelu --hidden_size 1024
    --num_hidden_layers 24 --num_attention_heads 16 --intermediate_size 4096
    --hidden_dropout_prob 0.1 --attention_probs_dropout_prob 0.1 --encoder_ln_mode pre-ln
    --lr 1e-3 --train_batch_size 4096 --train_micro_batch_size_per_gpu 32 --lr_schedule time
    --curve linear --warmup_proportion 0.06 --gradient_clipping 0.0 --optimizer_type adamw
    --weight_decay 0.01 --adam_beta1 0.9 --adam_beta2 0.98 --adam_eps 1e-6
    --total_training_time 24.0 --early_exit_time_marker 24.0 --print_steps 100
    --num_epochs_between_checkpoints 10000 --job_name pretraining_experiment
    --project_name budget-bert-pretraining --validation_epochs 3 --validation_epochs_begin 1
    --validation_epochs_end 1 --validation_begin_proportion 0.05
    --validation_end_proportion 0.01 --validation_micro_batch 16 --deepspeed
    --data_loader_type dist --do_validation --use_early_stopping --early_stop_time 180
    --early_stop_eval_loss 6 --seed 42 --fp16"""


def test_the_manuals_command_line():
    args = parse_flags(MANUAL.split())
    assert args.precision == "fp16" and args.total_training_time == 24.0 and args.curve == "linear"
    assert args.validation_steps == 0 and args.use_early_stopping and args.early_stop_time == 180


def test_every_key_of_model_and_pretrain_has_a_flag_of_its_own():
    keys = [key for key in flatten(get_default_config()) if key.startswith(("MODEL.", "PRETRAIN."))]
    without = {"PRETRAIN.ENABLED", "PRETRAIN.ID", "PRETRAIN.PHASES"}
    assert set(keys) - set(flag_keys().values()) == without
    assert len(set(flag_keys().values())) == len(flag_keys())


def test_without_flags_the_defaults_are_those_of_the_yaml():
    args, defaults = vars(parse_flags(PATHS)), flatten(get_default_config())
    assert {flag: args[flag] for flag in flag_keys()} == {
        flag: defaults[key] for flag, key in flag_keys().items()
    }


def test_the_names_that_are_spelled_out_are_those_of_the_tables():
    assert set(CURVES) == set(lr_curves.CURVES)
    assert set(OPTIMIZERS) == set(optimizers.OPTIMIZERS)
    assert set(ACTIVATIONS) == set(MODEL_ACTIVATIONS)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--lr_schedule=time", "--total_training_time=0"], "--total_training_time: "),
        (["--lr_schedule=tokens"], "--max_tokens: "),
        (["--fp16", "--bf16"], "exclude each other"),
        (["--curve=exp", "--lr=0"], "--lr: got 0.0, expected more than 0; --curve: got 'exp'"),
        (["--curve=exponential"], "--lr_end_ratio: exponential never reaches 0"),
        (["--optimizer_type=muon", "--zero_stage=1"], "--zero_stage: muon needs whole matrices"),
        (
            ["--allow_tf32"],
            "--allow_tf32: applies to fp32 alone, got True with --precision auto",
        ),
        (["--hidden_size=30", "--num_attention_heads=4"], "--hidden_size: not divisible"),
        (["--batch_size_ramp_start=7", "--batch_size_ramp_steps=2"], "expected a divisor"),
        (["--finetune_time_markers=1,0"], "--finetune_time_markers: "),
        (["--print_steps=0"], "--print_steps: got 0"),
    ],
)
def test_flags_that_cannot_work_are_named(flags, said, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_flags([*PATHS, *flags])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_the_paths_are_needed_except_for_a_plot(capsys):
    with pytest.raises(SystemExit):
        parse_flags(["--output_dir=o"])
    assert "--dataset_path is needed" in capsys.readouterr().err
    assert parse_flags(["--plot_lr=x.png"]).plot_lr == "x.png"


def test_help_explains_every_key():
    text = build_parser().format_help()
    assert all(key in text for key in flag_keys().values())


def test_windows_larger_than_the_default_rows_are_for_longer_rows():
    """The flags do not know how long the rows of the data are."""
    assert parse_flags([*PATHS, "--attention_window=512"]).attention_window == 512
