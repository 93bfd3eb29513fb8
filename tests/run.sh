#!/usr/bin/env bash
# Style, types, structure and tests. Makes the environment if needed.
#
#   bash tests/run.sh [ARGUMENTS OF PYTEST]
#   bash tests/run.sh --fast          leaves out the slow tests
#   bash tests/run.sh --chaos ...     disturbs a small pipeline again and again (tests/chaos)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=.venv/bin/python
if ! { $python -m pipeline.install --check && $python -c 'import hypothesis, mypy, pytest, seqeval, xdist'; } 2>/dev/null; then
    bash install.sh requirements-dev.txt
fi
if [[ ${1:-} == --chaos ]]; then
    exec $python -m tests.chaos "${@:2}"
fi
lane=()
workers=$((2 * $(nproc)))  # slow tests wait for their children
if [[ ${1:-} == --fast ]]; then
    lane=(-m "not slow")
    workers=$(nproc)
    shift
fi
# Tests of the report use a browser, and are skipped without one. Only a machine made for tests
# gets one.
if [[ ${CI:-} == true && $(id -u) == 0 ]] && ! command -v chromium && command -v apt-get; then
    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium ||
        echo "no browser could be installed" >&2
fi >/dev/null
$python -m ruff check .
$python -m ruff format --check .
$python -m mypy
$python -m tests.house
exec $python -m pytest -n "${PYTEST_WORKERS:-$workers}" --dist worksteal "${lane[@]}" "$@"
