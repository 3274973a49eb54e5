#!/bin/sh
# Gets the real servers and the browser that some tests use, from Debian's packages:
#   sh tests/tools.sh prometheus chromium
# What runs by itself is only unpacked, into .tools, so that no service is started and the machine stays as it was. A
# browser needs its libraries and is installed, by root alone. What can't be had is named, and its tests say so too.
set -u
cd "$(dirname "$0")/.." || exit 1
tools=.tools
updated=

have() { command -v "$1" >/dev/null 2>&1 || [ -x "$tools/usr/bin/$1" ]; }

update() { # once, where the lists are missing and we may
  [ -n "$updated" ] && return
  updated=yes
  if [ "$(id -u)" -eq 0 ]; then apt-get update -qq >/dev/null 2>&1; fi
}

unpack() { # PACKAGE COMMAND
  have "$2" && return
  command -v apt-get >/dev/null && command -v dpkg >/dev/null || { left_out "$1" "no Debian packages here"; return; }
  apt-cache show "$1" >/dev/null 2>&1 || update
  mkdir -p "$tools"
  (cd "$tools" && rm -f "$1"_*.deb && apt-get -qq -o APT::Sandbox::User=root download "$1" >/dev/null 2>&1 && dpkg -x "$1"_*.deb . && rm -f "$1"_*.deb)
  have "$2" || left_out "$1" "its package could not be fetched"
}

install() { # PACKAGE COMMAND
  have "$2" && return
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    left_out "$1" "it would have to be installed by root: apt-get install $1"
    return
  fi
  update
  # RUNLEVEL=1: a package's service is not started.
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null 2>&1
  have "$2" || left_out "$1" "its package could not be installed"
}

left_out() { echo "tests: without $1 ($2): the tests that need it are left out" >&2; }

for name in "$@"; do
  case $name in
    prometheus) unpack prometheus prometheus ;;
    alertmanager) unpack prometheus-alertmanager prometheus-alertmanager ;;
    chromium) install chromium chromium ;;
    debootstrap) install debootstrap debootstrap ;;
    docker)
      # Nothing of it is started here: the tests start an engine of their own. A Docker that is there already is used.
      have dockerd && have runc || install docker.io dockerd
      install docker-compose docker-compose
      install debootstrap debootstrap
      ;;
    *) echo "tests/tools.sh: no recipe for $name" >&2; exit 1 ;;
  esac
done
exit 0
