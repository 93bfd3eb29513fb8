#!/usr/bin/env bash
# Makes .venv with the packages of requirements.txt, and checks it.
#
#     bash install.sh        makes the environment
#     source install.sh      makes it and activates it in this shell
#
# Safe to run again, and quick if there is nothing to do. Arguments: further requirement files.
# PYTHON chooses the interpreter (default: python3). pipeline/runtime/torch_build.py chooses a torch
# for the GPUs and their driver, unless TORCH_INDEX_URL or TORCH_VERSION name another.

extremebert_install() (
    set -eu
    cd "$1"
    shift
    python=${PYTHON:-python3}
    venv_python=.venv/bin/python

    fail() {
        echo "$1"
        exit 1
    }

    command -v "$python" >/dev/null ||
        fail "No Python found as '$python': install Python 3.10 or newer (Debian, Ubuntu: apt-get install python3 python3-venv), or name one with PYTHON=/path/to/python."
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "Python 3.10 or newer is needed, '$python' is $("$python" -V 2>&1): name a newer one with PYTHON=/path/to/python."

    if [ -z "${EXTREMEBERT_REINSTALL:-}" ] && [ $# -eq 0 ] && [ -x $venv_python ] &&
        $venv_python -m pipeline.install --check; then
        echo "up to date: $PWD/.venv"
        exit 0
    fi

    if ! [ -x $venv_python ] || ! $venv_python -m pip --version >/dev/null 2>&1; then
        "$python" -c 'import venv, ensurepip' 2>/dev/null ||
            fail "This Python cannot make environments (no venv module): apt-get install python3-venv, then run this again."
        echo "making $PWD/.venv with $("$python" -V 2>&1)"
        "$python" -m venv --clear .venv ||
            fail "The environment could not be made in $PWD/.venv: see the message above (disk space, permissions)."
    fi

    offline="without a network, run 'pip download -r requirements.txt -d wheels' elsewhere, copy the folder here and run 'PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels bash install.sh' (README.md says more)"
    $venv_python -m pipeline.runtime.torch_build ||
        fail "torch could not be installed; $offline; else see the message above."
    echo "installing requirements.txt (torch's libraries are large: this takes minutes)"
    extras=""
    for extra in "$@"; do extras="$extras -r $extra"; done
    # shellcheck disable=SC2086
    $venv_python -m pip install --quiet --disable-pip-version-check --progress-bar off --no-input \
        -r <(grep -v '^torch==' requirements.txt) $extras ||
        fail "The packages could not be installed; $offline; else see the message above."

    $venv_python -m pipeline.install ||
        fail "The packages are there but do not import: see the message above; 'rm -r $PWD/.venv' and run this script again."
    echo "ready: $PWD/.venv"
)

extremebert_root=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")" && pwd)
extremebert_install "$extremebert_root" "$@"
extremebert_status=$?
if (return 0 2>/dev/null); then # sourced: must not exit the user's shell
    # shellcheck disable=SC1091
    [ $extremebert_status -ne 0 ] || . "$extremebert_root/.venv/bin/activate"
    unset extremebert_root
    unset -f extremebert_install
    return $extremebert_status
fi
exit $extremebert_status
