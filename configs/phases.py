"""The phases of a pretraining run: PRETRAIN.PHASES as an ordinary config for each phase."""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from yacs.config import CfgNode

from configs.keys import KEYS, identity_inputs
from configs.parsing import in_words, read_value, with_home
from configs.predicates import cut
from pipeline.errors import ConfigError

PHASES = "PRETRAIN.PHASES"
SHARE = "SHARE"
# The key for the length of a run, by LR_SCHEDULE; the others have no effect.
LENGTH_KEYS = {"step": "NUM_STEPS", "time": "TOTAL_TRAINING_TIME", "tokens": "NUM_TOKENS"}
LENGTHS = (SHARE, *LENGTH_KEYS.values())
SOURCES = ("CUSTOMIZED_DATASETS", "HUGGINGFACE_DATASETS")
# Each of them gives a phase a curve of its own.
CURVE_KEYS = ("LR_CURVE", "WARMUP_PROPORTION", "LR_END_RATIO", "LR_DECAY_PROPORTION")
KEYS_BY_SECTION = {
    "DATASET": (
        *(*SOURCES, "WEIGHTS"),
        *("MAX_SEQ_LENGTH", "MAX_PREDICTIONS_PER_SEQ", "MASKED_LM_PROB", "MASKED_LM_PROB_END"),
        *("MASKING", "PACKING"),
    ),
    "PRETRAIN": (
        *LENGTH_KEYS.values(),
        *("BATCH_SIZE", "MICRO_BATCH_SIZE", "LEARNING_RATE", "MUON_LEARNING_RATE"),
        *CURVE_KEYS,
    ),
    "MODEL": ("ROPE_THETA",),
}
# Keys of a phase -> their full keys. Only SHARE has none.
FULL_KEYS = {
    name: f"{section}.{name}" for section, names in KEYS_BY_SECTION.items() for name in names
}
# They count the hours of a whole run.
WHOLE_RUN_KEYS = ("EARLY_EXIT_TIME_MARKER", "FINETUNE_TIME_MARKERS", "USE_EARLY_STOPPING")
LEAST_SHARE_OF_PREDICTIONS = 0.9  # of MASKED_LM_PROB, in a phase with other rows
TOLERANCE = 1e-9  # of the sum of the shares
NUM_SEEDS = 2**32

Phase = Mapping[str, Any]


# --- reading -----------------------------------------------------------------------------------


def read_phases(key: str, written: Any, problems: list[str]) -> list[dict[str, Any]]:
    """Returns the phases with values in the types of their keys; adds a line for each problem.

    key: full key of the value, below PHASES for a map in place of a list. Returns an empty list if
    there are problems.
    """
    if key == PHASES and written in (None, []):
        return []
    if key != PHASES or not isinstance(written, list):
        expected = "a list like [{SHARE: 0.9}, {SHARE: 0.1, MAX_SEQ_LENGTH: 512}]"
        problems.append(
            f"{cut(key)}: wrong type, got {in_words(written, key)}, expected {expected}"
        )
        return []
    found: list[str] = []
    phases = [_read_phase(number, phase, found) for number, phase in enumerate(written, 1)]
    problems += found
    return [] if found else phases


def _read_phase(number: int, written: Any, problems: list[str]) -> dict[str, Any]:
    place = f"{PHASES}[{number}]"
    if not isinstance(written, dict):
        got = in_words(written, place)
        problems.append(f"{place}: got {got}, expected a map like {{SHARE: 0.9}}")
        return {}
    phase = {}
    for name, value in written.items():
        try:
            phase[name] = _read(name, value)
        except ValueError as error:
            problems.append(f"{place}.{cut(name)}: {error}")
    return phase


def _read(name: str, written: Any) -> Any:
    if name == SHARE:
        return read_value(written, 1.0, name)
    if name not in FULL_KEYS:
        raise ValueError(f"not a key of a phase{_did_you_mean(name)}")
    row = KEYS[FULL_KEYS[name]]
    value = read_value(written, row.example, FULL_KEYS[name])
    return with_home(value) if row.is_path else value


def _did_you_mean(name: str) -> str:
    last = name.rpartition(".")[2].strip().upper()
    known = [SHARE, *FULL_KEYS]
    close = difflib.get_close_matches(last, known, 1, cutoff=0.8)
    if close:
        return f" (did you mean {close[0]}?)"
    whole = [key for key in KEYS if key.rpartition(".")[2] == last]
    reason = f": all phases have the same {whole[0]}; " if whole else ", "
    return f"{reason}expected one of {', '.join(known)}"


# --- problems ----------------------------------------------------------------------------------


def problems_of_phases(config: CfgNode) -> list[str]:
    """Returns a line for each phase without a usable length, and for what phases cannot have.

    The configs of the phases exist if there is none.
    """
    phases, pretrain = config.PRETRAIN.PHASES, config.PRETRAIN
    if not phases:
        return []
    problems = [*_problems_of_lengths(phases, pretrain)]
    if not problems:
        problems += _problems_of_total(phases, pretrain)
    for name in WHOLE_RUN_KEYS:
        if pretrain[name]:
            default = KEYS[f"PRETRAIN.{name}"].default
            problems.append(
                f"PRETRAIN.{name}: belongs to a run of one phase, got {pretrain[name]} with "
                f"{PHASES}, expected {default}"
            )
    if end := config.DATASET.MASKED_LM_PROB_END:
        problems.append(
            f"DATASET.MASKED_LM_PROB_END: each phase would go there anew, got {end} with {PHASES}, "
            "expected it in the phases"
        )
    return problems


def _problems_of_lengths(phases: Sequence[Phase], pretrain: CfgNode) -> Iterator[str]:
    """Yields problems with the kind of each length."""
    by_schedule = LENGTH_KEYS[pretrain.LR_SCHEDULE]
    first = ""
    for number, phase in enumerate(phases, 1):
        place, names = f"{PHASES}[{number}]", [name for name in LENGTHS if name in phase]
        if len(names) != 1:
            got = " and ".join(names) or "no length"
            yield f"{place}: got {got}, expected one of {SHARE}, {by_schedule}"
            continue
        name = names[0]
        first = first or name
        if name not in (SHARE, by_schedule):
            yield (
                f"{place}.{name}: is not the length by PRETRAIN.LR_SCHEDULE "
                f"{pretrain.LR_SCHEDULE}, expected {SHARE}, {by_schedule}, or another schedule"
            )
        elif name != first:
            yield f"{place}.{name}: other phases have {first}, expected {first} in all of them"
        elif not phase[name] > 0:
            yield f"{place}.{name}: got {phase[name]}, expected more than 0"


def _problems_of_total(phases: Sequence[Phase], pretrain: CfgNode) -> Iterator[str]:
    """Yields problems with the sum of the lengths."""
    key = LENGTH_KEYS[pretrain.LR_SCHEDULE]
    total = pretrain[key]
    if SHARE not in phases[0]:
        found = _whole(pretrain, math.fsum(phase[key] for phase in phases))
        if total not in (found, KEYS[f"PRETRAIN.{key}"].default):
            yield (
                f"PRETRAIN.{key}: got {total}, but the phases have {found:g} together, expected "
                f"{found:g}, or no value here"
            )
        return
    shares = math.fsum(phase[SHARE] for phase in phases)
    if abs(shares - 1) > TOLERANCE:
        yield f"{PHASES}: the {SHARE} of all phases is {shares:g}, expected 1 in all"
    else:
        borders = _borders(phases, pretrain)
        for number, (begin, end) in enumerate(pairwise(borders), 1):
            if not end > begin:
                yield (
                    f"{PHASES}[{number}].{SHARE}: got {phases[number - 1][SHARE]} of "
                    f"PRETRAIN.{key} {total}, expected more"
                )


def problems_with_predictions(config: CfgNode, phase: Phase) -> Iterator[str]:
    """Yields a line if a limit for other rows would cut off predictions of this phase."""
    dataset = config.DATASET
    length, rate = dataset.MAX_SEQ_LENGTH, dataset.MASKED_LM_PROB
    if dataset.MASKED_LM_PROB_END:  # its own rule is stricter
        return
    needed, most = math.ceil(length * rate), dataset.MAX_PREDICTIONS_PER_SEQ
    is_other = "MAX_SEQ_LENGTH" in phase or "MASKED_LM_PROB" in phase
    if "MAX_PREDICTIONS_PER_SEQ" in phase or not is_other:
        return
    if most < LEAST_SHARE_OF_PREDICTIONS * needed:
        yield (
            f"DATASET.MAX_PREDICTIONS_PER_SEQ: too few for DATASET.MASKED_LM_PROB {rate:g} of "
            f"{length} tokens, got {most}, expected MAX_PREDICTIONS_PER_SEQ {needed} in this phase"
        )


def in_phase(problem: str, number: int, phase: Phase) -> str:
    """Returns a problem of a phase's config with the names of the phase's keys.

    Long keys are replaced first, as some begin with another one.
    """
    named = problem
    for name in sorted(phase, key=len, reverse=True):
        if name in FULL_KEYS:
            named = named.replace(FULL_KEYS[name], f"{PHASES}[{number}].{name}")
    return named if named.startswith(PHASES) else f"{PHASES}[{number}]: {named}"


def merged_problems(config: CfgNode, by_phase: Sequence[Sequence[str]]) -> list[str]:
    """Returns the problems of all phases' configs; those common to all of them once.

    by_phase: of the configs from `phase_configs`.
    """
    phases = config.PRETRAIN.PHASES
    if not phases:
        return list(by_phase[0])
    common = [line for line in by_phase[0] if all(line in other for other in by_phase)]
    own = [
        in_phase(line, number, phase)
        for number, (phase, lines) in enumerate(zip(phases, by_phase, strict=True), 1)
        for line in lines
        if line not in common
    ]
    return [*common, *own]


# --- the configs of the phases -----------------------------------------------------------------


def phase_configs(config: CfgNode) -> list[CfgNode]:
    """Returns a config without PHASES for each phase, in order; [config] without phases.

    The last one has the user's names. Other runs get generated ones, and other datasets
    `<DATASET.ID>-phase1`, if there is a DATASET.ID. Raises ConfigError for impossible phases.
    """
    phases = config.PRETRAIN.PHASES
    if not phases:
        return [config]
    if problems := problems_of_phases(config):
        raise ConfigError(problems)
    borders = _borders(phases, config.PRETRAIN)
    configs = []
    for index, phase in enumerate(phases):
        own = config.clone()
        own.defrost()
        own.PRETRAIN.PHASES = []
        _set_keys(own, phase)
        own.PRETRAIN.SEED = (config.PRETRAIN.SEED + index) % NUM_SEEDS
        _set_length(own, phase, borders[index : index + 2], borders[-1])
        if index:
            own.PRETRAIN.BATCH_SIZE_RAMP_START = own.PRETRAIN.BATCH_SIZE_RAMP_STEPS = 0
        configs.append(own)
    _name(configs)
    if config.is_frozen():
        for own in configs:
            own.freeze()
    return configs


def _set_keys(config: CfgNode, phase: Phase) -> None:
    if any(name in phase for name in SOURCES):
        for name in (*SOURCES, "WEIGHTS"):
            config.DATASET[name] = []
    for name, value in phase.items():
        if name != SHARE:
            section = FULL_KEYS[name].partition(".")[0]
            config[section][name] = list(value) if isinstance(value, list) else value


def _set_length(config: CfgNode, phase: Phase, ends: Sequence[float], total: float) -> None:
    """Sets the length, and the part of the learning rate's curve.

    ends: begin and end of the phase, in the unit of `total`.
    """
    pretrain, (begin, end) = config.PRETRAIN, ends
    key = LENGTH_KEYS[pretrain.LR_SCHEDULE]
    if SHARE in phase:
        pretrain[key] = _whole(pretrain, end - begin)
    if any(name in phase for name in CURVE_KEYS):
        pretrain.LR_CURVE_BEGIN, pretrain.LR_CURVE_END = 0.0, 1.0
    else:
        first, last = pretrain.LR_CURVE_BEGIN, pretrain.LR_CURVE_END
        pretrain.LR_CURVE_BEGIN = first + (last - first) * begin / total
        pretrain.LR_CURVE_END = first + (last - first) * end / total


def _borders(phases: Sequence[Phase], pretrain: CfgNode) -> list[float]:
    """Returns the begin of each phase, and the end of the run, in the run's unit."""
    key = LENGTH_KEYS[pretrain.LR_SCHEDULE]
    borders: list[float] = [0]
    for number in range(1, len(phases) + 1):
        if SHARE in phases[0]:
            share = math.fsum(phase[SHARE] for phase in phases[:number])
            amount = pretrain[key] * (1.0 if number == len(phases) else share)
        else:
            amount = math.fsum(phase[key] for phase in phases[:number])
        borders.append(_whole(pretrain, amount))
    return borders


def _whole(pretrain: CfgNode, amount: float) -> float:
    """Returns whole steps or tokens, or hours."""
    return amount if pretrain.LR_SCHEDULE == "time" else round(amount)


def _name(configs: Sequence[CfgNode]) -> None:
    """Sets the IDs; equal datasets have the same name."""
    last = configs[-1]
    names = {_dataset_keys(last): last.DATASET.ID}
    for number, config in enumerate(configs[:-1], 1):
        config.PRETRAIN.ID = ""
        if last.DATASET.ID:
            named = f"{last.DATASET.ID}-phase{number}"
            config.DATASET.ID = names.setdefault(_dataset_keys(config), named)


def _dataset_keys(config: CfgNode) -> str:
    """Returns a text of all that decides the content of a dataset."""
    sources = {key: config.DATASET[key] for key in (*SOURCES, "TEXT_COLUMN", "STREAMING")}
    return repr((sources, identity_inputs(config, "DATASET")))
