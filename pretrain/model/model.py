"""Models for masked language modelling; the prediction head computes masked positions only.

With some settings, BasePretrainModel computes the same as an architecture of transformers:

- post-ln, absolute positions, embedding norm, LayerNorm, biases, no gate: BertForMaskedLM;
- the same with pre-ln: RobertaPreLayerNormForMaskedLM, with shifted positions;
- pre-ln, rotary positions, embedding norm, LayerNorm, gate: ModernBertForMaskedLM, with its four
  biases (attention, mlp, norm, classifier) as use_bias.

Other values of model_type are architectures of transformers, built by its code.
"""

from argparse import Namespace
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain.kernels.attention import Documents
from pretrain.kernels.cross_entropy import half_mean_cross_entropy, mean_cross_entropy
from pretrain.kernels.linear import linear
from pretrain.model.encoder import ACTIVATIONS, Encoder, PredictionHead
from pretrain.model.model_types import OWN_TYPE, check_heads
from pretrain.model.transformers_model import TransformersModel
from pretrain.settings import ModelSettings

# Bias of the logits of the vocabulary's padding: finite in fp16, and so low that its softmax is
# exactly 0 in fp32. The padding then changes neither the loss nor any gradient.
PADDING_LOGIT = -1e4

CHOICES = {
    "encoder_ln_mode": ("pre-ln", "post-ln"),
    "hidden_act": tuple(ACTIVATIONS),
    "position_embedding_type": ("absolute", "rotary"),
    "norm_type": ("layernorm", "rmsnorm"),
}


def padded_vocab_size(vocab_size: int, multiple: int) -> int:
    """Returns the next multiple; tensor cores are fast for multiples of 8."""
    return -(-vocab_size // multiple) * multiple


def build_model(args: Namespace | ModelSettings) -> nn.Module:
    """Returns a model with random weights, drawn from torch's generator.

    args: as for BasePretrainModel. model_type "bert-mlm" is BasePretrainModel; any other is a model
    type of transformers, and needs special_ids too. Both have the same forward. Raises ValueError
    naming an invalid flag.
    """
    settings = ModelSettings.from_args(args)
    is_ours = settings.model_type == OWN_TYPE
    return BasePretrainModel(settings) if is_ours else TransformersModel(settings)


class BasePretrainModel(nn.Module):
    """BERT with the masked-language-model head and BERT's initialisation.

    args: ModelSettings, or a namespace with its fields without defaults. use_bias does not apply to
    the output, always with a bias. in_bf16: see pretrain.kernels.linear. Raises ValueError naming
    an invalid flag.
    """

    in_bf16 = False

    def __init__(self, args: Namespace | ModelSettings):
        super().__init__()
        settings = ModelSettings.from_args(args)
        _check_settings(settings)
        num_rows = padded_vocab_size(settings.vocab_size, settings.pad_vocab_to_multiple_of)
        # The encoder takes the names of exported configs.
        self.encoder = Encoder(
            replace(settings, vocab_size=num_rows, max_seq_length=settings.positions)
        )
        self.encoder.gradient_checkpointing = settings.gradient_checkpointing
        self.head = PredictionHead(settings)
        # The padding has no trained bias: Adafactor would take large steps for large weights.
        self.output_bias = nn.Parameter(torch.zeros(settings.vocab_size))
        self.num_padding_rows = num_rows - settings.vocab_size
        self._initialize(settings.initializer_range)
        self._initialize_residuals(settings.residual_init)

    @torch.no_grad()
    def _initialize(self, initializer_range: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(0.0, initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()

    @torch.no_grad()
    def _initialize_residuals(self, how: str) -> None:
        scale = {"same": 1.0, "scaled": (2 * len(self.encoder.layers)) ** -0.5, "zero": 0.0}[how]
        for layer in self.encoder.layers:
            layer.attention.output.weight.mul_(scale)
            layer.feed_forward.output.weight.mul_(scale)

    @torch.no_grad()
    def set_word_embeddings(self, vectors: Tensor) -> None:
        """Sets the word embeddings. vectors: [vocab_size, hidden_size]."""
        self.encoder.embeddings.word.weight[: len(vectors)] = vectors

    @torch.no_grad()
    def set_output_bias(self, counts: Tensor) -> None:
        """Sets it to the logarithm of token frequencies. counts: [vocab_size], 0 counts as 1."""
        counts = counts.clamp(min=1).double()
        self.output_bias.copy_((counts / counts.sum()).log())

    def forward(
        self,
        input_ids: Tensor,
        segment_ids: Tensor,
        attention_mask: Tensor | Documents | None,
        prediction_index: Tensor,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Returns the mean cross entropy of the predicted tokens in nats (fp32 scalar).

        Without labels, returns the logits [predictions, padded vocabulary].

        input_ids, segment_ids: int64 [batch, length]; rotary models ignore the segments.
        attention_mask: bool [batch, length], True at real tokens, or int [batch, length], the
        number of each token's sample in a packed row, or None without padding; for rows of at least
        LONG_ROW tokens, their documents. prediction_index: int64 [predictions], row * length +
        position of each masked token. labels: int64 [predictions]. position_ids: int64 [batch,
        length] for packed rows; None: 0, 1, 2, ...
        """
        hidden = self.encoder(input_ids, segment_ids, attention_mask, position_ids)
        transformed = self.head(hidden.flatten(0, 1).index_select(0, prediction_index))
        word_embeddings = self.encoder.embeddings.word.weight
        bias = functional.pad(self.output_bias, (0, self.num_padding_rows), value=PADDING_LOGIT)
        if self.in_bf16 and self.training and labels is not None:
            return half_mean_cross_entropy(transformed, word_embeddings, bias, labels)
        logits = linear(transformed, word_embeddings, bias)
        return logits if labels is None else mean_cross_entropy(logits, labels)


def _check_settings(settings: ModelSettings) -> None:
    """Raises ValueError naming an invalid flag."""
    check_heads(OWN_TYPE, settings.hidden_size, settings.num_attention_heads)
    head_dim = settings.hidden_size // settings.num_attention_heads
    for flag, choices in CHOICES.items():
        value = getattr(settings, flag)
        if value not in choices:
            raise ValueError(f"{flag}: expected one of {', '.join(choices)}, got {value}")
    if settings.pad_vocab_to_multiple_of < 1:
        multiple = settings.pad_vocab_to_multiple_of
        raise ValueError(f"pad_vocab_to_multiple_of: expected at least 1, got {multiple}")
    if settings.position_embedding_type == "rotary" and head_dim % 2:
        raise ValueError(
            f"num_attention_heads: rotary positions need heads of even size, got {head_dim}"
        )
    if settings.position_embedding_type == "rotary" and settings.rope_theta <= 0:
        raise ValueError(f"rope_theta: expected more than 0, got {settings.rope_theta}")
