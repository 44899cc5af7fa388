#!/usr/bin/env bash
# Installs the Debian packages that the tests drive: Prometheus and its promtool, PostgreSQL, Chromium and a font for it,
# curl, gRPC's C++ and Go libraries with what compiles a client of each, and python3-venv for `make` itself. `make test`
# and `.ci/run` call it; what is there already is left alone.
# Where it is not root, or there is no apt-get or no network, the tests that need them are left out by name. With CI=true
# that is a failure.
set -euo pipefail

missing=()
command -v promtool >/dev/null || missing+=(prometheus)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
  missing+=(chromium)
compgen -G '/usr/share/fonts/truetype/*/*.ttf' >/dev/null || missing+=(fonts-dejavu-core)
command -v curl >/dev/null || missing+=(curl)
command -v g++ >/dev/null || missing+=(g++)
command -v pkg-config >/dev/null || missing+=(pkg-config)
command -v protoc >/dev/null || missing+=(protobuf-compiler)
command -v grpc_cpp_plugin >/dev/null || missing+=(protobuf-compiler-grpc)
compgen -G '/usr/include/grpcpp/grpcpp.h' >/dev/null || missing+=(libgrpc++-dev libprotobuf-dev)
command -v go >/dev/null || missing+=(golang-go)
compgen -G '/usr/share/gocode/src/google.golang.org/grpc/server.go' >/dev/null ||
  missing+=(golang-google-grpc-dev golang-github-golang-protobuf-1-5-dev)
command -v protoc-gen-go >/dev/null || missing+=(protoc-gen-go)
command -v protoc-gen-go-grpc >/dev/null || missing+=(protoc-gen-go-grpc)
"${PYTHON:-python3}" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
[ ${#missing[@]} -gt 0 ] || exit 0

left_out() {
  echo "$1: ${missing[*]} not installed; tests that need them are left out" >&2
  case "${CI:-}" in '' | 0 | false | no) exit 0 ;; *) exit 1 ;; esac
}

command -v apt-get >/dev/null || left_out 'no apt-get here'
[ "$(id -u)" -eq 0 ] || left_out 'not root'
# The packages' own services are not wanted: the tests start what they need, on ports of their own.
if [ ! -e /usr/sbin/policy-rc.d ]; then
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}" || left_out 'apt-get failed'
