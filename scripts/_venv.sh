# Sourced by the scripts beside it: sets `root` (the repository) and `venv`, and gives `make_venv`, `fail`, `mark_installed`
# and `is_stale`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${MIEN_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac

fail() {
    echo "${0##*/}: error: $*" >&2
    exit 1
}

# Makes the virtual environment if there is none, and puts it first on PATH.
make_venv() {
    if [ ! -x "$venv/bin/python" ]; then
        local python found=
        for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
            if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
                found=$python
                break
            fi
        done
        [ -n "$found" ] || fail "Python 3.11 or newer is needed, found $(python3 --version 2>&1); install it, or set PYTHON=/path/to/python"
        "$found" -m venv "$venv" || fail "could not make $venv; on Debian and Ubuntu: apt install python3-venv"
    fi
    PATH=$venv/bin:$PATH
    unset PYTHONPATH PYTHONHOME
    export PATH PIP_DISABLE_PIP_VERSION_CHECK=1
}

# Notes that mien of this tree was installed just now; `mark_installed editable` that it follows the tree by itself.
mark_installed() {
    echo "${1:-copy}" >"$venv/mien-installed"
}

# Whether the mien in the environment is older than a file of the tree, or was not put there by these scripts.
is_stale() {
    [ -e "$venv/mien-installed" ] || return 0
    [ "$(cat "$venv/mien-installed")" != editable ] || return 1
    [ -n "$(cd "$root" && find pyproject.toml CMakeLists.txt engine kernels export runtime bench -type f ! -name '*.pyc' \
        -newer "$venv/mien-installed" -print -quit)" ]
}
