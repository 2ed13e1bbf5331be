#!/usr/bin/env bash
# Builds the images of Mayfly and of its demo; needs nothing but Docker.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Both set by the arguments.
PROFILE=release
ACCOUNT=$(account)
OS_IMAGE=debian:trixie-slim
SUITE=trixie
STAGING=$ROOT/target/docker
PROGRAM_OF_HOST=$ROOT/target/build/mayfly
# Downloaded crates and compiled code: a pair for each checkout, since a build runs code of its
# checkout with access to both. So another branch leaves nothing that a later build uses.
CHECKOUT=$(printf %s "$ROOT" | sha256sum | cut -c 1-12)
CARGO_VOLUME=mayfly-build-cargo-$CHECKOUT
TARGET_VOLUME=mayfly-build-target-$CHECKOUT
DAEMONS=(environment-registrar container-registrar container-launcher haproxy-updater dns-updater mayfly-web)
# The operator's tool; it is put into the image of the environment-registrar, and into target/ for
# this host.
TOOL=mayfly
# What every image of Mayfly is tagged with, beside `latest`. `mayfly init` names this tag.
VERSION=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$ROOT/Cargo.toml" | head -n 1)
DEMO_SERVICES=(frontend backend)
# frontend 0.0.3-rc.1 (a pre-release, so that `latest` does not take it) and backend 0.0.3 run
# nowhere until an environment asks for them.
DEMO_IMAGES=(frontend:0.0.1 frontend:0.0.2 frontend:0.0.3-rc.1 backend:0.0.1 backend:0.0.2 backend:0.0.3)

usage() {
    cat <<TEXT
usage: scripts/build.sh [--quick] [--clean]

Builds the images of Mayfly and of its demo and tags them \$DOCKER_ACCOUNT_NAME/<name>
($ACCOUNT/<name> now). The images of Mayfly also get the tag $VERSION. Only Docker is needed: the
programs are compiled in a container. The program mayfly is left in target/build/mayfly, for
\`mayfly init\` on this host, if the host's C library is as new as that of Debian's $SUITE.

  --quick   compiles without optimisation, in a third of the time: for the demo and for tests.
            Tags the images $(quick_account)/<name>, and leaves target/build/mayfly as it is
  --clean   first removes the build cache of this checkout (the volumes $CARGO_VOLUME, $TARGET_VOLUME)
  --help    prints this text

The base image $OS_IMAGE comes from the local engine; if it is not there, it is pulled, or made with debootstrap.
The build gets the host's CA bundle and proxy variables, so it works behind a proxy that inspects TLS.
SSL_CERT_FILE names the bundle if it is not in one of the usual places.

environment: DOCKER_ACCOUNT_NAME (default: mayfly), SSL_CERT_FILE, http_proxy, https_proxy,
no_proxy
TEXT
}

main() {
    local clean=no
    while [ $# -gt 0 ]; do
        case $1 in
        --clean) clean=yes ;;
        --quick)
            PROFILE=quick
            ACCOUNT=$(quick_account)
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) usage_error "unknown argument '$1'" ;;
        esac
        shift
    done
    [[ $ACCOUNT =~ ^[a-z0-9][a-z0-9._/:-]*$ ]] || usage_error "DOCKER_ACCOUNT_NAME='$ACCOUNT' cannot begin an image's name"

    SECONDS=0
    ensure_docker
    if [ $clean = yes ]; then
        say "removing the build cache"
        "${DOCKER[@]}" volume rm --force "$CARGO_VOLUME" "$TARGET_VOLUME" >&2
    fi
    mkdir -p "$STAGING"
    ensure_os_image
    compile
    build_images
    say "all images are built, in $SECONDS s: ${DOCKER[*]} image ls '$ACCOUNT/*'"
    [ $PROFILE = quick ] || check_program_of_host
}

# The program is compiled against the C library of the images, which an older host does not have.
check_program_of_host() {
    local built=$STAGING/environment-registrar/$TOOL
    if "$built" --version >/dev/null 2>&1; then
        mkdir -p "${PROGRAM_OF_HOST%/*}"
        install -m 755 "$built" "$PROGRAM_OF_HOST"
        detail "the program mayfly for this host: ${PROGRAM_OF_HOST#"$PWD/"}"
        return
    fi
    # One that was built on this host stays.
    detail "the program mayfly does not run on this host, whose C library is older than that of $SUITE;"
    detail "mayfly init needs it: cargo build --release --package mayfly &&" \
        "install -D target/release/mayfly target/build/mayfly"
}

# The image that all others stand on: local, else pulled, else made of Debian's own packages.
ensure_os_image() {
    if "${DOCKER[@]}" image inspect "$OS_IMAGE" >/dev/null 2>&1; then
        return
    fi
    say "base image $OS_IMAGE: pulling"
    if timeout 300 "${DOCKER[@]}" pull --quiet "$OS_IMAGE" >"$STAGING/pull.log" 2>&1; then
        return
    fi
    detail "it cannot be pulled ($(tail -n 1 "$STAGING/pull.log"))"
    install_missing debootstrap
    say "base image $OS_IMAGE: making it with debootstrap (less than a minute)"
    WORK=$(mktemp -d /var/tmp/mayfly-os.XXXXXX)
    trap 'as_root rm -rf "$WORK"' EXIT
    if ! as_root debootstrap --variant=minbase "$SUITE" "$WORK/root" >"$STAGING/debootstrap.log" 2>&1; then
        tail -n 15 "$STAGING/debootstrap.log" >&2
        die "debootstrap failed; its log: $STAGING/debootstrap.log"
    fi
    # What makes the image slim: no packages' archives and lists, no documentation, no translations.
    as_root tar --directory "$WORK/root" --create \
        --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./var/log/*.log' \
        --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' . |
        "${DOCKER[@]}" import --change 'CMD ["bash"]' - "$OS_IMAGE" >/dev/null
    as_root rm -rf "$WORK"
    trap - EXIT
}

# build TAG DIRECTORY [--build-arg NAME=VALUE]...: builds docker/DIRECTORY; what is staged for it is
# the context.
build() {
    local tag=$1 directory=$2 log
    shift 2
    log=$STAGING/$directory.log
    mkdir -p "$STAGING/$directory"
    if ! "${DOCKER[@]}" build --tag "$tag" --file "$ROOT/docker/$directory/Dockerfile" "${PROXY_BUILD[@]}" "$@" \
        "$STAGING/$directory" >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        die "building the image $tag failed; its log: $log"
    fi
}

# Sets CA_BUNDLE to the file of the certificates that this host trusts; empty if it has none.
find_ca_bundle() {
    local file
    CA_BUNDLE=
    for file in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt \
        /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem; do
        if [ -n "$file" ] && [ -s "$file" ]; then
            CA_BUNDLE=$(readlink -f "$file")
            return
        fi
    done
}

# Compiles all programs in the builder and puts each where its image is built from.
compile() {
    local ca=() program programs=("${DAEMONS[@]}" "$TOOL" "${DEMO_SERVICES[@]}") packages=()
    say "builder: the image with Debian's Rust"
    build "$ACCOUNT/builder" builder

    find_ca_bundle
    if [ -n "$CA_BUNDLE" ]; then
        # A path of its own: mounted over the container's own bundle, it would break the
        # ca-certificates package.
        ca=(--volume "$CA_BUNDLE:/run/host-ca.crt:ro"
            --env SSL_CERT_FILE=/run/host-ca.crt --env CARGO_HTTP_CAINFO=/run/host-ca.crt)
    fi
    for program in "${DAEMONS[@]}" "$TOOL"; do
        packages+=(--package "$program")
    done
    packages+=(--package mayfly-demo-services)

    say "compiling ${programs[*]} (the first time takes minutes)"
    # The programs come back through the pipe: so they belong to this user, and no directory is
    # mounted writable.
    # shellcheck disable=SC2016 # the inner shell expands these
    if ! "${DOCKER[@]}" run --rm --init "${ca[@]}" "${PROXY_RUN[@]}" \
        --volume "$ROOT:/source:ro" --workdir /source \
        --volume "$CARGO_VOLUME:/cargo" --volume "$TARGET_VOLUME:/target" \
        "$ACCOUNT/builder" sh -euc '
            profile=$1 packages=$2; shift 2
            # shellcheck disable=SC2086
            cargo build --profile "$profile" --locked --bins $packages >&2
            tar --directory "/target/$profile" --create "$@"' \
        sh $PROFILE "${packages[*]}" "${programs[@]}" >"$STAGING/programs.tar" </dev/null; then
        die "compiling failed: see cargo's message above"
    fi
    for program in "${programs[@]}"; do
        mkdir -p "$STAGING/$program"
        tar --directory "$STAGING/$program" --extract --touch --file "$STAGING/programs.tar" "$program"
    done
    rm -f "$STAGING/programs.tar"
    mv -f "$STAGING/$TOOL/$TOOL" "$STAGING/environment-registrar/"
    mkdir -p "$STAGING/demo"
    for program in "${DEMO_SERVICES[@]}"; do
        mv -f "$STAGING/$program/$program" "$STAGING/demo/"
    done
}

build_images() {
    local name base=$ACCOUNT/base
    say "image $base: what all images share"
    build "$base" base

    for name in etcd haproxy dnsmasq "${DAEMONS[@]}"; do
        say "image $ACCOUNT/$name"
        case $name in
        etcd)
            # As they lie in a checkout, since the one sources the other.
            mkdir -p "$STAGING/etcd/deploy" "$STAGING/etcd/scripts"
            install -m 755 "$ROOT/deploy/etcd-roles.sh" "$STAGING/etcd/deploy/"
            install -m 644 "$ROOT/scripts/lib.sh" "$STAGING/etcd/scripts/"
            build "$ACCOUNT/$name" "$name" --build-arg "BASE=$base"
            ;;
        haproxy)
            mkdir -p "$STAGING/haproxy"
            install -m 755 "$ROOT/docker/haproxy/entrypoint.sh" "$STAGING/haproxy/"
            build "$ACCOUNT/$name" "$name" --build-arg "BASE=$base"
            ;;
        haproxy-updater) build "$ACCOUNT/$name" "$name" --build-arg "BASE=$ACCOUNT/haproxy" ;;
        *) build "$ACCOUNT/$name" "$name" --build-arg "BASE=$base" ;;
        esac
        "${DOCKER[@]}" tag "$ACCOUNT/$name" "$ACCOUNT/$name:$VERSION"
    done
    for name in "${DEMO_IMAGES[@]}"; do
        say "image $ACCOUNT/$name"
        build "$ACCOUNT/$name" demo --build-arg "BASE=$base" \
            --build-arg "PROGRAM=${name%:*}" --build-arg "VERSION=${name#*:}"
    done
}

# Proxy settings of this host, for what downloads in a build and in the builder.
PROXY_BUILD=() PROXY_RUN=()
for variable in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    if [ -n "${!variable:-}" ]; then
        PROXY_BUILD+=(--build-arg "$variable")
        PROXY_RUN+=(--env "$variable")
    fi
done

main "$@"
