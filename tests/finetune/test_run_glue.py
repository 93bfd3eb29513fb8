"""The command line: all flags of the manual, every way to start it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from finetune import run_glue
from finetune.demo_glue import write_demo_glue

PROJECT = Path(run_glue.__file__).resolve().parents[1]


def manual_command(model: str, glue: Path, output: Path) -> list[str]:
    return f"""--model_name_or_path {model} --task_name MRPC --max_seq_length 128
        --output_dir {output} --overwrite_output_dir --do_train --do_eval
        --evaluation_strategy steps --per_device_train_batch_size 32
        --gradient_accumulation_steps 2 --per_device_eval_batch_size 32 --learning_rate 5e-5
        --weight_decay 0.01 --eval_steps 3 --evaluation_strategy steps --max_grad_norm 1.0
        --num_train_epochs 1 --lr_scheduler_type polynomial --warmup_steps 2
        --glue_dir {glue}""".split()


def test_the_manuals_command(tiny_model, tmp_path, capsys):
    write_demo_glue(tmp_path / "glue")
    command = manual_command(tiny_model, tmp_path / "glue", tmp_path / "out")
    assert run_glue.main(command) == 0
    printed = capsys.readouterr().out
    assert "step 3: eval_dev_loss" in printed and "step 6: eval_dev_loss" in printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert f"MRPC dev: accuracy {results['dev']['dev']['accuracy']:.4f}" in printed
    assert results["num_steps"] == 7  # 400 rows in batches of 2 x 32
    assert max(line["learning_rate"] for line in results["history"]) == pytest.approx(5e-5)
    assert (tmp_path / "out" / "model" / "tokenizer.json").exists()

    again = [*command, "--do_predict"]
    again[again.index("--model_name_or_path") + 1] = str(tmp_path / "out" / "model")
    again.remove("--do_train")
    assert run_glue.main(again) == 0  # the finetuned model as it is scores the same
    rerun = json.loads((tmp_path / "out" / "results.json").read_text())
    assert rerun["dev"] == results["dev"]
    assert len((tmp_path / "out" / "predictions_test.tsv").read_text().splitlines()) == 91


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


def test_a_missing_file_is_one_clear_line(tiny_model, tmp_path, capsys):
    command = manual_command(tiny_model, tmp_path / "none", tmp_path / "out")
    assert run_glue.main(command) == 3
    assert "MRPC/train.tsv: no such file" in capsys.readouterr().err
