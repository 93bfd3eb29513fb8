"""Every key of the pipeline, with its default and its meaning: this file is the manual.

The comment above a key says what it does, its unit and the values it takes.
docs/PIPELINE_CONFIG.md is generated from this file (`python -m configs.manual`).
Values are those of the ExtremeBERT paper (appendix A and the user manual, appendix B)
unless the comment says otherwise. An empty string, an empty list, 0 or -1 stand for
"not set"; there is no None, because it would switch off the type checks.
"""

from yacs.config import CfgNode

# The nine GLUE tasks, as the benchmark spells them.
GLUE_TASKS = ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI"]
# The eight SuperGLUE tasks; its RTE has other rows than GLUE's.
SUPERGLUE_TASKS = ["BoolQ", "CB", "COPA", "MultiRC", "ReCoRD", "SuperGLUE-RTE", "WiC", "WSC"]
# Tasks that are so large that the paper's grid for them is smaller.
LARGE_TASKS = ["QQP", "MNLI", "QNLI", "ReCoRD"]


def _system() -> CfgNode:
    system = CfgNode()
    # GPUs to use, of those that CUDA_VISIBLE_DEVICES names. -1: all there are; 0: train on the CPU;
    # n: the first n. One that torch cannot use is an error.
    system.NUM_GPUS = -1
    # Memory that data preparation may use on a server, summed over all its processes, in GB.
    system.MAX_MEMORY_IN_GB = 16.0
    # Worker processes for data preparation and for finetuning on the CPU. 0: one per core.
    system.NUM_WORKERS = 0
    # Dask scheduler that data preparation and finetuning share their work out with, e.g.
    # tcp://server:8786; all servers must see OUTPUT_ROOT, the text, the tasks and the model under
    # the same paths. Empty: this machine alone.
    system.DASK_SCHEDULER = ""
    # DeepSpeed hostfile (a line `server slots=8` per server) of the servers that pretraining runs
    # on; all must see OUTPUT_ROOT and this project under the same paths. A slot is a GPU, or with
    # NUM_GPUS 0 a process on the CPU. Empty: this machine alone.
    system.HOSTFILE = ""
    # Folder under which data/, saved_models/, output/, output_test_translated/, log/ and
    # tmp/ are made.
    system.OUTPUT_ROOT = "."
    return system


def _install() -> CfgNode:
    install = CfgNode()
    # Whether the install stage may run install.sh (into .venv) when something is missing.
    install.ENABLED = True
    return install


def _wandb() -> CfgNode:
    wandb = CfgNode()
    # Weights & Biases logging of pretraining: disabled | offline | online. Needs
    # `bash install.sh requirements-wandb.txt`.
    wandb.MODE = "disabled"
    # Project that the runs are logged to.
    wandb.PROJECT = "budget-bert-pretraining"
    # Accepted for old YAML files and handed to wandb through its environment; it is never
    # written anywhere. Prefer the environment variable WANDB_API_KEY. A key alone does not
    # switch logging on, WANDB.MODE does.
    wandb.API_KEY = ""
    return wandb


def _tokenizer() -> CfgNode:
    tokenizer = CfgNode()
    # Tokenizer: a Hugging Face model name, a folder in Hugging Face format, or a file: vocab.txt,
    # tokenizer.json or a SentencePiece model. Used by data preparation, pretraining and finetuning
    # alike, which is checked on a sample of the text (docs/TOKENIZERS.md).
    tokenizer.NAME_OR_PATH = "bert-large-uncased"
    # Lower-case the text and strip accents. Holds for a vocab.txt and for a tokenizer trained
    # here; a Hugging Face tokenizer keeps the casing that it was made with, and a value that
    # contradicts it is an error.
    tokenizer.DO_LOWER_CASE = True
    # Train the tokenizer on the corpus instead of loading NAME_OR_PATH.
    tokenizer.TRAIN = False
    # Kind of a tokenizer trained here: wordpiece (BERT's) | bpe.
    tokenizer.MODEL = "wordpiece"
    # Number of entries of a tokenizer trained here, special tokens included.
    tokenizer.VOCAB_SIZE = 30522
    # Accents, for a vocab.txt and a tokenizer trained here: strip | keep | auto, which strips them
    # when the text is lower-cased, as BERT does.
    tokenizer.ACCENTS = "auto"
    # Special tokens of a tokenizer trained here, besides [PAD], [UNK], [CLS], [SEP] and [MASK].
    tokenizer.SPECIAL_TOKENS = []
    # Text that a tokenizer is trained on, in MB: a random sample of the corpus of at most this
    # size.
    tokenizer.MAX_TRAINING_MB = 256.0
    return tokenizer


def _dataset() -> CfgNode:
    dataset = CfgNode()
    # Whether the stage runs. When off, what it made before is used.
    dataset.ENABLED = True
    # Name of the dataset and of its folders. Empty: made from the content and the settings.
    dataset.ID = ""
    # Hub datasets as [name, subset], e.g. [wikipedia, 20220301.en]; if need be with the split, and
    # with the column of the text: [name, subset, train, text]. A local folder or file of parquet,
    # json, csv or text, or a folder of `save_to_disk`, may stand in place of the name.
    dataset.HUGGINGFACE_DATASETS = []
    # Folders (or single files) of .txt, .jsonl, .csv, .parquet, or what WikiExtractor or
    # `Dataset.save_to_disk` writes; text also as .gz, .bz2 or .zst. In .txt, articles are separated
    # by blank lines; in the others a row is an article (docs/FORMATS.md). Or `builtin:python-docs`:
    # the English prose of the documentation that ships with Python, for trying things out.
    # Relative paths start where the command is run.
    dataset.CUSTOMIZED_DATASETS = []
    # Column (JSON key) that holds the text, where a source does not name its own.
    dataset.TEXT_COLUMN = "text"
    # Read Hub datasets as a stream instead of downloading them first.
    dataset.STREAMING = False
    # Language of the text, as an ISO 639 code: rules for where sentences end.
    dataset.LANGUAGE = "en"
    # Files that the samples are spread over, per mask copy. 0: as many as fit the corpus.
    dataset.NUM_TRAIN_SHARDS = 0
    # The same for the held-out part. 0: as many as fit it.
    dataset.NUM_TEST_SHARDS = 0
    # Fraction of the articles that is held out for validation.
    dataset.FRAC_TEST = 0.005
    # Tokens per sample, [CLS] and [SEP] included.
    dataset.MAX_SEQ_LENGTH = 128
    # static: DUP_FACTOR differently masked copies of the samples are stored. dynamic: the samples
    # are stored once, unmasked, and masked anew in every epoch of pretraining.
    dataset.MASKING = "static"
    # Share of the tokens of a sample that is chosen for prediction.
    dataset.MASKED_LM_PROB = 0.15
    # Most predictions per sample.
    dataset.MAX_PREDICTIONS_PER_SEQ = 20
    # Share of samples that are cut to a random shorter length, as BERT's own were.
    dataset.SHORT_SEQ_PROB = 0.1
    # Of the chosen tokens, the share that becomes [MASK].
    dataset.MASK_TOKEN_SHARE = 0.8
    # Of the chosen tokens, the share that becomes a random token. The rest stays as it is.
    dataset.RANDOM_TOKEN_SHARE = 0.1
    # Choose whole words instead of single tokens.
    dataset.WHOLE_WORD_MASKING = False
    # Fill each row with several short documents, which pretraining keeps apart, instead of padding.
    dataset.PACKING = False
    # Samples of two text segments, the second of which follows the first or is a random one, with
    # labels for next-sentence prediction. bert-mlm trains on them without a look at the labels.
    dataset.NEXT_SENTENCE_PREDICTION = False
    # Differently masked copies of each training sample (static masking).
    dataset.DUP_FACTOR = 10
    # Seed of the split, the shuffling and the masks.
    dataset.SEED = 42
    return dataset


def _model() -> CfgNode:
    model = CfgNode()
    # bert-mlm: our BERT, trained on masked tokens alone, without next-sentence prediction. Or an
    # architecture of transformers by its name there, e.g. modernbert, roberta, deberta-v2, electra
    # (pretrain/model/model_types.py lists all; others are refused before the data is prepared):
    # built with these sizes and dropouts; the keys from ENCODER_LN_MODE to
    # PAD_VOCAB_TO_MULTIPLE_OF, RESIDUAL_INIT, WORD_EMBEDDING_INIT and OUTPUT_BIAS_INIT are those
    # of bert-mlm alone.
    model.TYPE = "bert-mlm"
    # Where the norms stand: pre-ln (stable at high learning rates) | post-ln (BERT's own).
    model.ENCODER_LN_MODE = "pre-ln"
    # absolute: learned, with segment embeddings, as in BERT | rotary: as in ModernBERT, without
    # segment embeddings, and without an attention norm right behind the norm of the embeddings.
    model.POSITION_EMBEDDING_TYPE = "absolute"
    # Base of the wavelengths of rotary positions.
    model.ROPE_THETA = 10000.0
    # Tokens that a token attends to, half of them on either side, in layers with a sliding window;
    # ModernBERT has 128. On long rows such layers cost a fraction; below 512 tokens they save
    # nothing. 0: no layer has a window.
    model.ATTENTION_WINDOW = 0
    # With ATTENTION_WINDOW, each of so many layers attends to all tokens, the first one included.
    model.GLOBAL_ATTENTION_EVERY = 3
    # Gated feed-forward layers: GeGLU with gelu, SwiGLU with silu.
    model.GLU = False
    # Biases in the linear layers and in the norms. The bias of the output over the vocabulary is
    # always there.
    model.USE_BIAS = True
    # layernorm | rmsnorm.
    model.NORM_TYPE = "layernorm"
    # A norm on the sum of the embeddings.
    model.EMBEDDING_NORM = True
    # The embedding table is padded to a multiple of this; matrix products on tensor cores are
    # faster when sizes are multiples of 8 or 64. The export is without the padding.
    model.PAD_VOCAB_TO_MULTIPLE_OF = 8
    # Width of the residual stream, of every TYPE. A multiple of NUM_ATTENTION_HEADS.
    model.HIDDEN_SIZE = 1024
    # Transformer layers, of every TYPE.
    model.NUM_HIDDEN_LAYERS = 24
    # Attention heads per layer, of every TYPE.
    model.NUM_ATTENTION_HEADS = 16
    # Width of the feed-forward layers, of every TYPE; with GLU there are two of it.
    model.INTERMEDIATE_SIZE = 4096
    # Activation of the feed-forward layers, of every TYPE: gelu | gelu_new | relu | silu. The head
    # of a post-ln model has it too; that of another bert-mlm is always gelu, as in
    # RobertaPreLayerNorm.
    model.HIDDEN_ACT = "gelu"
    # Dropout on embeddings and on each sublayer's output, of every TYPE.
    model.HIDDEN_DROPOUT_PROB = 0.1
    # Dropout on attention weights, of every TYPE.
    model.ATTENTION_PROBS_DROPOUT_PROB = 0.1
    # Standard deviation of the normal initialisation of all matrices, of every TYPE (BERT's own
    # value).
    model.INITIALIZER_RANGE = 0.02
    # Initialisation of the last matrix of each sublayer, whose output the residual stream adds up:
    # same as all others | scaled by 1 / sqrt(2 layers), as GPT-2 and ModernBERT | zero, so that
    # every layer begins as the identity.
    model.RESIDUAL_INIT = "same"
    # Initialisation of the word embeddings: random | cooccurrence: vectors that know which tokens
    # stand near which in the first shards (at most 20 million tokens), made within seconds to
    # minutes, which a small model learns from several times faster at the start.
    model.WORD_EMBEDDING_INIT = "random"
    # Initialisation of the output's bias: zero | frequencies: the logarithm of how often each token
    # is predicted (in the first two million predictions), which the model else learns first.
    model.OUTPUT_BIAS_INIT = "zero"
    # Epsilon of all norms, of every TYPE (BERT's own value).
    model.LAYER_NORM_EPS = 1e-12
    return model


def _pretrain() -> CfgNode:
    pretrain = CfgNode()
    # Whether the stage runs. When off, what it made before is used.
    pretrain.ENABLED = True
    # Name of the pretraining run and of its folder. Empty: made from the settings.
    pretrain.ID = ""
    # What the length of the run is counted in, and what the learning rate follows:
    # step (NUM_STEPS) | time (TOTAL_TRAINING_TIME) | tokens (NUM_TOKENS).
    pretrain.LR_SCHEDULE = "step"
    # Optimizer steps. 0 exports the randomly initialised model, as a baseline.
    pretrain.NUM_STEPS = 23000
    # Hours of training, over all restarts; what stands between them does not count.
    pretrain.TOTAL_TRAINING_TIME = 24.0
    # Tokens to train on, without padding; each pass over a sample counts.
    pretrain.NUM_TOKENS = 0
    # Stop after these hours of training, wherever the schedule is then. 0: never.
    pretrain.EARLY_EXIT_TIME_MARKER = 0.0
    # Samples per optimizer step, over all GPUs and accumulation steps.
    pretrain.BATCH_SIZE = 4096
    # The first steps are taken with this many samples, and then with 2, 3, ... times as many up to
    # BATCH_SIZE, which must be a multiple of it. 0: BATCH_SIZE from the start.
    pretrain.BATCH_SIZE_RAMP_START = 0
    # Steps that the ramp of the batch size takes, the same number for each size.
    pretrain.BATCH_SIZE_RAMP_STEPS = 0
    # Most samples that one GPU takes at once; the rest of the batch is accumulated. 0: on a GPU as
    # many as are faster than half of them and fit, up to 512, found by trial before the training;
    # 32 on the CPU. Where memory runs out, a run goes on with half of them. What was found is
    # remembered in micro_batch.json beside its checkpoints.
    pretrain.MICRO_BATCH_SIZE = 0
    # Peak learning rate, reached at the end of the warmup.
    pretrain.LEARNING_RATE = 1e-3
    # Share of the run in which the learning rate rises linearly from 0 to its peak.
    pretrain.WARMUP_PROPORTION = 0.06
    # What follows the warmup: elastic_step_decay | linear | cosine | exponential | step_decay |
    # inverse_time | polynomial | constant | wsd (constant, then down by 1 - sqrt) | wsd_linear.
    # --plot_lr of run_pretraining.py draws it.
    pretrain.LR_CURVE = "elastic_step_decay"
    # r of elastic step decay, equation (1) of the paper: 2^-1/2.
    pretrain.ESD_R = 0.7071067811865476
    # l of elastic step decay: the learning rate stays at its peak up to 1 - r^l of the run.
    pretrain.ESD_L = 6
    # Share of the peak at which all curves but elastic_step_decay and constant end. More than 0 for
    # exponential, step_decay and inverse_time.
    pretrain.LR_END_RATIO = 0.0
    # Power of polynomial.
    pretrain.LR_POWER = 1.0
    # Intervals of step_decay, with the same factor from each to the next.
    pretrain.LR_DECAY_STEPS = 4
    # Share of the run, at its end, in which wsd and wsd_linear decay.
    pretrain.LR_DECAY_PROPORTION = 0.2
    # adamw | adam | sgd | sgd-momentum | lamb | adafactor | stable-adamw | muon (for the matrices
    # of the layers, and adamw for the rest).
    pretrain.OPTIMIZER = "adamw"
    # Decay rate of the first moment of adam, adamw, lamb and stable-adamw.
    pretrain.ADAM_BETA1 = 0.9
    # Decay rate of the second moment.
    pretrain.ADAM_BETA2 = 0.98
    # Added to the root of the second moment.
    pretrain.ADAM_EPS = 1e-6
    # Momentum of sgd-momentum.
    pretrain.MOMENTUM = 0.9
    # Peak learning rate of muon's matrices; LEARNING_RATE is that of the rest.
    pretrain.MUON_LEARNING_RATE = 0.02
    # Momentum of muon.
    pretrain.MUON_MOMENTUM = 0.95
    # Weight decay of the matrices; biases and norms have none.
    pretrain.WEIGHT_DECAY = 0.01
    # Largest norm of the gradient. 0: no clipping.
    pretrain.GRADIENT_CLIPPING = 0.0
    # auto | fp16 | bf16 | fp32. auto: fp16 on GPUs; on the CPU bf16 for bert-mlm where the
    # processor is built for it, else fp32. On the CPU bf16 is that of the matrix products alone;
    # weights, and what layers add up, are fp32.
    pretrain.PRECISION = "auto"
    # In fp32, GPUs from Ampere on multiply matrices in TF32: several times as fast, with three
    # digits instead of seven. Needs PRECISION fp32.
    pretrain.ALLOW_TF32 = False
    # Stop after this many steps in a row with the fp16 loss scale at 1 or below, or in bf16 without
    # a finite gradient. 0: never.
    pretrain.SCALE_CNT_LIMIT = 100
    # Stop when the loss, averaged over about 50 steps, is this many nats above its lowest average.
    # 0: never.
    pretrain.DIVERGENCE_LIMIT = 2.0
    # What the GPUs share out between them (DeepSpeed's ZeRO): 0 nothing | 1 the optimizer's state |
    # 2 the gradients too | 3 the weights too. -1: 1 in half precision with adamw, adam or sgd, else
    # 0. Stage 0 computes in half precision by torch's autocast, from fp32 weights; on the CPU, bf16
    # is that of PRECISION there.
    pretrain.ZERO_STAGE = -1
    # JSON file with more DeepSpeed settings. What the keys here decide cannot be set there.
    pretrain.DEEPSPEED_CONFIG = ""
    # Compute the activations of the layers a second time in the backward pass instead of keeping
    # them: less memory, a third more time.
    pretrain.GRADIENT_CHECKPOINTING = False
    # torch.compile, which needs a C++ compiler; where it fails, training goes on without it.
    pretrain.COMPILE = False
    # Seed of initialisation, dropout and the order of the samples.
    pretrain.SEED = 42
    # Steps between two lines of metrics.
    pretrain.PRINT_STEPS = 100
    # Write the metrics for TensorBoard too. Needs `bash install.sh requirements-tensorboard.txt`.
    pretrain.TENSORBOARD = False
    # Steps between two checkpoints. 0: other keys decide.
    pretrain.CHECKPOINT_STEPS = 500
    # Minutes between two checkpoints: what a kill costs at most. 0: other keys decide.
    pretrain.CHECKPOINT_MINUTES = 30.0
    # Visits of a shard between two checkpoints. 0: other keys decide.
    pretrain.NUM_EPOCHS_BETWEEN_CHECKPOINTS = 0
    # Checkpoints that are kept; older ones are deleted. On a full disk the oldest go sooner, down
    # to one that is intact.
    pretrain.KEEP_CHECKPOINTS = 2
    # Hours of training after which the model as it is then is exported too, to models_at/.
    pretrain.FINETUNE_TIME_MARKERS = []
    # Whether to validate, between times and at the end.
    pretrain.DO_VALIDATION = True
    # Steps between two validations. 0: the VALIDATION_EPOCHS keys decide.
    pretrain.VALIDATION_STEPS = 1000
    # Visits of a shard between two validations in the middle of the run; the manual calls the
    # training on one shard an epoch. This key and the next four are looked at only if
    # VALIDATION_STEPS is 0.
    pretrain.VALIDATION_EPOCHS = 3
    # The same in the beginning of the run.
    pretrain.VALIDATION_EPOCHS_BEGIN = 1
    # The same at the end of the run.
    pretrain.VALIDATION_EPOCHS_END = 1
    # Share of the run that is its beginning.
    pretrain.VALIDATION_BEGIN_PROPORTION = 0.05
    # Share of the run that is its end.
    pretrain.VALIDATION_END_PROPORTION = 0.01
    # Samples per GPU and forward pass in validation.
    pretrain.VALIDATION_MICRO_BATCH = 16
    # Held-out samples that a validation uses. 0: all of them.
    pretrain.VALIDATION_SAMPLES = 10240
    # Stop if the validation loss is above EARLY_STOP_EVAL_LOSS after EARLY_STOP_TIME.
    pretrain.USE_EARLY_STOPPING = False
    # Minutes of training after which the validation loss must be good enough.
    pretrain.EARLY_STOP_TIME = 180.0
    # Highest validation loss, in nats per predicted token, that is good enough.
    pretrain.EARLY_STOP_EVAL_LOSS = 6.0
    return pretrain


def grid_node(epochs=(), batch_sizes=(), learning_rates=(), max_seq_length=0) -> CfgNode:
    """What is tried for a task; a node without values, for any task that the user adds."""
    return CfgNode(
        {
            "EPOCHS": list(epochs),
            "BATCH_SIZES": list(batch_sizes),
            "LEARNING_RATES": list(learning_rates),
            "MAX_SEQ_LENGTH": max_seq_length,
        }
    )


def custom_task_node() -> CfgNode:
    """A task of the user's own, FINETUNE.CUSTOM_TASKS.<name>, before its keys are set."""
    return CfgNode(
        {
            "TRAIN": "",
            "DEV": "",
            "TEST": "",
            "TEXT_COLUMNS": [],
            "LABEL_COLUMN": "label",
            "LABELS": [],
            "SCORE_RANGE": [],
            "METRICS": [],
        }
    )


def _finetune() -> CfgNode:
    finetune = CfgNode()
    # Whether the stage runs. When off, what it made before is used.
    finetune.ENABLED = True
    # Name of the search: its folders, summary, zips and report are called
    # `<PRETRAIN.ID>+<FINETUNE.ID>`, so that several searches of one model (other TASKS, another
    # GRID) stay side by side. Empty: `<PRETRAIN.ID>` alone, and a search with other settings writes
    # over the summary, zips and report of the last one.
    finetune.ID = ""
    # The model to finetune: a folder or a Hugging Face name. Empty: the one pretrained here, which
    # it must be where PRETRAIN.ENABLED is True. Code that comes with a model is not run: it must be
    # of an architecture of transformers, or ours.
    finetune.MODEL_NAME_OR_PATH = ""
    # GLUE in its standard TSV layout (GLUE_DIR/CoLA/train.tsv ...), or `builtin:demo`: a small
    # benchmark of generated sentences in that layout. Empty: nyu-mll/glue from the Hub.
    finetune.GLUE_DIR = ""
    # SuperGLUE in its official layout (SUPERGLUE_DIR/BoolQ/train.jsonl ...), as it comes out of
    # combined.zip of https://super.gluebenchmark.com/tasks. Needed for its tasks only.
    finetune.SUPERGLUE_DIR = ""
    # Tasks to search: any of CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI (GLUE), BoolQ,
    # CB, COPA, MultiRC, ReCoRD, SuperGLUE-RTE, WiC, WSC (SuperGLUE) and those of CUSTOM_TASKS.
    # `GLUE` and `SuperGLUE` stand for all of theirs.
    finetune.TASKS = list(GLUE_TASKS)
    # Classification and regression tasks of your own, by names of your choice (without a dot) that
    # are then put into TASKS. Keys of each: TRAIN, DEV and TEST (files, .tsv, .csv or .jsonl; TEST
    # may be left out), TEXT_COLUMNS (one or two names), LABEL_COLUMN (`label`), LABELS (all words
    # that stand in that column; if left out, those of TRAIN), SCORE_RANGE (e.g. [0, 5]: the task is
    # a regression of numbers within), METRICS (accuracy, f1, f1_macro, matthews_correlation; for a
    # regression pearson, spearman; if left out, accuracy or both of these).
    finetune.CUSTOM_TASKS = CfgNode()
    # Which settings of the grid are run. grid: all. halving: for each task, all batch sizes and
    # learning rates with the fewest epochs, then the better half of them with the next number of
    # epochs, and so on: less than half of the work of the paper's grid.
    finetune.SEARCH = "grid"
    # Every combination of EPOCHS, BATCH_SIZES and LEARNING_RATES is tried for a task. DEFAULT
    # holds for all tasks; a list of a task's own, e.g. FINETUNE.GRID.RTE.EPOCHS, takes the place
    # of the default's where it is not empty. MAX_SEQ_LENGTH of a task takes the place of
    # FINETUNE.MAX_SEQ_LENGTH where it is not 0.
    finetune.GRID = CfgNode()
    finetune.GRID.DEFAULT = grid_node((3, 5, 10), (16, 32), (1e-5, 3e-5, 5e-5, 8e-5))
    for task in (*GLUE_TASKS, *SUPERGLUE_TASKS):
        finetune.GRID[task] = grid_node()
    for large_task in LARGE_TASKS:
        finetune.GRID[large_task] = grid_node((3, 5), (32,), (5e-5, 8e-5))
    # Every setting is run once for each of these seeds. A setting's score is the median of its
    # runs; the best setting's best run is the one that is submitted.
    finetune.SEEDS = [42]
    # Evaluations on the dev set per epoch, after which the best weights so far are kept (in
    # memory). 0: only the weights at the end count, as in the paper.
    finetune.EVALS_PER_EPOCH = 0
    # Evaluations without a better score after which a run ends early. 0: none does. Needs
    # EVALS_PER_EPOCH.
    finetune.EARLY_STOPPING_PATIENCE = 0
    # Tasks that start from the best MNLI model of this search instead of the pretrained one
    # (STILT). Empty: none does.
    finetune.STILT_TASKS = ["RTE", "MRPC", "STS-B"]
    # Tokens per sample, special tokens included; longer ones are truncated.
    finetune.MAX_SEQ_LENGTH = 128
    # Weight decay of AdamW.
    finetune.WEIGHT_DECAY = 0.1
    # Share of the steps in which the learning rate rises linearly from 0 to its peak.
    finetune.WARMUP_PROPORTION = 0.06
    # Decay after the warmup, by its transformers name: polynomial (linear to 0) | linear |
    # cosine | constant_with_warmup.
    finetune.LR_SCHEDULER_TYPE = "polynomial"
    # Largest norm of the gradient.
    finetune.MAX_GRAD_NORM = 1.0
    # Samples per forward pass in evaluation.
    finetune.EVAL_BATCH_SIZE = 128
    # GPUs that the search works on, e.g. [[0, 1], [2, 3]]. A run takes one GPU, so these lists
    # are four runs at a time; [[0], [0]] is two at a time on GPU 0, for small models. Empty: one
    # run per GPU. Without GPUs, SYSTEM.NUM_WORKERS processes share the cores.
    finetune.MULTIPROCESS_GPU_LIST = []
    return finetune


def _result_collection() -> CfgNode:
    result_collection = CfgNode()
    # Whether the stage runs.
    result_collection.ENABLED = True
    # Make a zip even if tasks are missing or have other row counts than the GLUE server
    # expects (demo data). Its name then says that it cannot be submitted. Without it, a search of
    # some of a benchmark's tasks makes no zip, and a search of all of them whose zip the server
    # would refuse is an error.
    result_collection.ALLOW_PARTIAL = False
    return result_collection


def get_default_config() -> CfgNode:
    """The complete config tree with the paper's values.

    Returns a CfgNode with the nodes SYSTEM, INSTALL, WANDB, TOKENIZER, DATASET, MODEL,
    PRETRAIN, FINETUNE and RESULT_COLLECTION.
    """
    config = CfgNode()
    config.SYSTEM = _system()
    config.INSTALL = _install()
    config.WANDB = _wandb()
    config.TOKENIZER = _tokenizer()
    config.DATASET = _dataset()
    config.MODEL = _model()
    config.PRETRAIN = _pretrain()
    config.FINETUNE = _finetune()
    config.RESULT_COLLECTION = _result_collection()
    return config
