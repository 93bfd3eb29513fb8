"""Our own architecture as classes of transformers.

Exports hold copies of this file, the encoder and its imports, for
`AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)` on machines with transformers
alone. In this project `register` makes that flag unnecessary.
"""

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

# Version 4 of transformers finds only the direct imports of this file: attention.py, dropout.py,
# bf16_attention.py and linear.py must be among them.
from pretrain.kernels.attention import Documents  # noqa: F401
from pretrain.kernels.bf16_attention import half_attention  # noqa: F401
from pretrain.kernels.dropout import Dropout
from pretrain.kernels.linear import Linear
from pretrain.model.configuration_extremebert import ExtremeBertConfig
from pretrain.model.encoder import Encoder, PredictionHead


class ExtremeBertPreTrainedModel(PreTrainedModel):
    """Base class; transformers initialises modules missing from a checkpoint."""

    config_class = ExtremeBertConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Layer"]  # noqa: RUF012, as its base class


class ExtremeBertModel(ExtremeBertPreTrainedModel):
    """The encoder alone."""

    def __init__(self, config: ExtremeBertConfig):
        super().__init__(config)
        self.encoder = Encoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.embeddings.word

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.embeddings.word = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> BaseModelOutput:
        """Returns last_hidden_state [batch, length, hidden_size]; arguments as in Encoder.forward.

        attention_mask: of any type, 0 at padding. token_type_ids: default 0.
        """
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        mask = None if attention_mask is None else attention_mask.bool()
        hidden = self.encoder(input_ids, token_type_ids, mask, position_ids)
        return BaseModelOutput(last_hidden_state=hidden)


class ExtremeBertForMaskedLM(ExtremeBertPreTrainedModel):
    """The pretrained model; the decoder's matrix is that of the word embeddings."""

    _tied_weights_keys = {  # noqa: RUF012, as its base class
        "decoder.weight": "model.encoder.embeddings.word.weight"
    }

    def __init__(self, config: ExtremeBertConfig):
        super().__init__(config)
        self.model = ExtremeBertModel(config)
        self.head = PredictionHead(config)
        self.decoder = Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder

    def set_output_embeddings(self, new_embeddings: Linear) -> None:
        self.decoder = new_embeddings

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> MaskedLMOutput:
        """Returns logits [batch, length, vocab_size], and with labels the loss.

        labels: int64 [batch, length], -100 at tokens without a prediction.
        """
        hidden = self.model(input_ids, attention_mask, token_type_ids, position_ids)[0]
        logits = self.decoder(self.head(hidden))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return MaskedLMOutput(loss=loss, logits=logits)


class ExtremeBertClassifier(ExtremeBertPreTrainedModel):
    """The pretrained head, with a new last layer."""

    def __init__(self, config: ExtremeBertConfig):
        super().__init__(config)
        assert config.num_labels is not None
        self.num_labels = config.num_labels
        self.model = ExtremeBertModel(config)
        self.head = PredictionHead(config)
        self.dropout = Dropout(config.classifier_dropout)
        self.classifier = Linear(config.hidden_size, config.num_labels)
        self.post_init()


class ExtremeBertForSequenceClassification(ExtremeBertClassifier):
    """Classifies the first token's hidden state."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Returns logits [batch, num_labels], and with labels the loss.

        labels: classes int64 [batch], or floats.
        config.problem_type selects the loss: regression, single_label_classification or
        multi_label_classification; by default, num_labels and the dtype of the labels do.
        """
        hidden = self.model(input_ids, attention_mask, token_type_ids, position_ids)[0]
        logits = self.classifier(self.dropout(self.head(hidden[:, 0])))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class ExtremeBertForTokenClassification(ExtremeBertClassifier):
    """Classifies each token's hidden state."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> TokenClassifierOutput:
        """Returns logits [batch, length, num_labels], and with labels the loss.

        labels: classes int64 [batch, length], -100 at tokens without one.
        """
        hidden = self.model(input_ids, attention_mask, token_type_ids, position_ids)[0]
        logits = self.classifier(self.dropout(self.head(hidden)))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config)
        return TokenClassifierOutput(loss=loss, logits=logits)


AUTO_CLASSES = {
    AutoModel: ExtremeBertModel,
    AutoModelForMaskedLM: ExtremeBertForMaskedLM,
    AutoModelForSequenceClassification: ExtremeBertForSequenceClassification,
    AutoModelForTokenClassification: ExtremeBertForTokenClassification,
}


def register() -> None:
    """Registers our architecture with transformers' auto classes."""
    AutoConfig.register(ExtremeBertConfig.model_type, ExtremeBertConfig, exist_ok=True)
    ExtremeBertConfig.register_for_auto_class()
    for auto_class, model_class in AUTO_CLASSES.items():
        auto_class.register(ExtremeBertConfig, model_class, exist_ok=True)
        model_class.register_for_auto_class(auto_class.__name__)
