"""Architectures of transformers behind our interface: sizes, loss, masked positions, refusals."""

import pytest
import torch

from pretrain.kernels.attention import LONG_ROW, Documents
from pretrain.model.model import build_model
from pretrain.model.transformers_model import READY_MASK
from pretrain.training.compiling import repeated_layers
from tests.pretrain.model.test_model import LABELS, example_batch, gradients, model_args

SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
TYPES = (
    *("modernbert", "roberta", "deberta-v2", "electra", "bert", "distilbert", "albert"),
    *("deberta", "camembert", "roberta-prelayernorm", "nomic_bert"),
)


def seeded_model(model_type, **changes):
    torch.manual_seed(0)
    return build_model(model_args(model_type=model_type, special_ids=SPECIAL_IDS, **changes))


@pytest.mark.parametrize("model_type", TYPES)
def test_the_head_sees_masked_positions_only_and_computes_what_it_does_on_all(model_type):
    model = seeded_model(model_type).eval()
    input_ids, segment_ids, mask, index = example_batch()
    inputs = {"input_ids": input_ids, "attention_mask": mask.long()}
    if model.takes_segments:
        inputs["token_type_ids"] = segment_ids
    with torch.no_grad():
        everywhere = model.model(**inputs).logits
        found = model(input_ids, segment_ids, mask, index)
    assert everywhere.shape == (3, 16, 61) and found.shape == (4, 61)
    torch.testing.assert_close(found, everywhere.flatten(0, 1)[index], atol=1e-6, rtol=1e-5)
    expected = -found.log_softmax(-1)[torch.arange(4), LABELS].mean()
    loss = model(input_ids, segment_ids, mask, index, LABELS)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("model_type", READY_MASK)
def test_the_host_reads_no_number_of_a_padded_batch(model_type):
    """Of tensors without memory there is none to read."""
    with torch.device("meta"):
        model = seeded_model(model_type)
    inputs = [tensor.to("meta") for tensor in (*example_batch(), LABELS)]
    model(*inputs).backward()


@pytest.mark.parametrize("model_type", TYPES)
def test_the_flags_reach_the_config(model_type):
    config = seeded_model(model_type, hidden_dropout_prob=0.25, hidden_act="silu").model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 3, 4)
    assert (config.vocab_size, config.initializer_range) == (61, 0.02)
    assert config.pad_token_id == 0
    values = config.to_dict().values()
    assert 48 in values and 0.25 in values and "silu" in values


def test_positions_start_behind_the_padding_tokens_where_roberta_does_so():
    assert seeded_model("bert").model.config.max_position_embeddings == 16
    assert seeded_model("roberta").model.config.max_position_embeddings == 17
    input_ids, segment_ids, _, index = example_batch()
    assert seeded_model("roberta")(input_ids, segment_ids, None, index).shape == (4, 61)


def test_electra_has_embeddings_of_full_width_and_deberta_relative_positions():
    assert seeded_model("electra").model.config.embedding_size == 32
    assert seeded_model("deberta-v2").model.config.relative_attention


@pytest.mark.parametrize("model_type", ["modernbert", "deberta-v2", "distilbert"])
def test_gradient_checkpointing_changes_no_gradient(model_type):
    expected = gradients(seeded_model(model_type))
    found = gradients(seeded_model(model_type, gradient_checkpointing=True))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


@pytest.mark.slow
def test_compiled_its_layers_compute_the_same():
    model = seeded_model("modernbert").eval()
    torch._dynamo.reset()
    expected = model(*example_batch())
    layers = repeated_layers(model)
    for layer in layers:
        layer.compile(backend="aot_eager")
    assert len(layers) == model.model.config.num_hidden_layers
    torch.testing.assert_close(model(*example_batch()), expected)
    torch.testing.assert_close(model(*example_batch()), expected)


def test_packed_rows_are_refused():
    with pytest.raises(ValueError, match="only bert-mlm can separate the samples"):
        seeded_model("bert")(*example_batch(), LABELS, torch.zeros(3, 16, dtype=torch.int64))


@pytest.mark.parametrize("model_type", ["gpt2", "bart", "mpnet", "mobilebert", "reformer"])
def test_what_cannot_be_trained_here_is_refused(model_type):
    with pytest.raises(ValueError, match="model_type"):
        seeded_model(model_type)


def test_gradient_checkpointing_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="gradient_checkpointing: albert"):
        seeded_model("albert", gradient_checkpointing=True)


def test_sizes_are_checked_before_anything_is_built():
    with pytest.raises(ValueError, match="hidden_size"):
        build_model(model_args(model_type="bert", hidden_size=30))


def test_long_rows_are_masked_as_short_ones_are():
    """Their documents know which tokens are padding; these architectures take a mask."""
    model = seeded_model("bert", max_seq_length=LONG_ROW).eval()
    mask = torch.ones(2, LONG_ROW, dtype=torch.bool)
    mask[1, 100:] = False
    ids = torch.randint(5, 61, mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    documents = Documents.of([LONG_ROW, 100, LONG_ROW - 100], mask)
    expected = model(ids[1:, :100], 0 * ids[1:, :100], None, torch.tensor([3, 99]))
    found = model(ids, 0 * ids, documents, LONG_ROW + torch.tensor([3, 99]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
