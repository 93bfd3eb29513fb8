"""The plan of a longer run under the same name: what it goes on from, or why it cannot."""

import pytest

from pipeline.errors import ConfigError, StageError
from pipeline.status_report import report_status
from pretrain.checkpoint_folders import STABLE, TENSORS
from pretrain.lengthening import begin_lengthening, schedule_of
from tests.damage import flip_byte
from tests.plans import pretrain_artifact, pretrain_estimate
from tests.pretrain.test_checkpoint_folders import write_checkpoint
from tests.pretrain.test_pretrain_stage import small_config, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def config(corpus, tmp_path):
    config = small_config(corpus, tmp_path)
    change(config, ID="mine", NUM_STEPS=20, LR_CURVE="constant", WARMUP_PROPORTION=0.0)
    return config


def change(config, **values):
    config.PRETRAIN.update(values)


def make_run(config, *steps, stable=0, finish=True):
    """A run of this config with checkpoints at these steps."""
    artifact = pretrain_artifact(config)
    artifact.begin()
    folder = artifact.directory / "checkpoints"
    for step in steps:
        write_checkpoint(folder, step, schedule_of(config))
    if stable:
        write_checkpoint(folder, stable, schedule_of(config), STABLE)
    if finish:
        (artifact.directory / "model").mkdir()
        (artifact.directory / "model" / "config.json").write_text("{}")
        artifact.finish({"step": max(steps)})
    return artifact.directory


def begin(config, said=None):
    artifact = pretrain_artifact(config)
    begin_lengthening(artifact, schedule_of(config), (said if said is not None else []).append)
    artifact.begin()
    return artifact


def test_a_finished_run_is_lengthened_and_its_model_kept(config):
    directory = make_run(config, 15, 20)
    change(config, NUM_STEPS=40)
    status = pretrain_artifact(config).status()
    assert status.state == "extended"
    assert status.reason == (
        "lengthened, goes on from step 20, keeps the finished model in models_at/20steps "
        "(PRETRAIN.NUM_STEPS 20 -> 40)"
    )
    said = []
    artifact = begin(config, said)
    assert said == ["lengthened, goes on from step 20"]
    assert artifact.directory == directory and artifact.status().state == "unfinished"
    assert (directory / "models_at" / "20steps" / "config.json").exists()
    begin(config)  # again, after a kill
    assert (directory / "models_at" / "20steps" / "config.json").exists()


def test_the_status_of_a_run_to_lengthen(config, capsys):
    make_run(config, 20, finish=False)
    change(config, NUM_STEPS=40)
    report_status(config, ["pretrain"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("pretrain: to be lengthened, goes on from step 20 (PRETRAIN.NUM_STEPS")


def test_a_kill_before_the_old_manifest_is_gone_changes_nothing(config):
    make_run(config, 20)
    change(config, NUM_STEPS=40)
    artifact = pretrain_artifact(config)
    begin_lengthening(artifact, schedule_of(config), print)
    assert artifact.status().state == "extended"
    begin(config)
    assert artifact.status().state == "unfinished"


def test_wsd_goes_on_from_its_stable_checkpoint(config):
    change(config, LR_CURVE="wsd", WARMUP_PROPORTION=0.1)
    make_run(config, 18, 20, stable=16)
    change(config, NUM_STEPS=40, WARMUP_PROPORTION=0.05)
    assert "goes on from step 16, before the decay" in pretrain_artifact(config).status().reason


def test_an_unfinished_run_is_lengthened_again_and_again(config):
    make_run(config, 12, finish=False)
    for steps in (40, 60):
        change(config, NUM_STEPS=steps)
        assert (
            pretrain_artifact(config)
            .status()
            .reason.startswith("lengthened, goes on from step 12 (PRETRAIN.NUM_STEPS")
        )
        begin(config)


def refusal(config):
    with pytest.raises(ConfigError) as refused:
        pretrain_artifact(config).check_owner()
    assert pretrain_artifact(config).status().state == "changed"
    (problem,) = refused.value.problems
    return problem


@pytest.mark.parametrize("curve", ["linear", "cosine", "elastic_step_decay", "wsd"])
def test_other_curves_are_refused_with_what_would_differ(config, curve):
    change(config, LR_CURVE=curve)
    directory = make_run(config, 19, 20)
    change(config, NUM_STEPS=40)
    problem = refusal(config)
    assert problem.startswith(
        f"PRETRAIN.ID: {directory} was made with other settings (PRETRAIN.NUM_STEPS 20 -> 40); it "
        "cannot be lengthened exactly: in step "
    )
    assert (
        "the learning rate was " in problem
        and "in a run of 40 steps it would have been 0.00" in problem
    )
    assert "PRETRAIN.START_FROM begins with its weights, or redo it there with --force" in problem
    with pytest.raises(ConfigError):
        begin(config)
    assert (directory / "model" / "config.json").exists()


def test_a_masking_rate_that_falls_is_refused(config):
    config.DATASET.update({"MASKING": "dynamic", "MASKED_LM_PROB_END": 0.1})
    make_run(config, 20)
    change(config, NUM_STEPS=40)
    assert "the share of masked tokens changes over the run" in refusal(config)


def test_the_share_that_keeps_the_warmup_is_told(config):
    change(config, WARMUP_PROPORTION=0.5)
    make_run(config, 20)
    change(config, NUM_STEPS=40)
    told = (
        "PRETRAIN.WARMUP_PROPORTION 0.25 keeps the warmup of 10 steps, and it goes on from step 20"
    )
    assert told in refusal(config)
    change(config, WARMUP_PROPORTION=0.25)
    assert pretrain_artifact(config).status().state == "extended"


def test_hours_and_tokens(config):
    for unit, key, now in (("time", "TOTAL_TRAINING_TIME", 30), ("tokens", "NUM_TOKENS", 30)):
        change(config, LR_SCHEDULE=unit, ID=unit, **{key: type(config.PRETRAIN[key])(20)})
        make_run(config, 20)
        change(config, **{key: type(config.PRETRAIN[key])(now)})
        assert pretrain_artifact(config).status().state == "extended"


def test_a_later_time_limit_lengthens_any_curve(config):
    change(config, LR_CURVE="linear", EARLY_EXIT_TIME_MARKER=2.0)
    make_run(config, 12)
    for hours, state in ((1.0, "changed"), (3.0, "extended"), (0.0, "extended")):
        change(config, EARLY_EXIT_TIME_MARKER=hours)
        assert pretrain_artifact(config).status().state == state


@pytest.mark.parametrize(
    "values",
    [
        {"NUM_STEPS": 15},
        {"NUM_STEPS": 40, "SEED": 7},
        {"NUM_STEPS": 40, "LEARNING_RATE": 0.5},
        {"LR_CURVE": "wsd"},  # no longer run
        {"LR_SCHEDULE": "tokens", "NUM_TOKENS": 10**9},
    ],
)
def test_other_changes_are_refused_as_ever(config, values):
    make_run(config, 10, 20)
    change(config, **values)
    problem = refusal(config)
    assert "); choose another PRETRAIN.ID, or redo it there with --force pretrain" in problem


def test_without_a_checkpoint_there_is_nothing_to_lengthen(config):
    directory = make_run(config, 20)
    for path in (directory / "checkpoints").rglob("*.*"):
        path.unlink()
    change(config, NUM_STEPS=40)
    assert "choose another PRETRAIN.ID" in refusal(config)


def test_checkpoints_of_early_versions_are_refused(config):
    directory = make_run(config, 20)
    write_checkpoint(directory / "checkpoints", 21, None)
    change(config, NUM_STEPS=40)
    assert "an early version made its checkpoints" in refusal(config)


def test_damage_is_found_before_anything_is_touched(config):
    directory = make_run(config, 20)
    flip_byte(directory / "checkpoints" / "step_0000020" / TENSORS)
    change(config, NUM_STEPS=40)
    with pytest.raises(StageError, match="no intact checkpoint"):
        begin(config)
    assert (directory / "model").exists() and (directory / "manifest.json").exists()


def test_a_run_without_a_name_is_told_which_one_it_could_lengthen(config):
    change(config, ID="")
    shorter = make_run(config, 20).name
    change(config, NUM_STEPS=40)
    hint = f"with PRETRAIN.ID {shorter}, training would go on from step 20 of that run"
    artifact = pretrain_artifact(config)
    assert artifact.status().state == "new" and artifact.directory.name != shorter
    assert hint in pretrain_estimate(config).notes
    change(config, ID=shorter)
    assert pretrain_artifact(config).status().state == "extended"
    assert hint not in pretrain_estimate(config).notes
    change(config, ID="", SEED=7)
    assert not any("PRETRAIN.ID" in note for note in pretrain_estimate(config).notes)
