#!/bin/sh
# Writes .env beside this script, with secrets of its own, for `docker compose up -d`. Can be run again at any time: what
# is there stays, what is missing or empty among the secrets is filled in.
#
#   ./setup.sh              takes the stack that fits this machine: with a GPU, or without
#   ./setup.sh gpu          compose.yaml: the gateway supervises vLLM
#   ./setup.sh remote       compose.remote.yaml: vLLM in a container of its own
#   ./setup.sh cpu          compose.cpu.yaml: no GPU, the simulated engine
set -eu
umask 077
cd "$(dirname "$0")"

secrets="HEADGATE_API_KEY HEADGATE_ADMIN_KEY HEADGATE_ENGINE_API_KEY GRAFANA_ADMIN_PASSWORD WEBUI_ADMIN_PASSWORD"
secrets="$secrets WEBUI_SECRET_KEY REDIS_PASSWORD"

has_gpu() { nvidia-smi -L 2>/dev/null | grep -q GPU; }

# Letters and digits only: they need no quoting in a shell, a URL or a header.
secret() { LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom | head -c 40; }

write() { # NAME VALUE: sets a line of .env, or adds it
    # Through a file of its own, then renamed: interrupted, .env is the old one or the new one.
    NAME=$1 VALUE=$2 awk '
        BEGIN { name = ENVIRON["NAME"]; value = ENVIRON["VALUE"] }
        index($0, name "=") == 1 { print name "=" value; found = 1; next }
        { print }
        END { if (!found) print name "=" value }
    ' .env >.env.new && mv .env.new .env
}

case ${1:-} in
    gpu) file=compose.yaml ;;
    remote) file=compose.remote.yaml ;;
    cpu) file=compose.cpu.yaml ;;
    "") file= ;;
    *)
        sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p;}' "$0"
        exit 2
        ;;
esac

if [ ! -f .env ]; then
    cp .env.example .env
    if [ -z "$file" ]; then
        if has_gpu; then file=compose.yaml; else file=compose.cpu.yaml; fi
    fi
fi
[ -z "$file" ] || write COMPOSE_FILE "$file"
chmod 600 .env

made=
for name in $secrets; do
    if ! grep -q "^$name=." .env; then
        value=$(secret)
        [ ${#value} -eq 40 ] || { echo "setup.sh: /dev/urandom gave no secret" >&2; exit 1; }
        write "$name" "$value"
        made="$made $name"
    fi
done

file=$(sed -n 's/^COMPOSE_FILE=//p' .env)
case $file in
    compose.cpu.yaml) what="no GPU: the simulated engine answers with made-up text" ;;
    compose.remote.yaml) what="vLLM in a container of its own" ;;
    compose.yaml) what="vLLM, supervised by the gateway" ;;
    *) what="your own choice" ;;
esac
echo "compose/.env is ready: $file ($what)."
[ -z "$made" ] || echo "Made:$made"
if [ "$file" = compose.yaml ] || [ "$file" = compose.remote.yaml ]; then
    has_gpu || echo "Note: nvidia-smi shows no GPU here. Without one: ./setup.sh cpu"
fi
echo "Next:  docker compose up -d    (in this folder; then ./smoke.sh looks whether all is well)"
