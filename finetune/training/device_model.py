"""Runs a classifier on this process's device: batches in, logits out."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune.data.batches import sorted_batches
from finetune.data.tokens import Padding, Tokens, padding_of
from finetune.training.acceleration import accelerate
from finetune.training.foreign_models import check_vocabulary
from pipeline.runtime.devices import device_type
from pipeline.runtime.oom import is_out_of_memory
from pretrain.kernels.cpu_settings import keep_freed_memory

# Tensor cores are fast for lengths that are multiples of this.
GPU_MULTIPLE = 8
# Largest batch of predictions on the CPU, in tokens: larger ones do not fit into its caches.
CPU_TOKENS = 4096


class DeviceModel:
    """A classifier on the first visible GPU, in half precision, or accelerated on the CPU.

    Raises StageError, as `check_vocabulary` does, for a tokenizer that does not fit the model, and
    as `device_type` does for a GPU that torch cannot use.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        check_vocabulary(model, tokenizer)
        self.model = model
        self.device = torch.device(device_type())
        has_gpu = self.device.type == "cuda"
        self.padding: Padding = padding_of(tokenizer, GPU_MULTIPLE if has_gpu else 1)
        if model.config.pad_token_id is None:  # GPT's classifier finds the last token by it
            model.config.pad_token_id = tokenizer.pad_token_id
        model.to(self.device)  # type: ignore[arg-type]  # transformers' decorator hides `self`
        self.dtype = _compute_dtype(self.device)
        self.most_tokens = sys.maxsize if has_gpu else CPU_TOKENS  # in a batch of predictions
        if not has_gpu:
            keep_freed_memory()
            accelerate(model)

    @property
    def needs_scaler(self) -> bool:
        return self.dtype == torch.float16

    def batch(self, tokens: Tokens, indices: np.ndarray) -> dict[str, Tensor]:
        """Returns the padded samples on the device, as the model takes them."""
        arrays = self.padding.batch(tokens, indices)
        return {name: self.to_device(array) for name, array in arrays.items()}

    def to_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Returns [n, num_labels] float32, of token classifiers [n, length, num_labels]."""
        with self._autocast():
            return self.model(**batch).logits.float()

    def _outputs(
        self, tokens: Tokens, batches: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the logits of the batches, and the place of each in the order of the samples."""
        found, is_per_token = [], False
        for indices in batches:
            batch = self.batch(tokens, indices)
            logits = self.logits(batch)
            if is_per_token := logits.ndim == 3:
                mask = batch.get("attention_mask")
                logits = logits.flatten(0, 1) if mask is None else logits[mask.bool()]
            found.append(logits)
        order = np.concatenate(batches)
        return torch.cat(found).cpu().numpy(), tokens.places(order) if is_per_token else order

    def _autocast(self) -> AbstractContextManager:
        if self.device.type == "cpu":
            return nullcontext()
        return torch.autocast("cuda", dtype=self.dtype)

    @torch.inference_mode()
    def predict(self, tokens: Tokens, max_tokens: int) -> np.ndarray:
        """Returns [N, num_labels] float32 logits in the order of the samples.

        Of token classifiers: [T, num_labels] of all tokens without the padding. max_tokens: per
        batch, with padding; reduced if memory is too small. Raises ValueError if a logit is not
        finite.
        """
        self.model.eval()
        while True:
            size = min(max_tokens, self.most_tokens)
            batches = sorted_batches(tokens.lengths, size)
            try:
                found, order = self._outputs(tokens, batches)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(batches) == len(tokens):
                    raise
            self.most_tokens = size // 2
            print(f"out of memory: predictions are made {self.most_tokens} tokens at a time")
        outputs = np.empty_like(found)
        outputs[order] = found
        if not np.isfinite(outputs).all():
            raise ValueError("the model's outputs are not finite: training diverged")
        return outputs


def _compute_dtype(device: torch.device) -> torch.dtype:
    """Returns autocast's dtype; the CPU's accelerated layers choose their own."""
    if device.type == "cpu":
        return torch.float32
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bf16 else torch.float16
