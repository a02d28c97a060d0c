#!/usr/bin/env bash
# Sends and pages on a CQL server beside the embedded store, on this machine: OUT/stores.md, and a report for each run.
#
#   loadtest/stores.sh OUT GATEWAY
#
# OUT      folder for the reports and the server's data; it should lie on the disk that is to be measured. A run whose
#          report is there already is not made again.
# GATEWAY  the binary buho, a release build
#
# Needs Java 17 and Maven (`tests/cql/server.sh` fetches and starts the server) and jq.
#
# Environment:
#   LOADTEST  the binary buho-loadtest; without it, the one beside GATEWAY
#   POINTS    addresses of running servers, to be used instead
#   COPIES    how many of them keep each row (1)
#   LEVELS    levels of `history` (10000,100000)
#   QUICK=1   everything small, to see that it works; its figures say nothing
set -euo pipefail

if [ $# -ne 2 ]; then
    sed -n '2,18p' "$0" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
gateway=$(realpath "$2")
load=$(realpath "${LOADTEST:-$(dirname "$gateway")/buho-loadtest}")
if [ "${QUICK:-}" = 1 ]; then
    seconds=1 levels=${LEVELS:-1000,2000}
else
    seconds=10 levels=${LEVELS:-10000,100000}
fi
bad=0

points=${POINTS:-}
if [ -z "$points" ]; then
    export BUHO_CQL_RUN=$out/cql BUHO_CQL_NET=127.0.9 BUHO_CQL_SYNC=batch BUHO_CQL_HEAP=2g
    trap '"$here/../tests/cql/server.sh" wipe' EXIT
    "$here/../tests/cql/server.sh" start 1
    points=127.0.9.1:9042
fi

# NAME SCENARIO ARGUMENTS…: the same on both stores.
both() {
    local name=$1 store code arguments
    shift
    for store in embedded cql; do
        [ ! -s "$out/$name-$store.json" ] || continue
        arguments=(--start "$gateway" --store "$store")
        [ $store != cql ] || arguments+=(--contact-points "$points" --set "cql.replication=${COPIES:-1}")
        [ "$1" != history ] || arguments+=(--data "$out/$store-data")
        echo "== $name on $store: $*"
        code=0
        "$load" "$@" "${arguments[@]}" --json "$out/$name-$store.json.new" || code=$?
        [ ! -s "$out/$name-$store.json.new" ] || mv "$out/$name-$store.json.new" "$out/$name-$store.json"
        [ $code -eq 0 ] || { echo "== $name on $store: exit code $code" >&2; bad=1; }
        rm -rf "$out/$store-data" "$out/$store-data.filled.json"
    done
}

# Rows of the table: rates of a report, and of its latencies the half and 99 of 100.
rows() {
    jq -rn --slurpfile one "$out/$1-embedded.json" --slurpfile two "$out/$1-cql.json" '
        def row($unit; $one; $two): "| \(.), \($unit) | \($one) | \($two) | \($two / $one * 100 | round / 100) |";
        ($two[0].figures | map({key: .name, value: .value}) | from_entries) as $figures
        | ($two[0].latencies | map({key: .name, value: .}) | from_entries) as $latencies
        | ($one[0].figures[] | select(.unit == "/s" and $figures[.name]) | .value as $value | .name
            | row("/s"; $value | round; $figures[.] | round)),
          ($one[0].latencies[] | select($latencies[.name]) | . as $latency | .name
            | row("p50, ms"; $latency.p50_us / 1000; $latencies[.].p50_us / 1000),
              row("p99, ms"; $latency.p99_us / 1000; $latencies[.].p99_us / 1000))'
}

both alone ingest --via rest --connections 1 --payload 128 --seconds $seconds
both ingest ingest --via rest,batch --connections 64 --payload 128 --seconds $seconds
both history history --levels "$levels" --seconds $seconds

{
    echo '| figure | embedded | CQL | CQL beside embedded |'
    echo '|---|---:|---:|---:|'
    for name in alone ingest history; do rows $name; done
} >"$out/stores.md"
cat "$out/stores.md"
exit $bad
