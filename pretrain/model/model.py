"""The models that masked language modelling trains; the prediction head sees masked positions only.

Some settings of BasePretrainModel are architectures of transformers, of which it computes the same:

- post-ln, absolute positions, embedding norm, LayerNorm, biases, no gate: BertForMaskedLM;
- the same with pre-ln: RobertaPreLayerNormForMaskedLM, whose positions are shifted;
- pre-ln, rotary positions, embedding norm, LayerNorm, gate: ModernBertForMaskedLM with attention
  to all tokens in every layer, and its four biases (attention, mlp, norm, classifier) as use_bias.

Other values of model_type are architectures of transformers, built by its own code.
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
from pretrain.model.model_types import OWN_TYPE, check_heads, check_model_type
from pretrain.settings import ModelSettings

# Bias of the logits that pad the vocabulary: far below any real logit, finite in fp16, and its
# softmax is exactly 0 in fp32, so that neither the loss nor any gradient feels the padding.
PADDING_LOGIT = -1e4

CHOICES = {
    "encoder_ln_mode": ("pre-ln", "post-ln"),
    "hidden_act": tuple(ACTIVATIONS),
    "position_embedding_type": ("absolute", "rotary"),
    "norm_type": ("layernorm", "rmsnorm"),
}


def padded_vocab_size(vocab_size: int, multiple: int) -> int:
    """The next multiple: matrix products on tensor cores want sizes that are multiples of 8."""
    return -(-vocab_size // multiple) * multiple


def build_model(args: Namespace | ModelSettings) -> nn.Module:
    """Returns a model with random weights, drawn from torch's generator.

    args: as BasePretrainModel takes them. model_type "bert-mlm" is BasePretrainModel; any other is
    a model type of transformers, which needs special_ids too. Both have the same forward. Raises
    ValueError naming the flag that makes no model.
    """
    settings = ModelSettings.from_args(args)
    if settings.model_type == OWN_TYPE:
        return BasePretrainModel(settings)
    from pretrain.model.transformers_model import TransformersModel

    return TransformersModel(settings)


class BasePretrainModel(nn.Module):
    """BERT with the masked-language-model head, initialised as BERT is.

    args: ModelSettings, or a namespace with the fields of ModelSettings that have no default.
    use_bias is about the linear layers and norms: the output's bias is always there. in_bf16: see
    pretrain.kernels.linear. Raises ValueError for values that make no model.
    """

    in_bf16 = False

    def __init__(self, args: Namespace | ModelSettings):
        super().__init__()
        settings = ModelSettings.from_args(args)
        check_model_settings(settings)
        num_rows = padded_vocab_size(settings.vocab_size, settings.pad_vocab_to_multiple_of)
        self.encoder = Encoder(replace(settings, vocab_size=num_rows))
        self.encoder.gradient_checkpointing = settings.gradient_checkpointing
        self.head = PredictionHead(settings)
        # The padding has no bias to learn: Adafactor's steps are as long as the weights are large.
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
        """vectors: [vocab_size, hidden_size]."""
        self.encoder.embeddings.word.weight[: len(vectors)] = vectors

    @torch.no_grad()
    def set_output_bias(self, counts: Tensor) -> None:
        """The logarithm of the tokens' frequencies; counts: [vocab_size], 0 counts as 1."""
        counts = counts.clamp(min=1).double()
        self.output_bias.copy_((counts / counts.sum()).log())

    def encode(
        self,
        input_ids: Tensor,
        segment_ids: Tensor,
        attention_mask: Tensor | Documents | None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [batch, length, hidden_size] after the last layer."""
        return self.encoder(input_ids, segment_ids, attention_mask, position_ids)

    def forward(
        self,
        input_ids: Tensor,
        segment_ids: Tensor,
        attention_mask: Tensor | Documents | None,
        prediction_index: Tensor,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Mean cross entropy, in nats, of the predicted tokens of a micro batch (fp32 scalar).

        Without labels: the logits [predictions, padded vocabulary].

        input_ids, segment_ids: int64 [batch, length]; rotary models ignore the segments.
        attention_mask: bool [batch, length], True at real tokens, or int [batch, length], the
        number of the sample in which a token attends to all, or None if nothing is padded; for rows
        of LONG_ROW tokens and more, their documents. prediction_index: int64 [predictions], row *
        length + position of each masked token. labels: int64 [predictions]. position_ids: int64
        [batch, length] for packed rows; None counts through.
        """
        hidden = self.encode(input_ids, segment_ids, attention_mask, position_ids)
        transformed = self.head(select_predictions(hidden, prediction_index))
        word_embeddings = self.encoder.embeddings.word.weight
        bias = functional.pad(self.output_bias, (0, self.num_padding_rows), value=PADDING_LOGIT)
        if self.in_bf16 and self.training and labels is not None:
            return half_mean_cross_entropy(transformed, word_embeddings, bias, labels)
        logits = linear(transformed, word_embeddings, bias)
        return logits if labels is None else mean_cross_entropy(logits, labels)


def select_predictions(hidden: Tensor, prediction_index: Tensor) -> Tensor:
    """Rows [predictions, hidden_size] of [batch, length, hidden_size]."""
    return hidden.flatten(0, 1).index_select(0, prediction_index)


def check_model_settings(settings: ModelSettings) -> None:
    """Raises ValueError naming the flag that makes no model."""
    head_dim, rest = divmod(settings.hidden_size, settings.num_attention_heads)
    if rest:
        raise ValueError(
            f"hidden_size: expected a multiple of num_attention_heads "
            f"({settings.num_attention_heads}), got {settings.hidden_size}"
        )
    if settings.model_type == OWN_TYPE:
        _check_our_settings(settings, head_dim)
        return
    check_model_type(settings.model_type)
    check_heads(settings.model_type, settings.hidden_size, settings.num_attention_heads)


def _check_our_settings(settings: ModelSettings, head_dim: int) -> None:
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
