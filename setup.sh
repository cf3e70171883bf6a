#!/usr/bin/env bash
# Creates a virtual environment with the locked dependencies and this checkout in it: setup.sh DIRECTORY
set -euo pipefail
venv=${1:?usage: setup.sh DIRECTORY}

# The machine's own choice first: with a 3.11 in front of the path, CI's 3.11 run is one.
find_python() {
  for name in python3 python3.13 python3.12 python3.11; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "error: Python 3.11 or newer is needed (Debian, Ubuntu: apt-get install python3 python3-venv)" >&2
  exit 1
}

python=$(find_python)
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  rm -rf "$venv"
  if ! "$python" -m venv "$venv" 2>/dev/null; then
    # Debian and Ubuntu keep ensurepip in a package of its own.
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      apt-get update -qq && apt-get install -y -qq --no-install-recommends "$python-venv" >/dev/null
      rm -rf "$venv"
      "$python" -m venv "$venv"
    else
      echo "error: $python cannot create virtual environments; run: sudo apt-get install $python-venv" >&2
      exit 1
    fi
  fi
fi
echo "setting up $venv (about a minute the first time)" >&2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -e .
