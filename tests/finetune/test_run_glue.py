"""The command line: all flags of the manual, every way to start it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from finetune import run_glue
from finetune.data.demo_glue import write_demo_glue
from finetune.training import finished_model

PROJECT = Path(run_glue.__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("one_thread")


def manual_command(model: str, glue: Path, output: Path) -> list[str]:
    return f"""--model_name_or_path {model} --task_name MRPC --max_seq_length 128
        --output_dir {output} --overwrite_output_dir --do_train --do_eval
        --evaluation_strategy steps --per_device_train_batch_size 32
        --gradient_accumulation_steps 2 --per_device_eval_batch_size 32 --learning_rate 5e-5
        --weight_decay 0.01 --eval_steps 3 --evaluation_strategy steps --max_grad_norm 1.0
        --num_train_epochs 1 --lr_scheduler_type polynomial --warmup_steps 2
        --glue_dir {glue}""".split()


@pytest.mark.slow
def test_the_manuals_command(tiny_model, tmp_path, capsys):
    write_demo_glue(tmp_path / "glue")
    command = manual_command(tiny_model, tmp_path / "glue", tmp_path / "out")
    assert run_glue.main(command) == 0
    printed = capsys.readouterr().out
    assert "step 3: eval_dev_loss" in printed and "step 6: eval_dev_loss" in printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert f"MRPC dev: accuracy {results['dev']['dev']['accuracy']:.4f}" in printed
    assert [line["step"] for line in results["evaluations"]] == [3, 6]
    assert results["num_steps"] == 7  # 400 rows in batches of 2 x 32
    assert max(line["learning_rate"] for line in results["history"]) == pytest.approx(5e-5)
    assert (tmp_path / "out" / "model" / "tokenizer.json").exists()
    assert "MRPC: at most 65 tokens per sample; truncated: none; unknown: 0.0 %" in printed
    assert (results["max_seq_length"], results["max_seq_length_asked"]) == (65, 128)
    assert results["tokenization"]["train"]["num_samples"] == 400

    again = [*command, "--do_predict"]
    again[again.index("--model_name_or_path") + 1] = str(tmp_path / "out" / "model")
    again.remove("--do_train")
    assert run_glue.main(again) == 0  # the finetuned model as it is scores the same
    rerun = json.loads((tmp_path / "out" / "results.json").read_text())
    assert rerun["dev"] == results["dev"]
    assert len((tmp_path / "out" / "predictions_test.tsv").read_text().splitlines()) == 91


def test_what_is_truncated_is_printed(tiny_model, tmp_path, capsys):
    write_demo_glue(tmp_path / "glue")
    command = manual_command(tiny_model, tmp_path / "glue", tmp_path / "out")
    command[command.index("--max_seq_length") + 1] = "12"
    assert run_glue.main(command) == 0
    printed = capsys.readouterr().out
    assert "WARNING: MRPC: 100.0 % of samples are truncated to 12 tokens" in printed
    assert "a larger --max_seq_length loses less (the model has 65 positions)" in printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    counts = results["tokenization"]["train"]
    assert counts["num_samples"] == counts["num_truncated"] == 400
    assert results["max_seq_length"] == 12 and "max_seq_length_asked" not in results


def test_a_full_output_folder_is_not_written_to(tiny_model, tmp_path, capsys):
    command = manual_command(tiny_model, tmp_path, PROJECT)
    command.remove("--overwrite_output_dir")
    with pytest.raises(SystemExit) as stop:
        run_glue.main(command)
    assert stop.value.code == 2 and "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command, folder",
    [
        (["finetune/run_glue.py"], "."),
        (["-m", "finetune.run_glue"], "."),
        (["run_glue.py"], "finetune"),
    ],
)
def test_every_way_to_start_it(command, folder):
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=PROJECT / folder, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--evaluation_strategy" in done.stdout


def test_the_batch_does_not_grow_with_the_gpus(tiny_model, tmp_path, monkeypatch, capsys):
    write_demo_glue(tmp_path / "glue")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    seen = []

    def noted(task, source, settings, *_):
        seen.append((settings.batch_size, settings.eval_batch_size))
        raise ValueError("seen")

    monkeypatch.setattr("finetune.training.training.finetune_task", noted)
    assert run_glue.main(manual_command(tiny_model, tmp_path / "glue", tmp_path / "out")) == 3
    assert seen == [(2 * 32, 32)]
    assert "note: 4 GPUs are visible and the first is used" in capsys.readouterr().out


def test_a_missing_file_is_one_clear_line(tiny_model, tmp_path, capsys):
    command = manual_command(tiny_model, tmp_path / "none", tmp_path / "out")
    assert run_glue.main(command) == 3
    assert "MRPC/train.tsv: no such file" in capsys.readouterr().err


def test_flags_of_transformers_are_taken_or_noted(tiny_model, tmp_path, capsys):
    write_demo_glue(tmp_path / "glue")
    command = f"""--model_name_or_path {tiny_model} --task_name sst2 --glue_dir {tmp_path}/glue
        --output_dir {tmp_path}/out --do_train True --do_eval False --eval_strategy epoch
        --per_gpu_train_batch_size=16 --num_train_epochs 0.32 --warmup_ratio 0.5
        --load_best_model_at_end --save_strategy no --fp16 --report_to none
        --logging_steps 10 --lr_scheduler_type cosine --overwrite_output_dir""".split()
    assert run_glue.main(command) == 0
    printed = capsys.readouterr().out
    for note in (
        "note: --fp16 has no effect",
        "note: --save_strategy has no effect",
    ):
        assert note in printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [line["step"] for line in results["evaluations"]] == [8]
    rates = [line["learning_rate"] for line in results["history"]]
    assert max(rates) == rates[4] == pytest.approx(5e-5)  # half of 8 steps are warmup


@pytest.mark.parametrize(
    "flags, problem",
    [
        (["--save_everything"], "unrecognized arguments: --save_everything"),
        (
            ["--lr_scheduler_type", "triangular"],
            "--lr_scheduler_type: invalid choice: 'triangular'",
        ),
        (["--task_name", "BoolQ"], "--superglue_dir: expected the folder of BoolQ"),
        (["--task_name", "squad"], "squad is not a task"),
        (["--load_best_model_at_end", "--eval_strategy", "no"], "expected --eval_strategy steps"),
        (["--do_train", "perhaps"], "got perhaps, expected true or false"),
        (["--max_seq_length", "2"], "--max_seq_length: got 2, expected at least 8"),
        (["--per_device_train_batch_size", "0"], "got 0, expected at least 1"),
        (["--gradient_accumulation_steps", "0"], "got 0, expected at least 1"),
        (["--num_train_epochs", "nan"], "--num_train_epochs: got nan, expected at least 0"),
        (["--warmup_ratio=-1"], "--warmup_ratio: got -1, expected at least 0"),
        (["--output_dir", __file__], "test_run_glue.py is a file, expected a folder"),
    ],
)
def test_wrong_flags(tiny_model, tmp_path, capsys, flags, problem):
    with pytest.raises(SystemExit) as stop:
        run_glue.main([*manual_command(tiny_model, tmp_path, tmp_path / "out"), *flags])
    assert stop.value.code == 2 and problem in capsys.readouterr().err


def test_a_model_that_was_cut_off_is_written_over(tiny_model, tmp_path, monkeypatch, capsys):
    write_demo_glue(tmp_path / "glue")
    command = f"""--model_name_or_path {tiny_model} --task_name RTE --glue_dir {tmp_path}/glue
        --output_dir {tmp_path}/out --do_train --num_train_epochs 0.01
        --overwrite_output_dir""".split()

    save = finished_model.save_finished

    def cut_off(*arguments):
        save(*arguments)
        raise OSError("no space left")

    with monkeypatch.context() as full:
        full.setattr(finished_model, "save_finished", cut_off)
        assert run_glue.main(command) == 3
    assert run_glue.main(command) == 0


@pytest.mark.slow
def test_a_task_of_superglue(tiny_model, tmp_path, shared_data, capsys):
    command = f"""--model_name_or_path {tiny_model} --task_name CB --do_train --do_eval --do_predict
        --superglue_dir {shared_data}/superglue --output_dir {tmp_path}/out --max_seq_length 32
        --num_train_epochs 1""".split()
    assert run_glue.main(command) == 0
    assert "CB dev: accuracy" in capsys.readouterr().out
