"""Validates a loaded model before its first step, so that a wrong load cannot hide."""

import torch

from pretrain.engine.distributed import rank, sum_over_ranks
from pretrain.engine.interrupts import Interrupts
from pretrain.training.data_loader import count_predictions, one_copy
from pretrain.training.preparation import Prepared
from pretrain.training.training_run import TrainingRun

# Nats from one phase to the next. Other text may cost more, but hardly more than all that the model
# has learned beyond token frequencies.
LARGE_RISE = 0.5


def measure_first_loss(prepared: Prepared, run: TrainingRun, interrupts: Interrupts) -> None:
    """Writes the validation loss of step 0, and compares it with that of token frequencies.

    Does nothing in a resumed run, without START_FROM in a first phase, or without held-out samples.
    Every rank must call it. Raises Interrupted as validation does.
    """
    is_loaded = prepared.start is not None or prepared.previous_loss is not None
    if not is_loaded or run.budget.step or run.closed or not run.validation:
        return
    run.log.truncate(0, is_validated=False)  # of a process that was killed before its first step
    run.validate_now(interrupts)
    baseline = _frequency_loss(prepared, run)
    if rank() == 0:
        _compare(prepared, run, baseline)


def _compare(prepared: Prepared, run: TrainingRun, baseline: float) -> None:
    if prepared.previous_loss is not None:
        _compare_with_phase(prepared.previous_loss, run, baseline)
        return
    assert prepared.start and prepared.loaded
    new = "prediction head" if prepared.loaded.fresh else ""
    if not prepared.start.own_vocabulary:
        new = "vocabulary"
    said, is_suspicious = in_words(run.eval_loss, baseline, new)
    (run.log.warn if is_suspicious else run.log.tell)(said)


def in_words(loss: float, baseline: float, new_part: str) -> tuple[str, bool]:
    """Returns (a line on the loss before the first step, True if the load looks wrong).

    baseline: loss of predicting by token frequencies. new_part: part of the model that is not
    loaded, or "".
    """
    said = (
        f"before the first step: validation loss {loss:.4f}; token frequencies alone have "
        f"{baseline:.4f}"
    )
    if loss < baseline:
        return said, False
    if new_part:
        return f"{said}, less, as the model's {new_part} is new", False
    return (
        f"{said}: the loaded model predicts no better; is it the right checkpoint for this "
        "tokenizer and language?",
        True,
    )


def _compare_with_phase(previous_loss: float, run: TrainingRun, baseline: float) -> None:
    said = (
        f"before the first step: validation loss {run.eval_loss:.4f}; the phase before ended with "
        f"{previous_loss:.4f} on its own held-out samples"
    )
    if run.eval_loss < max(baseline, previous_loss + LARGE_RISE):
        run.log.tell(said)
    else:
        run.log.warn(f"{said}; token frequencies alone have {baseline:.4f}")


def _frequency_loss(prepared: Prepared, run: TrainingRun) -> float:
    """Returns the cross entropy of the held-out predictions under the training text's frequencies.

    In nats, on rank 0; each token counts one more, as in benchmarks/frequency_baseline.py.
    """
    size = prepared.settings.model.vocab_size
    held_out = torch.zeros(size, dtype=torch.float64, device=run.engine.device)
    for batch in run.validation:
        held_out += torch.bincount(batch.labels, minlength=size).to(held_out)
    held_out = sum_over_ranks(held_out).cpu()
    if rank() != 0:
        return 0.0
    known = count_predictions(one_copy(prepared.provider.shards), size).double() + 1
    return float(-(held_out @ (known / known.sum()).log()) / held_out.sum().clamp(min=1))
