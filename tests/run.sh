#!/usr/bin/env bash
# Style and tests. Makes the environment if it is needed; arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=.venv/bin/python
if ! { $python -m pipeline.install --check && $python -c 'import pytest, hypothesis'; } 2>/dev/null; then
    bash install.sh requirements-dev.txt
fi
$python -m ruff check .
$python -m ruff format --check .
exec $python -m pytest "$@"
