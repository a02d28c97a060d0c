#!/usr/bin/env bash
# A real CQL server for the tests and for trying things out: Apache Cassandra 5 on loopback addresses of this machine.
#
#   server.sh install            fetch the server once into the cache (needs Java 17 and Maven)
#   server.sh start [1|3]        start that many nodes and wait until each answers queries, and sees the others
#   server.sh start-one N        start one node of them again
#   server.sh stop [N]           end one node or all in good order          server.sh kill [N]     SIGKILL
#   server.sh pause [N]          SIGSTOP                                    server.sh resume [N]   SIGCONT
#   server.sh status             a line for each node
#   server.sh wipe               kill all and delete their data
#
# Settings, as variables of the environment:
#   BUHO_CQL_CACHE   what was fetched               (target/cql)        BUHO_CQL_PORT  the nodes' port      (9042)
#   BUHO_CQL_RUN     data and logs of the nodes     (<cache>/run)       BUHO_CQL_HEAP  memory of each node  (512m)
#   BUHO_CQL_NET     nodes are 1 to 3 of this net   (127.0.0)           BUHO_CQL_WAIT  seconds for a start  (180)
#   BUHO_CQL_SYNC    batch: what is acknowledged is on the disk; periodic: it is within 10 s (periodic)
#   BUHO_CQL_LOGIN   1: a user and a password are asked for, cassandra and cassandra at first
#   BUHO_CQL_TLS     1: who wants may speak TLS; the certificate to trust is <run>/n1/certificate.pem, of each node its own
#                    mutual: who speaks TLS proves himself by <run>/n1/client/certificate.pem and key.pem (needs openssl)
#   BUHO_CQL_GUARD   stop all by itself when nobody has held a lock on <run>/users for so many seconds
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=$(realpath -m "${BUHO_CQL_CACHE:-${CARGO_TARGET_DIR:-$HERE/../../target}/cql}")
RUN=$(realpath -m "${BUHO_CQL_RUN:-$CACHE/run}")
NET=${BUHO_CQL_NET:-127.0.0}
PORT=${BUHO_CQL_PORT:-9042}
SYNC=${BUHO_CQL_SYNC:-periodic}
HEAP=${BUHO_CQL_HEAP:-512m}
LOGIN=${BUHO_CQL_LOGIN:-0}
TLS=${BUHO_CQL_TLS:-0}
WAIT=${BUHO_CQL_WAIT:-180}
GUARD=${BUHO_CQL_GUARD:-}
# Of a file that lies beside it.
STOREPASS=loopback
# Even shares of the ring for three.
TOKENS=(-9223372036854775808 -3074457345618258603 3074457345618258602)
NEEDS='install Java 17 and Maven (Debian: apt-get install openjdk-17-jre-headless maven)'

. "$HERE/cassandra.sh"

die() { printf 'cql: %s\n' "$*" >&2; exit 1; }

# The Java that Cassandra 5 runs on, even where another one is the default.
java17() {
    local java
    for java in "${JAVA_HOME:-}/bin/java" java /usr/lib/jvm/*17*/bin/java; do
        if [[ $("$java" -version 2>&1) == *'version "17.'* ]]; then echo "$java"; return; fi
    done
    die "Java 17 is not here: $NEEDS"
}

keytool() { echo "$(dirname "$(readlink -f "$(command -v "$(java17)")")")/keytool"; }

# A key and a certificate for an address, signed with itself.
certificate() {
    local dir=$1 address=$2 tool
    [[ ! -s $dir/keystore ]] || return 0
    tool=$(keytool)
    "$tool" -genkeypair -alias node -keyalg EC -groupname secp256r1 -validity 3650 -dname "CN=$address" \
        -ext "san=ip:$address" -keystore "$dir/keystore" -storetype PKCS12 -storepass "$STOREPASS"
    "$tool" -exportcert -rfc -alias node -keystore "$dir/keystore" -storepass "$STOREPASS" >"$dir/certificate.pem"
}

# A certificate that the node in a folder takes, and its key.
client() {
    local dir=$1/client
    [[ ! -s $1/truststore ]] || return 0
    mkdir -p "$dir"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=client \
        -keyout "$dir/key.pem" -out "$dir/certificate.pem"
    "$(keytool)" -importcert -noprompt -alias client -file "$dir/certificate.pem" \
        -keystore "$1/truststore" -storetype PKCS12 -storepass "$STOREPASS"
}

install() {
    local fetched="$CACHE/fetched" wanted try
    java17 >/dev/null
    mkdir -p "$CACHE"
    wanted=$(cksum <"$HERE/pom.xml")
    exec 8>"$CACHE/fetching"
    flock 8
    if [[ -s $fetched && $(<"$fetched") == "$wanted" ]]; then exec 8>&-; return; fi
    command -v mvn >/dev/null || die "Maven is not here: $NEEDS"
    rm -rf "${CACHE:?}/lib"
    for try in 1 2 3; do
        # -C refuses a jar whose checksum is not the published one. The pom is copied so that nothing is written beside it.
        cp "$HERE/pom.xml" "$CACHE/pom.xml"
        mvn -B -q -C -f "$CACHE/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$CACHE/lib" && break
        ((try < 3)) || die 'Maven could not fetch the server'
        sleep 5
    done
    echo "$wanted" >"$fetched"
    exec 8>&-
}

nodes() { local dir; for dir in "$RUN"/n[1-3]; do [[ -d $dir ]] && echo "${dir##*/n}"; done; true; }

# The process of a node, if it runs.
process() {
    local pid
    [[ -s $RUN/n$1/pid ]] && pid=$(<"$RUN/n$1/pid") || return 1
    is_node "$pid" && echo "$pid"
}
is_node() { [[ $(ps -ww -o args= -p "$1" 2>/dev/null) == *CassandraDaemon* ]]; }

# A process that ends loses its arguments before its last thread (`l`) and with it its sockets.
is_going() { local state; state=$(ps -o stat= -p "$(cat "$RUN/n$1/pid" 2>/dev/null)" 2>/dev/null) && [[ $state != Z* || $state == *l* ]]; }

bytes() { printf '%08x' "$1" | sed 's/../\\x&/g'; }

# Asks node N a query with a consistency and says what kind of answer came: 0 an error, 8 rows, 3 a wish for a login.
ask() {
    local kind
    exec 3<>"/dev/tcp/$NET.$1/$PORT" || return
    # Protocol 4: STARTUP with {CQL_VERSION: 3.0.0}, then QUERY with a text, a consistency and no flags.
    printf '\x04\x00\x00\x00\x01\x00\x00\x00\x16\x00\x01\x00\x0bCQL_VERSION\x00\x053.0.0' >&3
    kind=$(answered) || return
    if ((kind == 2)); then
        printf "\\x04\\x00\\x00\\x00\\x07$(bytes $((${#3} + 7)))$(bytes ${#3})%s\\x00\\x0$2\\x00" "$3" >&3
        kind=$(answered) || return
    fi
    echo "$kind"
}
# The head of an answer is nine bytes, the fifth of which is its kind.
answered() {
    local head
    head=$(timeout 15 head -c 9 <&3 | od -An -v -tu1)
    read -ra head <<<"$head"
    ((${#head[@]} == 9)) && echo "${head[4]}"
}
answers() { local kind; kind=$(ask "$@" 2>/dev/null) && [[ $kind == 8 || $kind == 3 ]]; }
is_up() { answers "$1" 1 'SELECT release_version FROM system.local'; }
# A read of all replicas of a table that each of three nodes has fails while the node that is asked misses one.
sees_all() { answers "$1" 5 'SELECT parent_id FROM system_distributed.parent_repair_history LIMIT 1'; }

until_so() {
    local end=$((SECONDS + WAIT)) node=$2
    until "$@"; do
        process "$node" >/dev/null || { tail -n 20 "$RUN/n$node/log" >&2; die "node $node ended"; }
        ((SECONDS < end)) || { tail -n 20 "$RUN/n$node/log" >&2; die "node $node is not ready after $WAIT s"; }
        sleep 0.5
    done
}

start_one() {
    local node=$1 dir="$RUN/n$1" java jamm seeds
    ((node >= 1 && node <= 3)) || die 'nodes are 1, 2 and 3'
    if ! process "$node" >/dev/null; then
        ! is_up "$node" || die "another server listens at $NET.$node:$PORT: choose another BUHO_CQL_NET or BUHO_CQL_PORT"
        java=$(java17)
        mkdir -p "$dir"
        [[ $TLS == 0 ]] || certificate "$dir" "$NET.$node" 2>>"$dir/log"
        [[ $TLS != mutual ]] || command -v openssl >/dev/null || die 'openssl is not here, which makes the client certificate'
        [[ $TLS != mutual ]] || client "$dir" 2>>"$dir/log"
        [[ $(<"$RUN/total") == 3 ]] && seeds="$NET.1:7000,$NET.2:7000,$NET.3:7000" || seeds="$NET.1:7000"
        configuration "$dir" "$NET.$node" "${TOKENS[node - 1]}" "$seeds" >"$dir/cassandra.yaml"
        jamm=$(compgen -G "$CACHE/lib/jamm-*.jar")
        setsid "$java" "@$HERE/jvm.args" "-Xms$HEAP" "-Xmx$HEAP" "-javaagent:$jamm" \
            "-Djava.io.tmpdir=$dir" "-Djna.tmpdir=$dir" "-XX:ErrorFile=$dir/crash" \
            "-Dlogback.configurationFile=$HERE/logback.xml" "-Dcassandra.config=file://$dir/cassandra.yaml" \
            "-Dcassandra.storagedir=$dir" "-Dcassandra.logdir=$dir" \
            -cp "$CACHE/lib/*" org.apache.cassandra.service.CassandraDaemon \
            </dev/null >>"$dir/log" 2>&1 8>&- 9>&- &
        echo $! >"$dir/pid"
        # The new process is this shell until it has become Java.
        while kill -0 $! 2>/dev/null && ! process "$node" >/dev/null; do sleep 0.05; done
    fi
    until_so is_up "$node"
}

# Where three run, none of them stopped: waits until each sees the others.
together() {
    local node pid
    [[ $(<"$RUN/total") == 3 ]] || return 0
    for node in 1 2 3; do
        pid=$(process "$node") && [[ $(ps -o stat= -p "$pid") != T* ]] || return 0
    done
    for node in 1 2 3; do until_so sees_all "$node"; done
}

start() {
    local total=$1 node
    [[ $total == 1 || $total == 3 ]] || die 'one node or three'
    install
    mkdir -p "$RUN"
    # Two starts at once are one.
    exec 9>"$RUN/starting"
    flock 9
    echo "$total" >"$RUN/total"
    # Before the nodes: who starts them may be ended meanwhile.
    if [[ -n $GUARD ]]; then setsid "$0" guard </dev/null >/dev/null 2>&1 8>&- 9>&- & fi
    for ((node = 1; node <= total; node++)); do start_one "$node"; done
    together
}

# Tests cannot be relied on to stop what they started: they hold a lock, which ends with them whatever happens.
guard() {
    local idle=0 pid pids=()
    exec 7>"$RUN/guarding"
    flock -n 7 || exit 0
    while [[ -d $RUN ]]; do
        # What ran stays known while the folder is being deleted.
        for pid in $(cat "$RUN"/n[1-3]/pid 2>/dev/null || true); do
            [[ " ${pids[*]} " == *" $pid "* ]] || pids+=("$pid")
        done
        sleep 1
        if flock -n "$RUN/users" true; then idle=$((idle + 1)); else idle=0; fi
        # Whoever comes while it is wiped waits for the lock, and finds nothing running.
        if ((idle >= GUARD)) && flock -n "$RUN/users" "$0" wipe; then exit 0; fi
    done
    # The folder was deleted, and what ran in it may not have ended.
    for pid in "${pids[@]}"; do if is_node "$pid"; then kill -KILL "$pid" || true; fi; done
}

signal() {
    local node pid
    for node in ${2:-$(nodes)}; do
        if pid=$(process "$node"); then kill "-$1" "$pid" 2>/dev/null || true
        elif [[ -n ${2:-} ]]; then die "node $node does not run"
        fi
    done
}
ended() {
    local node end=$((SECONDS + 30))
    for node in ${1:-$(nodes)}; do
        while process "$node" >/dev/null || is_going "$node"; do
            ((SECONDS < end)) || kill -KILL "$(cat "$RUN/n$node/pid")" 2>/dev/null || true
            sleep 0.1
        done
        rm -f "$RUN/n$node/pid"
    done
}
status() {
    local node
    for node in $(nodes); do
        if ! process "$node" >/dev/null; then echo "$node $NET.$node:$PORT is stopped"
        elif is_up "$node"; then echo "$node $NET.$node:$PORT answers"
        else echo "$node $NET.$node:$PORT does not answer"
        fi
    done
}

case ${1:-} in
    install) install ;;
    start) start "${2:-1}" ;;
    start-one) start_one "${2:?a node}"; together ;;
    stop) signal TERM "${2:-}"; ended "${2:-}" ;;
    kill) signal KILL "${2:-}"; ended "${2:-}" ;;
    pause) signal STOP "${2:-}" ;;
    resume) signal CONT "${2:-}"; together ;;
    status) status ;;
    wipe) signal KILL; ended; rm -rf "$RUN"/n[1-3] ;;
    guard) guard ;;
    *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac
