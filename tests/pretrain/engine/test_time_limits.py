"""The time limits fit together, and with those of torch, DeepSpeed and the docs."""

import inspect
import os
import re
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed

from configs.defaults import get_default_config
from pretrain.engine import distributed
from pretrain.engine import time_limits as limits

PROJECT = Path(__file__).resolve().parents[3]
MOST_RANKS = 512  # whose stacks come a second after each other


def test_stacks_are_written_before_torch_gives_a_rank_up():
    assert limits.SILENT_LATER < limits.SILENT_AT_FIRST < limits.SILENT_AT_MOST
    latest = limits.SILENT_AT_MOST + MOST_RANKS + limits.TO_WRITE_STACKS
    assert latest < limits.FOR_OTHER_RANKS


def test_ranks_wait_for_one_that_saves_longer_than_a_slow_disk_takes():
    """4 GB at 5 MB/s, twice: a checkpoint that is written is waited for before the next one."""
    assert limits.FOR_OTHER_RANKS > 2 * 4000 / 5


def test_the_stage_hears_of_a_save_before_it_loses_patience():
    assert 3 * limits.BETWEEN_SAVING_MESSAGES < limits.SILENT_WHILE_ENDING
    # A launcher that was asked, too, gives every rank less.
    assert limits.LAUNCHER_KILLS < limits.SILENT_WHILE_ENDING


def test_the_launcher_sees_the_rank_that_died_first_and_need_not_kill_the_others():
    assert 2 * limits.LAUNCHER_LOOKS < limits.BEFORE_SURVIVORS_END < limits.LAUNCHER_KILLS
    assert limits.TO_NOTICE_A_DEATH < limits.BEFORE_SURVIVORS_END


def test_the_launcher_is_the_one_we_know():
    from deepspeed.launcher import launch

    ends = inspect.getsource(launch.terminate_process_tree)
    assert re.findall(r"timeout=(\d+)", ends) == [f"{limits.LAUNCHER_KILLS:.0f}"]
    assert re.findall(r"time\.sleep\((\d+)\)", inspect.getsource(launch.main)) == [
        f"{limits.LAUNCHER_LOOKS:.0f}"
    ]


def test_what_a_kill_costs_is_at_most_half_an_hour_by_default():
    assert 0 < get_default_config().PRETRAIN.CHECKPOINT_MINUTES <= 30


def test_all_groups_of_ranks_have_the_time_limit(monkeypatch):
    """Those that DeepSpeed makes for its gradients, too, and NCCL's watchdog of torch's."""
    from deepspeed.utils import groups

    monkeypatch.setattr(groups, "_WORLD_GROUP", None)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # is put back at the end
        monkeypatch.delenv(name)
    monkeypatch.delenv("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", raising=False)
    distributed.start_ranks()
    try:
        of_deepspeed = groups._get_data_parallel_group()
        found = {
            group._get_backend(torch.device("cpu")).options._timeout
            for group in (torch.distributed.group.WORLD, of_deepspeed)
        }
        assert of_deepspeed is not torch.distributed.group.WORLD
        assert found == {timedelta(seconds=limits.FOR_OTHER_RANKS)}
        assert os.environ["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"] == str(limits.FOR_OTHER_RANKS)
    finally:
        distributed.leave_ranks()


def _minutes(seconds):
    return f"{seconds / 60:g} min"


@pytest.mark.parametrize(
    ("what", "figure"),
    [
        ("another rank in a collective", _minutes(limits.FOR_OTHER_RANKS)),
        ("stacks, before the first step", _minutes(limits.SILENT_AT_FIRST)),
        ("stacks, later", _minutes(limits.SILENT_LATER)),
        ("stacks, at most", _minutes(limits.SILENT_AT_MOST)),
        ("agreement on a signal", f"{limits.BETWEEN_AGREEMENTS:g} s"),
        ("a word from ranks that end", f"{limits.SILENT_WHILE_ENDING:g} s"),
        ("a word while saving", f"{limits.BETWEEN_SAVING_MESSAGES:g} s"),
        ("the launcher, for each rank", f"{limits.LAUNCHER_KILLS:g} s"),
        ("ranks that lost another", f"{limits.BEFORE_SURVIVORS_END:g} s"),
        ("a server that does not answer", _minutes(limits.LOST_SERVER)),
        ("a checkpoint", f"{get_default_config().PRETRAIN.CHECKPOINT_MINUTES:g} min"),
    ],
)
def test_the_docs_have_the_same_figures(what, figure):
    rows = (PROJECT / "docs" / "RELIABILITY.md").read_text(encoding="utf-8").splitlines()
    (row,) = [row for row in rows if row.startswith(f"| {what} |")]
    assert row.split("|")[2].strip() == figure
