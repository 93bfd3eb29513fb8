"""Every key of the config: a row with its default, check and identity, under its meaning.

The comment above a key says what it does, its unit and the values it takes; docs/PIPELINE_CONFIG.md
is generated from these comments (`python3 -m configs.manual`), and so is the help of
run_pretraining.py. A new key is a new row here. `identity` tells whether results depend on the key:
a result is up to date as long as no key changes that does (configs.rows explains a row's fields).

Values are those of the ExtremeBERT paper (appendix A and the user manual, appendix B)
unless the comment says otherwise. An empty string, an empty list, 0 or -1 mean "not set"; there is
no None, because it would switch off the type checks.
"""

from types import SimpleNamespace

from yacs.config import CfgNode

from configs.predicates import (
    FILE_NAME,
    HUB_DATASET,
    MODEL_NAME_OR_PATH,
    PATH,
    SEED,
    Rule,
    above,
    at_least,
    between,
    each,
    from_to,
    inside,
    matching,
    one_of,
)
from configs.rows import Key, NamedEntries, Row, by_plan, when

# The nine GLUE tasks, as the benchmark spells them.
GLUE_TASKS = ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI"]
# The eight SuperGLUE tasks; its RTE has other rows than GLUE's.
SUPERGLUE_TASKS = ["BoolQ", "CB", "COPA", "MultiRC", "ReCoRD", "SuperGLUE-RTE", "WiC", "WSC"]
# Large tasks, for which the paper's grid is smaller.
LARGE_TASKS = ["QQP", "MNLI", "QNLI", "ReCoRD"]
CLASS_METRICS = ("accuracy", "f1", "f1_macro", "matthews_correlation")
REGRESSION_METRICS = ("pearson", "spearman")
MULTI_LABEL_METRICS = ("f1_micro", "f1_macro", "average_precision")
TOKEN_METRICS = ("entity_f1",)
ALL_METRICS = (*CLASS_METRICS, *REGRESSION_METRICS, *MULTI_LABEL_METRICS, *TOKEN_METRICS)

OPTIMIZERS = (
    *("adamw", "adam", "sgd", "sgd-momentum"),
    *("lamb", "adafactor", "stable-adamw", "muon"),
)
ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu")
CURVES = (
    *("elastic_step_decay", "linear", "cosine", "exponential", "step_decay"),
    *("inverse_time", "polynomial", "constant", "wsd", "wsd_linear"),
)

IF_TRAINED = when("TOKENIZER.TRAIN")
IF_EARLY_STOPPING = when("PRETRAIN.USE_EARLY_STOPPING")  # a validation may end the run
IF_WINDOWS = when("MODEL.ATTENTION_WINDOW")  # the keys are younger than older results

SYSTEM = SimpleNamespace()
# Number of GPUs to use, among those in CUDA_VISIBLE_DEVICES. -1: all of them; 0: train on the CPU;
# n: the first n. A GPU that torch cannot use is an error.
SYSTEM.NUM_GPUS = Key(-1, at_least(-1), identity=False)
# Memory limit of data preparation on each server, summed over all its processes, in GB.
SYSTEM.MAX_MEMORY_IN_GB = Key(16.0, above(0), identity=False)
# Worker processes for data preparation and for finetuning on the CPU. 0: one per core.
SYSTEM.NUM_WORKERS = Key(0, at_least(0), identity=False)
# Dask scheduler for distributing data preparation and finetuning, e.g. tcp://server:8786; all
# servers must see OUTPUT_ROOT, the text, the tasks and the model under the same paths. Empty: this
# machine alone.
SYSTEM.DASK_SCHEDULER = Key(
    "", matching(r"([a-z]+://[^\s/]+:\d+)?", "an address like tcp://server:8786"), identity=False
)
# DeepSpeed hostfile (a line `server slots=8` per server) for pretraining on several servers; all
# must see OUTPUT_ROOT and this project under the same paths. A slot is a GPU, or with NUM_GPUS 0 a
# process on the CPU. Empty: this machine alone.
SYSTEM.HOSTFILE = Key("", PATH, identity=False, is_path=True)
# Folder for data/, saved_models/, output/, output_test_translated/, log/ and tmp/.
SYSTEM.OUTPUT_ROOT = Key(".", PATH, identity=False, is_path=True)

INSTALL = SimpleNamespace()
# Let the install stage run install.sh (into .venv) if something is missing.
INSTALL.ENABLED = Key(True, identity=False)

WANDB = SimpleNamespace()
# Weights & Biases logging of pretraining: disabled | offline | online. Needs `bash install.sh
# requirements-wandb.txt`.
WANDB.MODE = Key(
    "disabled", one_of("disabled", "offline", "online"), identity=False, flag="wandb_mode"
)
# Project of the runs.
WANDB.PROJECT = Key("budget-bert-pretraining", identity=False, flag="project_name")
# Accepted for old YAML files and handed to wandb through its environment; it is never written
# anywhere. Prefer the environment variable WANDB_API_KEY. A key alone does not switch logging on,
# WANDB.MODE does.
WANDB.API_KEY = Key("", identity=False)

TOKENIZER = SimpleNamespace()
# Tokenizer: a Hugging Face model name, a folder in Hugging Face format, or a file: vocab.txt,
# tokenizer.json or a SentencePiece model. Data preparation, pretraining and finetuning use the same
# one, which is checked on a sample of the text (docs/TOKENIZERS.md).
TOKENIZER.NAME_OR_PATH = Key("bert-large-uncased", PATH, identity=by_plan, is_path=True)
# Lower-case the text and strip accents. Applies to a vocab.txt and to a tokenizer trained here; a
# Hugging Face tokenizer keeps its own casing, and a value that contradicts it is an error.
TOKENIZER.DO_LOWER_CASE = Key(True, identity=True)
# Train the tokenizer on the corpus instead of loading NAME_OR_PATH.
TOKENIZER.TRAIN = Key(False, identity=True)
# Kind of a tokenizer trained here: wordpiece (BERT's) | bpe.
TOKENIZER.MODEL = Key("wordpiece", one_of("wordpiece", "bpe"), identity=IF_TRAINED)
# Number of entries of a tokenizer trained here, special tokens included.
TOKENIZER.VOCAB_SIZE = Key(30522, at_least(100), identity=IF_TRAINED)
# Accents, for a vocab.txt and a tokenizer trained here: strip | keep | auto, which strips them when
# the text is lower-cased, as BERT does.
TOKENIZER.ACCENTS = Key("auto", one_of("auto", "strip", "keep"), identity=True)
# Special tokens of a tokenizer trained here, besides [PAD], [UNK], [CLS], [SEP] and [MASK].
TOKENIZER.SPECIAL_TOKENS = Key(
    [],
    each(Rule(lambda token: token.split() == [token], "a token without white space")),
    identity=IF_TRAINED,
    element="[ENT]",
)
# Size of the text for training a tokenizer, in MB: a random sample of the corpus of at most this
# size.
TOKENIZER.MAX_TRAINING_MB = Key(256.0, above(0), identity=IF_TRAINED)

DATASET = SimpleNamespace()
# Run this stage. If False, its existing results are used.
DATASET.ENABLED = Key(True, identity=False)
# Name of the dataset and of its folders. Empty: derived from the content and the settings.
DATASET.ID = Key("", FILE_NAME, identity=False)
# Hub datasets as [name, subset], e.g. [wikipedia, 20220301.en], optionally with the split and the
# text column: [name, subset, train, text]. A local folder or file of parquet, json, csv or text, or
# a folder of `save_to_disk`, can replace the name.
DATASET.HUGGINGFACE_DATASETS = Key(
    [], each(HUB_DATASET), identity=by_plan, element=["wikipedia", "20220301.en"], is_path=True
)
# Folders (or single files) of .txt, .jsonl, .csv, .parquet, or the output of WikiExtractor or
# `Dataset.save_to_disk`; text also as .gz, .bz2 or .zst. In .txt, articles are separated by blank
# lines; in the others a row is an article (docs/FORMATS.md). Or `builtin:python-docs`: the English
# prose of Python's own documentation, for trying things out. Relative paths start at the working
# directory.
DATASET.CUSTOMIZED_DATASETS = Key(
    [],
    each(PATH),
    identity=by_plan,
    element="raw_data/wikipedia",
    is_path=True,
    hint=" (weights: DATASET.WEIGHTS)",
)
# Shares of the sources in the training tokens, relative to each other: a number for each source,
# those of HUGGINGFACE_DATASETS first, in the order of the plan. [3, 1] takes three quarters of the
# tokens from the first source and a quarter from the second, whatever their sizes. The total stays
# that of all sources together: articles are repeated, or left out by a draw from SEED, until each
# source has its share. Held-out articles are neither, and never trained on. TOKENIZER.TRAIN counts
# the text in the same shares. Empty: each article once.
DATASET.WEIGHTS = Key([], each(above(0)), identity=when("DATASET.WEIGHTS"), element=1.0)
# Column (JSON key) of the text, for sources that do not name their own.
DATASET.TEXT_COLUMN = Key("text", matching(".+", "the name of a column"), identity=by_plan)
# Read Hub datasets as a stream instead of downloading them first.
DATASET.STREAMING = Key(False, identity=by_plan)
# Language of the text, as an ISO 639 code, for splitting it into sentences.
DATASET.LANGUAGE = Key(
    "en", matching("[a-z]{2,3}(-[a-z]+)?", "an ISO 639 code like en"), identity=True
)
# Number of sample files per mask copy. 0: chosen by the size of the corpus.
DATASET.NUM_TRAIN_SHARDS = Key(0, at_least(0), identity=True)
# The same for the held-out part. 0: chosen by its size.
DATASET.NUM_TEST_SHARDS = Key(0, at_least(0), identity=True)
# Fraction of the articles held out for validation.
DATASET.FRAC_TEST = Key(0.005, inside(0, 1), identity=True)
# Tokens per sample, [CLS] and [SEP] included.
DATASET.MAX_SEQ_LENGTH = Key(128, between(8, 65536), identity=True)
# static: DUP_FACTOR differently masked copies of the samples are stored. dynamic: the samples are
# stored once, unmasked, and masked differently in every epoch of pretraining.
DATASET.MASKING = Key("static", one_of("static", "dynamic"), identity=True)
# Share of a sample's tokens chosen for prediction.
DATASET.MASKED_LM_PROB = Key(0.15, inside(0, 1), identity=True)
# The same share at the end of pretraining: it changes linearly from MASKED_LM_PROB. 0: it does not
# change. Needs MASKING dynamic, and MAX_PREDICTIONS_PER_SEQ for the larger share. With LR_SCHEDULE
# step or tokens, the share depends on the number of the sample alone (of tokens, the number of
# samples is estimated); with time it follows the clock, like the learning rate. The dataset does
# not depend on this key: held-out samples are masked once, with MASKED_LM_PROB.
DATASET.MASKED_LM_PROB_END = Key(0.0, between(0, 1), identity=by_plan, flag="masked_lm_prob_end")
# Largest number of predictions per sample.
DATASET.MAX_PREDICTIONS_PER_SEQ = Key(20, at_least(1), identity=True)
# Share of samples truncated to a random shorter length, as in BERT.
DATASET.SHORT_SEQ_PROB = Key(0.1, between(0, 1), identity=True)
# Of the chosen tokens, the share that becomes [MASK].
DATASET.MASK_TOKEN_SHARE = Key(0.8, from_to(0, 1), identity=True)
# Of the chosen tokens, the share that becomes a random token. The rest is unchanged.
DATASET.RANDOM_TOKEN_SHARE = Key(0.1, from_to(0, 1), identity=True)
# Choose whole words instead of single tokens.
DATASET.WHOLE_WORD_MASKING = Key(False, identity=True)
# Fill each row with several short documents instead of padding; pretraining keeps them apart.
DATASET.PACKING = Key(False, identity=True)
# Samples of two text segments, with labels for next-sentence prediction: the second segment follows
# the first or is a random one. bert-mlm ignores the labels.
DATASET.NEXT_SENTENCE_PREDICTION = Key(False, identity=True)
# Differently masked copies of each training sample (static masking).
DATASET.DUP_FACTOR = Key(10, at_least(1), identity=when("DATASET.MASKING", "static"))
# Seed of the split, the shuffling and the masks.
DATASET.SEED = Key(42, SEED, identity=True)

MODEL = SimpleNamespace()
# bert-mlm: our BERT, trained on masked tokens alone, without next-sentence prediction. Or an
# architecture of transformers by its name there, e.g. modernbert, roberta, deberta-v2, electra
# (pretrain/model/model_types.py lists all; others are refused before the data is prepared): built
# with these sizes and dropouts; the keys from ENCODER_LN_MODE to PAD_VOCAB_TO_MULTIPLE_OF,
# RESIDUAL_INIT, WORD_EMBEDDING_INIT and OUTPUT_BIAS_INIT belong to bert-mlm alone.
MODEL.TYPE = Key(
    "bert-mlm",
    # Part of the names of folders.
    matching("[A-Za-z0-9][A-Za-z0-9._-]{0,127}", "bert-mlm or an architecture of transformers"),
    identity=True,
    flag="model_type",
)
# Position of the norms: pre-ln (stable at high learning rates) | post-ln (as in BERT).
MODEL.ENCODER_LN_MODE = Key("pre-ln", one_of("pre-ln", "post-ln"), identity=True)
# absolute: learned, with segment embeddings, as in BERT | rotary: as in ModernBERT, without segment
# embeddings, and without an attention norm directly after the embedding norm.
MODEL.POSITION_EMBEDDING_TYPE = Key("absolute", one_of("absolute", "rotary"), identity=True)
# Base of the wavelengths of rotary positions. A larger one suits longer texts.
MODEL.ROPE_THETA = Key(10000.0, above(0), identity=True)
# Size of the sliding attention window in tokens, half of it on either side; ModernBERT has 128. On
# long rows, layers with a window cost a fraction; below 512 tokens they save nothing. 0: no
# windows.
MODEL.ATTENTION_WINDOW = Key(
    0,
    Rule(lambda value: value >= 0 and value % 2 == 0, "an even number, 0 or more"),
    identity=IF_WINDOWS,
)
# With ATTENTION_WINDOW, one layer in this many attends to all tokens, beginning with the first.
MODEL.GLOBAL_ATTENTION_EVERY = Key(3, at_least(1), identity=IF_WINDOWS)
# With ATTENTION_WINDOW, the ROPE_THETA of the layers with a window; ModernBERT has 10,000 in these
# and 160,000 in the others. 0: ROPE_THETA.
MODEL.LOCAL_ROPE_THETA = Key(0.0, at_least(0), identity=when("MODEL.LOCAL_ROPE_THETA"))
# Gated feed-forward layers: GeGLU with gelu, SwiGLU with silu.
MODEL.GLU = Key(False, identity=True)
# Biases in the linear layers and in the norms. The output over the vocabulary always has one.
MODEL.USE_BIAS = Key(True, identity=True)
# layernorm | rmsnorm.
MODEL.NORM_TYPE = Key("layernorm", one_of("layernorm", "rmsnorm"), identity=True)
# A norm on the sum of the embeddings.
MODEL.EMBEDDING_NORM = Key(True, identity=True)
# The embedding table is padded to a multiple of this; matrix products on tensor cores are faster
# when sizes are multiples of 8 or 64. The export has no padding.
MODEL.PAD_VOCAB_TO_MULTIPLE_OF = Key(8, at_least(1), identity=True)
# Width of the residual stream, of every TYPE. A multiple of NUM_ATTENTION_HEADS.
MODEL.HIDDEN_SIZE = Key(1024, at_least(1), identity=True)
# Transformer layers, of every TYPE.
MODEL.NUM_HIDDEN_LAYERS = Key(24, at_least(1), identity=True)
# Attention heads per layer, of every TYPE.
MODEL.NUM_ATTENTION_HEADS = Key(16, at_least(1), identity=True)
# Width of the feed-forward layers, of every TYPE; with GLU, values and gates have this width each.
MODEL.INTERMEDIATE_SIZE = Key(4096, at_least(1), identity=True)
# Activation of the feed-forward layers, of every TYPE: gelu | gelu_new | relu | silu. A post-ln
# model has it in its head too; other bert-mlm heads always have gelu, as in RobertaPreLayerNorm.
MODEL.HIDDEN_ACT = Key("gelu", one_of(*ACTIVATIONS), identity=True)
# Dropout on embeddings and on each sublayer's output, of every TYPE.
MODEL.HIDDEN_DROPOUT_PROB = Key(0.1, between(0, 1), identity=True)
# Dropout on attention weights, of every TYPE.
MODEL.ATTENTION_PROBS_DROPOUT_PROB = Key(0.1, between(0, 1), identity=True)
# Standard deviation of the normal initialisation of all matrices, of every TYPE (as in BERT).
MODEL.INITIALIZER_RANGE = Key(0.02, above(0), identity=True)
# Initialisation of the last matrix of each sublayer, before the sum with the residual stream: same
# as all others | scaled by 1 / sqrt(2 layers), as in GPT-2 and ModernBERT | zero, so every layer
# begins as the identity.
MODEL.RESIDUAL_INIT = Key("same", one_of("same", "scaled", "zero"), identity=True)
# Initialisation of the word embeddings: random | cooccurrence: vectors from token co-occurrence in
# the first shards (at most 20 million tokens), computed within seconds to minutes; with them a
# small model learns several times faster at the start.
MODEL.WORD_EMBEDDING_INIT = Key("random", one_of("random", "cooccurrence"), identity=True)
# Initialisation of the output's bias: zero | frequencies: the log frequency of each token among the
# first two million predictions, which the model otherwise has to learn first.
MODEL.OUTPUT_BIAS_INIT = Key("zero", one_of("zero", "frequencies"), identity=True)
# With PRETRAIN.START_FROM and another tokenizer than the model's: the word embeddings and output
# biases of the entries that the two do not share. Shared entries keep theirs. focus: mixtures of
# shared entries with similar neighbours in the new text | mean: of the entries with which the
# model's own tokenizer spells the new one | random: drawn like the old ones.
MODEL.VOCABULARY_TRANSFER = Key(
    "focus", one_of("focus", "mean", "random"), identity=when("PRETRAIN.START_FROM")
)
# Let the bert-mlm of PRETRAIN.START_FROM grow to the HIDDEN_SIZE, NUM_HIDDEN_LAYERS,
# NUM_ATTENTION_HEADS and INTERMEDIATE_SIZE of the config: layers are repeated, and matrices tiled
# from the middle, as for ModernBERT-large. Heads keep their size.
MODEL.GROW = Key(False, identity=when("MODEL.GROW"))
# Epsilon of all norms, of every TYPE (as in BERT).
MODEL.LAYER_NORM_EPS = Key(1e-12, above(0), identity=True)

# Keys without effect on the trained weights: names, logging, checkpoints, measurements, the
# distribution of work, limits for a failing run. The micro batch and the number of GPUs belong to
# them: the loss is the mean over the whole batch in any case, only rounding and dropout differ, and
# a run that ran out of memory resumes with smaller micro batches. Validation counts only if it may
# stop the run.
PRETRAIN = SimpleNamespace()
# Run this stage. If False, its existing results are used.
PRETRAIN.ENABLED = Key(True, identity=False, flag="")
# Name of the pretraining run and of its folder. Empty: derived from the settings. A run with a name
# can be lengthened, see docs/RECIPES.md.
PRETRAIN.ID = Key("", FILE_NAME, identity=False, flag="")
# Model to train further, instead of one with random weights: a folder in Hugging Face form, a name
# on the Hub, or the ID or folder of a pretraining run. Its architecture, sizes and dropouts replace
# the keys of MODEL at their defaults, its tokenizer replaces the keys of TOKENIZER, and its
# positions stay: texts may be as long as these, and DATASET.MAX_SEQ_LENGTH may be longer, when a
# table of positions is repeated. BERT, RobertaPreLayerNorm, ModernBERT and our exports are trained
# by bert-mlm, all others by the code of transformers. Dropouts, INITIALIZER_RANGE, ROPE_THETA and
# LOCAL_ROPE_THETA may have other values; any other key that contradicts the model is an error. An
# encoder without a head for masked tokens gets a new one. Empty: random weights.
PRETRAIN.START_FROM = Key("", MODEL_NAME_OR_PATH, identity=by_plan, is_path=True)
# Phases of the run, one after the other, a map for each: a length, and the keys that differ from
# the rest of this config. The length is SHARE (of the run, 1 in all), or NUM_STEPS,
# TOTAL_TRAINING_TIME or NUM_TOKENS as LR_SCHEDULE says, and it is the same key in all phases. The
# others are CUSTOMIZED_DATASETS and HUGGINGFACE_DATASETS (together all sources of the phase),
# WEIGHTS, MAX_SEQ_LENGTH, MAX_PREDICTIONS_PER_SEQ, MASKED_LM_PROB, MASKED_LM_PROB_END, MASKING,
# PACKING, BATCH_SIZE, MICRO_BATCH_SIZE, LEARNING_RATE, MUON_LEARNING_RATE, LR_CURVE,
# WARMUP_PROPORTION, LR_END_RATIO, LR_DECAY_PROPORTION and ROPE_THETA. A phase begins with the
# weights and the optimizer's state of the one before it, and draws samples, masks and dropout by
# SEED plus the number of phases before it. For longer rows, a table of positions is repeated. The
# phases share the learning rate's curve over the whole run; one with LR_CURVE, WARMUP_PROPORTION,
# LR_END_RATIO or LR_DECAY_PROPORTION has a curve of its own. A ramp of the batch size belongs to
# the first phase. The dataset and the model of each phase are kept: a change repeats its phase and
# the later ones. Empty: a single phase.
PRETRAIN.PHASES = Key([], identity=by_plan, element={"SHARE": 1.0}, flag="")
# Unit of the length of the run and of the learning rate schedule: step (NUM_STEPS) | time
# (TOTAL_TRAINING_TIME) | tokens (NUM_TOKENS).
PRETRAIN.LR_SCHEDULE = Key("step", one_of("step", "time", "tokens"), identity=True)
# Optimizer steps. 0 exports the randomly initialised model, as a baseline.
PRETRAIN.NUM_STEPS = Key(
    23000, at_least(0), identity=when("PRETRAIN.LR_SCHEDULE", "step"), flag="max_steps"
)
# Hours of training, over all restarts; downtime does not count.
PRETRAIN.TOTAL_TRAINING_TIME = Key(24.0, at_least(0), identity=when("PRETRAIN.LR_SCHEDULE", "time"))
# Tokens to train on, without padding; each pass over a sample counts.
PRETRAIN.NUM_TOKENS = Key(
    0, at_least(0), identity=when("PRETRAIN.LR_SCHEDULE", "tokens"), flag="max_tokens"
)
# Stop after these hours of training, at any point of the schedule. 0: never.
PRETRAIN.EARLY_EXIT_TIME_MARKER = Key(0.0, at_least(0), identity=True)
# Samples per optimizer step, over all GPUs and accumulation steps.
PRETRAIN.BATCH_SIZE = Key(4096, at_least(1), identity=True, flag="train_batch_size")
# Batch size at the start, which then grows to 2, 3, ... times this value up to BATCH_SIZE, a
# multiple of it. 0: BATCH_SIZE from the start.
PRETRAIN.BATCH_SIZE_RAMP_START = Key(0, at_least(0), identity=True)
# Steps of the batch size ramp, the same number for each size.
PRETRAIN.BATCH_SIZE_RAMP_STEPS = Key(0, at_least(0), identity=True)
# Largest number of samples that a GPU takes at once; the rest of the batch is accumulated. 0: on a
# GPU the largest size up to 512 that fits and is faster than half of it, found by trial before the
# training; 32 on the CPU. If memory runs out, the run continues with half of it. The size found is
# stored in micro_batch.json beside the checkpoints.
PRETRAIN.MICRO_BATCH_SIZE = Key(
    0, at_least(0), identity=False, flag="train_micro_batch_size_per_gpu"
)
# Peak learning rate, reached at the end of the warmup.
PRETRAIN.LEARNING_RATE = Key(1e-3, above(0), identity=True, flag="lr")
# Share of the run in which the learning rate rises linearly from 0 to its peak.
PRETRAIN.WARMUP_PROPORTION = Key(0.06, between(0, 1), identity=True)
# Curve after the warmup: elastic_step_decay | linear | cosine | exponential | step_decay |
# inverse_time | polynomial | constant | wsd (constant, then down by 1 - sqrt) | wsd_linear.
# --plot_lr of run_pretraining.py draws it.
PRETRAIN.LR_CURVE = Key("elastic_step_decay", one_of(*CURVES), identity=True, flag="curve")
# Share of the curve, warmup included, at which this run begins: the part before it is that of an
# earlier run. PHASES sets it.
PRETRAIN.LR_CURVE_BEGIN = Key(
    0.0, between(0, 1), identity=when("PRETRAIN.LR_CURVE_BEGIN"), flag="curve_begin"
)
# Share of the curve at which this run ends, above LR_CURVE_BEGIN. PHASES sets it.
PRETRAIN.LR_CURVE_END = Key(
    1.0,
    Rule(lambda value: 0 < value <= 1, "more than 0 and at most 1"),
    identity=lambda config: config.PRETRAIN.LR_CURVE_END != 1,
    flag="curve_end",
)
# r of elastic step decay, equation (1) of the paper: 2^-1/2.
PRETRAIN.ESD_R = Key(0.7071067811865476, inside(0.5, 1), identity=True)
# l of elastic step decay: the learning rate stays at its peak up to 1 - r^l of the run.
PRETRAIN.ESD_L = Key(6, at_least(1), identity=True)
# Final share of the peak, for all curves but elastic_step_decay and constant. More than 0 for
# exponential, step_decay and inverse_time.
PRETRAIN.LR_END_RATIO = Key(0.0, from_to(0, 1), identity=True)
# Power of polynomial.
PRETRAIN.LR_POWER = Key(1.0, above(0), identity=True)
# Intervals of step_decay, with the same factor from each to the next.
PRETRAIN.LR_DECAY_STEPS = Key(4, at_least(2), identity=True)
# Share of the run, at its end, for the decay of wsd and wsd_linear.
PRETRAIN.LR_DECAY_PROPORTION = Key(0.2, from_to(0, 1), identity=True)
# adamw | adam | sgd | sgd-momentum | lamb | adafactor | stable-adamw | muon (for the matrices of
# the layers, and adamw for the rest).
PRETRAIN.OPTIMIZER = Key("adamw", one_of(*OPTIMIZERS), identity=True, flag="optimizer_type")
# Decay rate of the first moment of adam, adamw, lamb and stable-adamw.
PRETRAIN.ADAM_BETA1 = Key(0.9, between(0, 1), identity=True)
# Decay rate of the second moment.
PRETRAIN.ADAM_BETA2 = Key(0.98, between(0, 1), identity=True)
# Added to the root of the second moment.
PRETRAIN.ADAM_EPS = Key(1e-6, above(0), identity=True)
# Momentum of sgd-momentum.
PRETRAIN.MOMENTUM = Key(0.9, between(0, 1), identity=True)
# Peak learning rate of muon's matrices; the other weights have LEARNING_RATE.
PRETRAIN.MUON_LEARNING_RATE = Key(0.02, above(0), identity=True)
# Momentum of muon.
PRETRAIN.MUON_MOMENTUM = Key(0.95, between(0, 1), identity=True)
# Weight decay of the matrices; biases and norms have none.
PRETRAIN.WEIGHT_DECAY = Key(0.01, at_least(0), identity=True)
# Largest norm of the gradient. 0: no clipping.
PRETRAIN.GRADIENT_CLIPPING = Key(0.0, at_least(0), identity=True)
# auto | fp16 | bf16 | fp32. auto: fp16 on GPUs; on the CPU bf16 for bert-mlm if the processor
# supports it, else fp32. On the CPU, only matrix products are in bf16; the weights and the sums of
# layers are in fp32.
PRETRAIN.PRECISION = Key("auto", one_of("auto", "fp16", "bf16", "fp32"), identity=True)
# In fp32, GPUs from Ampere on multiply matrices in TF32: several times as fast, with three digits
# instead of seven. Needs PRECISION fp32.
PRETRAIN.ALLOW_TF32 = Key(False, identity=when("PRETRAIN.ALLOW_TF32"))
# Stop after this many steps in a row with the fp16 loss scale at 1 or below, or in bf16 without a
# finite gradient. 0: never.
PRETRAIN.SCALE_CNT_LIMIT = Key(100, at_least(0), identity=False)
# Stop when the loss, averaged over about 50 steps, is this many nats above its lowest average. 0:
# never.
PRETRAIN.DIVERGENCE_LIMIT = Key(2.0, at_least(0), identity=False)
# State that the GPUs partition (ZeRO of DeepSpeed): 0 nothing | 1 the optimizer's state | 2 the
# gradients too | 3 the weights too. -1: 1 in half precision with adamw, adam or sgd, else 0. Stage
# 0 computes in half precision by torch's autocast, from fp32 weights; for bf16 on the CPU see
# PRECISION.
PRETRAIN.ZERO_STAGE = Key(-1, one_of(-1, 0, 1, 2, 3), identity=False)
# JSON file with more DeepSpeed settings, other than those that keys here decide.
PRETRAIN.DEEPSPEED_CONFIG = Key("", PATH, identity=True, is_path=True)
# Recompute the activations of the layers in the backward pass instead of storing them: less memory,
# a third more time.
PRETRAIN.GRADIENT_CHECKPOINTING = Key(False, identity=False)
# torch.compile, which needs a C++ compiler; if it fails, training continues without it.
PRETRAIN.COMPILE = Key(False, identity=False)
# Seed of initialisation, dropout and the order of the samples.
PRETRAIN.SEED = Key(42, SEED, identity=True)
# Steps between two lines of metrics.
PRETRAIN.PRINT_STEPS = Key(100, at_least(1), identity=False)
# Write the metrics for TensorBoard too. Needs `bash install.sh requirements-tensorboard.txt`.
PRETRAIN.TENSORBOARD = Key(False, identity=False)
# Steps between two checkpoints. 0: other keys decide.
PRETRAIN.CHECKPOINT_STEPS = Key(500, at_least(0), identity=False)
# Minutes between two checkpoints: the most that a kill costs. 0: other keys decide.
PRETRAIN.CHECKPOINT_MINUTES = Key(30.0, at_least(0), identity=False)
# Visits of a shard between two checkpoints. 0: other keys decide.
PRETRAIN.NUM_EPOCHS_BETWEEN_CHECKPOINTS = Key(0, at_least(0), identity=False)
# Number of checkpoints to keep; older ones are deleted. If the disk is full, the oldest are deleted
# earlier, down to one that is intact. wsd and wsd_linear keep one more, from before their decay:
# longer runs go on from it.
PRETRAIN.KEEP_CHECKPOINTS = Key(2, at_least(1), identity=False)
# Hours of training after which the current model is exported too, to models_at/.
PRETRAIN.FINETUNE_TIME_MARKERS = Key([], each(above(0)), identity=False, element=24.0)
# Validate during the run and at its end.
PRETRAIN.DO_VALIDATION = Key(True, identity=False)
# Steps between two validations. 0: the VALIDATION_EPOCHS keys decide.
PRETRAIN.VALIDATION_STEPS = Key(1000, at_least(0), identity=IF_EARLY_STOPPING)
# Visits of a shard between two validations in the middle of the run; the manual calls the training
# on one shard an epoch. This key and the next four apply only if VALIDATION_STEPS is 0.
PRETRAIN.VALIDATION_EPOCHS = Key(3, at_least(1), identity=IF_EARLY_STOPPING)
# The same at the beginning of the run.
PRETRAIN.VALIDATION_EPOCHS_BEGIN = Key(1, at_least(1), identity=IF_EARLY_STOPPING)
# The same at the end of the run.
PRETRAIN.VALIDATION_EPOCHS_END = Key(1, at_least(1), identity=IF_EARLY_STOPPING)
# Share of the run that counts as its beginning.
PRETRAIN.VALIDATION_BEGIN_PROPORTION = Key(0.05, from_to(0, 1), identity=IF_EARLY_STOPPING)
# Share of the run that counts as its end.
PRETRAIN.VALIDATION_END_PROPORTION = Key(0.01, from_to(0, 1), identity=IF_EARLY_STOPPING)
# Samples per GPU and forward pass in validation.
PRETRAIN.VALIDATION_MICRO_BATCH = Key(16, at_least(1), identity=False)
# Held-out samples per validation. 0: all of them.
PRETRAIN.VALIDATION_SAMPLES = Key(10240, at_least(0), identity=IF_EARLY_STOPPING)
# Stop if the validation loss is above EARLY_STOP_EVAL_LOSS after EARLY_STOP_TIME.
PRETRAIN.USE_EARLY_STOPPING = Key(False, identity=True)
# Minutes of training after which the validation loss must be good enough.
PRETRAIN.EARLY_STOP_TIME = Key(180.0, at_least(0), identity=IF_EARLY_STOPPING)
# Highest validation loss, in nats per predicted token, that is good enough.
PRETRAIN.EARLY_STOP_EVAL_LOSS = Key(6.0, above(0), identity=IF_EARLY_STOPPING)


# A task of the user's own, FINETUNE.CUSTOM_TASKS.<name>.
CUSTOM_TASK = {
    "TYPE": Key(
        "",
        one_of("", "classification", "regression", "multi_label", "token_classification"),
        identity=by_plan,
    ),
    **dict.fromkeys(("TRAIN", "DEV", "TEST"), Key("", PATH, identity=by_plan, is_path=True)),
    "DEV_SHARE": Key(
        0.0, Rule(lambda share: 0 <= share < 1, "at least 0 and less than 1"), identity=by_plan
    ),
    "FOLDS": Key(0, Rule(lambda k: k == 0 or 2 <= k <= 100, "0, or 2 to 100"), identity=by_plan),
    "GROUP_COLUMN": Key("", identity=by_plan),
    "CLASS_WEIGHTS": Key("", one_of("", "balanced"), identity=by_plan),
    "TEXT_COLUMNS": Key(
        [],
        Rule(
            lambda columns: len(columns) <= 2 and len(set(columns)) == len(columns),
            "one or two names of columns",
        ),
        identity=by_plan,
        element="sentence",
    ),
    "LABEL_COLUMN": Key("label", identity=by_plan),
    "LABELS": Key(
        [],
        Rule(
            lambda labels: len(set(labels)) == len(labels),
            "different words, or [] to take them from TRAIN",
        ),
        identity=by_plan,
        element="positive",
    ),
    "LABELS_FILE": Key("", PATH, identity=by_plan, is_path=True),
    "LABEL_SEPARATOR": Key(
        ",",
        Rule(
            lambda mark: mark and not any(char.isalnum() or char in "\t\r\n" for char in mark),
            "a text without letters, digits, tabs and line breaks, like `,`",
        ),
        identity=by_plan,
    ),
    "COLUMNS": Key(
        [],
        Rule(
            lambda columns: "" not in columns and len(set(columns)) == len(columns),
            "the names of all columns, each another one",
        ),
        identity=by_plan,
        element="sentence",
    ),
    "SCORE_RANGE": Key(
        [],
        Rule(
            lambda ends: not ends or (len(ends) == 2 and ends[0] < ends[1]),
            "[lowest, highest], or [] for classification",
        ),
        identity=by_plan,
        element=5.0,
    ),
    "METRICS": Key(
        [],
        each(one_of(*dict.fromkeys(ALL_METRICS))),
        identity=by_plan,
        element="accuracy",
    ),
    "TAG_COLUMN": Key(
        -1,
        Rule(lambda column: column not in (0, 1), "from 2 on (1 is the token), or -1 for the last"),
        identity=by_plan,
    ),
}

# The grid of a task, FINETUNE.GRID.<task>.
TASK_GRID = {
    "EPOCHS": Key([], each(at_least(1)), identity=by_plan, element=3),
    "BATCH_SIZES": Key([], each(at_least(1)), identity=by_plan, element=32),
    "LEARNING_RATES": Key([], each(above(0)), identity=by_plan, element=5e-5),
    "MAX_SEQ_LENGTH": Key(
        0, Rule(lambda value: value == 0 or value >= 8, "0 or at least 8"), identity=by_plan
    ),
}
PAPER_GRID = {
    "EPOCHS": [3, 5, 10],
    "BATCH_SIZES": [16, 32],
    "LEARNING_RATES": [1e-5, 3e-5, 5e-5, 8e-5],
}
LARGE_TASK_GRID = {"EPOCHS": [3, 5], "BATCH_SIZES": [32], "LEARNING_RATES": [5e-5, 8e-5]}

FINETUNE = SimpleNamespace()
# Run this stage. If False, its existing results are used.
FINETUNE.ENABLED = Key(True, identity=False)
# Name of the search: its folders, summary, zips and report are called
# `<PRETRAIN.ID>+<FINETUNE.ID>`, which keeps several searches of one model (other TASKS, another
# GRID) side by side. Empty: `<PRETRAIN.ID>` alone, and a search with other settings overwrites the
# summary, zips and report of the last one.
FINETUNE.ID = Key(
    "",
    # Part of file names, after PRETRAIN.ID.
    matching(
        "([A-Za-z0-9][A-Za-z0-9._-]{0,63})?", f"{FILE_NAME.expected}, with at most 64 characters"
    ),
    identity=False,
)
# The model to finetune: a folder or a Hugging Face name. Empty: the one pretrained here, as
# required if PRETRAIN.ENABLED is True. Code that comes with a model is not run: its architecture
# must be one of transformers, or ours.
FINETUNE.MODEL_NAME_OR_PATH = Key("", MODEL_NAME_OR_PATH, identity=by_plan, is_path=True)
# GLUE in its standard TSV layout (GLUE_DIR/CoLA/train.tsv ...), or as on the Hub, in Parquet
# (GLUE_DIR/cola/train-00000-of-00001.parquet ...), or `builtin:demo`: a small benchmark of
# generated sentences. Empty: nyu-mll/glue from the Hub.
FINETUNE.GLUE_DIR = Key("", PATH, identity=by_plan, is_path=True)
# SuperGLUE in its official layout (SUPERGLUE_DIR/BoolQ/train.jsonl ...): combined.zip of
# https://super.gluebenchmark.com/tasks, unpacked. Needed for its tasks only.
FINETUNE.SUPERGLUE_DIR = Key("", PATH, identity=by_plan, is_path=True)
# Tasks to search: any of CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI (GLUE), BoolQ, CB,
# COPA, MultiRC, ReCoRD, SuperGLUE-RTE, WiC, WSC (SuperGLUE) and those of CUSTOM_TASKS. `GLUE` and
# `SuperGLUE` mean all tasks of the benchmark.
FINETUNE.TASKS = Key(list(GLUE_TASKS), identity=by_plan)
# Tasks of your own, under names of your choice (without a dot) for TASKS: classification,
# regression, several labels per text, or named entities. Keys of each: TYPE (`classification` or,
# with SCORE_RANGE, `regression`, which need not be said; `multi_label` for any number of labels per
# text, `token_classification` for named entities, see the end), TRAIN, DEV and TEST (.tsv, .csv,
# .jsonl or .parquet files, or folders of .parquet files; TEST is optional), DEV_SHARE (in place of
# DEV: the share of the rows of TRAIN that are held out as dev, e.g. 0.1), FOLDS (in place of DEV:
# each run is repeated on so many folds of TRAIN and scored by their mean; a last run with the best
# setting learns from all rows), GROUP_COLUMN (with DEV_SHARE or FOLDS: a column of TRAIN, e.g. of
# patients; rows with the same cell are all in train or all in dev), COLUMNS (the names of all
# columns, for .tsv and .csv files without a header line), TEXT_COLUMNS (one or two names),
# LABEL_COLUMN (`label`), LABELS (all words in that column; by default those of TRAIN), LABELS_FILE
# (in place of LABELS: a file with a label per line; the column may hold the labels, or their
# numbers from 0), LABEL_SEPARATOR (`,`: between the labels of a row, in texts of the files and in
# predictions, if TYPE is multi_label), SCORE_RANGE (e.g. [0, 5]: the task is a regression of
# numbers in this range), METRICS (accuracy, f1, f1_macro, matthews_correlation; for a regression
# pearson, spearman; for several labels f1_micro, f1_macro, average_precision; by default accuracy,
# both of these, or f1_micro), CLASS_WEIGHTS (balanced: the losses of a rare class weigh more, so
# that all classes count alike in training; only for classification). Keys of named entities: TRAIN,
# DEV and TEST (files of tagged sentences, or folders of them), TAG_COLUMN (the number of the tags'
# column, from 1, in files with a word in each line; by default the last one), LABELS (the types of
# entities; by default those of TRAIN).
FINETUNE.CUSTOM_TASKS = NamedEntries(CUSTOM_TASK, {})
# Search method. grid: all settings of the grid. halving: for each task, all batch sizes and
# learning rates with the fewest epochs, then the better half of them with the next number of
# epochs, and so on: less than half of the work of the paper's grid.
FINETUNE.SEARCH = Key("grid", one_of("grid", "halving"), identity=by_plan)
# Every combination of EPOCHS, BATCH_SIZES and LEARNING_RATES is tried for a task. DEFAULT holds for
# all tasks; a task's own list, e.g. FINETUNE.GRID.RTE.EPOCHS, replaces the default's if it is not
# empty. MAX_SEQ_LENGTH of a task replaces FINETUNE.MAX_SEQ_LENGTH if it is not 0.
FINETUNE.GRID = NamedEntries(
    TASK_GRID,
    {
        "DEFAULT": PAPER_GRID,
        **{task: {} for task in (*GLUE_TASKS, *SUPERGLUE_TASKS)},
        **dict.fromkeys(LARGE_TASKS, LARGE_TASK_GRID),
    },
)
# Every setting is run once for each of these seeds. The score of a setting is the median of its
# runs; the best run of the best setting is submitted.
FINETUNE.SEEDS = Key(
    [42],
    Rule(
        lambda seeds: seeds and all(map(SEED.test, seeds)),
        f"at least one seed, each {SEED.expected}",
    ),
    identity=by_plan,
)
# Evaluations on the dev set per epoch; the best weights so far are kept (in memory). 0: only the
# weights at the end count, as in the paper.
FINETUNE.EVALS_PER_EPOCH = Key(0, at_least(0), identity=True)
# Evaluations without a better score before a run ends early. 0: no run ends early. Needs
# EVALS_PER_EPOCH.
FINETUNE.EARLY_STOPPING_PATIENCE = Key(0, at_least(0), identity=True)
# Tasks that start from the best MNLI model of this search instead of the pretrained one (STILT).
# Empty: none.
FINETUNE.STILT_TASKS = Key(["RTE", "MRPC", "STS-B"], identity=by_plan)
# Tokens per sample, special tokens included; longer ones are truncated.
FINETUNE.MAX_SEQ_LENGTH = Key(128, at_least(8), identity=by_plan)
# Weight decay of AdamW.
FINETUNE.WEIGHT_DECAY = Key(0.1, at_least(0), identity=True)
# Share of the steps in which the learning rate rises linearly from 0 to its peak.
FINETUNE.WARMUP_PROPORTION = Key(0.06, between(0, 1), identity=True)
# Decay after the warmup, by its transformers name: polynomial (linear to 0) | linear | cosine |
# constant_with_warmup.
FINETUNE.LR_SCHEDULER_TYPE = Key(
    "polynomial", one_of("polynomial", "linear", "cosine", "constant_with_warmup"), identity=True
)
# Largest norm of the gradient.
FINETUNE.MAX_GRAD_NORM = Key(1.0, above(0), identity=True)
# Samples per forward pass in evaluation.
FINETUNE.EVAL_BATCH_SIZE = Key(128, at_least(1), identity=False)
# Finetuned models to keep. best: of each task that of the best run. all: of every run. none.
FINETUNE.KEEP_MODELS = Key("best", one_of("best", "all", "none"), identity=by_plan)
# GPUs of the search, e.g. [[0, 1], [2, 3]]. A run takes one GPU, so these lists mean four runs at a
# time; [[0], [0]] means two at a time on GPU 0, for small models. Empty: one run per GPU. Without
# GPUs, SYSTEM.NUM_WORKERS processes share the cores.
FINETUNE.MULTIPROCESS_GPU_LIST = Key(
    [],
    each(Rule(lambda gpus: gpus and min(gpus) >= 0, "a list of GPU numbers, e.g. [0, 1]")),
    identity=False,
    element=[0],
)

RESULT_COLLECTION = SimpleNamespace()
# Run this stage.
RESULT_COLLECTION.ENABLED = Key(True, identity=False)
# Make a zip even if tasks are missing or have other row counts than the GLUE server expects (demo
# data). Its name then says that it cannot be submitted. If False, a search of some of a benchmark's
# tasks makes no zip, and a search of all of them is an error if the server would refuse the zip.
RESULT_COLLECTION.ALLOW_PARTIAL = Key(False, identity=False)
# Show the text of dev rows beside the mistakes in the report: only if all who see the report may
# see the data. If False, it has the numbers and lines of these rows, and no text of any row.
RESULT_COLLECTION.SHOW_TEXT = Key(False, identity=False)


SECTIONS: dict[str, dict[str, Row]] = {
    name: vars(section)
    for name, section in list(globals().items())
    if isinstance(section, SimpleNamespace)
}


def get_default_config() -> CfgNode:
    """Returns the complete config tree with the defaults, a node for each section."""
    config = CfgNode()
    for section, rows in SECTIONS.items():
        config[section] = CfgNode({name: row.make_default() for name, row in rows.items()})
    return config


def custom_task_node() -> CfgNode:
    """Returns a FINETUNE.CUSTOM_TASKS.<name> with the defaults."""
    return FINETUNE.CUSTOM_TASKS.make_entry()
