"""BERT for masked language modelling, with pre-ln or post-ln layers.

Post-ln is the model of Devlin et al. (2018). Pre-ln moves the LayerNorms in front of the
sublayers and adds one after the last layer (Xiong et al., 2020), which is what transformers calls
RobertaPreLayerNorm. The prediction head sees only the masked positions.
"""

from argparse import Namespace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCAB_MULTIPLE = 8  # matrix products on tensor cores want sizes that are multiples of 8
NUM_SEGMENTS = 2
# Bias of the logits that pad the vocabulary: far below any real logit, finite in fp16, and its
# softmax is exactly 0 in fp32, so that neither the loss nor any gradient feels the padding.
PADDING_LOGIT = -1e4

ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


def padded_vocab_size(vocab_size: int) -> int:
    """The next multiple of VOCAB_MULTIPLE."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


class Embeddings(nn.Module):
    """Sum of word, position and segment embeddings, normalised."""

    def __init__(self, args: Namespace):
        super().__init__()
        self.word = nn.Embedding(padded_vocab_size(args.vocab_size), args.hidden_size)
        self.position = nn.Embedding(args.max_seq_length, args.hidden_size)
        self.segment = nn.Embedding(NUM_SEGMENTS, args.hidden_size)
        self.norm = nn.LayerNorm(args.hidden_size, eps=args.layer_norm_eps)
        self.dropout = nn.Dropout(args.hidden_dropout_prob)

    def forward(
        self, input_ids: Tensor, segment_ids: Tensor, position_ids: Tensor | None
    ) -> Tensor:
        if position_ids is None:
            positions = self.position.weight[: input_ids.shape[1]]
        else:
            positions = self.position(position_ids)
        embedded = self.word(input_ids) + positions + self.segment(segment_ids)
        return self.dropout(self.norm(embedded))


class SelfAttention(nn.Module):
    """Multi-head attention with one product for queries, keys and values."""

    def __init__(self, args: Namespace):
        super().__init__()
        self.num_heads = args.num_attention_heads
        self.dropout_prob = args.attention_probs_dropout_prob
        self.qkv = nn.Linear(args.hidden_size, 3 * args.hidden_size)
        self.output = nn.Linear(args.hidden_size, args.hidden_size)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        batch, length, width = hidden.shape
        qkv = self.qkv(hidden).view(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=self.dropout_prob if self.training else 0.0,
        )
        return self.output(attended.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    def __init__(self, args: Namespace):
        super().__init__()
        self.input = nn.Linear(args.hidden_size, args.intermediate_size)
        self.output = nn.Linear(args.intermediate_size, args.hidden_size)
        self.activation = ACTIVATIONS[args.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.output(self.activation(self.input(hidden)))


class Layer(nn.Module):
    """Attention and feed-forward, each with dropout, residual connection and LayerNorm."""

    def __init__(self, args: Namespace):
        super().__init__()
        self.pre_ln = args.encoder_ln_mode == "pre-ln"
        self.attention = SelfAttention(args)
        self.attention_norm = nn.LayerNorm(args.hidden_size, eps=args.layer_norm_eps)
        self.feed_forward = FeedForward(args)
        self.feed_forward_norm = nn.LayerNorm(args.hidden_size, eps=args.layer_norm_eps)
        self.dropout = nn.Dropout(args.hidden_dropout_prob)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        if self.pre_ln:
            attended = self.attention(self.attention_norm(hidden), attention_mask)
            hidden = hidden + self.dropout(attended)
            return hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))
        attended = self.attention(hidden, attention_mask)
        hidden = self.attention_norm(hidden + self.dropout(attended))
        return self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden)))


class PredictionHead(nn.Module):
    """Logits over the vocabulary; the decoder's matrix is that of the word embeddings."""

    def __init__(self, args: Namespace):
        super().__init__()
        self.dense = nn.Linear(args.hidden_size, args.hidden_size)
        # RobertaPreLayerNorm's head has gelu whatever the layers have; BERT's has theirs.
        head_act = "gelu" if args.encoder_ln_mode == "pre-ln" else args.hidden_act
        self.activation = ACTIVATIONS[head_act]
        self.norm = nn.LayerNorm(args.hidden_size, eps=args.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(padded_vocab_size(args.vocab_size)))

    def forward(self, hidden: Tensor, word_embeddings: Tensor) -> Tensor:
        transformed = self.norm(self.activation(self.dense(hidden)))
        return functional.linear(transformed, word_embeddings, self.bias)


class BasePretrainModel(nn.Module):
    """BERT with the masked-language-model head, initialised as BERT is.

    args: a namespace with model_type ("bert-mlm"), encoder_ln_mode ("pre-ln" or "post-ln"),
    vocab_size, max_seq_length, hidden_size, num_hidden_layers, num_attention_heads,
    intermediate_size, hidden_act (a key of ACTIVATIONS), hidden_dropout_prob,
    attention_probs_dropout_prob, initializer_range and layer_norm_eps: the flags of
    run_pretraining.py. Raises ValueError for values that make no model.
    """

    def __init__(self, args: Namespace):
        super().__init__()
        check_model_args(args)
        self.vocab_size = args.vocab_size
        self.embeddings = Embeddings(args)
        self.layers = nn.ModuleList(Layer(args) for _ in range(args.num_hidden_layers))
        pre_ln = args.encoder_ln_mode == "pre-ln"
        self.final_norm = (
            nn.LayerNorm(args.hidden_size, eps=args.layer_norm_eps) if pre_ln else nn.Identity()
        )
        self.head = PredictionHead(args)
        self._initialize(args.initializer_range)

    @torch.no_grad()
    def _initialize(self, initializer_range: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(0.0, initializer_range)
            if isinstance(module, nn.Linear):
                module.bias.zero_()
        self.head.bias[self.vocab_size :] = PADDING_LOGIT

    def encode(
        self,
        input_ids: Tensor,
        segment_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [batch, length, hidden_size] after the last layer."""
        if attention_mask is not None and attention_mask.dim() == 2:
            attention_mask = attention_mask[:, None, :]  # the same for all queries
        if attention_mask is not None:
            attention_mask = attention_mask[:, None]  # and for all heads
        hidden = self.embeddings(input_ids, segment_ids, position_ids)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        return self.final_norm(hidden)

    def logits(
        self,
        input_ids: Tensor,
        segment_ids: Tensor,
        attention_mask: Tensor | None,
        prediction_index: Tensor,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Logits [predictions, padded vocabulary] at the positions of `prediction_index`."""
        hidden = self.encode(input_ids, segment_ids, attention_mask, position_ids)
        masked = hidden.flatten(0, 1).index_select(0, prediction_index)
        return self.head(masked, self.embeddings.word.weight)

    def forward(
        self,
        input_ids: Tensor,
        segment_ids: Tensor,
        attention_mask: Tensor | None,
        prediction_index: Tensor,
        labels: Tensor,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Mean cross entropy, in nats, of the predicted tokens of a micro batch (fp32 scalar).

        input_ids, segment_ids: int64 [batch, length]. attention_mask: bool [batch, length], True
        at real tokens, or [batch, length, length], True where a token (first) attends to another,
        or None if nothing is padded. position_ids: int64 [batch, length] for packed rows; None
        counts through. prediction_index: int64 [predictions],
        row * length + position of each masked token. labels: int64 [predictions].
        """
        logits = self.logits(input_ids, segment_ids, attention_mask, prediction_index, position_ids)
        total = functional.cross_entropy(logits.float(), labels, reduction="sum")
        return total / max(1, len(labels))  # a micro batch may, rarely, have no prediction


def check_model_args(args: Namespace) -> None:
    """Raises ValueError naming the flag that makes no model."""
    if args.model_type != "bert-mlm":
        raise ValueError(f"model_type: expected bert-mlm, got {args.model_type}")
    if args.encoder_ln_mode not in ("pre-ln", "post-ln"):
        raise ValueError(f"encoder_ln_mode: expected pre-ln or post-ln, got {args.encoder_ln_mode}")
    if args.hidden_act not in ACTIVATIONS:
        raise ValueError(
            f"hidden_act: expected one of {', '.join(ACTIVATIONS)}, got {args.hidden_act}"
        )
    if args.hidden_size % args.num_attention_heads:
        raise ValueError(
            f"hidden_size: expected a multiple of num_attention_heads "
            f"({args.num_attention_heads}), got {args.hidden_size}"
        )
