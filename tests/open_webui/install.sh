#!/bin/sh
# Makes the environment with a real Open WebUI for the tests of a person's chat (make test-open-webui).
#
#   tests/open_webui/install.sh [FOLDER]        FOLDER is .venv-open-webui in the repository unless given
#
# Its pinned packages but for those in left-out.txt: what a chat doesn't use. Can be run again at any time: a finished
# environment is left alone. PYTHON names the interpreter. Where packages come from is pip's own configuration. Where it
# can't be installed that is said, and its tests are left out.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../../.venv-open-webui}
python=${PYTHON:-python3}
requirements=$here/requirements.txt
version=$(sed -n 's/^open-webui==\([0-9.]*\).*/\1/p' "$requirements")
limit_s=900

say() { printf '%s\n' "$*"; }
left_out() { printf 'open-webui: left out: %s\n' "$*" >&2; exit 0; }

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null ||
    left_out "it runs on Python 3.11 and 3.12, and \"$python\" is neither; name one with PYTHON=..."

wanted=$(cat "$requirements" "$0" | cksum)
if [ "$(cat "$folder/headgate-made" 2>/dev/null)" = "$wanted" ]; then
    say "Open WebUI $version is already in $folder"
    exit 0
fi
"$python" -m venv --clear "$folder" || left_out "no environment could be made in $folder"
free_mb=$(df -Pm "$folder" | awk 'NR == 2 { print $4 }')
[ "$free_mb" -ge 2500 ] || left_out "it needs 2.5 GB of disk while it is installed, and $folder has $free_mb MB"

say "Installing Open WebUI $version (1 GB when done; a minute or two the first time)"
timeout "$limit_s" "$folder/bin/python" -m pip install -qq --disable-pip-version-check --no-deps --require-hashes \
    -r "$requirements" || left_out "pip did not install it within $limit_s s"

printf '%s\n' "$wanted" >"$folder/headgate-made"
say "Open WebUI $version is ready in $folder"
