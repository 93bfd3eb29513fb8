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


def _system() -> CfgNode:
    system = CfgNode()
    # GPUs to use. -1: all there are; 0: train on the CPU; n: GPUs 0 to n-1.
    system.NUM_GPUS = -1
    # Memory that data preparation may use on a server, summed over all its processes, in GB.
    system.MAX_MEMORY_IN_GB = 16.0
    # Worker processes for data preparation and for finetuning on the CPU. 0: one per core.
    system.NUM_WORKERS = 0
    # Dask scheduler that data preparation shares its work out with, e.g. tcp://server:8786; all
    # servers must see OUTPUT_ROOT and the text under the same paths. Empty: this machine alone.
    system.DASK_SCHEDULER = ""
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
    # `pip install -r requirements-wandb.txt`.
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
    # WordPiece tokenizer: a Hugging Face model name, a folder in Hugging Face format, or a
    # vocab.txt. Used by data preparation, pretraining and finetuning alike.
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
    # json, csv or text may stand in place of the name.
    dataset.HUGGINGFACE_DATASETS = []
    # Folders (or single files) of .txt, .jsonl, .csv, .parquet, or what WikiExtractor writes; all
    # but parquet also as .gz, .bz2 or .zst. In .txt, articles are separated by blank lines; in the
    # others a row is an article (docs/FORMATS.md). Or `builtin:python-docs`: the English prose of
    # the documentation that ships with Python, for trying things out.
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
    # bert-mlm: BERT trained on masked tokens alone, without next-sentence prediction.
    model.TYPE = "bert-mlm"
    # Where the LayerNorms stand: pre-ln (stable at high learning rates) | post-ln (BERT's own).
    model.ENCODER_LN_MODE = "pre-ln"
    # Width of the residual stream. A multiple of NUM_ATTENTION_HEADS.
    model.HIDDEN_SIZE = 1024
    # Transformer layers.
    model.NUM_HIDDEN_LAYERS = 24
    # Attention heads per layer.
    model.NUM_ATTENTION_HEADS = 16
    # Width of the feed-forward layers.
    model.INTERMEDIATE_SIZE = 4096
    # Activation of the feed-forward layers: gelu | gelu_new | relu | silu. The head of a post-ln
    # model has it too; that of a pre-ln model is always gelu, as in RobertaPreLayerNorm.
    model.HIDDEN_ACT = "gelu"
    # Dropout on embeddings and on each sublayer's output.
    model.HIDDEN_DROPOUT_PROB = 0.1
    # Dropout on attention weights.
    model.ATTENTION_PROBS_DROPOUT_PROB = 0.1
    # Standard deviation of the normal initialisation of all matrices (BERT's own value).
    model.INITIALIZER_RANGE = 0.02
    # Epsilon of all LayerNorms (BERT's own value).
    model.LAYER_NORM_EPS = 1e-12
    return model


def _pretrain() -> CfgNode:
    pretrain = CfgNode()
    # Whether the stage runs. When off, what it made before is used.
    pretrain.ENABLED = True
    # Name of the pretraining run and of its folder. Empty: made from the settings.
    pretrain.ID = ""
    # Optimizer steps. 0 exports the randomly initialised model, as a baseline.
    pretrain.NUM_STEPS = 23000
    # Samples per optimizer step, over all GPUs and accumulation steps.
    pretrain.BATCH_SIZE = 4096
    # Most samples that one GPU takes at once; the rest of the batch is accumulated.
    pretrain.MICRO_BATCH_SIZE = 32
    # Peak learning rate, reached at the end of the warmup.
    pretrain.LEARNING_RATE = 1e-3
    # Share of the steps in which the learning rate rises linearly from 0 to its peak.
    pretrain.WARMUP_PROPORTION = 0.06
    # What follows the warmup: elastic_step_decay | linear | cosine | constant.
    pretrain.LR_CURVE = "elastic_step_decay"
    # r of elastic step decay, equation (1) of the paper: 2^-1/2.
    pretrain.ESD_R = 0.7071067811865476
    # l of elastic step decay: the learning rate stays at its peak up to 1 - r^l of the steps.
    pretrain.ESD_L = 6
    # adamw | adam | sgd | sgd-momentum.
    pretrain.OPTIMIZER = "adamw"
    # Decay rate of the first moment of adamw and adam.
    pretrain.ADAM_BETA1 = 0.9
    # Decay rate of the second moment.
    pretrain.ADAM_BETA2 = 0.98
    # Added to the root of the second moment.
    pretrain.ADAM_EPS = 1e-6
    # Momentum of sgd-momentum.
    pretrain.MOMENTUM = 0.9
    # Weight decay of the matrices; biases and norms have none.
    pretrain.WEIGHT_DECAY = 0.01
    # Largest norm of the gradient. 0: no clipping.
    pretrain.GRADIENT_CLIPPING = 0.0
    # auto | fp16 | bf16 | fp32. auto: fp16 on GPUs, fp32 on the CPU, where it is the fastest.
    pretrain.PRECISION = "auto"
    # Seed of initialisation, dropout and the order of the samples.
    pretrain.SEED = 42
    # Steps between two lines of metrics.
    pretrain.PRINT_STEPS = 100
    # Steps between two checkpoints.
    pretrain.CHECKPOINT_STEPS = 500
    # Checkpoints that are kept; older ones are deleted.
    pretrain.KEEP_CHECKPOINTS = 2
    # Steps between two validations. One more is always made at the end.
    pretrain.VALIDATION_STEPS = 1000
    # Samples per GPU and forward pass in validation.
    pretrain.VALIDATION_MICRO_BATCH = 16
    # Held-out samples that a validation uses. 0: all of them.
    pretrain.VALIDATION_SAMPLES = 10240
    return pretrain


def _grid(epochs=(), batch_sizes=(), learning_rates=()) -> CfgNode:
    return CfgNode(
        {
            "EPOCHS": list(epochs),
            "BATCH_SIZES": list(batch_sizes),
            "LEARNING_RATES": list(learning_rates),
        }
    )


def _finetune() -> CfgNode:
    finetune = CfgNode()
    # Whether the stage runs. When off, what it made before is used.
    finetune.ENABLED = True
    # The model to finetune: a folder or a Hugging Face name. Empty: the one pretrained here.
    finetune.MODEL_NAME_OR_PATH = ""
    # GLUE in its standard TSV layout (GLUE_DIR/CoLA/train.tsv ...), or `builtin:demo`: a small
    # benchmark of generated sentences in that layout. Empty: nyu-mll/glue from the Hub.
    finetune.GLUE_DIR = ""
    # Tasks to search: any of CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI.
    finetune.TASKS = list(GLUE_TASKS)
    # Every combination of EPOCHS, BATCH_SIZES and LEARNING_RATES is tried for a task. DEFAULT
    # holds for all tasks; a list of a task's own, e.g. FINETUNE.GRID.RTE.EPOCHS, takes the place
    # of the default's where it is not empty.
    finetune.GRID = CfgNode()
    finetune.GRID.DEFAULT = _grid((3, 5, 10), (16, 32), (1e-5, 3e-5, 5e-5, 8e-5))
    for task in GLUE_TASKS:
        finetune.GRID[task] = _grid()
    for large_task in ("QQP", "MNLI", "QNLI"):
        finetune.GRID[large_task] = _grid((3, 5), (32,), (5e-5, 8e-5))
    # Every setting is run once for each of these seeds.
    finetune.SEEDS = [42]
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
    # GPUs of each process that works on the search, e.g. [[0, 1], [2, 3]]. Empty: one process
    # per GPU. Without GPUs, SYSTEM.NUM_WORKERS processes share the cores.
    finetune.MULTIPROCESS_GPU_LIST = []
    return finetune


def _result_collection() -> CfgNode:
    result_collection = CfgNode()
    # Whether the stage runs.
    result_collection.ENABLED = True
    # Make a zip even if tasks are missing or have other row counts than the GLUE server
    # expects (demo data). Its name then says that it cannot be submitted.
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
