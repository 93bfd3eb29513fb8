"""Tokenizer classes of transformers, by how they come to a tokenizer.json."""

# Who reads a file of this name where neither tokenizer_config.json nor config.json says it.
CONVERTED_CLASSES = {
    "sentencepiece.bpe.model": "XLMRobertaTokenizer",
    "spm.model": "DebertaV2Tokenizer",
    "spiece.model": "AlbertTokenizer",
    "sentencepiece.model": "RemBertTokenizer",
    "tokenizer.model": "TokenizersBackend",
    "vocab.json": "RobertaTokenizer",
}
# Classes that read tokenizer.json as it is.
PLAIN_CLASSES = {"", "PreTrainedTokenizer", "TokenizersBackend", "PythonBackend"}
# Classes that split text as BERT's.
BERT_CLASSES = {
    "BertTokenizer",
    "ConvBertTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRReaderTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "LayoutLMTokenizer",
    "LxmertTokenizer",
    "MPNetTokenizer",
    "MobileBertTokenizer",
    "LayoutLMv2Tokenizer",
    "RetriBertTokenizer",
    "SplinterTokenizer",
    "SqueezeBertTokenizer",
}
# Classes of transformers that are Python code: no tokenizer.json says what they do.
PYTHON_CLASSES = {
    "BartphoTokenizer",
    "BertGenerationTokenizer",
    "BertJapaneseTokenizer",
    "BertweetTokenizer",
    "BioGptTokenizer",
    "BlenderbotSmallTokenizer",
    "ByT5Tokenizer",
    "CTRLTokenizer",
    "CanineTokenizer",
    "CpmAntTokenizer",
    "CpmTokenizer",
    "EsmTokenizer",
    "FSMTTokenizer",
    "FlaubertTokenizer",
    "GPTNeoXJapaneseTokenizer",
    "GPTSw3Tokenizer",
    "M2M100Tokenizer",
    "MarianTokenizer",
    "MyT5Tokenizer",
    "PLBartTokenizer",
    "PerceiverTokenizer",
    "PhobertTokenizer",
    "ProphetNetTokenizer",
    "RoCBertTokenizer",
    "SiglipTokenizer",
    "TapasTokenizer",
    "XLMTokenizer",
}
# Classes by the architecture in config.json, of those that are not BERT's or cannot be told by the
# name of the vocabulary's file.
MODEL_CLASSES = {
    "camembert": "CamembertTokenizer",
    "deberta": "DebertaTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "albert": "AlbertTokenizer",
    "big_bird": "BigBirdTokenizer",
    "fnet": "FNetTokenizer",
    "rembert": "RemBertTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "xlm-roberta-xl": "XLMRobertaTokenizer",
    "mbart": "MBartTokenizer",
    "xlnet": "XLNetTokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
    "roberta": "RobertaTokenizer",
    "longformer": "RobertaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "esm": "EsmTokenizer",
    "roformer": "RoFormerTokenizer",
    "roc_bert": "RoCBertTokenizer",
}
