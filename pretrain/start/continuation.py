"""Begins a phase with the state of the one before it: its weights and its optimizer's state."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dataset.tokenizers.tokenizer_files import entries_of, read_tokenizer_json
from pipeline.errors import StageError
from pipeline.store.paths import CHECKPOINTS, MODEL
from pipeline.store.record_files import read_sealed
from pretrain.engine.checkpoints import RECORD, TENSORS, newest_intact_checkpoint
from pretrain.engine.distributed import barrier, from_first_rank, rank
from pretrain.engine.zero_state import WEIGHT, restore_state
from pretrain.settings import Settings
from pretrain.start.checkpoint_weights import repeated

TABLE_OF_POSITIONS = "position"  # in the name of its parameter
TOKENIZER = "tokenizer.json"


def continue_run(
    engine, settings: Settings, previous: Path, tokenizer: Path, say: Callable[[str], None]
) -> float | None:
    """Gives the engine the state at the end of another run. Every rank must call it.

    previous: output_dir of that run. tokenizer: folder of the data's. Returns its last validation
    loss, nan without validation; None, and does nothing, if this run has a checkpoint of its own.
    Raises ValueError if that run is not finished, or of another model, tokenizer or optimizer.
    """
    path, problem = from_first_rank(
        _last_checkpoint(settings, previous, tokenizer, say) if rank() == 0 else None
    )
    if problem:
        raise ValueError(f"--continue_from: {problem}")
    if path is None:
        return None
    record = read_sealed(path / RECORD)
    assert record is not None  # the checkpoint is intact
    try:
        tensors = grown(load_file(path / TENSORS), _shapes(engine), settings.model.positions)
        restore_state(engine, tensors, record["numbers"])
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"--continue_from: {path}: {error}") from error
    barrier()
    say(f"continuing from {path}")
    return record["state"]["eval_loss"]


def _last_checkpoint(
    settings: Settings, previous: Path, tokenizer: Path, say: Callable[[str], None]
) -> tuple[Path | None, str]:
    """Returns the checkpoint at the end of a run, or the reason not to use it.

    Returns neither if the new run has a checkpoint of its own.
    """
    own = Path(settings.training.output_dir) / CHECKPOINTS
    if newest_intact_checkpoint(own, lambda problem: None):
        return None, ""
    path = newest_intact_checkpoint(previous / CHECKPOINTS, say)
    state = (read_sealed(path / RECORD) or {}).get("state", {}) if path else {}
    if path is None or not state.get("closed"):
        return None, (
            f"{previous} has no intact checkpoint of its end; without its manifest.json, it is "
            "trained again from the newest one that it has"
        )
    theirs, ours = state.get("optimizer_type"), settings.training.optimizer_type
    if theirs != ours:
        return None, f"{path}: --optimizer_type was {theirs}, and is {ours} now"
    if not _is_same_tokenizer(previous / MODEL, tokenizer):
        return None, f"{previous / MODEL} has another tokenizer than the data, {tokenizer}"
    return path, ""


def _is_same_tokenizer(model: Path, tokenizer: Path) -> bool:
    try:
        theirs, ours = (
            entries_of(read_tokenizer_json(folder / TOKENIZER)) for folder in (model, tokenizer)
        )
    except StageError:
        return False
    return theirs == ours


def _shapes(engine) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of whole parameters by name; with ZeRO-3, each rank holds a part."""
    return {
        name: tuple(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in engine.module.named_parameters()
    }


def grown(
    tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], num_positions: int
) -> dict[str, Tensor]:
    """Returns the state of a model with more positions: tables of positions are repeated.

    tensors: by `kind/name`, as of pretrain.engine.zero_state. shapes: of the new parameters, by
    name. The optimizer's tensors grow as the table does: a copied position has the moments of its
    original. Rows at the begin of a table that belong to no position, as in RoBERTa, stay.
    """
    changed = {}
    for key, tensor in tensors.items():
        name = key.partition("/")[2]
        before = tensors[f"{WEIGHT}/{name}"].shape
        rows = shapes.get(name, before)[0] if before else 0
        is_table = TABLE_OF_POSITIONS in name and len(before) == 2 and rows > before[0]
        if is_table and tensor.ndim and tensor.shape[0] == before[0]:
            head = rows - num_positions
            changed[key] = torch.cat([tensor[:head], repeated(tensor[head:], num_positions)])
    return tensors | changed
