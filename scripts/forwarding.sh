#!/usr/bin/env bash
# Tries the examples of docs/guides/what-a-service-must-do.md: each is a service between a client
# and a second service, which answers with the headers that it got.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$ROOT/scripts/lib.sh"

EXAMPLES=$ROOT/demo/forwarding
PYTHON=${PYTHON:-/usr/bin/python3}
JARS=/usr/share/java
GO_SOURCES=/usr/share/gocode
WORK=$(mktemp -d)
PIDS=()
TRIED=0 FAILED=0 SKIPPED=0

usage() {
    cat <<'TEXT'
usage: scripts/forwarding.sh [NAME...]

Tries those of the examples under demo/forwarding whose tools are installed; NAME is one of python,
python-asgi, python-propagate, python-automatic, node, java, java-spring, go, go-propagate, nginx, php
(default all).

  --help    prints this text

environment:
  PYTHON    the interpreter for the Python examples (default /usr/bin/python3)

An example is skipped if its tools are missing. The exit code is 1 if an example failed, or none was tried.
TEXT
}

main() {
    case ${1:-} in
    --help | -h) usage && exit 0 ;;
    -*) usage_error "unknown option $1" ;;
    esac
    trap clean EXIT
    local names=("$@") name
    [ $# -gt 0 ] || names=(python python-asgi python-propagate python-automatic node java java-spring go go-propagate nginx php)
    for name in "${names[@]}"; do
        declare -F "try_$name" >/dev/null || usage_error "no example is called $name"
    done
    NEXT_PORT=$(free_port)
    export NEXT=http://127.0.0.1:$NEXT_PORT/
    start echo "$PYTHON" "$EXAMPLES/echo.py" "$NEXT_PORT"
    for name in "${names[@]}"; do
        PORT=$(free_port)
        export PORT
        "try_$name"
    done
    printf '%d passed, %d failed, %d skipped\n' $((TRIED - FAILED)) "$FAILED" "$SKIPPED"
    [ "$FAILED" -eq 0 ] && [ "$TRIED" -gt 0 ]
}

clean() {
    local pid
    for pid in "${PIDS[@]}"; do
        # Each is the leader of a session of its own: `go run` and `flask` have children.
        kill -TERM -- "-$pid" 2>/dev/null || true
    done
    wait
    rm -rf "$WORK"
}

# start NAME COMMAND...: runs it in the background; its output goes to a file.
start() {
    local name=$1
    shift
    setsid "$@" >"$WORK/$name.log" 2>&1 </dev/null &
    PIDS+=($!)
}

# chain NAME VERSIONS PATHS COMMAND...: starts an example, and checks what it forwards.
chain() {
    local name=$1 versions=$2 paths=$3 forwarded
    shift 3
    TRIED=$((TRIED + 1))
    start "$name" "$@"
    # shellcheck disable=SC2086 # the paths are words
    if forwarded=$("$PYTHON" "$EXAMPLES/check.py" "http://127.0.0.1:$PORT" $paths 2>&1); then
        good "$name ($versions) forwards $forwarded"
    else
        FAILED=$((FAILED + 1))
        detail "$name ($versions): $forwarded"
        tail -n 20 "$WORK/$name.log" >&2
    fi
}

skip() {
    SKIPPED=$((SKIPPED + 1))
    detail "skipped $1: $2"
}

# modules NAME MODULE...: whether Python has the modules; says so where not.
modules() {
    local name=$1 module
    shift
    for module in "$@"; do
        "$PYTHON" -c "import $module" 2>/dev/null || { skip "$name" "$PYTHON has no module $module" && return 1; }
    done
}

# version DISTRIBUTION...: the installed versions.
version() {
    "$PYTHON" -c 'import sys, importlib.metadata as m; print(", ".join(f"{n} {m.version(n)}" for n in sys.argv[1:]))' "$@"
}

flask_app() {
    printf '%s\n' "$PYTHON" -m flask --app "$EXAMPLES/python/$1.py" run --port "$PORT"
}

try_python() {
    modules python flask requests || return 0
    local command
    mapfile -t command < <(flask_app by_hand)
    chain python "$(version flask requests)" "/ /pool" "${command[@]}"
}

try_python-asgi() {
    modules python-asgi fastapi httpx uvicorn || return 0
    # No context of a request is another one's, whichever worker of uvicorn serves it.
    chain python-asgi "$(version fastapi httpx uvicorn)" "/ /thread" "$PYTHON" -m uvicorn \
        --app-dir "$EXAMPLES/python" --host 127.0.0.1 --port "$PORT" asgi:app
}

try_python-propagate() {
    modules python-propagate flask requests opentelemetry.propagate || return 0
    local command
    mapfile -t command < <(flask_app propagate)
    chain python-propagate "$(version flask requests opentelemetry-api)" "" "${command[@]}"
}

try_python-automatic() {
    modules python-automatic flask requests httpx opentelemetry.instrumentation.{flask,requests,httpx,threading} ||
        return 0
    local versions
    versions=$(version flask requests httpx opentelemetry-sdk opentelemetry-instrumentation-flask)
    # -m: the program opentelemetry-instrument lies elsewhere in each installation.
    chain python-automatic "$versions" "/ /httpx /pool" env PATH="$(dirname "$PYTHON"):$PATH" \
        OTEL_TRACES_EXPORTER=none OTEL_METRICS_EXPORTER=none OTEL_LOGS_EXPORTER=none \
        opentelemetry-instrument flask --app "$EXAMPLES/python/automatic.py" run --port "$PORT"
}

try_node() {
    have node || { skip node "node is not installed" && return; }
    local node_path=${NODE_PATH:-/usr/share/nodejs} express
    express=$(NODE_PATH=$node_path node -p 'require("express/package.json").version' 2>/dev/null) ||
        { skip node "express is not installed" && return; }
    chain node "Node $(node --version), Express $express" "" env NODE_PATH="$node_path" node "$EXAMPLES/node/by_hand.js"
}

java_version() {
    java --version | head -n 1
}

try_java() {
    have javac || { skip java "no JDK is installed" && return; }
    chain java "$(java_version)" "/ /pool" java "$EXAMPLES/java/ByHand.java"
}

try_java-spring() {
    local jar classpath=""
    have javac || { skip java-spring "no JDK is installed" && return; }
    for jar in spring3-web spring3-core spring3-beans commons-logging; do
        [ -e "$JARS/$jar.jar" ] || { skip java-spring "$JARS/$jar.jar does not exist" && return; }
        classpath+=$JARS/$jar.jar:
    done
    # Debian's jars are called spring3, whatever their version.
    chain java-spring "Spring $(dpkg-query --show --showformat='${source:Upstream-Version}' libspring-web-java)" "" \
        java -cp "$classpath" "$EXAMPLES/java/Spring.java"
}

try_go() {
    have go || { skip go "go is not installed" && return; }
    chain go "$(go env GOVERSION)" "" env GO111MODULE=off GOCACHE="$WORK/go" go run "$EXAMPLES/go/by_hand/main.go"
}

try_go-propagate() {
    have go || { skip go-propagate "go is not installed" && return; }
    [ -d "$GO_SOURCES/src/go.opentelemetry.io/otel/propagation" ] ||
        { skip go-propagate "golang-opentelemetry-otel-dev is not installed" && return; }
    chain go-propagate "$(go env GOVERSION)" "" env GO111MODULE=off GOPATH="$GO_SOURCES" GOCACHE="$WORK/go" \
        go run "$EXAMPLES/go/propagate/main.go"
}

try_nginx() {
    local nginx
    nginx=$(PATH=$PATH:/usr/sbin command -v nginx) || { skip nginx "nginx is not installed" && return; }
    mkdir "$WORK/nginx"
    sed "s|@PORT@|$PORT|; s|@NEXT@|$NEXT|" "$EXAMPLES/nginx/nginx.conf" >"$WORK/nginx/nginx.conf"
    chain nginx "$("$nginx" -v 2>&1)" "/ /cached/" "$nginx" -g "master_process off;" \
        -p "$WORK/nginx" -c "$WORK/nginx/nginx.conf"
}

try_php() {
    have php || { skip php "php is not installed" && return; }
    php -r 'exit(extension_loaded("curl") ? 0 : 1);' || { skip php "php has no curl" && return; }
    chain php "PHP $(php -r 'echo PHP_VERSION;')" "" php -S "127.0.0.1:$PORT" "$EXAMPLES/php/by_hand.php"
}

main "$@"
