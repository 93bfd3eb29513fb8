"""Done means that the manifest exists and was made from the same inputs."""

import json
import os

import pytest

from pipeline.errors import ConfigError, StageError
from pipeline.store.artifacts import MANIFEST, Artifact, Extension, fingerprint
from pipeline.store.atomic_files import write_json, written_aside
from pipeline.store.changes import describe_changes
from pipeline.store.paths import log_path
from pipeline.store.record_files import owner_of, read_json


def make(directory, inputs, **kwargs) -> Artifact:
    return Artifact("pretrain", directory, inputs, **kwargs)


def test_life_of_an_artifact(tmp_path):
    artifact = make(tmp_path / "run", {"MODEL.NUM_HIDDEN_LAYERS": 24}, parts=(tmp_path / "part",))
    assert artifact.status().state == "new"
    artifact.begin()
    assert artifact.status().state == "unfinished"
    artifact.finish({"loss": 1.5})
    assert artifact.status().done
    assert artifact.manifest["results"] == {"loss": 1.5}
    artifact.clear()
    assert artifact.status().state == "new"
    assert not (tmp_path / "part").exists()


def test_a_changed_input_is_named(tmp_path):
    old = make(tmp_path / "run", {"MODEL.NUM_HIDDEN_LAYERS": 24, "dataset": "aa"})
    old.begin()
    old.finish({})
    new = make(tmp_path / "run", {"MODEL.NUM_HIDDEN_LAYERS": 12, "dataset": "bb"})
    assert new.status().reason == "MODEL.NUM_HIDDEN_LAYERS 24 -> 12, dataset changed"


def test_a_new_folder_is_explained_by_its_most_similar_neighbour(tmp_path):
    for name, layers, seed in (("a", 24, 1), ("b", 6, 2)):
        other = make(tmp_path / name, {"MODEL.NUM_HIDDEN_LAYERS": layers, "PRETRAIN.SEED": seed})
        other.begin()
        other.finish({})
    new = make(tmp_path / "c", {"MODEL.NUM_HIDDEN_LAYERS": 12, "PRETRAIN.SEED": 1})
    assert new.status().reason == "MODEL.NUM_HIDDEN_LAYERS 24 -> 12"


def test_a_new_folder_with_the_inputs_of_another_is_explained_too(tmp_path):
    other = make(tmp_path / "a", {"PRETRAIN.SEED": 1})
    other.begin()
    other.finish({})
    status = make(tmp_path / "b", {"PRETRAIN.SEED": 1}).status()
    assert status.state == "new" and status.reason.endswith("a is the same under another name")


@pytest.mark.parametrize(
    ("name", "inputs", "reason"),
    [
        # The last run on the same data, although an older one on other data differs less.
        ("b-0000000004", {"dataset": "aa", "MODEL.TYPE": 5}, "MODEL.TYPE 3 -> 5"),
        ("a-0000000004", {"dataset": "bb", "MODEL.TYPE": 1}, "dataset changed"),
        ("c-0000000004", {"dataset": "cc", "MODEL.TYPE": 1}, "not made yet"),
        ("mine", {"dataset": "aa", "MODEL.TYPE": 5}, "not made yet"),
    ],
)
def test_a_new_folder_is_compared_with_what_has_its_sources_or_its_name(
    tmp_path, name, inputs, reason
):
    made = (("a-0000000001", "aa", 1), ("x-0000000002", "xx", 5), ("a-0000000003", "aa", 3))
    for seconds, (other, dataset, layers) in enumerate(made):
        older = make(tmp_path / other, {"dataset": dataset, "MODEL.TYPE": layers})
        older.begin()
        older.finish({})
        os.utime(older.directory / MANIFEST, (seconds, seconds))
    key = "" if "-" in name else "PRETRAIN.ID"
    new = make(tmp_path / name, inputs, made_from="dataset", user_named=key)
    assert new.status().reason == reason


@pytest.mark.parametrize("name, other", [("p", "p+mine"), ("p+mine", "p"), ("p+b", "p+a")])
def test_searches_with_names_are_compared_with_none(tmp_path, name, other):
    made = make(tmp_path / other, {"pretrain": "aa", "EPOCHS": [1]}, made_from="pretrain")
    made.begin()
    made.finish({})
    new = make(tmp_path / name, {"pretrain": "aa", "EPOCHS": [2]}, made_from="pretrain")
    assert new.status().reason == "not made yet"


def test_a_users_name_is_never_reused_for_something_else(tmp_path):
    make(tmp_path / "mine", {"PRETRAIN.SEED": 1}, user_named="PRETRAIN.ID").begin()
    (tmp_path / "mine" / "metrics.jsonl").write_text("{}")
    changed = make(tmp_path / "mine", {"PRETRAIN.SEED": 2}, user_named="PRETRAIN.ID")
    before = (tmp_path / "mine" / "started.json").read_bytes()
    with pytest.raises(ConfigError, match=r"PRETRAIN\.ID: .*PRETRAIN\.SEED 1 -> 2.*--force"):
        changed.begin()
    assert (tmp_path / "mine" / "started.json").read_bytes() == before


def lengthen(directory, found):
    """A finished run of 20 steps, and one of 40 under its name."""
    named = {"user_named": "PRETRAIN.ID"}
    shorter = make(directory, {"PRETRAIN.NUM_STEPS": 20}, **named)
    shorter.begin()
    (directory / "weights").write_text("")
    shorter.finish({})
    return make(directory, {"PRETRAIN.NUM_STEPS": 40}, extension=found, **named)


def test_a_run_to_lengthen_is_taken_with_its_files(tmp_path):
    seen = []

    def found(before):
        seen.append(before)
        return Extension("lengthened, goes on from step 20")

    longer = lengthen(tmp_path / "mine", found)
    status = longer.status()
    assert seen == [{"PRETRAIN.NUM_STEPS": 20}]
    assert (status.state, status.reason) == (
        "extended",
        "lengthened, goes on from step 20 (PRETRAIN.NUM_STEPS 20 -> 40)",
    )
    longer.begin()
    assert longer.status().state == "unfinished" and longer.manifest is None
    assert (tmp_path / "mine" / "weights").exists()


def test_a_run_that_cannot_be_lengthened_is_refused_with_the_reason(tmp_path):
    longer = lengthen(tmp_path / "mine", lambda before: Extension(refusal="it has decayed"))
    assert longer.status().state == "changed"
    refused = r"\(PRETRAIN\.NUM_STEPS 20 -> 40\); it has decayed, or redo it there with --force"
    with pytest.raises(ConfigError, match=refused):
        longer.begin()
    assert (tmp_path / "mine" / MANIFEST).exists()


def test_a_changed_run_takes_back_what_the_old_manifest_says(tmp_path):
    """Its files are overwritten, so that going back to the old inputs must not find it done."""
    old = make(tmp_path / "run", {"FINETUNE.WEIGHT_DECAY": 0.1})
    old.begin()
    old.finish({})
    make(tmp_path / "run", {"FINETUNE.WEIGHT_DECAY": 0.01}).begin()
    assert old.status().state == "changed"


def test_a_folder_that_is_not_ours_is_not_deleted(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    with pytest.raises(StageError, match="not made by this program"):
        make(tmp_path / "precious", {}).clear()
    assert (tmp_path / "precious" / "thesis.txt").exists()


def test_a_folder_of_the_users_is_not_taken(tmp_path):
    """Or its record would make it ours, to be deleted when the stage is run anew."""
    for name in ("run", "part"):
        artifact = make(tmp_path / "run", {}, parts=(tmp_path / "part",), user_named="PRETRAIN.ID")
        (tmp_path / name / "deep").mkdir(parents=True)
        thesis = tmp_path / name / "deep" / "thesis.txt"
        thesis.write_text("years of work")
        for claim in (artifact.check_owner, artifact.begin):
            with pytest.raises(ConfigError, match=rf"PRETRAIN\.ID: .*{name} was.*thesis\.txt"):
                claim()
        assert [path.name for path in (tmp_path / name).rglob("*")] == ["deep", "thesis.txt"]
        thesis.unlink()
    for stray in ("digests.json", ".manifest.json.12.tmp", "run.log", ".gitkeep"):
        (tmp_path / "run" / stray).write_text("{}")
    artifact.begin()
    artifact.clear()
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_stage_is_neither_taken_nor_deleted(tmp_path):
    other = Artifact("process_data", tmp_path / "text", {"type": "wiki"})
    other.begin()
    (tmp_path / "text" / "wiki_00000.txt").write_text("text")
    artifact = make(tmp_path / "run", {}, parts=(tmp_path / "text",))
    with pytest.raises(ConfigError, match=r"text was made by process_data"):
        artifact.begin()
    other.finish({})
    make(tmp_path / "run", {}).begin()
    with pytest.raises(StageError, match=r"text was made by process_data.*not deleted"):
        artifact.clear()
    assert (tmp_path / "run").exists() and (tmp_path / "text" / "wiki_00000.txt").exists()


def test_records_of_older_runs_do_not_name_their_stage(tmp_path):
    artifact = make(tmp_path / "run", {"a": 1})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "weights").write_text("")
    record = {"fingerprint": artifact.fingerprint, "inputs": {"a": 1}}
    write_json(tmp_path / "run" / "started.json", record)
    artifact.begin()
    write_json(tmp_path / "run" / MANIFEST, record | {"results": {}})
    assert artifact.status().done
    artifact.clear()
    assert not (tmp_path / "run").exists()


def test_a_name_is_free_again_if_the_first_attempt_made_nothing(tmp_path):
    folders = {"parts": (tmp_path / "part",), "scratch": ("runs",), "user_named": "DATASET.ID"}
    first = make(tmp_path / "mine", {"sources": "damaged"}, **folders)
    first.begin()
    (tmp_path / "part" / "runs").mkdir()
    (tmp_path / "part" / "runs" / "000000.run").write_text("text")
    second = make(tmp_path / "mine", {"sources": "repaired"}, **folders)
    second.check_owner()
    second.begin()
    assert second.status().state == "unfinished" and first.status().state == "changed"
    assert not (tmp_path / "part" / "runs").exists()
    (tmp_path / "part" / "train_00000.txt").write_text("text")
    with pytest.raises(ConfigError, match="sources changed"):
        first.begin()


def test_what_the_results_list_must_be_there(tmp_path):
    artifact = make(tmp_path / "run", {}, files_in=lambda results: results["shards"])
    artifact.begin()
    for name in ("a", "b"):
        (tmp_path / "run" / name).write_text("")
    artifact.finish({"shards": {"a": 1, "b": 2}})
    assert artifact.status().done
    (tmp_path / "run" / "b").unlink()
    assert artifact.status().state == "unfinished"
    assert artifact.status().reason.startswith("b is missing")


def test_what_a_killed_clear_left_is_removed(tmp_path):
    leftover = tmp_path / ".run.deleted"
    make(leftover, {}).begin()
    (leftover / "train.hdf5").write_text("")
    make(tmp_path / "run", {}).begin()
    assert not leftover.exists()
    leftover.mkdir()
    (leftover / "thesis.txt").write_text("years of work, in a folder of such a name")
    make(tmp_path / "run", {}).begin()
    assert (leftover / "thesis.txt").exists()


@pytest.fixture
def linked(tmp_path):
    """A made artifact in a folder elsewhere, which a link of the artifact's own name leads to."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    artifact = make(tmp_path / "run", {"a": 1}, scratch=("runs",), user_named="PRETRAIN.ID")
    artifact.begin()
    return artifact


def test_what_a_link_leads_to_is_not_deleted(linked, tmp_path):
    (tmp_path / "elsewhere" / "weights").write_text("days of work")
    linked.finish({})
    with pytest.raises(ConfigError, match=r"PRETRAIN\.ID: .*run leads to .*elsewhere.*not deleted"):
        linked.check_clearable()
    with pytest.raises(StageError, match="not deleted"):
        linked.clear()
    assert linked.status().done and (tmp_path / "elsewhere" / "weights").exists()


def test_a_name_is_free_again_in_a_folder_that_a_link_leads_to(linked, tmp_path):
    (tmp_path / "elsewhere" / "runs").symlink_to(tmp_path / "text")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "000000.run").write_text("")
    make(tmp_path / "run", {"a": 2}, scratch=("runs",), user_named="PRETRAIN.ID").begin()
    assert not (tmp_path / "elsewhere" / "runs").exists()
    assert (tmp_path / "text" / "000000.run").exists() and (tmp_path / "run").is_symlink()


def test_a_manifest_of_another_program_does_not_make_a_folder_ours(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / MANIFEST).write_text('{"name": "My web app", "start_url": "/"}')
    artifact = make(tmp_path / "run", {})
    with pytest.raises(
        ConfigError, match=r"was not made by this program \(it holds manifest\.json"
    ):
        artifact.begin()
    with pytest.raises(StageError, match="not deleted"):
        artifact.clear()
    assert (tmp_path / "run" / MANIFEST).exists()


@pytest.mark.parametrize(
    "manifest",
    ["[]", "1", "[" * 100_000, '{"inputs": 1}', '{"results": []}', '{"results": {"shards": 3}}'],
)
def test_a_strange_manifest_is_not_done(tmp_path, manifest):
    artifact = make(tmp_path / "run", {"a": 1}, files_in=lambda results: results["shards"])
    artifact.begin()
    record = {"fingerprint": artifact.fingerprint, "inputs": {"a": 1}, "stage": "pretrain"}
    if manifest.startswith("{"):
        manifest = json.dumps(record | json.loads(manifest))
    (tmp_path / "run" / MANIFEST).write_text(manifest)
    assert artifact.status().state == "unfinished"
    assert make(tmp_path / "other", {}).status().state == "new"  # and looks at its neighbours
    artifact.begin()
    artifact.clear()


def test_a_command_line_claims_a_folder_and_leaves_the_pipelines_record(tmp_path):
    named = {"user_named": "--output_dir"}
    make(tmp_path / "run", {}, **named).claim()
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    make(tmp_path / "run", {}, **named).claim()
    begun = make(tmp_path / "begun", {"a": 1})
    begun.begin()
    make(tmp_path / "begun", {}, **named).claim()
    assert begun.status().state == "unfinished"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(ConfigError, match=r"--output_dir: .*mine was not made by this program"):
        make(tmp_path / "mine", {}, **named).claim()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_ranks_may_claim_a_folder_at_the_same_time(tmp_path, monkeypatch):
    def look_before_another_rank_claims(folder):
        found = owner_of(folder)
        monkeypatch.undo()
        make(tmp_path / "run", {}, user_named="--output_dir").claim()
        return found

    monkeypatch.setattr("pipeline.store.artifacts.owner_of", look_before_another_rank_claims)
    make(tmp_path / "run", {}, user_named="--output_dir").claim()
    assert owner_of(tmp_path / "run") == "pretrain"


def test_a_damaged_manifest_is_not_done(tmp_path):
    artifact = make(tmp_path / "run", {"a": 1})
    artifact.begin()
    artifact.finish({})
    (tmp_path / "run" / MANIFEST).write_text('{"fingerprint": ')
    assert artifact.status().state == "unfinished"


def test_begin_again_changes_no_file(tmp_path):
    artifact = make(tmp_path / "run", {"a": 1})
    artifact.begin()
    before = (tmp_path / "run" / "started.json").stat().st_mtime_ns
    artifact.begin()
    assert (tmp_path / "run" / "started.json").stat().st_mtime_ns == before


def test_only_one_process_works_on_an_artifact(tmp_path):
    artifact = make(tmp_path / "run", {"a": 1})
    refused = pytest.raises(StageError, match=r"is being made by process \d+ on .* since ")
    with artifact.owned(), refused, artifact.owned():
        pass
    with artifact.owned():
        artifact.begin()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"value": 1})
    with pytest.raises(RuntimeError), written_aside(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"value": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["value.json"]


def test_fingerprint_depends_on_content_alone():
    assert fingerprint({"a": 1, "b": [1.5]}) == fingerprint({"b": [1.5], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})


def test_of_many_changes_a_few_are_named():
    old, new = ({f"A.K{i}": value for i in range(9)} for value in (1, 2))
    text = describe_changes(old, new)
    assert text.startswith("A.K0 1 -> 2, A.K1 1 -> 2") and text.endswith("and 4 more changes")


def test_long_values_are_cut_in_the_reason():
    assert len(describe_changes({"A.B": "x" * 1000}, {"A.B": "y" * 1000})) < 200


def test_log_paths_keep_dots_in_names(tmp_path):
    path = log_path(tmp_path, "pretrain", "data", "run-1.5")
    assert path == tmp_path / "log" / "pretrain" / "data" / "run-1.5.log"


def test_manifest_is_readable_json(tmp_path):
    artifact = make(tmp_path / "run", {"DATASET.SEED": 3})
    artifact.begin()
    artifact.finish({"n": 1})
    content = json.loads((tmp_path / "run" / MANIFEST).read_text())
    assert content["inputs"] == {"DATASET.SEED": 3}
    assert content["fingerprint"] == artifact.fingerprint
