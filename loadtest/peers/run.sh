#!/usr/bin/env bash
# Loads the peers as the gateway is loaded, on loopback, one after another.
#
#   loadtest/peers/run.sh OUT LOADTEST GATEWAY [nats] [centrifuge] [wrk]
#
# OUT       folder for the reports
# LOADTEST  the binary buho-loadtest
# GATEWAY   the binary buho, for wrk
#
# Needs Go for nats and centrifuge (fetched from the module proxy into OUT/go) and wrk (Debian package) for wrk.
# The size of the load: SUBSCRIBERS, SOCKETS, STORM, SECONDS_EACH in the environment.
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,12p' "$0" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
load=$(realpath "$2")
gateway=$(realpath "$3")
shift 3
peers=("$@")
[ ${#peers[@]} -gt 0 ] || peers=(nats centrifuge wrk)

export GOPATH=$out/go GOCACHE=$out/go/cache GOFLAGS=-modcacherw
child=
bad=0
end() {
    if [ -n "$child" ]; then
        kill "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
        child=
    fi
}
trap end EXIT

# The address behind "listening on http://" in a file, once it is there.
ready() {
    for _ in $(seq 200); do
        if grep -q 'listening on http://' "$1"; then
            sed -n 's#.*listening on http://##p' "$1" | head -1
            return
        fi
        sleep 0.1
    done
    echo "the server did not say where it listens:" >&2
    cat "$1" >&2
    return 1
}

# What a peer loses is told in its report, and keeps none of the others from their turn.
peer() { # kind address pid
    "$load" peer "$1" --address "$2" --pid "$3" \
        --subscribers "${SUBSCRIBERS:-1000}" --seconds "${SECONDS_EACH:-10}" \
        --idle-sockets "${SOCKETS:-2000}" --storm-sockets "${STORM:-1000}" \
        --json "$out/peer-$1.json" --html "$out/peer-$1.html"
}

if command -v go >/dev/null; then
    go version | cut -d' ' -f3 | tee "$out/peer-go.version"
fi
for name in "${peers[@]}"; do
    case $name in
    nats)
        [ -x "$out/go/bin/nats-server" ] || go install github.com/nats-io/nats-server/v2@latest
        "$out/go/bin/nats-server" --version | tee "$out/peer-nats.version"
        "$out/go/bin/nats-server" -c "$here/nats.conf" >"$out/peer-nats.log" 2>&1 &
        child=$!
        for _ in $(seq 100); do
            grep -q 'Server is ready' "$out/peer-nats.log" && break
            sleep 0.1
        done
        peer nats 127.0.0.1:18422 "$child" || bad=1
        end
        ;;
    centrifuge)
        (cd "$here/centrifuge" && go build -o "$out/centrifuge-peer" .)
        echo 'centrifuge v0.40.1' | tee "$out/peer-centrifuge.version"
        "$out/centrifuge-peer" >"$out/peer-centrifuge.log" 2>&1 &
        child=$!
        peer centrifuge "$(ready "$out/peer-centrifuge.log")" "$child" || bad=1
        end
        ;;
    wrk)
        data=$(mktemp -d)
        "$gateway" demo --data "$data" --listen 127.0.0.1:0 >"$out/peer-wrk.log" 2>"$out/peer-wrk.err" &
        child=$!
        address=$(ready "$out/peer-wrk.log")
        key=$(sed -n 's/.*"key": *"\([^"]*\)".*/\1/p' "$data/demo.json")
        device=$(sed -n 's/.*"id": *"\(dev_[^"]*\)".*/\1/p' "$data/demo.json" | head -1)
        curl -fsS -X PUT "http://$address/v1/devices/$device/simulations/phones/*" -o "$data/phones" \
            -H "Authorization: Bearer $key" -H 'Content-Type: application/json' -d '{"auto_receipts": null}'
        { wrk --version || true; } | head -1 | tee "$out/peer-wrk.txt"
        for connections in 64 256; do
            KEY=$key DEVICE=$device wrk -t1 -c"$connections" -d"${SECONDS_EACH:-10}s" --latency \
                -s "$here/send.lua" "http://$address" | tee -a "$out/peer-wrk.txt"
        done
        end
        rm -rf "$data"
        ;;
    *)
        echo "no such peer: $name" >&2
        exit 2
        ;;
    esac
done
exit $bad
