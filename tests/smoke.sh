#!/bin/sh
# Start `make run` as a person would, chat once, stop it, and see that nothing of it is left.
set -eu
port=${PORT:-18080}
log=$(mktemp)
make run PORT="$port" >"$log" 2>&1 &
make_pid=$!
stop() { kill -TERM "$make_pid" 2>/dev/null || true; rm -f "$log"; }
trap stop EXIT
fail() { echo "smoke: $1"; cat "$log"; exit 1; }

curl --silent --fail --output /dev/null --retry 60 --retry-delay 1 --retry-all-errors "http://127.0.0.1:$port/ready" \
  || fail "the gateway did not become ready"
answer=$(curl --silent --no-buffer "http://127.0.0.1:$port/v1/chat/completions" -H 'content-type: application/json' -d \
  '{"model": "headgate-simulated", "stream": true, "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}')
echo "$answer" | grep -q '^data: \[DONE\]' || fail "no whole stream came back: $answer"
gateway_pid=$(curl --silent "http://127.0.0.1:$port/status" | sed -E 's/.*"pid":([0-9]+).*/\1/')

kill -TERM "$make_pid"
wait "$make_pid" || true
if kill -0 "$gateway_pid" 2>/dev/null; then fail "the engine's process $gateway_pid is still there"; fi
if curl --silent --output /dev/null "http://127.0.0.1:$port/health"; then fail "the gateway still answers"; fi
echo "smoke: started, chatted, stopped, nothing left"
