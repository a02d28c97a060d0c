#!/usr/bin/env bash
# Runs every scenario, the yardsticks and the peers, and writes RESULTS.md from their reports.
#
#   loadtest/results.sh OUT GATEWAY [part …]
#
# OUT      folder for the reports; it should lie on the disk that is to be measured. A part whose report is there
#          already is not run again, so that an interrupted run goes on.
# GATEWAY  the binary buho, a release build
# part     some of: ratios ingest latency fanout idle storm history start mix soak yardstick peers stores render; all
#          without a name but `stores`, which needs Java and Maven
#
# Environment:
#   LOADTEST  the binary buho-loadtest; without it, the one beside GATEWAY
#   STORE     more arguments for the gateway, such as "--store cql --contact-points 127.0.0.1:9042"
#   LEVELS    levels of `history`; the largest one needs about 2 KiB of free disk for each message
#   MINUTES   length of `soak`
#   QUICK=1   everything small, to see that it works; its figures say nothing
#   RESULTS   the page; without it, RESULTS.md beside this script
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,19p' "$0" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
gateway=$(realpath "$2")
shift 2
load=$(realpath "${LOADTEST:-$(dirname "$gateway")/buho-loadtest}")
results=${RESULTS:-$here/RESULTS.md}
read -r -a store <<<"${STORE:-}"
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(ratios ingest latency fanout idle storm start mix history yardstick peers soak render)

if [ "${QUICK:-}" = 1 ]; then
    seconds=1 subscribers=50 sockets=100 devices=50 hour=1 levels=${LEVELS:-1000,10000} minutes=${MINUTES:-0.2}
    rates=100 connections=8 payloads=128,1024 cool=5 rest=1 burst=200 chats=500 long=1 cuts=2
else
    seconds=8 subscribers=1000 sockets=2000 devices=10000 hour=10 minutes=${MINUTES:-20}
    levels=${LEVELS:-10000,100000,1000000,10000000}
    rates=250,1000,2000 connections=64 payloads=128,1024,8192 cool=150 rest=30 burst=10000 chats=20000 long=20 cuts=7
fi
bad=0

# NAME SCENARIO ARGUMENTS…: a report of its own, unless there is one.
report() {
    local name=$1
    shift
    if [ -s "$out/$name.json" ]; then
        echo "== $name: there already"
        return
    fi
    echo "== $name: $*"
    local code=0
    "$load" "$@" --json "$out/$name.json.new" --html "$out/$name.html" || code=$?
    [ ! -s "$out/$name.json.new" ] || mv "$out/$name.json.new" "$out/$name.json"
    # 1 is loss or a part that could not be run, 3 a bound that was not kept; the page tells both.
    [ $code -eq 0 ] || { echo "== $name: exit code $code" >&2; bad=1; }
}

gateway_report() {
    local name=$1
    shift
    report "$name" "$@" --start "$gateway" ${store[@]+"${store[@]}"}
}

# A quarter of the REST sends a second that `ratios` found.
quarter() {
    local found=
    if [ -s "$out/ratios.json" ] && command -v jq >/dev/null; then
        found=$(jq '[.ratios[] | select(.name == "REST sends, 64 connections") | .figure / 4 | floor][0] // empty' \
            "$out/ratios.json")
    fi
    echo "${found:-3000}"
}

# The records of one message, as `ratios` found them by the gateway's own metrics.
records() {
    [ -s "$out/ratios.json" ] && command -v jq >/dev/null || return 0
    jq -r '(.figures | map({(.name): .value}) | add) as $all
        | ($all["REST sends, 64 connections: records a message"] // empty) as $count
        | ($all["REST sends, 64 connections: record bytes a message"] // empty) as $bytes
        | "--records \($count | round) --record-bytes \($bytes / $count | round)"' "$out/ratios.json"
}

# The commit that is measured, where this is a working copy: that of the first part that was run.
[ -s "$out/commit" ] || git -C "$here" rev-parse --short HEAD >"$out/commit" 2>/dev/null || true
commit() {
    [ ! -s "$out/commit" ] || echo ", commit $(cat "$out/commit")"
}

render() {
    local reports=() name
    for name in ratios ingest latency latency-payloads fanout-json fanout-msgpack fanout-1024 fanout-8192 idle \
        storm-json storm-msgpack storm-1024 storm-8192 start mix history soak yardstick peer-nats peer-centrifuge; do
        [ ! -s "$out/$name.json" ] || reports+=("$out/$name.json")
    done
    {
        cat "$here/results-head.md"
        echo
        echo "Versions: $("$gateway" --version), $("$load" --version)$(commit)$(cat "$out"/peer-*.version 2>/dev/null | sed 's/^/, /' | tr -d '\n')."
        echo
        [ "${QUICK:-}" != 1 ] || printf '**A quick run: these figures say nothing.**\n\n'
        "$load" render "${reports[@]}"
        if [ -s "$out/stores.md" ]; then
            printf '## The CQL store beside the embedded one\n\n'
            printf '`loadtest/stores.sh`: one Cassandra node that syncs before it answers, on the same two cores as all else.\n\n'
            cat "$out/stores.md"
            echo
        fi
        if [ -s "$out/peer-wrk.txt" ]; then
            # shellcheck disable=SC2016 # The backticks are Markdown.
            printf '## wrk, a second opinion on REST sends\n\n```text\n%s\n```\n' "$(cat "$out/peer-wrk.txt")"
        fi
        cat "$here/results-tail.md"
    } >"$out/RESULTS.md"
    cp "$out/RESULTS.md" "$results"
    echo "== $results"
}

for part in "${parts[@]}"; do
    case $part in
    ratios)
        gateway_report ratios ratios --scratch "$out" --rest-seconds $rest --ingest-seconds $seconds \
            --subscribers $subscribers --burst $burst --sockets $sockets --devices $((devices / 10 + 1)) --seconds $seconds
        ;;
    ingest)
        gateway_report ingest ingest --via rest,batch,ws --codec json,msgpack --connections $connections \
            --payload $payloads --seconds $seconds
        ;;
    latency)
        gateway_report latency latency --scratch "$out" --rate "$rates,$(quarter)" --codec json,msgpack \
            --seconds $long --payload 128
        gateway_report latency-payloads latency --scratch "$out" --rate "${rates%%,*}" --codec json,msgpack \
            --seconds $long --payload "${payloads#*,}"
        ;;
    fanout)
        for codec in json msgpack; do
            gateway_report fanout-$codec fanout --codec $codec --subscribers $subscribers --burst $burst \
                --seconds $seconds
        done
        # Fewer in a burst: ten thousand of the largest would be 90 GB for a thousand subscribers.
        for payload in ${payloads//,/ }; do
            [ "$payload" = 128 ] || gateway_report fanout-$payload fanout --payload $payload \
                --subscribers $subscribers --burst $((burst / 10)) --seconds $seconds
        done
        ;;
    idle) gateway_report idle idle --sockets $sockets --devices $((devices / 10 + 1)) --chats $chats \
        --set chats.idle_ms=1000 ;;
    storm)
        for codec in json msgpack; do
            gateway_report storm-$codec storm --codec $codec --sockets $((sockets * 5 / 2)) --cuts $cuts --seconds 3
        done
        for payload in ${payloads//,/ }; do
            [ "$payload" = 128 ] || gateway_report storm-$payload storm --payload $payload \
                --sockets $((sockets * 5 / 2)) --cuts $cuts --seconds 3
        done
        ;;
    history)
        gateway_report history history --levels "$levels" --data "$out/history-data" --seconds $seconds
        rm -rf "$out/history-data" "$out/history-data.filled.json"
        ;;
    start) gateway_report start start --devices $devices ;;
    mix) gateway_report mix mix --hour-seconds $hour ;;
    # At a rate that takes the store's tables through many merges, and fills its cache, before the slope begins.
    soak) gateway_report soak soak --minutes "$minutes" --rate 600 --cool-down $cool --set store.cache_bytes=8388608 ;;
    yardstick)
        read -r -a records <<<"$(records)"
        report yardstick yardstick --scratch "$out" --store-seconds $seconds --subscribers $subscribers \
            --burst $burst ${records[@]+"${records[@]}"}
        ;;
    peers)
        SUBSCRIBERS=$subscribers SOCKETS=$sockets STORM=$((sockets * 5 / 2)) SECONDS_EACH=$seconds \
            "$here/peers/run.sh" "$out" "$load" "$gateway" || bad=1
        ;;
    stores) LOADTEST=$load "$here/stores.sh" "$out" "$gateway" || bad=1 ;;
    render) render ;;
    *)
        echo "no such part: $part" >&2
        exit 2
        ;;
    esac
done
exit $bad
