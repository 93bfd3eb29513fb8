"""Rows of keys and the tables derived from them, above all the identity of results."""

import pytest

from configs.defaults import get_default_config
from configs.keys import KEYS, NAMED_ENTRIES, flatten, identity_inputs, row_of, rows_of
from configs.predicates import at_least
from configs.rows import Key
from pipeline.store.checksums import fingerprint

SECTIONS = ("DATASET", "TOKENIZER", "MODEL", "PRETRAIN", "FINETUNE")
# Changed values, and the beginning of the fingerprint of each section's inputs. With another one,
# users' results are made again: take care that this is meant.
IDENTITIES = [
    ({}, "62979f7e e72c7ae5 baaeaabc 511c1051 7dcfd07a"),
    (
        {"TOKENIZER.TRAIN": True, "DATASET.MASKING": "dynamic"},
        "9a6fc7b3 3d4f9a6f baaeaabc 511c1051 7dcfd07a",
    ),
    (
        {"MODEL.ATTENTION_WINDOW": 8, "PRETRAIN.LR_SCHEDULE": "time"},
        "62979f7e e72c7ae5 f114570f 4bb0191b 7dcfd07a",
    ),
    (
        {"PRETRAIN.ALLOW_TF32": True, "PRETRAIN.LR_SCHEDULE": "tokens"},
        "62979f7e e72c7ae5 baaeaabc 98dd54d9 7dcfd07a",
    ),
    ({"PRETRAIN.USE_EARLY_STOPPING": True}, "62979f7e e72c7ae5 baaeaabc 41766cdc 7dcfd07a"),
]


def config_with(values):
    config = get_default_config()
    for key, value in values.items():
        section, name = key.split(".")
        config[section][name] = value
    return config


@pytest.mark.parametrize(("values", "expected"), IDENTITIES)
def test_old_results_stay_up_to_date(values, expected):
    config = config_with(values)
    found = [fingerprint(identity_inputs(config, section))[:8] for section in SECTIONS]
    assert found == expected.split()


@pytest.mark.parametrize("section", ["SYSTEM", "INSTALL", "WANDB", "RESULT_COLLECTION"])
def test_no_result_depends_on_the_machine(section):
    assert identity_inputs(get_default_config(), section) == {}


def test_every_key_says_whether_results_depend_on_it():
    with pytest.raises(TypeError, match="identity"):
        Key(0, at_least(0))
    config = get_default_config()
    entries = [row for section in NAMED_ENTRIES.values() for row in section.keys.values()]
    for row in (*KEYS.values(), *entries):
        decided = row.identity(config) if callable(row.identity) else row.identity
        assert isinstance(decided, bool)


def test_a_changed_key_changes_the_identity_or_says_that_it_does_not():
    before = {section: identity_inputs(get_default_config(), section) for section in SECTIONS}
    for key, row in KEYS.items():
        after = config_with({key: "another value"})
        section = key.partition(".")[0]
        if section in SECTIONS and isinstance(row.identity, bool):
            assert (identity_inputs(after, section) != before[section]) == row.identity, key


def test_a_row_for_every_value():
    config = get_default_config()
    config.FINETUNE.CUSTOM_TASKS.mine = NAMED_ENTRIES["FINETUNE.CUSTOM_TASKS"].make_entry()
    assert [key for key, _, _ in rows_of(config)] == list(flatten(config))
    assert row_of("FINETUNE.GRID.RTE.EPOCHS").example == [3]
    assert row_of("FINETUNE.CUSTOM_TASKS.mine.LABEL_COLUMN").default == "label"


def test_rules_hold_for_the_defaults():
    for key, row in KEYS.items():
        assert row.rule is None or row.rule.test(row.default), key
