#!/bin/sh
# Makes an environment for each client that the tests use (make test-clients):
#
#   tests/clients/install.sh              all of them: .venv-clients-NAME for each requirements-NAME.txt, and node's
#   tests/clients/install.sh openai-3     those that are named
#
# Can be run again at any time: a finished environment is left alone. PYTHON names the interpreter (3.11 or newer). Where
# packages come from is pip's and npm's own configuration. A client that can't be installed is named, and its tests are
# left out; where none can be, that is an error.
set -u
cd "$(dirname "$0")/../.." || exit 1
here=tests/clients
python=${PYTHON:-python3}
made=0

left_out() { printf 'clients: without %s (%s): its tests are left out\n' "$1" "$2" >&2; }

is_made() { # FOLDER WANTED
  [ "$(cat "$1/headgate-made" 2>/dev/null)" = "$2" ]
}

python_client() { # NAME
  folder=.venv-clients-$1
  requirements=$here/requirements-$1.txt
  [ -f "$requirements" ] || { left_out "$1" "there is no $requirements"; return; }
  wanted=$(cksum <"$requirements")
  if ! is_made "$folder" "$wanted"; then
    printf 'clients: installing %s\n' "$1"
    "$python" -m venv --clear "$folder" || { left_out "$1" "no environment could be made"; return; }
    "$folder/bin/python" -m pip install -qq --disable-pip-version-check --no-deps --require-hashes \
      -r "$requirements" || { left_out "$1" "pip could not install it"; return; }
    printf '%s\n' "$wanted" >"$folder/headgate-made"
  fi
  made=$((made + 1))
}

node_client() {
  folder=.venv-clients-node
  command -v npm >/dev/null && command -v node >/dev/null || { left_out node "there is no node here"; return; }
  [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 18 ] || { left_out node "node is older than 18"; return; }
  wanted=$(cksum <"$here/node/package-lock.json")
  if ! is_made "$folder" "$wanted"; then
    printf 'clients: installing openai for node\n'
    rm -rf "$folder"
    mkdir -p "$folder"
    cp "$here/node/package.json" "$here/node/package-lock.json" "$folder"
    (cd "$folder" && npm ci --silent --no-audit --no-fund --ignore-scripts) || {
      left_out node "npm could not install it"
      return
    }
    printf '%s\n' "$wanted" >"$folder/headgate-made"
  fi
  made=$((made + 1))
}

[ "$#" -gt 0 ] || {
  for file in "$here"/requirements-*.txt; do
    name=${file#"$here"/requirements-}
    set -- "$@" "${name%.txt}"
  done
  set -- "$@" node
}
for name in "$@"; do
  if [ "$name" = node ]; then node_client; else python_client "$name"; fi
done
[ "$made" -gt 0 ]
