"""Builds the model with which a run begins: random, initialised from data, or from a checkpoint."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from dataset.start_from import has_tokenizer, read_tokenizer, tokenizer_entries
from dataset.tokenizers.load import load_tokenizer
from dataset.tokenizers.tokenizer_files import entries_of, read_tokenizer_json
from pipeline.errors import ConfigError, StageError
from pipeline.hub.models import find_model, local_model
from pretrain.engine.distributed import from_first_rank, rank
from pretrain.model.model import BasePretrainModel, build_model
from pretrain.model.model_types import OWN_TYPE
from pretrain.model.vocabulary import Vocabulary
from pretrain.settings import ModelSettings
from pretrain.start.checkpoint_config import START_KEY, Checkpoint, Start, read_checkpoint
from pretrain.start.checkpoint_weights import Loaded, load_our_model
from pretrain.start.transformers_weights import load_transformers_model
from pretrain.training.data_loader import Shard, count_predictions, one_copy
from pretrain.training.metrics_file import Log
from pretrain.training.word_vectors import word_vectors
from pretrain.transfer.growth import grow_weights
from pretrain.transfer.growth_check import SIZES
from pretrain.transfer.vocabulary_transfer import mix_rows


@dataclass(frozen=True)
class InitialModel:
    """A model before its first step.

    is_loaded: True if rank 0's comes from a checkpoint. loaded: on that rank, its tensors.
    """

    model: nn.Module
    is_loaded: bool = False
    loaded: Loaded | None = None


def find_start(name: str, vocabulary: Vocabulary) -> Start | None:
    """Returns the checkpoint to start from, None for an empty name. Every rank must call it.

    Downloads a model of the Hub. Raises StageError if it cannot be read.
    """
    return from_first_rank(_find_start(name, vocabulary) if rank() == 0 and name else None)


def _find_start(name: str, vocabulary: Vocabulary) -> Start:
    try:
        folder = find_model(name, Path(), START_KEY) or Path(local_model(name, START_KEY)[0])
        checkpoint = read_checkpoint(folder)
    except ConfigError as error:
        raise StageError(error.problems[0]) from error
    own = _has_vocabulary(checkpoint, vocabulary)
    if own and vocabulary.size > checkpoint.vocab_size:
        raise StageError(
            f"{START_KEY}: {folder} has {checkpoint.vocab_size:,} word embeddings, fewer than the "
            f"{vocabulary.size:,} entries of its tokenizer"
        )
    return Start(checkpoint, own)


def _has_vocabulary(checkpoint: Checkpoint, vocabulary: Vocabulary) -> bool:
    """True if the checkpoint was trained with this vocabulary, or does not say."""
    if not has_tokenizer(checkpoint.folder):
        return True
    entries = entries_of(read_tokenizer_json(vocabulary.directory / "tokenizer.json"))
    return tokenizer_entries(checkpoint.folder) == entries


def build_initial_model(
    settings: ModelSettings,
    seed: int,
    start: Start | None,
    tokenizer: Path,
    shards: list[Shard],
    log: Log,
) -> InitialModel:
    """Returns the model of this rank; the weights that count are those of rank 0.

    seed: of the run; torch's generator draws the random weights. tokenizer: folder of the data's.
    Raises StageError if the checkpoint does not fit.
    """
    if rank() != 0:
        return InitialModel(build_model(settings), start is not None)
    loaded = None
    model: nn.Module
    if not start:
        model = build_model(settings)
    else:
        new = None
        if not start.own_vocabulary:
            how = settings.vocabulary_transfer
            new = NewVocabulary(start.checkpoint.folder, tokenizer, shards, how, seed, log)
        if settings.model_type == OWN_TYPE:
            model = BasePretrainModel(settings)
            loaded = _load(model, settings, start.checkpoint, new, seed)
        else:
            model, loaded = load_transformers_model(settings, start.checkpoint, new)
        log.tell(f"from {start.checkpoint.folder}: {loaded.in_words()}")
    if isinstance(model, BasePretrainModel):
        _initialize_from_data(model, settings, seed, shards, loaded, log)
    return InitialModel(model, start is not None, loaded)


def _load(
    model: BasePretrainModel,
    settings: ModelSettings,
    checkpoint: Checkpoint,
    new: "NewVocabulary | None",
    seed: int,
) -> Loaded:
    """Loads the checkpoint into our model, which may be larger. Raises as load_our_model."""
    if not settings.grow:
        return load_our_model(model, settings, checkpoint, new)
    sizes = {name: checkpoint.keys[name.upper()] for name in SIZES}
    small_settings = replace(settings, **sizes)
    small = BasePretrainModel(small_settings)
    loaded = load_our_model(small, small_settings, checkpoint, new)
    grown = grow_weights(small.state_dict() | loaded.kept, small_settings, settings, seed)
    kept = {name: grown.pop(name) for name in loaded.kept}
    model.load_state_dict(grown)
    return replace(loaded, kept=kept)


def _initialize_from_data(
    model: BasePretrainModel,
    settings: ModelSettings,
    seed: int,
    shards: list[Shard],
    loaded: Loaded | None,
    log: Log,
) -> None:
    """Sets word embeddings and output bias as the settings say, unless they are loaded."""
    texts, vocab_size = one_copy(shards), settings.vocab_size
    if settings.word_embedding_init == "cooccurrence" and not loaded:
        log.say("initialising word embeddings from token co-occurrence")
        never = settings.special_ids.values()
        vectors = word_vectors(texts, vocab_size, settings.hidden_size, never, seed)
        model.set_word_embeddings(vectors)
    if settings.output_bias_init == "frequencies" and (not loaded or loaded.fresh_bias):
        model.set_output_bias(count_predictions(texts, vocab_size))


@dataclass(frozen=True)
class NewVocabulary:
    """Makes the word embeddings and the output bias of the data's tokenizer from the checkpoint's.

    checkpoint, tokenizer: folders of the old and of the new tokenizer. shards: of the new text.
    how: MODEL.VOCABULARY_TRANSFER. seed: of the run.
    """

    checkpoint: Path
    tokenizer: Path
    shards: list[Shard]
    how: str
    seed: int
    log: Log

    def __call__(self, words: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Arguments and results as of checkpoint_weights.NewVocabulary."""
        new, old = load_tokenizer(self.tokenizer), read_tokenizer(self.checkpoint)
        if len(words) < old.vocab_size:
            raise StageError(
                f"{START_KEY}: {self.checkpoint} has {len(words):,} word embeddings, fewer than "
                f"the {old.vocab_size:,} entries of its tokenizer"
            )
        mixtures = mix_rows(self.how, new, old, one_copy(self.shards), self.seed)
        self.log.tell(f"another vocabulary than the checkpoint's: {mixtures}")
        rows = mixtures.table(words[: old.vocab_size], self.seed)
        return rows, None if bias is None else mixtures.bias(bias[: old.vocab_size])
