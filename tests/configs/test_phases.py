"""PRETRAIN.PHASES: a config for each phase, and the problems of impossible ones."""

import os
from itertools import pairwise

import pytest

from configs.defaults import get_default_config
from configs.manual import comments
from configs.phases import FULL_KEYS, SHARE, phase_configs
from pipeline.errors import ConfigError

TWO = """
PRETRAIN:
  NUM_STEPS: 1000
  PHASES:
    - {SHARE: 0.9}
    - {SHARE: 0.1, MAX_SEQ_LENGTH: 512, MAX_PREDICTIONS_PER_SEQ: 77, LEARNING_RATE: 1e-4}
"""


def with_phases(**pretrain):
    config = get_default_config()
    config.PRETRAIN.update(pretrain)
    return phase_configs(config)


def parts(configs, *names):
    return [tuple(config.PRETRAIN[name] for name in names) for config in configs]


def test_without_phases_the_config_is_the_only_one():
    config = get_default_config()
    assert phase_configs(config)[0] is config


def test_a_phase_differs_in_its_own_keys(load):
    config = load(TWO)
    first, second = phase_configs(config)
    assert (first.DATASET.MAX_SEQ_LENGTH, second.DATASET.MAX_SEQ_LENGTH) == (128, 512)
    assert parts((first, second), "NUM_STEPS", "LEARNING_RATE") == [(900, 1e-3), (100, 1e-4)]
    assert parts((first, second), "LR_CURVE_BEGIN", "LR_CURVE_END") == [(0, 0.9), (0.9, 1)]
    assert parts((first, second), "SEED", "PHASES") == [(42, []), (43, [])]
    assert first.is_frozen() and second.is_frozen()
    assert config.DATASET.MAX_SEQ_LENGTH == 128 and len(config.PRETRAIN.PHASES) == 2


@pytest.mark.parametrize("shares", [(1 / 3, 1 / 3, 1 / 3), (0.1, 0.2, 0.7), (0.7, 0.1, 0.2), (1,)])
@pytest.mark.parametrize("steps", [10, 23000, 999_983])
def test_shares_are_the_whole_run(shares, steps):
    configs = with_phases(NUM_STEPS=steps, PHASES=[{"SHARE": share} for share in shares])
    lengths = [config.PRETRAIN.NUM_STEPS for config in configs]
    assert sum(lengths) == steps and all(isinstance(length, int) for length in lengths)
    ends = parts(configs, "LR_CURVE_BEGIN", "LR_CURVE_END")
    assert ends[0][0] == 0 and ends[-1][1] == 1
    assert all(one[1] == following[0] for one, following in pairwise(ends))


def test_lengths_in_tokens_and_hours():
    tokens = [{"NUM_TOKENS": 3_000}, {"NUM_TOKENS": 1_000}]
    configs = with_phases(LR_SCHEDULE="tokens", PHASES=tokens)
    assert parts(configs, "NUM_TOKENS", "LR_CURVE_END") == [(3000, 0.75), (1000, 1)]
    hours = [{"TOTAL_TRAINING_TIME": 1.5}, {"TOTAL_TRAINING_TIME": 0.5}]
    configs = with_phases(LR_SCHEDULE="time", PHASES=hours)
    assert parts(configs, "TOTAL_TRAINING_TIME", "LR_CURVE_END") == [(1.5, 0.75), (0.5, 1)]


def test_a_phase_with_a_curve_of_its_own_leaves_its_part_of_the_common_one():
    phases = [{"SHARE": 0.5}, {"SHARE": 0.25, "LR_CURVE": "constant"}, {"SHARE": 0.25}]
    configs = with_phases(NUM_STEPS=100, PHASES=phases)
    wanted = [("elastic_step_decay", 0, 0.5), ("constant", 0, 1), ("elastic_step_decay", 0.75, 1)]
    assert parts(configs, "LR_CURVE", "LR_CURVE_BEGIN", "LR_CURVE_END") == wanted


def test_a_ramp_of_the_batch_belongs_to_the_first_phase():
    ramp = {"BATCH_SIZE_RAMP_START": 256, "BATCH_SIZE_RAMP_STEPS": 10}
    configs = with_phases(**ramp, NUM_STEPS=10, PHASES=[{"SHARE": 0.5}, {"SHARE": 0.5}])
    assert parts(configs, *ramp) == [(256, 10), (0, 0)]


def test_the_sources_of_a_phase_are_all_that_it_reads(load):
    text = """
        DATASET:
          HUGGINGFACE_DATASETS: [[wikipedia, 20220301.en]]
          CUSTOMIZED_DATASETS: [all]
        PRETRAIN:
          PHASES: [{NUM_STEPS: 1}, {NUM_STEPS: 1, CUSTOMIZED_DATASETS: [~/notes]}]
    """
    first, second = phase_configs(load(text))
    assert first.DATASET.HUGGINGFACE_DATASETS == [["wikipedia", "20220301.en"]]
    assert second.DATASET.HUGGINGFACE_DATASETS == []
    assert second.DATASET.CUSTOMIZED_DATASETS == [os.path.expanduser("~/notes")]


def test_equal_datasets_have_one_name_and_the_last_one_has_the_users():
    config = get_default_config()
    config.DATASET.ID, config.PRETRAIN.ID = "mine", "run"
    long = {"SHARE": 0.25, "MAX_SEQ_LENGTH": 512, "MAX_PREDICTIONS_PER_SEQ": 80}
    config.PRETRAIN.PHASES = [{"SHARE": 0.25}, {"SHARE": 0.25, "BATCH_SIZE": 64}, long, {**long}]
    configs = phase_configs(config)
    assert [own.DATASET.ID for own in configs] == ["mine-phase1", "mine-phase1", "mine", "mine"]
    assert [own.PRETRAIN.ID for own in configs] == ["", "", "", "run"]


def test_phases_on_the_command_line_replace_those_of_the_file(load):
    config = load(TWO, "PRETRAIN.PHASES", "[{SHARE: 1, BATCH_SIZE: 64}]")
    assert config.PRETRAIN.PHASES == [{"SHARE": 1.0, "BATCH_SIZE": 64}]
    assert load(TWO, "PRETRAIN.PHASES", "[]").PRETRAIN.PHASES == []


BOTH = "[{SHARE: 0.9}, {SHARE: 0.1%s}]"
PROBLEMS = {
    "[{SHARE: 1, MAX_SEQ_LEN: 64}]": (
        "PRETRAIN.PHASES[1].MAX_SEQ_LEN: not a key of a phase (did you mean MAX_SEQ_LENGTH?)"
    ),
    "[{SHARE: 1, DATASET.MASKING: static}]": "(did you mean MASKING?)",
    "[{SHARE: 1, HIDDEN_SIZE: 64}]": "all phases have the same MODEL.HIDDEN_SIZE",
    "[{SHARE: 1, BATCH_SIZE: many}]": (
        "PRETRAIN.PHASES[1].BATCH_SIZE: wrong type, got many, expected a whole number"
    ),
    "[{SHARE: 1}, 3]": "PRETRAIN.PHASES[2]: got 3, expected a map",
    "[{}]": "PRETRAIN.PHASES[1]: got no length, expected one of SHARE, NUM_STEPS",
    "[{SHARE: 1, NUM_STEPS: 5}]": "PRETRAIN.PHASES[1]: got SHARE and NUM_STEPS, expected one of",
    "[{NUM_TOKENS: 5}]": "PRETRAIN.PHASES[1].NUM_TOKENS: is not the length by PRETRAIN.LR_SCHEDULE",
    "[{SHARE: 0.5}, {NUM_STEPS: 5}]": "PRETRAIN.PHASES[2].NUM_STEPS: other phases have SHARE",
    "[{NUM_STEPS: 0}]": "PRETRAIN.PHASES[1].NUM_STEPS: got 0, expected more than 0",
    "[{SHARE: 0.5}, {SHARE: 0.4}]": "the SHARE of all phases is 0.9, expected 1 in all",
    "[{SHARE: 0.9999}, {SHARE: 0.0001}]": (
        "PRETRAIN.PHASES[2].SHARE: got 0.0001 of PRETRAIN.NUM_STEPS 1000, expected more"
    ),
    "[{NUM_STEPS: 5}, {NUM_STEPS: 7}]": (
        "PRETRAIN.NUM_STEPS: got 1000, but the phases have 12 together, expected 12"
    ),
    BOTH % ", LEARNING_RATE: 0": "PRETRAIN.PHASES[2].LEARNING_RATE: value out of range, got 0.0",
    BOTH % ", MAX_SEQ_LENGTH: 512": (
        "PRETRAIN.PHASES[2]: DATASET.MAX_PREDICTIONS_PER_SEQ: too few for DATASET.MASKED_LM_PROB "
        "0.15 of 512 tokens, got 20, expected MAX_PREDICTIONS_PER_SEQ 77 in this phase"
    ),
    BOTH % ", LR_CURVE: exponential": "PRETRAIN.PHASES[2]: PRETRAIN.LR_END_RATIO: exponential",
    BOTH % ", MAX_SEQ_LENGTH: 20, MAX_PREDICTIONS_PER_SEQ: 19": (
        "PRETRAIN.PHASES[2].MAX_PREDICTIONS_PER_SEQ: more than a sample has tokens, got 19, "
        "expected at most PRETRAIN.PHASES[2].MAX_SEQ_LENGTH - 2 = 18"
    ),
}


@pytest.mark.parametrize("phases", PROBLEMS)
def test_problems_name_the_phase(problems, phases):
    [line] = problems(TWO, "PRETRAIN.PHASES", phases)
    assert PROBLEMS[phases] in line


def test_a_problem_of_all_phases_is_one_line(problems):
    [line] = problems(TWO, "MODEL.HIDDEN_SIZE", "1000")
    assert line.startswith("MODEL.HIDDEN_SIZE: not divisible")


def test_the_hours_of_a_whole_run_are_refused(problems):
    [line] = problems(TWO, "PRETRAIN.FINETUNE_TIME_MARKERS", "[3]")
    assert line.startswith("PRETRAIN.FINETUNE_TIME_MARKERS: belongs to a run of one phase")


def test_a_changing_masking_rate_belongs_to_a_phase(load, problems):
    rate = ("DATASET.MASKING", "dynamic", "DATASET.MASKED_LM_PROB", "0.3")
    rate += ("DATASET.MAX_PREDICTIONS_PER_SEQ", "38")
    [line] = problems(TWO, *rate, "DATASET.MASKED_LM_PROB_END", "0.15")
    assert line.startswith("DATASET.MASKED_LM_PROB_END: each phase would go there anew, got 0.15")
    phases = "[{SHARE: 0.5, MASKED_LM_PROB_END: 0.15}, {SHARE: 0.5, MASKED_LM_PROB: 0.15}]"
    first, second = phase_configs(load(TWO, *rate, "PRETRAIN.PHASES", phases))
    assert (first.DATASET.MASKED_LM_PROB, first.DATASET.MASKED_LM_PROB_END) == (0.3, 0.15)
    assert (second.DATASET.MASKED_LM_PROB, second.DATASET.MASKED_LM_PROB_END) == (0.15, 0)


def test_finetuning_may_use_the_rows_of_the_longest_phase(load, problems):
    settings = ("FINETUNE.GLUE_DIR", "builtin:demo", "FINETUNE.MAX_SEQ_LENGTH")
    assert load(TWO, *settings, "512", stages=("finetune",))
    [line] = problems(TWO, *settings, "513", stages=("finetune",))
    assert line.startswith("FINETUNE.MAX_SEQ_LENGTH: longer than the pretrained model's positions")


def test_impossible_phases_have_no_configs():
    with pytest.raises(ConfigError, match="expected 1 in all"):
        with_phases(PHASES=[{"SHARE": 0.5}])


def test_the_manual_names_every_key_of_a_phase():
    words = comments()["PRETRAIN.PHASES"].replace(",", " ").replace(".", " ").split()
    assert {SHARE, *FULL_KEYS} <= {word.strip("()") for word in words}
