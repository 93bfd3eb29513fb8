"""The recipes' models at their real sizes, and batches as a GPU would get them."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from configs.loading import load_config
from pretrain.launch import training_flags
from pretrain.model.model import build_model
from pretrain.training.data_loader import MicroBatch, collate

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PHASES = ("two-phases", "domain-adaptation")  # of other recipes' models
RECIPES = {
    path.stem: path
    for path in sorted((CONFIGS / "recipes").glob("*.yaml"))
    if path.stem not in PHASES
}
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
VOCAB_SIZE = 30522  # of BERT's tokenizer, which is the default
TOKENS = 4096  # of a micro batch, whatever its rows' length
DOCUMENT = 150  # tokens of a packed row's sample, about
ROWS = ("full", "padded", "packed")


def recipe_args(name: str, length: int, layers: int | None = None, **changes) -> Namespace:
    """The flags of a run by a recipe, with what the dataset would add.

    layers: None is the recipe's own number. changes: other flags by name.
    """
    config = load_config(RECIPES[name], (), stages=("pretrain",))
    args = Namespace(**training_flags(config, Path("dataset"), Path("output")))
    args.vocab_size, args.special_ids, args.max_seq_length = VOCAB_SIZE, SPECIAL_IDS, length
    args.num_hidden_layers = layers or args.num_hidden_layers
    return Namespace(**{**vars(args), **changes})


def micro_batch(rows: str, length: int, predicted: float = 0.15) -> MicroBatch:
    """TOKENS tokens in rows of that length.

    rows: "full", "padded" (a third of each row) or "packed" (with samples of DOCUMENT tokens).
    """
    shape = TOKENS // length, length
    columns = np.arange(length)
    sample = np.ones(shape, np.uint16)
    if rows == "padded":
        sample[:, length * 2 // 3 :] = 0
    elif rows == "packed":
        sample += (columns // min(DOCUMENT, length // 2)).astype(np.uint16)
    count = int(predicted * length * 2 // 3)
    return collate(
        {
            "input_ids": np.full(shape, 1000, np.uint16),
            "input_mask": sample,
            "segment_ids": np.zeros(shape, np.uint8),
            "masked_lm_positions": np.tile(columns[1 : count + 1].astype(np.uint16), (shape[0], 1)),
            "masked_lm_ids": np.full((shape[0], count), 1000, np.uint16),
        }
    )


def model_without_memory(args: Namespace, dtype: torch.dtype) -> nn.Module:
    """In training, on the meta device, its weights in `dtype`."""
    with torch.device("meta"):
        return build_model(args).to(dtype).train()
