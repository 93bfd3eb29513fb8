"""The encoder and the prediction head, in torch alone.

Exports of architectures unknown to transformers hold a copy of this file. Of this project, it
therefore imports only files of the same export.

Post-ln is the encoder of Devlin et al. (2018). Pre-ln moves the norms in front of the sublayers and
adds one after the last layer (Xiong et al., 2020). Positions are learned, or rotations of queries
and keys without segment embeddings (Su et al., 2021). Options: a gate in the feed-forward part
(Shazeer, 2020), norms without mean and bias (Zhang and Sennrich, 2019), and most layers with
attention within a window (Beltagy et al., 2020).

Every class takes a config with the attributes encoder_ln_mode ("pre-ln" or "post-ln"), vocab_size
(rows of the word embeddings), type_vocab_size (segments, of absolute positions), max_seq_length
(number of positions), hidden_size, num_hidden_layers, num_attention_heads, intermediate_size,
hidden_act (a key of ACTIVATIONS), glu, position_embedding_type ("absolute" or "rotary"), rope_theta
and local_rope_theta (of layers with a window; 0: the same), attention_window and
global_attention_every (see Encoder), use_bias, norm_type ("layernorm" or "rmsnorm"),
embedding_norm, hidden_dropout_prob, attention_probs_dropout_prob and layer_norm_eps.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pretrain.kernels.attention import Documents, Pattern, global_pattern, local_pattern
from pretrain.kernels.bf16_attention import half_attention
from pretrain.kernels.dropout import Dropout, attention
from pretrain.kernels.linear import Linear

ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}
# Cosines and sines of a token's angles; each broadcasts to [batch, length, 2, heads, head_dim / 2].
Rotation = tuple[Tensor, Tensor]


def build_norm(config) -> nn.Module:
    """Returns a norm over the hidden size; RMSNorm never has a bias."""
    if config.norm_type == "rmsnorm":
        return nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=config.use_bias)


class Embeddings(nn.Module):
    """Word embeddings, plus embeddings of position and segment unless positions are rotations."""

    def __init__(self, config):
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.absolute = config.position_embedding_type == "absolute"
        if self.absolute:
            self.position = nn.Embedding(config.max_seq_length, config.hidden_size)
            self.segment = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = build_norm(config) if config.embedding_norm else nn.Identity()
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, segment_ids: Tensor, positions: Tensor) -> Tensor:
        embedded = self.word(input_ids)
        if self.absolute:
            # A model without segments has a single one.
            has_segments = self.segment.num_embeddings > 1
            segment = self.segment(segment_ids) if has_segments else self.segment.weight
            embedded = embedded + self.position(positions) + segment
        return self.dropout(self.norm(embedded))


def rotation(positions: Tensor, head_dim: int, theta: float) -> Rotation:
    """Returns cosines and sines, fp32, of the angles position * theta^(-2i / head_dim).

    positions: int64 [length] or [batch, length]. Computed in every pass: as buffers of the model
    they would lose precision in a cast to fp16.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    frequencies = 1.0 / theta ** (exponents / head_dim)
    angles = (positions.float()[..., None] * frequencies)[..., None, None, :]
    return angles.cos(), angles.sin()


def rotate(vectors: Tensor, by: Rotation) -> Tensor:
    """Rotates queries and keys [batch, length, 2, heads, head_dim], in fp32.

    Rotates components i and i + head_dim / 2 together.
    """
    if not torch.compiler.is_compiling():
        return _Rotation.apply(vectors, *by)
    cos, sin = by  # torch.compile makes a single kernel of the rest
    first, second = vectors.float().chunk(2, dim=-1)
    turned = first * cos - second * sin, second * cos + first * sin
    return torch.cat(turned, dim=-1).to(vectors.dtype)


class _Rotation(torch.autograd.Function):
    """Rotates the gradient back; autograd would keep and add products instead."""

    @staticmethod
    def forward(ctx, vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(vectors, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, sin, -1), None, None


def _turned(vectors: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    if vectors.device.type == "cpu":  # it is faster in fp32
        return turned_pairs(vectors.float(), cos, sin, direction).to(vectors.dtype)
    return turned_pairs(vectors, cos, sin, direction)


def turned_pairs(vectors: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """Rotates with four kernels, in fp32, rounded to the vectors' dtype.

    cos, sin: as from `rotation`. direction: 1 or -1.
    """
    result = torch.empty(vectors.shape, dtype=vectors.dtype, device=vectors.device)
    (first, second), (left, right) = vectors.chunk(2, dim=-1), result.chunk(2, dim=-1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=right).addcmul_(first, sin, value=direction)
    return result


class SelfAttention(nn.Module):
    """Multi-head attention with one product for queries, keys and values.

    in_bf16: see pretrain.kernels.linear.
    """

    in_bf16 = False

    def __init__(self, config):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size, bias=config.use_bias)
        self.qkv.gives_bf16 = True
        self.output = Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)

    def forward(self, hidden: Tensor, pattern: Pattern, turn: Rotation | None) -> Tensor:
        batch, length, width = hidden.shape
        qkv = self.qkv(hidden).view(batch, length, 3, self.num_heads, width // self.num_heads)
        if turn is None:
            query, key, value = qkv.unbind(2)
        else:
            query_key, value = qkv.split((2, 1), dim=2)
            query, key = rotate(query_key, turn).unbind(2)
            value = value.squeeze(2)
        attend = half_attention if self.in_bf16 and self.training else attention
        dropout = self.dropout_prob if self.training else 0.0
        attended = pattern.attend(query, key, value, attend, dropout)
        return self.output(attended.reshape(batch, length, width))


class FeedForward(nn.Module):
    """Two linear layers around the activation; the first may also produce a gate."""

    def __init__(self, config):
        super().__init__()
        self.gated = config.glu
        inner = config.intermediate_size * (2 if self.gated else 1)
        self.input = Linear(config.hidden_size, inner, bias=config.use_bias)
        self.input.gives_bf16 = True
        self.output = Linear(config.intermediate_size, config.hidden_size, bias=config.use_bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.input(hidden)
        if not self.gated:
            return self.output(self.activation(inner))
        activated, gate = inner.chunk(2, dim=-1)
        return self.output(self.activation(activated) * gate)


class Layer(nn.Module):
    """Attention and feed-forward, each with dropout, residual connection and norm."""

    def __init__(self, config, has_attention_norm: bool):
        super().__init__()
        self.pre_ln = config.encoder_ln_mode == "pre-ln"
        self.attention = SelfAttention(config)
        self.attention_norm = build_norm(config) if has_attention_norm else nn.Identity()
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = build_norm(config)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, pattern: Pattern, turn: Rotation | None) -> Tensor:
        if self.pre_ln:
            attended = self.attention(self.attention_norm(hidden), pattern, turn)
            hidden = hidden + self.dropout(attended)
            return hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))
        attended = self.attention(hidden, pattern, turn)
        hidden = self.attention_norm(hidden + self.dropout(attended))
        return self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden)))


class Encoder(nn.Module):
    """Transformer encoder, from token ids to hidden states.

    config.attention_window: a token attends to tokens at most half of it away, except in the first
    and every global_attention_every-th layer after it; 0: to all tokens in every layer.
    gradient_checkpointing: True if training stores only the inputs of each layer, and recomputes
    the rest in the backward pass; the gradients are the same.
    """

    def __init__(self, config):
        super().__init__()
        pre_ln = config.encoder_ln_mode == "pre-ln"
        rotary = config.position_embedding_type == "rotary"
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.theta = config.rope_theta if rotary else 0.0
        self.local_theta = config.local_rope_theta or config.rope_theta
        self.reach = config.attention_window // 2
        self.global_every = config.global_attention_every if self.reach else 1
        self.gradient_checkpointing = False
        self.embeddings = Embeddings(config)
        # As in ModernBERT: right after the norm of the embeddings, another one has no effect.
        first_has_norm = not (pre_ln and rotary and config.embedding_norm)
        self.layers = nn.ModuleList(
            Layer(config, number > 0 or first_has_norm)
            for number in range(config.num_hidden_layers)
        )
        self.final_norm = build_norm(config) if pre_ln else nn.Identity()

    def forward(
        self,
        input_ids: Tensor,
        segment_ids: Tensor,
        attention_mask: Tensor | Documents | None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Returns hidden states [batch, length, hidden_size] after the last layer.

        input_ids, segment_ids: int64 [batch, length]. attention_mask: bool [batch, length], True
        at real tokens, or int [batch, length], the number of each token's document, or None without
        padding; for long rows, their documents. position_ids: int64 [batch, length]; None: 0, 1, 2,
        ...
        """
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)
        hidden = self.embeddings(input_ids, segment_ids, position_ids)
        patterns, turns = self._patterns(attention_mask, hidden), self._turns(position_ids)
        for layer, pattern, turn in zip(self.layers, patterns, turns, strict=True):
            if self.gradient_checkpointing and self.training:
                hidden = checkpoint(layer, hidden, pattern, turn, use_reentrant=False)
            else:
                hidden = layer(hidden, pattern, turn)
        return self.final_norm(hidden)

    def _patterns(self, mask: Tensor | Documents | None, hidden: Tensor) -> list[Pattern]:
        """Returns the pattern of each layer, with at most two different ones."""
        wide = near = global_pattern(mask, hidden, self.head_dim)
        if self.global_every > 1:
            near = local_pattern(mask, hidden, self.head_dim, self.reach)
        return self._by_layer(wide, near)

    def _turns(self, position_ids: Tensor) -> list[Rotation] | list[None]:
        """Returns the rotation of each layer, with at most two different ones."""
        if not self.theta:
            return [None] * len(self.layers)
        wide = near = rotation(position_ids, self.head_dim, self.theta)
        if self.global_every > 1 and self.local_theta != self.theta:
            near = rotation(position_ids, self.head_dim, self.local_theta)
        return self._by_layer(wide, near)

    def _by_layer(self, wide, near) -> list:
        """Returns for each layer `wide` if it attends to all tokens, else `near`."""
        return [near if n % self.global_every else wide for n in range(len(self.layers))]


class PredictionHead(nn.Module):
    """Linear layer, activation and norm before the product with the word embeddings."""

    def __init__(self, config):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)
        # As in transformers: its pre-ln models always have gelu, BERT the layers' activation.
        head_act = "gelu" if config.encoder_ln_mode == "pre-ln" else config.hidden_act
        self.activation = ACTIVATIONS[head_act]
        self.norm = build_norm(config)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(hidden)))
