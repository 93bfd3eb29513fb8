"""The plan of pretraining: folder and identity."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.keys import identity_inputs
from configs.phases import LENGTH_KEYS, phase_configs
from dataset.plan import DatasetPlan
from dataset.plan import plan as plan_dataset
from dataset.sources.digests import digest_of_files
from dataset.tokenizers.tokenizer_files import tokenizer_files
from pipeline.console import duration
from pipeline.errors import ConfigError
from pipeline.hub.models import CONFIG, WEIGHT_NAMES, weight_files
from pipeline.stage_plan import StagePlan
from pipeline.store.artifacts import Artifact
from pipeline.store.checksums import file_digest, fingerprint
from pipeline.store.paths import CHECKPOINTS, MODEL, MODEL_CARD, pretrain_dir
from pretrain.lengthening import lengthening_in, schedule_of
from pretrain.optimization.budget import amount_in_words
from pretrain.start.checkpoint_config import START_KEY, Checkpoint
from pretrain.start.completion import checkpoint_of, has_other_tokenizer, on_hub

if TYPE_CHECKING:
    from yacs.config import CfgNode

FORMAT = 2
CURVE = "loss_curve.png"  # for people, who may change it


@dataclass(frozen=True)
class PretrainPlan(StagePlan):
    """The last phase, or the whole run. upstream: its dataset. checkpoint: the one to start from.
    previous: the phase before it. num_positions: of the model, the most tokens per row up to this
    phase."""

    upstream: DatasetPlan
    checkpoint: Checkpoint | None = None
    previous: "PretrainPlan | None" = None
    num_positions: int = 0

    def pending(self) -> list["PretrainPlan"]:
        """Returns the phases to train; those before a finished one are not needed any more."""
        found: list[PretrainPlan] = []
        for link in reversed(self.links):
            if link.artifact.status().done:
                break
            found.insert(0, link)
        return found

    def reads(self) -> tuple[Artifact, ...]:
        previous = (self.previous.artifact,) if self.previous else ()
        return (self.upstream.artifact, *previous)


def plan(config: "CfgNode", upstream: DatasetPlan | None = None) -> PretrainPlan:
    """Plans the pretraining run of this config: weights, metrics and checkpoints of each phase.

    config: completed (pretrain.start.completion). Raises ConfigError if START_FROM has no weights.
    """
    datasets = (upstream or plan_dataset(config)).of_phases
    checkpoint = checkpoint_of(config)
    configs = phase_configs(config)
    plans: list[PretrainPlan] = []
    for number, (own, dataset) in enumerate(zip(configs, datasets, strict=True), 1):
        previous = plans[-1] if plans else None
        has_phases = len(configs) > 1
        plans.append(
            PretrainPlan(
                artifact=_artifact(own, dataset, checkpoint, previous),
                upstream=dataset,
                checkpoint=checkpoint,
                previous=previous,
                num_positions=max(one.DATASET.MAX_SEQ_LENGTH for one in configs[:number]),
                config=own,
                phase=number if has_phases else 0,
                label=f"phase {number} of {len(configs)}" if has_phases else "",
            )
        )
    return replace(plans[-1], earlier=tuple(plans[:-1]))


def _artifact(
    config: "CfgNode",
    dataset: DatasetPlan,
    checkpoint: Checkpoint | None,
    previous: PretrainPlan | None,
) -> Artifact:
    """Returns the artifact of one phase."""
    inputs = identity_inputs(config, "MODEL") | identity_inputs(config, "PRETRAIN")
    if config.PRETRAIN.DEEPSPEED_CONFIG:  # its content counts, not its name
        inputs["PRETRAIN.DEEPSPEED_CONFIG"] = _digest(Path(config.PRETRAIN.DEEPSPEED_CONFIG))
    if config.DATASET.MASKED_LM_PROB_END:  # of training alone, and younger than older results
        inputs["DATASET.MASKED_LM_PROB_END"] = config.DATASET.MASKED_LM_PROB_END
    if checkpoint:
        inputs[START_KEY] = _identity_of(config, checkpoint, dataset)
    inputs |= {"dataset": dataset.artifact.fingerprint, "format": FORMAT}
    if previous:
        inputs["previous_phase"] = previous.artifact.fingerprint
    phase = previous.phase + 1 if previous else 0
    pretrain_id = config.PRETRAIN.ID or _generated_id(config, inputs, phase)
    dataset_id = dataset.artifact.directory.name
    directory = pretrain_dir(Path(config.SYSTEM.OUTPUT_ROOT), dataset_id, pretrain_id)
    return Artifact(
        stage="pretrain",
        directory=directory,
        inputs=inputs,
        user_named="PRETRAIN.ID" if config.PRETRAIN.ID else "",
        made_from="dataset",
        files_in=lambda results: _files_of_model(directory),
        extension=lengthening_in(directory, schedule_of(config), inputs),
    )


def _identity_of(config: "CfgNode", checkpoint: Checkpoint, upstream: DatasetPlan) -> str:
    """Returns a digest of the files of config and weights, or the name of a model on the Hub."""
    if on_hub(config):
        return config.PRETRAIN.START_FROM
    files = weight_files(checkpoint.folder)
    missing = [path.name for path in files if not path.is_file()]
    if missing or not files:
        what = f"no {', '.join(missing)}" if missing else "no weights"
        raise ConfigError(
            [
                f"{START_KEY}: {what} in {checkpoint.folder.absolute()}, expected "
                f"{' or '.join(WEIGHT_NAMES)}, whole or with an index"
            ]
        )
    files = [checkpoint.folder / CONFIG, *files]
    if has_other_tokenizer(config, checkpoint):  # its entries decide about the new embeddings
        files += tokenizer_files(str(checkpoint.folder))
    return digest_of_files(files, checkpoint.folder, upstream.digests)


def _files_of_model(directory: Path) -> Iterator[str]:
    names = {"config.json", *(path.name for path in (directory / MODEL).glob("*"))}
    return (f"{MODEL}/{name}" for name in sorted(names - {MODEL_CARD, CURVE}))


def _digest(path: Path) -> str:
    return file_digest(path) if path.is_file() else "missing"


def _generated_id(config: "CfgNode", inputs: dict[str, Any], phase: int) -> str:
    """Returns a name like `bert-mlm-24x1024-23000steps-0123456789`.

    phase: number of a later phase, also in its name, else 0.
    """
    model = config.MODEL
    return (
        f"{model.TYPE}-{model.NUM_HIDDEN_LAYERS}x{model.HIDDEN_SIZE}-"
        f"{length_of_run(config.PRETRAIN).replace(' ', '')}-{f'phase{phase}-' if phase else ''}"
        f"{fingerprint(inputs)[:10]}"
    )


def length_of_run(pretrain: "CfgNode") -> str:
    """Returns `23000 steps`, `24 h` or `1000000 tokens`."""
    return amount_in_words(pretrain.LR_SCHEDULE, pretrain[LENGTH_KEYS[pretrain.LR_SCHEDULE]])


def last_checkpoint(artifact: Artifact) -> Iterator[str]:
    """Yields a line on the newest checkpoint of a run, if any."""
    for path in sorted((artifact.directory / CHECKPOINTS).glob("step_*"))[-1:]:
        with suppress(FileNotFoundError):  # the run may be deleting it
            age = max(0.0, time.time() - path.stat().st_mtime)
            yield f"last checkpoint {path.name}, {duration(age)} ago"
