"""Our model and BertForMaskedLM, of equal size, for training on the same batches."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.sizes import Size

VOCAB_SIZE = 30522  # of BERT
LENGTH = 128
CPU = torch.device("cpu")
IGNORED = -100  # label of tokens without a loss in transformers
BYTES_PER_WEIGHT = 16  # weight, gradient and both moments of Adam, in fp32


def model_args(
    size: Size, dropout: float, gated: bool = False, precision: str = "auto"
) -> Namespace:
    """Returns the complete flags of a CPU run; gated: with ModernBERT's rotary positions and gate.

    A precision of "auto" becomes the one that this processor gets.
    """
    from pretrain.engine.precision import multiplies_in_bf16, resolve_precision
    from pretrain.flags import build_parser

    changes = {
        "num_hidden_layers": size.layers,
        "hidden_size": size.hidden,
        "num_attention_heads": size.heads,
        "intermediate_size": size.feed_forward(gated),
        "vocab_size": VOCAB_SIZE,
        "max_seq_length": LENGTH,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "glu": gated,
        "position_embedding_type": "rotary" if gated else "absolute",
    }
    args = Namespace(**{**vars(build_parser().parse_args([])), **changes})
    args.precision = resolve_precision(precision, CPU, args.model_type)
    args.multiplies_in_bf16 = multiplies_in_bf16(args.precision, CPU, args.model_type, -1)
    return args


class Ours(nn.Module):
    """Our model with the loss of a micro batch; args: complete flags of a run."""

    def __init__(self, args: Namespace):
        from pretrain.kernels.linear import multiply_in_bf16
        from pretrain.model.model import BasePretrainModel

        super().__init__()
        self.model = BasePretrainModel(args)
        if args.multiplies_in_bf16:
            multiply_in_bf16(self.model)

    def forward(self, batch: Any) -> torch.Tensor:
        return self.model(*batch.inputs(CPU))


class Theirs(nn.Module):
    """BertForMaskedLM with its defaults, fed like the collator of transformers for MLM does.

    precision: fp32, or bf16 by torch's autocast.
    """

    def __init__(self, size: Size, dropout: float, precision: str):
        from transformers import BertConfig, BertForMaskedLM

        super().__init__()
        config = BertConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            intermediate_size=size.feed_forward(gated=False),
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        self.model = BertForMaskedLM(config)
        self.in_bf16 = precision == "bf16"

    def forward(self, batch: Any) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.in_bf16):
            return self.model(**usual_inputs(batch)).loss


def usual_inputs(batch: Any) -> dict[str, torch.Tensor]:
    """Returns int64 [batch, length] tensors: ids, mask, segments and labels (else IGNORED)."""
    labels = torch.full_like(batch.input_ids, IGNORED)
    labels.view(-1)[batch.prediction_index] = batch.labels
    mask = torch.ones_like(batch.input_ids)
    if batch.attention_mask is not None:
        mask = batch.attention_mask.long()
    return {
        "input_ids": batch.input_ids,
        "attention_mask": mask,
        "token_type_ids": batch.segment_ids,
        "labels": labels,
    }


# Name -> model from size, dropout and precision.
MODELS: dict[str, Callable[[Size, float, str], nn.Module]] = {
    "ours": lambda size, dropout, precision: Ours(model_args(size, dropout, False, precision)),
    "bert": Theirs,
}


class Training:
    """The training of a model, with AdamW in one fused kernel."""

    def __init__(self, model: nn.Module):
        self.model = model.train()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(self, batch: Any) -> float:
        """Trains on a batch and returns its loss."""
        loss = self.model(batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def read_batches(dataset: Path, batch_size: int, count: int) -> list:
    """Returns the first batches of a run with the default seed."""
    from pretrain.flags import build_parser
    from pretrain.optimization.batch_sizes import BatchSizes
    from pretrain.training.data_loader import PretrainDatasetProvider, list_shards

    seed, sizes = build_parser().get_default("seed"), BatchSizes(batch_size)
    with PretrainDatasetProvider(list_shards(dataset, "train"), seed, sizes, batch_size) as data:
        return [data.batch(step)[0] for step in range(count)]
