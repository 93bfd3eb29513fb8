"""Our models and those of transformers, of equal size, ready to train on the same batches."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.sizes import HEAD_DIM, feed_forward_width
from pretrain.engine.precision import multiplies_in_bf16, resolve_precision
from pretrain.flags import build_parser
from pretrain.kernels.linear import multiply_in_bf16
from pretrain.model.model import BasePretrainModel
from pretrain.optimization.batch_sizes import BatchSizes
from pretrain.training.data_loader import MicroBatch, PretrainDatasetProvider, list_shards

VOCAB_SIZE = 30522  # of BERT
LENGTH = 128
CPU = torch.device("cpu")
IGNORED = -100  # label of a token that transformers shall not predict
BYTES_PER_WEIGHT = 16  # itself, its gradient and the two moments of Adam, in fp32


@dataclass(frozen=True)
class Size:
    layers: int
    hidden: int

    @property
    def heads(self) -> int:
        return self.hidden // HEAD_DIM

    @property
    def gated_intermediate(self) -> int:
        """With three matrices, as many weights as 4 * hidden gives with two; in steps of 16."""
        return feed_forward_width(self.hidden, gated=True)

    def __str__(self) -> str:
        return f"{self.layers}x{self.hidden}"


def parse_size(text: str) -> Size:
    """A size from "layers x hidden", such as 12x768."""
    layers, hidden = map(int, text.split("x"))
    if hidden % HEAD_DIM:
        raise ValueError(f"{text}: expected a hidden size that is a multiple of {HEAD_DIM}")
    return Size(layers, hidden)


def model_args(
    size: Size, dropout: float, gated: bool = False, precision: str = "auto"
) -> Namespace:
    """The flags of a run on the CPU, with what they and the processor make of the precision.

    gated: rotary positions and a gate, as ModernBERT has them.
    """
    defaults = vars(build_parser().parse_args([]))
    changes = {
        "num_hidden_layers": size.layers,
        "hidden_size": size.hidden,
        "num_attention_heads": size.heads,
        "intermediate_size": size.gated_intermediate if gated else 4 * size.hidden,
        "vocab_size": VOCAB_SIZE,
        "max_seq_length": LENGTH,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "glu": gated,
        "position_embedding_type": "rotary" if gated else "absolute",
    }
    args = Namespace(**{**defaults, **changes})
    args.precision = resolve_precision(precision, CPU, args.model_type)
    args.multiplies_in_bf16 = multiplies_in_bf16(args.precision, CPU, args.model_type, -1)
    return args


class Ours(nn.Module):
    """Our model, from the completed flags of a run, with the loss of a micro batch."""

    def __init__(self, args: Namespace):
        super().__init__()
        self.model = BasePretrainModel(args)
        if args.multiplies_in_bf16:
            multiply_in_bf16(self.model)

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        return self.model(*batch.inputs(CPU))


class Theirs(nn.Module):
    """A model of transformers with its defaults, thus in fp32, fed as its collator for MLM does."""

    def __init__(self, model: nn.Module, takes_segments: bool):
        super().__init__()
        self.model, self.takes_segments = model, takes_segments

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        return self.model(**usual_inputs(batch, self.takes_segments)).loss


def usual_inputs(batch: MicroBatch, takes_segments: bool) -> dict[str, torch.Tensor]:
    """int64 [batch, length] each: ids, mask, labels that are IGNORED elsewhere, and segments."""
    labels = torch.full_like(batch.input_ids, IGNORED)
    labels.view(-1)[batch.prediction_index] = batch.labels
    mask = torch.ones_like(batch.input_ids)
    if batch.attention_mask is not None:
        mask = batch.attention_mask.long()
    inputs = {"input_ids": batch.input_ids, "attention_mask": mask, "labels": labels}
    return inputs | ({"token_type_ids": batch.segment_ids} if takes_segments else {})


def build_bert(size: Size, dropout: float) -> Theirs:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.hidden,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return Theirs(BertForMaskedLM(config), takes_segments=True)


def build_modernbert(size: Size, dropout: float) -> Theirs:
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    config = ModernBertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.gated_intermediate,
        attention_dropout=dropout,
        embedding_dropout=dropout,
        mlp_dropout=dropout,
        # Its own special ids are beyond this vocabulary.
        pad_token_id=0,
        **dict.fromkeys(("bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id")),
    )
    return Theirs(ModernBertForMaskedLM(config), takes_segments=False)


# Name -> builder, from size, dropout and the precision of ours; each of ours is followed by the one
# that it is compared with.
CONTESTANTS: dict[str, Callable[[Size, float, str], nn.Module]] = {
    "ours": lambda size, dropout, precision: Ours(model_args(size, dropout, False, precision)),
    "bert": lambda size, dropout, _: build_bert(size, dropout),
    "gated": lambda size, dropout, precision: Ours(model_args(size, dropout, True, precision)),
    "modernbert": lambda size, dropout, _: build_modernbert(size, dropout),
}
RIVALS = {"ours": "bert", "gated": "modernbert"}


class Training:
    """A model's training, a step at a time: forward, backward, and AdamW in one fused kernel."""

    def __init__(self, model: nn.Module):
        self.model = model.train()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(self, batch: MicroBatch) -> float:
        """The loss of that step."""
        loss = self.model(batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def read_batches(dataset_path: Path, batch_size: int, count: int) -> list[MicroBatch]:
    """The first batches that a run with the default seed trains on."""
    seed = build_parser().get_default("seed")
    sizes = BatchSizes(batch_size)
    with PretrainDatasetProvider(
        list_shards(dataset_path, "train"), seed, sizes, batch_size
    ) as provider:
        return [provider.batch(step)[0] for step in range(count)]


def memory_needed(size: Size, batch_size: int, num_models: int) -> int:
    """Bytes, roughly: the states of all models, and what one keeps for its backward pass."""
    weights = size.hidden * (12 * size.layers * size.hidden + VOCAB_SIZE)
    tokens = batch_size * LENGTH
    per_layer = 4 * tokens * (24 * size.hidden + 4 * size.heads * LENGTH)
    logits = 4 * 4 * tokens * VOCAB_SIZE  # transformers', their fp32 copy, softmax and gradient
    return num_models * BYTES_PER_WEIGHT * weights + size.layers * per_layer + logits
