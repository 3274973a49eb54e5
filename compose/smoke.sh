#!/bin/sh
# Looks whether the stack that `docker compose up -d` started is well, and says what is not. Needs curl.
#
#   ./smoke.sh              waits up to ten minutes for the model to be loaded; SMOKE_WAIT_S=… says otherwise
#   SMOKE_SKIP="grafana open-webui" ./smoke.sh       leaves parts out that you don't run
set -u
cd "$(dirname "$0")" || exit 1

passed=0
failed=0
ok() { passed=$((passed + 1)); echo "ok    $*"; }
bad() { # WHAT, and in further arguments what to do
    failed=$((failed + 1))
    echo "FAIL  $1"
    shift
    for line in "$@"; do echo "      $line"; done
}
finish() {
    echo
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}

setting() { # NAME DEFAULT: from the environment, else from .env
    value=$(printenv "$1") || value=$(sed -n "s/^$1=//p" .env 2>/dev/null | tail -n 1)
    printf '%s' "${value:-$2}"
}
skipped() { case " ${SMOKE_SKIP:-} " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

command -v curl >/dev/null || { echo "smoke.sh needs curl"; exit 1; }
[ -f .env ] || { echo "There is no .env here: run ./setup.sh, then docker compose up -d"; exit 1; }

key=$(setting HEADGATE_API_KEY "")
gateway=http://127.0.0.1:$(setting GATEWAY_PORT 8080)
prometheus=http://127.0.0.1:$(setting PROMETHEUS_PORT 9090)
grafana=http://127.0.0.1:$(setting GRAFANA_PORT 3000)
webui=http://127.0.0.1:$(setting WEBUI_PORT 3001)
file=$(setting COMPOSE_FILE compose.yaml)

get() { curl -sS --max-time 15 "$@" 2>&1; }
status() { curl -s -o /dev/null --max-time 15 -w '%{http_code}' "$@"; }
# Secrets go to curl on its standard input: in its arguments everyone on the machine could read them.
with_key() { printf 'header = "Authorization: Bearer %s"\n' "$key" | curl -sS --max-time 120 -K - "$@" 2>&1; }
as_admin() { printf 'user = "admin:%s"\n' "$(setting GRAFANA_ADMIN_PASSWORD "")" | curl -sS --max-time 15 -K - "$@" 2>&1; }
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" | head -n 1; }

# What .env says and nobody reads
for name in $(sed -n 's/^\(HEADGATE_[A-Z0-9_]*\)=.*/\1/p' .env); do
    grep -q "\${$name[:}]" ./*.yaml || bad ".env: $name is no setting, so it changes nothing" "docs/configuration.md has their names"
done

# The gateway
health=$(get "$gateway/health")
case $health in
    *'"ok"'*) ok "the gateway lives ($gateway)" ;;
    *)
        bad "the gateway does not answer at $gateway: $health" \
            "docker compose ps              is it up? restarting?" \
            "docker compose logs gateway    a bad setting is one line there"
        finish
        ;;
esac

waited=0
limit=$(setting SMOKE_WAIT_S 600)
while :; do
    ready=$(get "$gateway/ready")
    case $ready in *'"ready":true'*) break ;; esac
    reason=$(printf '%s' "$ready" | field reason)
    if [ "$waited" -ge "$limit" ] || [ "$reason" = failed ]; then break; fi
    [ $((waited % 30)) -ne 0 ] || echo "...   the engine is not ready: ${reason:-?} (a first start downloads the model)"
    sleep 2
    waited=$((waited + 2))
done
case $ready in
    *'"ready":true'*) ok "the engine is ready" ;;
    *)
        bad "the engine is not ready after $waited s: ${reason:-$ready}" \
            "curl -s $gateway/status        state, load progress and the engine's last words" \
            "docker compose logs gateway    (compose.remote.yaml: docker compose logs vllm)"
        finish
        ;;
esac

# The key
code=$(status "$gateway/v1/models")
if [ "$code" = 401 ]; then
    ok "nobody gets in without a key"
else
    bad "without a key /v1/models answers $code, not 401" "HEADGATE_API_KEY in .env should be set: ./setup.sh"
fi

models=$(with_key "$gateway/v1/models")
model=$(printf '%s' "$models" | tr '{' '\n' | field id)
if [ -n "$model" ]; then
    ok "it serves $model"
else
    bad "/v1/models names no model: $models" "if it is a 401: the key in .env is not the running gateway's; docker compose up -d"
    finish
fi

# A chat, as it streams
chat='{"model": "'$model'", "stream": true, "max_tokens": 16, "messages": [{"role": "user", "content": "Say hello."}]}'
stream=$(with_key -N -H 'content-type: application/json' -d "$chat" "$gateway/v1/chat/completions")
events=$(printf '%s\n' "$stream" | grep -c '^data: {')
case $stream in
    *'"error"'*) bad "the chat ended with an error: $(printf '%s\n' "$stream" | grep '"error"' | head -n 1)" ;;
    *'data: [DONE]'*) ok "a chat was streamed in $events events" ;;
    *) bad "the chat was not streamed to its end: $(printf '%s\n' "$stream" | head -n 3)" ;;
esac

# Prometheus
if ! skipped prometheus; then
    query() { get -G --data-urlencode "query=$1" "$prometheus/api/v1/query" | sed -n 's/.*"value":\[[^,]*,"\([^"]*\)"\].*/\1/p' | head -n 1; }
    if [ "$(status "$prometheus/-/ready")" = 200 ]; then
        ok "Prometheus is ready ($prometheus)"
        tries=0
        while [ "$(query 'sum(api_requests_total{reason="ok"}) > bool 0')" != 1 ] && [ $tries -lt 20 ]; do
            sleep 2
            tries=$((tries + 1))
        done
        if [ "$(query 'min(up{job="headgate"})')" = 1 ]; then
            ok "Prometheus scrapes the gateway"
        else
            bad "Prometheus does not reach the gateway" "see $prometheus/targets for its reason"
        fi
        count=$(query 'sum(api_requests_total{reason="ok"})')
        if [ -n "$count" ] && [ "$count" != 0 ]; then
            ok "Prometheus has seen requests: $count answered"
        else
            bad "Prometheus has seen no request answered"
        fi
        if [ "$(query 'min(up{job="vllm"})')" = 1 ]; then
            ok "Prometheus scrapes the engine"
        else
            bad "Prometheus does not get the engine's own metrics" "see $prometheus/targets for its reason"
        fi
        if [ "$file" != compose.cpu.yaml ] && ! skipped dcgm-exporter; then
            if [ "$(query 'min(up{job="dcgm"})')" = 1 ]; then
                ok "Prometheus scrapes the GPUs"
            else
                bad "Prometheus does not reach the DCGM exporter" "docker compose logs dcgm-exporter"
            fi
        fi
    else
        bad "Prometheus does not answer at $prometheus" "docker compose logs prometheus"
    fi
fi

# Grafana
if ! skipped grafana; then
    answer=$(get "$grafana/api/health")
    case $answer in
        *'"ok"'*)
            ok "Grafana lives ($grafana, user admin)"
            sources=$(as_admin "$grafana/api/datasources")
            uid=$(printf '%s' "$sources" | tr '{' '\n' | grep '"type": *"prometheus"' | field uid)
            if [ -n "$uid" ]; then
                answer=$(as_admin "$grafana/api/datasources/uid/$uid/health")
                case $answer in
                    *'"OK"'*) ok "Grafana reaches Prometheus" ;;
                    *) bad "Grafana does not reach Prometheus: $answer" "docker compose logs grafana" ;;
                esac
                boards=$(as_admin "$grafana/api/search?type=dash-db" | grep -o '"uid"' | grep -c .)
                if [ "$boards" -gt 0 ]; then
                    ok "Grafana has $boards dashboards"
                else
                    bad "Grafana has no dashboards" "is monitoring/grafana mounted? docker compose config"
                fi
            else
                bad "Grafana has no Prometheus data source: $sources" \
                    "if it is a 401: the password was set at Grafana's first start and changed in .env since;" \
                    "docker compose exec grafana grafana cli admin reset-admin-password NEW"
            fi
            ;;
        *) bad "Grafana does not answer at $grafana: $answer" "docker compose logs grafana" ;;
    esac
fi

# Open WebUI
if ! skipped open-webui; then
    code=$(status "$webui/health")
    if [ "$code" = 200 ]; then
        ok "Open WebUI lives ($webui; its administrator: $(setting WEBUI_ADMIN_EMAIL admin@localhost))"
    else
        bad "Open WebUI does not answer at $webui ($code)" "it takes a minute to start; docker compose logs open-webui"
    fi
fi

finish
