"""The trained model as a Hugging Face folder that stock transformers loads.

Post-ln is BertForMaskedLM. Pre-ln, with the embeddings' LayerNorm and the one after the last
layer, is RobertaPreLayerNormForMaskedLM, whose positions start behind that of the padding token:
position p of ours is row p + pad_token_id + 1 of its table.
"""

import os
import shutil
from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.artifacts import flush_to_disk, read_json, write_json
from pretrain.model import NUM_SEGMENTS

# Ours -> theirs, below `encoder.layer.<n>.`; the norms stand elsewhere in the two models.
LAYER_NAMES = {
    "attention.output": "attention.output.dense",
    "feed_forward.input": "intermediate.dense",
    "feed_forward.output": "output.dense",
}
LAYER_NORM_NAMES = {
    "pre-ln": {
        "attention_norm": "attention.LayerNorm",
        "feed_forward_norm": "intermediate.LayerNorm",
    },
    "post-ln": {
        "attention_norm": "attention.output.LayerNorm",
        "feed_forward_norm": "output.LayerNorm",
    },
}
PREFIXES = {"pre-ln": "roberta_prelayernorm", "post-ln": "bert"}
HEAD_NAMES = {
    "pre-ln": {"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias"},
    "post-ln": {
        "dense": "cls.predictions.transform.dense",
        "norm": "cls.predictions.transform.LayerNorm",
        "bias": "cls.predictions.bias",
    },
}


def hugging_face_weights(
    weights: dict[str, Tensor], args: Namespace, pad_token_id: int
) -> dict[str, Tensor]:
    """Our state dict under transformers' names, in fp32, without the padding of the vocabulary."""
    mode = args.encoder_ln_mode
    prefix, head = PREFIXES[mode], HEAD_NAMES[mode]
    ours = {name: tensor.detach().float().cpu() for name, tensor in weights.items()}
    result = {
        f"{prefix}.embeddings.word_embeddings.weight": ours["embeddings.word.weight"][
            : args.vocab_size
        ],
        f"{prefix}.embeddings.token_type_embeddings.weight": ours["embeddings.segment.weight"],
        f"{prefix}.embeddings.position_embeddings.weight": _positions(
            ours["embeddings.position.weight"], mode, pad_token_id
        ),
        head["bias"]: ours["head.bias"][: args.vocab_size],
        **_renamed(ours, "embeddings.norm", f"{prefix}.embeddings.LayerNorm"),
        **_renamed(ours, "head.dense", head["dense"]),
        **_renamed(ours, "head.norm", head["norm"]),
    }
    if mode == "pre-ln":
        result |= _renamed(ours, "final_norm", f"{prefix}.LayerNorm")
    for number in range(args.num_hidden_layers):
        result |= _layer(ours, f"layers.{number}", f"{prefix}.encoder.layer.{number}", mode)
    return {name: tensor.contiguous() for name, tensor in result.items()}


def _renamed(ours: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {f"{new}.{kind}": ours[f"{old}.{kind}"] for kind in ("weight", "bias")}


def _positions(table: Tensor, mode: str, pad_token_id: int) -> Tensor:
    if mode == "post-ln":
        return table
    unused = table.new_zeros(pad_token_id + 1, table.shape[1])
    return torch.cat([unused, table])


def _layer(ours: dict[str, Tensor], old: str, new: str, mode: str) -> dict[str, Tensor]:
    result = {}
    for ours_name, theirs in (LAYER_NAMES | LAYER_NORM_NAMES[mode]).items():
        result |= _renamed(ours, f"{old}.{ours_name}", f"{new}.{theirs}")
    for kind in ("weight", "bias"):
        parts = ours[f"{old}.attention.qkv.{kind}"].chunk(3)
        for name, part in zip(("query", "key", "value"), parts, strict=True):
            result[f"{new}.attention.self.{name}.{kind}"] = part.clone()
    return result


def hugging_face_config(args: Namespace, special_ids: dict[str, int]) -> dict:
    """config.json of the export; special_ids: pad_token_id, bos_token_id, eos_token_id."""
    pre_ln = args.encoder_ln_mode == "pre-ln"
    unused_positions = special_ids["pad_token_id"] + 1 if pre_ln else 0
    return {
        "architectures": ["RobertaPreLayerNormForMaskedLM" if pre_ln else "BertForMaskedLM"],
        "model_type": "roberta-prelayernorm" if pre_ln else "bert",
        "vocab_size": args.vocab_size,
        "hidden_size": args.hidden_size,
        "num_hidden_layers": args.num_hidden_layers,
        "num_attention_heads": args.num_attention_heads,
        "intermediate_size": args.intermediate_size,
        "hidden_act": args.hidden_act,
        "hidden_dropout_prob": args.hidden_dropout_prob,
        "attention_probs_dropout_prob": args.attention_probs_dropout_prob,
        "max_position_embeddings": args.max_seq_length + unused_positions,
        "type_vocab_size": NUM_SEGMENTS,
        "initializer_range": args.initializer_range,
        "layer_norm_eps": args.layer_norm_eps,
        "tie_word_embeddings": True,
        "dtype": "float32",
        **special_ids,
    }


def export_model(
    weights: dict[str, Tensor],
    args: Namespace,
    tokenizer_dir: Path,
    special_ids: dict[str, int],
    output: Path,
) -> None:
    """Writes model.safetensors, config.json and the tokenizer's files; replaces `output` whole."""
    from safetensors.torch import save_file

    aside = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    tensors = hugging_face_weights(weights, args, special_ids["pad_token_id"])
    save_file(tensors, aside / "model.safetensors", metadata={"format": "pt"})
    write_json(aside / "config.json", hugging_face_config(args, special_ids))
    for file in tokenizer_dir.iterdir():
        shutil.copyfile(file, aside / file.name)
    settings = read_json(aside / "tokenizer_config.json") or {}
    # The corpus' tokenizer knows no limit of this model's; truncation=True must fit its positions.
    write_json(
        aside / "tokenizer_config.json", {**settings, "model_max_length": args.max_seq_length}
    )
    for file in (*aside.iterdir(), aside):
        flush_to_disk(file)
    shutil.rmtree(output, ignore_errors=True)
    os.replace(aside, output)
    flush_to_disk(output.parent)
