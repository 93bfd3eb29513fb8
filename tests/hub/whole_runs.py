"""Runs of main.py that take all they need from the Hub of the tests."""

import subprocess
import sys
from pathlib import Path

from tests.hub_server import HubServer
from tests.small_pipeline import ENVIRONMENT, PROJECT

SMALL_DATA = (
    *("SYSTEM.NUM_GPUS", "0", "SYSTEM.NUM_WORKERS", "2", "SYSTEM.MAX_MEMORY_IN_GB", "2"),
    *("DATASET.MAX_SEQ_LENGTH", "32", "DATASET.MAX_PREDICTIONS_PER_SEQ", "5"),
    *("DATASET.DUP_FACTOR", "2", "DATASET.FRAC_TEST", "0.1"),
)


def small_grid(task: str) -> tuple[str, ...]:
    key = f"FINETUNE.GRID.{task}"
    return (
        *(f"{key}.EPOCHS", "[1]", f"{key}.BATCH_SIZES", "[16]"),
        *(f"{key}.LEARNING_RATES", "[1e-4]"),
    )


SMALL = (
    *SMALL_DATA,
    *("MODEL.HIDDEN_SIZE", "32", "MODEL.INTERMEDIATE_SIZE", "64"),
    *("MODEL.NUM_HIDDEN_LAYERS", "2", "MODEL.NUM_ATTENTION_HEADS", "2"),
    *("PRETRAIN.NUM_STEPS", "10", "PRETRAIN.BATCH_SIZE", "16", "FINETUNE.MAX_SEQ_LENGTH", "32"),
    *(word for task in ("DEFAULT", "QQP", "MNLI", "QNLI") for word in small_grid(task)),
    *("RESULT_COLLECTION.ALLOW_PARTIAL", "True"),
)


def run_main(
    hub: HubServer, home: Path, root: Path, config: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess:
    """home: the Hub's cache. The environment holds the secrets of tests/small_pipeline.py."""
    ours = {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    return subprocess.run(
        [sys.executable, "main.py", "--config", config, "--output-root", str(root), *arguments],
        cwd=PROJECT,
        env={**ENVIRONMENT, **ours, **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )
