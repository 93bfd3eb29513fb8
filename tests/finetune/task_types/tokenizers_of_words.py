"""Small tokenizers of the usual kinds, and texts of words for them."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from finetune.data.examples import Examples
from finetune.tagging.sentences import Sentence

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
TEXT = "Mary Ann Lee lives in St. Ives, not in Oslo; her éclair is 日本's. " * 3


def word_piece() -> PreTrainedTokenizerFast:
    """BERT's: removes accents and control characters."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _trained(tokenizer, trainers.WordPieceTrainer, vocab_size=60)


def byte_level(trim: bool = True) -> PreTrainedTokenizerFast:
    """RoBERTa's: bytes, with the blank before a word as a part of it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "vocab_size": 300}
    return _trained(tokenizer, trainers.BpeTrainer, trim, **alphabet)


def sentence_piece() -> PreTrainedTokenizerFast:
    """XLM-RoBERTa's and DeBERTa's: a mark in place of the blank before a word."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return _trained(tokenizer, trainers.UnigramTrainer, unk_token="[UNK]", vocab_size=60)


def across_words() -> PreTrainedTokenizerFast:
    """One with tokens of several words."""
    return _trained(Tokenizer(models.BPE(unk_token="[UNK]")), trainers.BpeTrainer, vocab_size=200)


def _trained(tokenizer, trainer, trim: bool | None = None, **options) -> PreTrainedTokenizerFast:
    options |= {"special_tokens": list(SPECIAL.values()), "show_progress": False}
    tokenizer.train_from_iterator([TEXT], trainer(**options))
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    if trim is None:
        tokenizer.post_processor = processors.BertProcessing(*ends)
    else:
        tokenizer.post_processor = processors.RobertaProcessing(*ends, trim, False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


TOKENIZERS = {
    "word_piece": word_piece(),
    "byte_level": byte_level(),
    "byte_level untrimmed": byte_level(trim=False),
    "sentence_piece": sentence_piece(),
    "across_words": across_words(),
}


def examples_of(sentences, tags=()) -> Examples:
    """sentences: lists of words, or `Sentence`s."""
    examples = Examples([], tags=list(tags))
    for sentence in sentences:
        if not isinstance(sentence, Sentence):
            sentence = Sentence(tuple(sentence), None, "", 1)
        text, words = sentence.running_text()
        examples.texts.append((text,))
        examples.words.append(words)
    return examples
