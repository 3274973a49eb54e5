#!/bin/sh
# Pins what the clients' environments hold: each requirements*.txt, hashed, from its .in (make lock-clients). uv resolves
# them, since the longest list takes pip-compile many minutes.
#
#   tests/clients/lock.sh /path/to/uv
set -eu
cd "$(dirname "$0")/.."
uv=$1

lock() { # FILE.in, then options
  file=$1
  shift
  "$uv" pip compile --quiet --no-config --python-version 3.11 --python-platform linux --generate-hashes --no-header \
    --no-annotate --no-emit-index-url --no-emit-find-links "$@" --output-file "${file%.in}.txt" "$file"
}

for file in clients/requirements-*.in; do lock "$file"; done
# shellcheck disable=SC2046  # one option for each package
lock open_webui/requirements.in $(sed -n 's/^[a-z]/--no-emit-package &/p' open_webui/left-out.txt)
