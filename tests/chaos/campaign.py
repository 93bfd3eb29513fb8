"""A campaign: which fault comes when, and the figures.

The seed and a fault's number decide all about it but the exact timing, so that any of them can be
repeated. Results go to a file, so that a campaign goes on where it was stopped.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import count, groupby
from pathlib import Path
from random import Random

from pipeline.console import table
from tests.chaos.bench import Bench, Reference, load_reference, save_reference, undisturbed
from tests.chaos.episode import OUTCOMES, Episode, Fault, Result
from tests.chaos.faults import DAMAGES, KINDS
from tests.chaos.pipeline_folder import STAGES
from tests.chaos.processes import PROJECT

# Cheap ones first.
STAGE_ORDER = ("dataset", "result_collection", "finetune", "pretrain")
REFERENCE, RESULTS, CODE = "reference.json", "results.jsonl", "code"
PACKAGES = (*STAGES, "configs", "pipeline", "tests/chaos")


def schedule(seed: int) -> Iterator[Fault]:
    """All kinds in each round, shared out among the stages; in four rounds each meets each."""
    numbers, kinds = count(1), list(KINDS)
    for round_number in count():
        if round_number % len(STAGES) == 0:
            Random(f"{seed} {round_number}").shuffle(kinds)
        pairs = [(STAGES[(i + round_number) % len(STAGES)], kind) for i, kind in enumerate(kinds)]
        for stage in STAGE_ORDER:
            of_stage = [kind for other, kind in pairs if other == stage]
            for kind in sorted(of_stage, key=DAMAGES.__contains__):
                yield Fault(next(numbers), stage, kind)


def campaign(folder: Path, seed: int, faults: Sequence[Fault]) -> list[Result]:
    """Does those faults that have no result in the work directory yet; the results of all.

    Folders that did not recover are kept in `failed`, by the number of the last fault.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CODE).write_text(digest_of_code())
    reference = reference_in(folder)
    known = {result.number: result for result in read_results(folder / RESULTS)}
    left = [fault for fault in faults if fault.number not in known]

    def record(result: Result) -> None:
        append_result(folder / RESULTS, result)
        known[result.number] = result
        print(result, flush=True)
        if result.outcome == "failed":
            numbers = ",".join(map(str, result.episode))
            print(f"      again: --seed {seed} --repeat {numbers}", flush=True)

    with Bench(folder / "bench", reference) as bench:
        for stage, of_stage in groupby(left, key=lambda fault: fault.stage):
            episode = Episode(bench, stage, seed, record, folder / "failed")
            for fault in of_stage:
                episode.add(fault)
            episode.settle()
    return [known[fault.number] for fault in faults]


def problem_with(folder: Path) -> str:
    """Why a work directory cannot be used, or an empty string."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return ""
    if not (folder / CODE).is_file():
        return f"{folder} holds other things, expected a new or an empty folder"
    if (folder / CODE).read_text() != digest_of_code():
        return f"{folder} was begun with other code, expected a new folder"
    return ""


def digest_of_code() -> str:
    files = [PROJECT / "main.py"]
    files += [path for name in PACKAGES for path in sorted((PROJECT / name).rglob("*.py"))]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def reference_in(folder: Path) -> Reference:
    """That of an undisturbed run, which is made if it is not there yet."""
    path = folder / REFERENCE
    if not path.exists():
        begin = time.monotonic()
        reference = undisturbed(folder / "undisturbed")
        save_reference(reference, path)
        moments = sum(map(len, reference.points.values()))
        print(
            f"undisturbed: {len(reference.files)} files, {moments} changes of files, "
            f"{time.monotonic() - begin:.0f} s; work directory {folder}",
            flush=True,
        )
    return load_reference(path)


# --- results ---------------------------------------------------------------------------------


def append_result(path: Path, result: Result) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def read_results(path: Path) -> list[Result]:
    """A last line that was cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [Result(**json.loads(line)) for line in lines]


def figures(results: Sequence[Result]) -> str:
    """A table of kinds by stages, each with the numbers of its outcomes, and the sums."""
    columns = (*STAGES, "all")
    rows = [["", *columns]]
    for kind in (*KINDS, "all"):
        of_kind = [result for result in results if kind in (result.kind, "all")]
        cells = ([r for r in of_kind if stage in (r.stage, "all")] for stage in columns)
        rows.append([kind, *map(_cell, cells)])
    totals = Counter(result.outcome for result in results)
    counted = ", ".join(f"{totals[name]} {name}" for name in OUTCOMES)
    return f"{table(rows)}\n\n{len(results)} faults: {counted}"


def _cell(results: Sequence[Result]) -> str:
    """`3` where all survived, `1 of 3, 1 clear, 1 skipped` where not."""
    counts = Counter(result.outcome for result in results)
    if not results or counts["survived"] == len(results):
        return str(len(results) or "-")
    rest = [f"{counts[name]} {name.split()[0]}" for name in OUTCOMES[1:] if counts[name]]
    return f"{counts['survived']} of {len(results)}, {', '.join(rest)}"
