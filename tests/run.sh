#!/usr/bin/env bash
# Style and tests. Makes the environment if it is needed; arguments go to pytest, those after
# --chaos to the program that disturbs a small pipeline again and again (tests/chaos).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=.venv/bin/python
if ! { $python -m pipeline.install --check && $python -c 'import pytest, hypothesis'; } 2>/dev/null; then
    bash install.sh requirements-dev.txt
fi
if [[ ${1:-} == --chaos ]]; then
    exec $python -m tests.chaos "${@:2}"
fi
# The report is looked at in a browser; where there is none, those tests are skipped. Only a machine
# that is made for running tests gets one.
if [[ ${CI:-} == true && $(id -u) == 0 ]] && ! command -v chromium && command -v apt-get; then
    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium ||
        echo "no browser could be installed" >&2
fi >/dev/null
$python -m ruff check .
$python -m ruff format --check .
exec $python -m pytest "$@"
