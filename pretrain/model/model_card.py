"""The README.md of an exported model, a model card for the Hugging Face Hub.

It describes the data, the recipe and the use of the model. Of the dataset it holds counts alone: no
text, and no name or path of a source.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.store.atomic_files import write_text
from pipeline.store.paths import MODEL_CARD
from pipeline.store.record_files import MANIFEST, read_json, read_record
from pretrain.model.export import needs_remote_code
from pretrain.model.model_types import OWN_TYPE
from pretrain.model.vocabulary import special_token
from pretrain.plan import CURVE
from pretrain.settings import ModelSettings, Settings, TrainingSettings

LENGTHS = "## Lengths of the samples"  # a section of dataset_card.md

# Results of a manifest -> their names in the card. Others may be private, such as names of files.
DATA_FACTS = {
    "num_tokens": "tokens",
    "num_train_samples": "training rows (of one mask copy)",
    "num_test_samples": "held-out rows",
    "max_seq_length": "tokens per row",
    "vocab_size": "vocabulary",
    "masking": "masking",
    "masked_share": "share of the tokens to be predicted",
    "unknown_character_share": "share of the characters that is unknown",
    "packed": "several texts per row",
    "next_sentence": "pairs of segments for next sentence prediction",
}
PHASE_FACTS = {
    "phase": "phase",
    "length": "length",
    "max_seq_length": "tokens per row",
    "predicted": "predicted",
    "batch_size": "samples per step",
    "learning_rate": "learning rate",
    "curve": "curve",
    "validation_loss": "validation loss at its end",
}
SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps"),
)
WINDOWS = ("attention_window", "global_attention_every", "local_rope_theta")
OUR_SETTINGS = (
    *("encoder_ln_mode", "position_embedding_type", "rope_theta", "glu", "use_bias", "norm_type"),
    *("embedding_norm", "residual_init", "word_embedding_init", "output_bias_init"),
    *WINDOWS,
)
BUDGETS = {"step": "max_steps", "time": "total_training_time", "tokens": "max_tokens"}
RECIPE = (
    *("train_batch_size", "optimizer_type", "lr", "curve", "warmup_proportion"),
    *("weight_decay", "gradient_clipping", "precision", "initializer_range", "seed"),
)
OF_CURVE = {
    "elastic_step_decay": ("esd_r", "esd_l"),
    "constant": (),
    "polynomial": ("lr_end_ratio", "lr_power"),
    "step_decay": ("lr_end_ratio", "lr_decay_steps"),
    "wsd": ("lr_end_ratio", "lr_decay_proportion"),
    "wsd_linear": ("lr_end_ratio", "lr_decay_proportion"),
}
OF_OPTIMIZER = {"sgd-momentum": ("momentum",), "muon": ("muon_learning_rate", "muon_momentum")}
ADAMS = ("adam", "adamw", "lamb", "stable-adamw", "muon")

Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Origin:
    """The model that a run started from: entries of the front matter, and a section."""

    front_matter: Mapping[str, str] = field(default_factory=dict)
    section: str = ""


def write_model_card(
    folder: Path,
    settings: Settings,
    dataset_path: Path,
    metrics: list[dict[str, Any]],
    origin: Origin | None = None,
    phases: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes README.md and, with metrics, loss_curve.png into an exported folder.

    dataset_path: folder of manifest.json and dataset_card.md, both optional. metrics: lines of
    metrics.jsonl. origin: of a model that did not begin with random weights. phases: facts on the
    run's phases (pretrain.phase_facts), the last one without results.
    """
    origin = origin or Origin()
    config = read_json(folder / "config.json") or {}
    flags = vars(settings.model) | vars(settings.training) | vars(settings.engine)
    parts = [
        _front_matter(settings.model, config, origin),
        f"# {config['architectures'][0]} pretrained with ExtremeBERT",
        _use(folder, settings.model, config),
        origin.section,
        _data(dataset_path),
        "## Architecture\n\n" + _architecture(settings.model, folder),
        "## Recipe\n\n" + _table(_picked(flags, _recipe(settings.training))),
        _phases(phases),
        _results(metrics),
    ]
    if _points(metrics, "train", "loss"):
        draw_losses(metrics, folder / CURVE)
    write_text(folder / MODEL_CARD, "\n\n".join(part for part in parts if part) + "\n")


# --- the sections ----------------------------------------------------------------------------


def _front_matter(model: ModelSettings, config: Mapping[str, Any], origin: Origin) -> str:
    tags = ["extremebert", config["model_type"], "pretraining", "masked-lm"]
    if needs_remote_code(model):
        tags.append("custom_code")
    lines = "\n".join(f"- {tag}" for tag in tags)
    entries = {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        **origin.front_matter,
        "tags": f"\n{lines}",
    }
    content = "\n".join(f"{name}: {value}" for name, value in entries.items())
    return f"---\n{content}\n---".replace(": \n", ":\n")


def _use(folder: Path, model: ModelSettings, config: Mapping[str, Any]) -> str:
    trust = why = ""
    if needs_remote_code(model):
        trust = ", trust_remote_code=True"
        why = (
            "transformers has no such architecture: its code lies in this folder, hence "
            "`trust_remote_code=True`. "
        )
    tokenizer_config = read_json(folder / "tokenizer_config.json") or {}
    mask = special_token(tokenizer_config, "mask_token", "[MASK]")
    return f"""## Use

{why}`FOLDER` stands for this folder, or for its name on the Hub.

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

pipeline("fill-mask", model="FOLDER"{trust})("One word is {mask} here.")

tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trust})
model = AutoModelForSequenceClassification.from_pretrained("FOLDER", num_labels=2{trust})
```

It was trained to predict masked tokens and nothing else: finetune it before you use it for
anything but filling masks. It has whatever bias its text has."""


def _data(dataset_path: Path) -> str:
    results = (read_record(dataset_path / MANIFEST) or {}).get("results", {})
    facts = {DATA_FACTS[name]: results[name] for name in DATA_FACTS if name in results}
    if not facts:
        return ""
    parts = ["## Data", _table(facts)]
    card = dataset_path / "dataset_card.md"
    if card.exists():
        parts += _section(card.read_text(encoding="utf-8"), LENGTHS)
    return "\n\n".join(parts)


def _section(text: str, heading: str) -> list[str]:
    """Returns a section of a Markdown text, if present, with its heading one level lower."""
    _, found, rest = text.partition(f"{heading}\n")
    return [f"#{heading}\n{rest.partition(chr(10) + '## ')[0].rstrip()}"] if found else []


def _architecture(model: ModelSettings, folder: Path) -> str:
    names = (*SIZES, *OUR_SETTINGS) if model.model_type == OWN_TYPE else SIZES
    rows = _picked(vars(model), ("model_type", "vocab_size", "max_seq_length", *names))
    if model.position_embedding_type != "rotary":
        rows.pop("rope_theta", None)
    if model.num_positions:
        rows["positions"] = model.num_positions
    if not model.local_rope_theta:
        rows.pop("local_rope_theta", None)
    if not model.attention_window:
        rows = {name: value for name, value in rows.items() if name not in WINDOWS}
    return _table({"parameters": num_stored_weights(folder / "model.safetensors")} | rows)


def _recipe(training: TrainingSettings) -> Iterable[str]:
    """Yields the flags of the recipe: of the length, the curve and the optimizer."""
    yield from ("lr_schedule", BUDGETS[training.lr_schedule])
    yield from RECIPE
    if training.masked_lm_prob_end:
        yield "masked_lm_prob_end"
    yield from OF_CURVE.get(training.curve, ("lr_end_ratio",))
    yield from OF_OPTIMIZER.get(training.optimizer_type, ())
    if training.optimizer_type in ADAMS:
        yield from ("adam_beta1", "adam_beta2", "adam_eps")


def _phases(phases: Sequence[Mapping[str, Any]]) -> str:
    """Returns a section with a row for each phase."""
    if not phases:
        return ""
    rows = ["| " + " | ".join(PHASE_FACTS.values()) + " |", "|---" * len(PHASE_FACTS) + "|"]
    rows += [
        "| " + " | ".join(_shown(phase.get(name, "")) for name in PHASE_FACTS) + " |"
        for phase in phases
    ]
    return (
        "## Phases\n\nEach phase began with the weights and the optimizer's state of the one "
        "before it. The sections on data, recipe and results are about the last one.\n\n"
        + "\n".join(rows)
    )


def _results(metrics: Metrics) -> str:
    train = [{}, *_lines(metrics, "train", "loss")][-1]
    held_out = [{}, *_lines(metrics, "validation", "loss")][-1]
    rows = {
        "steps": train.get("step"),
        "tokens seen": train.get("tokens"),
        "training loss, nats per predicted token": train.get("loss"),
        **{f"validation {name}": held_out.get(name) for name in ("loss", "accuracy", "perplexity")},
    }
    rows = {name: value for name, value in rows.items() if value is not None}
    if not rows:
        return ""
    picture = f"\n\n![losses and learning rate over the steps]({CURVE})" if train else ""
    return f"## Results\n\n{_table(rows)}{picture}"


# --- helpers ---------------------------------------------------------------------------------


def num_stored_weights(path: Path) -> int:
    """Returns the number of elements in a safetensors file; reads its header alone."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return sum(math.prod(tensor["shape"]) for tensor in header.values())


def _picked(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: values[name] for name in names}


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {_shown(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _lines(metrics: Metrics, kind: str, name: str) -> list[Mapping[str, Any]]:
    return [line for line in metrics if line.get("kind") == kind and name in line]


# --- the picture -----------------------------------------------------------------------------


def _points(metrics: Metrics, kind: str, name: str) -> list[tuple[int, float]]:
    """Returns (step, value) of the finite values."""
    lines = _lines(metrics, kind, name)
    return [(line["step"], line[name]) for line in lines if math.isfinite(line[name])]


def draw_losses(metrics: Metrics, path: Path) -> None:
    """Draws training and validation loss, and the learning rate, over the steps, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    losses, rates = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    losses.plot(*_columns(_points(metrics, "train", "loss")), label="training", linewidth=1)
    held_out = _points(metrics, "validation", "loss")
    if held_out:
        losses.plot(*_columns(held_out), "o-", label="validation", markersize=3)
    losses.set_ylabel("loss (nats per predicted token)")
    losses.legend()
    rates.plot(*_columns(_points(metrics, "train", "lr")), color="tab:green", linewidth=1)
    rates.set_ylabel("learning rate")
    rates.set_xlabel("step")
    for axes in (losses, rates):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _columns(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]
