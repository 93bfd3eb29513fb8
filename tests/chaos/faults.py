"""The kinds of faults, and what is expected of the run that each is done to.

A fault takes a bench, the name of a stage and a random generator, which decides all else. It
happens while that stage is made, between two runs to what the stage has made, or to what it reads.
"""

import errno
import functools
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeVar

from tests.chaos.bench import Bench
from tests.chaos.comparison import is_final, is_read
from tests.chaos.pipeline_folder import READ_BY, files_made_by
from tests.chaos.processes import End, PipelineRun, role_in, send

# The group is the parent and its workers: who gets a Ctrl-C.
VICTIMS = {
    "dataset": ("parent", "worker", "group"),
    "pretrain": ("parent", "launcher", "rank", "group"),
    "finetune": ("parent", "worker", "group"),
    "result_collection": ("parent", "group"),
}
CLOCK_BACK = (3600, 40 * 86400)  # seconds
# So long that it may come back when the next run does what this process was about to do.
LAG_SECONDS = 12.0
MOST_LOOKS = 5  # at the clock, before it jumps
PAGE = 4096  # bytes that a tmpfs gives out at once
SPARE_BYTES = 64 << 20  # of a disk that is not small
NEVER = 10**6  # seconds
NUMBER = re.compile(r"[0-9a-f]*\d[0-9a-f]*")
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Disturbance:
    """What a fault did.

    moment: words for it. happened: False if the run ended before. done: the run came to its end all
    the same. problem: what the run did and may not do. skipped: why it cannot be done on this
    machine. damaged: the name of the file, if one was.
    """

    moment: str
    happened: bool = True
    done: bool = False
    problem: str = ""
    skipped: str = ""
    damaged: str = ""


def disturbed(
    moment: str, end: End, happened: bool = True, killed_by: int = 0, says: str = ""
) -> Disturbance:
    """By how a run ended. killed_by: the signal that it may die of; says: a pattern that an error
    which stops it must have."""
    problem = unclear(end, killed_by)
    if not happened and end.code:
        problem = f"failed before it was disturbed: {end.last_words}"
    if not problem and end.code in (2, 3) and not re.search(says, end.text, re.IGNORECASE):
        problem = f"does not say {says}: {end.last_words}"
    return Disturbance(moment, happened, end.code == 0, problem)


def unclear(end: End, killed_by: int = 0) -> str:
    """What is wrong with how a run ended, or an empty string.

    It may succeed, say in its last lines which stage failed and why, say what it misses before it
    begins, say that it was interrupted, or die of the signal that was sent to it.
    """
    says_why = {
        0: True,
        2: "Traceback" not in end.text and bool(end.text.strip()),
        3: bool(re.search(r"^\w+ failed: .+(\nlog: .+)?\s*\Z", end.text, re.MULTILINE)),
        130: bool(re.search("^interrupted;", end.text, re.MULTILINE)),
        -killed_by: True,
    }
    return "" if says_why.get(end.code) else f"ended with code {end.code} and: {end.last_words}"


# --- moments ---------------------------------------------------------------------------------


def pick(things: Iterable[Thing], rng: Random, name: Callable[[Thing], str] = str) -> Thing:
    """Draws a kind of thing, then one of it; things are of a kind if just numbers differ."""
    kinds: dict[str, list[Thing]] = {}
    for thing in things:
        kinds.setdefault(NUMBER.sub("#", name(thing)), []).append(thing)
    return rng.choice(kinds[rng.choice(sorted(kinds))])


def pick_point(bench: Bench, stage: str, rng: Random, verbs: tuple[str, ...] = ("",)) -> list:
    """A [point, count] of a stage; verbs: what the point may begin with."""
    points = [moment for moment in bench.reference.points[stage] if moment[0].startswith(verbs)]
    return pick(points, rng, lambda moment: moment[0])


def words_for(moment: list) -> str:
    verb, _, path = moment[0].partition(" ")
    again = f" no. {moment[1]}" if moment[1] > 1 else ""
    return f"{verb.removeprefix('os.')} {'/'.join(Path(path).parts[-2:])}{again}"


# --- signals ---------------------------------------------------------------------------------


def send_signal(number: signal.Signals, bench: Bench, stage: str, rng: Random) -> Disturbance:
    """At a point or after a while, to a process of the stage or to the first one.

    Half of the time the next run begins at once, while children may still be about to end.
    """
    how = rng.choice((signal_at_point, signal_after_a_while))
    found = how(number, bench, stage, rng)
    if found.happened and rng.random() < 0.5 and (problem := bench.outliving()):
        return Disturbance(found.moment, problem=problem)
    return found


def signal_at_point(number: signal.Signals, bench: Bench, stage: str, rng: Random) -> Disturbance:
    moment, to = pick_point(bench, stage, rng), rng.choice(("self", "parent"))
    lag = rng.choice((0, rng.uniform(0, LAG_SECONDS)))
    plan = {"do": "signal", "moment": moment, "signal": int(number), "to": to, "lag": lag}
    end = bench.start(plan).end()
    if not bench.note.exists():
        return disturbed(words_for(moment), end, happened=False)
    who = role_in(bench.note.read_text())
    victim = who if to == "self" else "parent"
    where = words_for(moment) + (f" in a {who}" if who != victim else "")
    where += f" that hangs for {lag:.1f} s" if lag and who != victim else ""
    return disturbed(f"{victim}, {where}", end, killed_by=number if victim == "parent" else 0)


def signal_after_a_while(
    number: signal.Signals, bench: Bench, stage: str, rng: Random
) -> Disturbance:
    victim, delay = rng.choice(VICTIMS[stage]), rng.uniform(0, bench.reference.seconds[stage])
    run, moment = bench.start(), f"{victim}, after {delay:.1f} s"
    if not run.comes_to(stage):
        return disturbed(moment, run.end(), happened=False)
    run.sleep(delay)
    if victim == "group":
        sent = run.send_to_group(number)
    else:
        found = run.find(victim)
        sent = bool(found) and send(rng.choice(found), run.mark, number)
    return disturbed(moment, run.end(), sent, number if victim in ("parent", "group") else 0)


# --- disk ------------------------------------------------------------------------------------

# Arguments: root, bytes, seconds, note, command. For the time of the run the root lies on a small
# tmpfs, which somebody else fills after so many seconds, and leaves a note.
ON_SMALL_DISK = """
set -e
root=$1 bytes=$2 seconds=$3 note=$4; shift 4
mkdir -p disk real; mount --bind "$root" real; mount -t tmpfs -o size=$bytes chaos disk
mkdir disk/root; cp -a real/. disk/root; mount --bind disk/root "$root"
(trap 'kill $!' TERM; sleep $seconds & wait $! && : > "$note" && cat /dev/zero > disk/other) &
code=0; "$@" || code=$?
kill $! 2> /dev/null || true
find real -mindepth 1 -delete; cp -a "$root"/. real
exit $code
"""
# Arguments: folder, seconds, note, command. After so many seconds the folder, or the nearest one
# above it that is there, can only be read.
READ_ONLY = """
set -e
folder=$1 seconds=$2 note=$3; shift 3
close() {
    while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
    mount --bind "$folder" "$folder"; mount -o remount,bind,ro "$folder"
    echo "$folder" > "$note"
}
[ $seconds != 0 ] || close
[ $seconds = 0 ] || (trap 'kill $!' TERM; sleep $seconds & wait $! && close) &
code=0; "$@" || code=$?
kill $! 2> /dev/null || true
exit $code
"""


def in_own_mounts(script: str, *arguments: str) -> list[str]:
    """A wrapper for a command: what it mounts is seen by nobody else, and gone when it ends."""
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", *arguments]


@functools.cache
def cannot_mount() -> str:
    """Why nothing can be mounted here, in namespaces of our own; empty if it can."""
    command = in_own_mounts('mount -t tmpfs chaos "$1"', "/tmp")
    try:
        tried = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        return str(error)
    return tried.stderr.strip() if tried.returncode else ""


def fill_disk(bench: Bench, stage: str, rng: Random) -> Disturbance:
    """A real file system, where the stage gets a part of the space that it needs, or that somebody
    else fills after a while."""
    if why := cannot_mount():
        return Disturbance("a small tmpfs", skipped=why)
    there = sum(map(pages, bench.root.rglob("*"))) * PAGE
    made = files_made_by(stage, Path(bench.reference.folder) / "root")
    needed = sum(map(pages, made)) * PAGE
    if rng.random() < 0.5:
        space, delay = int(rng.uniform(0, 0.8) * needed), NEVER
        moment = f"{space // 1024} kB free"
    else:
        space, delay = 3 * needed + SPARE_BYTES, rng.uniform(0, 1 + bench.reference.seconds[stage])
        moment = f"after {delay:.1f} s"
    arguments = (str(bench.root), str(there + space), f"{delay:.2f}", str(bench.note))
    end = bench.start(wrapper=in_own_mounts(ON_SMALL_DISK, *arguments)).end()
    return disturbed(moment, end, delay == NEVER or bench.note.exists(), says="space")


def pages(path: Path) -> int:
    """That a file takes on a tmpfs."""
    return -(-path.stat().st_size // PAGE) if path.is_file() else 0


def make_read_only(bench: Bench, stage: str, rng: Random) -> Disturbance:
    """A folder that the stage writes to. What is mounted cannot be deleted either: it is busy."""
    if why := cannot_mount():
        return Disturbance("a folder", skipped=why)
    path = bench.root / pick_point(bench, stage, rng)[0].partition(" ")[2]
    delay = rng.choice((0, rng.uniform(0, 1 + bench.reference.seconds[stage])))
    arguments = (str(path.parent), f"{delay:.3g}", str(bench.note))
    end = bench.start(wrapper=in_own_mounts(READ_ONLY, *arguments)).end()
    if not bench.note.exists():
        return disturbed(f"after {delay:.1f} s", end, happened=False)
    closed = os.path.relpath(bench.note.read_text().strip(), bench.folder)
    return disturbed(f"{closed}, after {delay:.1f} s", end, says="read-only|be written|busy")


def fail_write(bench: Bench, stage: str, rng: Random) -> Disturbance:
    """A change of files fails: once, by the device, or from then on for lack of space."""
    lasting = rng.random() < 0.5
    verbs = ("open", "os.mkdir") if lasting else ("open", "os.mkdir", "os.rename")
    moment, number = pick_point(bench, stage, rng, verbs), errno.ENOSPC if lasting else errno.EIO
    plan = {"do": "fail", "moment": moment, "errno": number, "lasting": lasting}
    end = bench.start(plan).end()
    what, happened = f"{errno.errorcode[number]}, {words_for(moment)}", bench.note.exists()
    return disturbed(what, end, happened, says=os.strerror(number) if happened else "")


# --- files -----------------------------------------------------------------------------------


def damage(how: str, bench: Bench, stage: str, rng: Random) -> Disturbance:
    """A file that the stage has made is cut off, has a wrong byte, or is gone."""
    file = pick(worth_damaging(how, stage, bench.root), rng)
    size, name = file.stat().st_size, file.relative_to(bench.root)
    content, place = bytearray(file.read_bytes()), rng.randrange(size)
    if how == "missing":
        file.unlink()
        return Disturbance(str(name), damaged=file.name)
    if how == "truncated":
        del content[place:]
    else:
        content[place] ^= rng.randrange(1, 256)
    file.write_bytes(content)
    return Disturbance(f"byte {place:,} of {size:,}, {name}", damaged=file.name)


def worth_damaging(how: str, stage: str, root: Path) -> list[Path]:
    """Of a stage that is done its results, else all that it may read when it goes on.

    Its metrics are a log: what a line of them has told is lost with it. Without its note, a folder
    is nobody's.
    """
    spared = {"metrics.jsonl"} | ({"started.json"} if how == "missing" else set())
    files = files_made_by(stage, root)
    counts = is_final if any(path.name == "manifest.json" for path in files) else is_read
    files = [path for path in files if counts(path.relative_to(root).as_posix())]
    return [path for path in files if path.stat().st_size and path.name not in spared]


def take_away(bench: Bench, stage: str, rng: Random) -> Disturbance:
    """What the stage reads, before it begins or after a while; then it is put back."""
    found = [path for pattern in READ_BY[stage] for path in bench.folder.glob(pattern)]
    file = pick([path for path in found if is_read(str(path))], rng)
    name, delay = file.relative_to(bench.folder), rng.uniform(0, bench.reference.seconds[stage])
    before = rng.random() < 0.5
    run = None if before else bench.start()
    if run and run.comes_to(stage):
        run.sleep(delay)
    aside = bench.folder / "taken_away"
    shutil.move(file, aside)
    end = (run or bench.start()).end()
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(aside, file)
    says = "|".join(map(re.escape, (file.name, file.parent.name)))
    return disturbed(f"{name}, {'before' if before else f'after {delay:.1f} s'}", end, says=says)


# --- others ----------------------------------------------------------------------------------


def run_twice(bench: Bench, stage: str, rng: Random) -> Disturbance:
    """The same command a second time, while the first run is at work or about to begin."""
    delay = rng.choice((0.0, rng.uniform(0, bench.reference.seconds[stage])))
    runs: list[PipelineRun] = [bench.start()]
    runs[0].sleep(delay)
    runs.append(bench.start())
    ends = [run.end() for run in runs]
    moment = f"the second after {delay:.1f} s, codes {ends[0].code} and {ends[1].code}"
    found = [disturbed(moment, end, says="is being (made|read) by") for end in ends]
    problem = found[0].problem or found[1].problem
    if all(end.code for end in ends):
        problem = problem or f"neither came to its end: {ends[0].last_words}; {ends[1].last_words}"
    return Disturbance(moment, done=True, problem=problem)


def set_clock_back(bench: Bench, stage: str, rng: Random) -> Disturbance:
    """The time of day, as Python tells it, in every process; no run may fail by that."""
    seconds, look = rng.choice(CLOCK_BACK), rng.randint(1, MOST_LOOKS)
    end = bench.start({"do": "set_clock_back", "seconds": seconds, "look": look}).end()
    moment = f"{seconds} s, at look {look}"
    if end.code:
        return Disturbance(moment, problem=f"ended with code {end.code} and: {end.last_words}")
    return Disturbance(moment, happened=bench.note.exists(), done=True)


KINDS: dict[str, Callable[[Bench, str, Random], Disturbance]] = {
    "kill": partial(send_signal, signal.SIGKILL),
    "terminate": partial(send_signal, signal.SIGTERM),
    "interrupt": partial(send_signal, signal.SIGINT),
    "full disk": fill_disk,
    "read-only": make_read_only,
    "write error": fail_write,
    "taken away": take_away,
    "run twice": run_twice,
    "clock back": set_clock_back,
    "truncated": partial(damage, "truncated"),
    "flipped byte": partial(damage, "flipped byte"),
    "missing": partial(damage, "missing"),
}
# Done last, when a stage has made some files or all.
DAMAGES = ("truncated", "flipped byte", "missing")
