#!/bin/sh
# The suite, as it is committed, on other Pythons than this machine's, and with Prometheus 3:
#
#   sh tests/pythons.sh 3.13 3.14        what `make test-pythons` does; nine minutes for each
#
# For root on a Debian or Ubuntu: Debian's unstable, which has several Pythons at once, is unpacked into .tools/unstable
# (1 GB, once) and entered. Where packages come from is pip's own configuration. MIRROR names another archive.
set -eu

cd "$(dirname "$0")/.."
root=$PWD/.tools/unstable
mirror=${MIRROR:-http://deb.debian.org/debian}
not_here='not vllm and not compose and not clients and not open_webui and not conformance and not chaos'
# What the tests start or build with.
needs="curl gcc git jq libc6-dev make procps prometheus"
image=tests/compose/test_files.py::test_python_of_the_image_is_the_one_that_the_tests_run

stop() { printf 'No other Pythons here: %s\n' "$*" >&2; exit 1; }

[ $# -gt 0 ] || stop "name them, as in: sh tests/pythons.sh 3.13 3.14"
[ "$(id -u)" = 0 ] || stop "it takes root to enter another root folder."
sh tests/tools.sh debootstrap
command -v debootstrap >/dev/null || stop "Debian's debootstrap is missing."

# Entered with mounts of our own, which end with it whatever happens.
enter() { # COMMAND ...
    unshare --mount --propagation private sh -c '
        root=$1; shift
        mount --rbind /proc "$root/proc" && mount --rbind /sys "$root/sys" && mount --rbind /dev "$root/dev" &&
            mount -t tmpfs tmpfs "$root/tmp" && exec chroot "$root" env -u PIP_FIND_LINKS HOME=/root TMPDIR=/tmp "$@"
    ' enter "$root" "$@"
}

if [ ! -e "$root/made" ]; then
    echo "Unpacking Debian's unstable into $root ..."
    rm -rf --one-file-system "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase --include=ca-certificates sid "$root" "$mirror" >"$root.log" 2>&1 ||
        stop "debootstrap failed: $root.log"
    touch "$root/made"
fi
# The machine's own way to the network.
for file in resolv.conf pip.conf ssl/certs/ca-certificates.crt; do
    if [ -e "/etc/$file" ]; then cp -L "/etc/$file" "$root/etc/$file"; fi
done
rm -rf "$root/root/headgate"
git clone -q . "$root/root/headgate"

failed=
for version in "$@"; do
    # shellcheck disable=SC2086 # words
    enter env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -o APT::Sandbox::User=root install -y -qq \
        --no-install-recommends $needs "python$version-venv" "python$version-dev" >"$root.log" 2>&1 ||
        stop "no Python $version: $root.log"
    # shellcheck disable=SC2016 # expanded inside
    enter env PATH="/opt/$version/bin:/usr/sbin:/usr/bin:/sbin:/bin" PYTHONDONTWRITEBYTECODE=1 sh -c '
        set -e
        cd /root/headgate
        [ -d "/opt/$1" ] || "python$1" -m venv "/opt/$1"
        pip="python -m pip install --quiet --disable-pip-version-check"
        $pip --require-hashes -r requirements/dev.txt
        $pip --no-deps --no-build-isolation -e .
        python -VV
        exec python -m pytest -q -n 2 --dist loadfile -p no:cacheprovider -m "$2" --deselect "$3"
    ' run "$version" "$not_here" "$image" || failed="$failed $version"
done
if [ -n "$failed" ]; then
    echo "failed on Python$failed" >&2
    exit 1
fi
