#!/bin/sh
# Pins what the clients' environments hold: requirements-NAME.txt, hashed, from requirements-NAME.in (make lock-clients).
# uv resolves them, since the longest list takes pip-compile many minutes.
set -eu
cd "$(dirname "$0")"
uv=$1

for file in requirements-*.in; do
  "$uv" pip compile --quiet --no-config --python-version 3.11 --python-platform linux --generate-hashes --no-header \
    --no-annotate --no-emit-index-url --no-emit-find-links --output-file "${file%.in}.txt" "$file"
done
