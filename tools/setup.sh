#!/usr/bin/env bash
# Brings what kaa needs from Debian and PyPI, and says what it cannot bring.
#
#   tools/setup.sh            what a cluster needs
#   tools/setup.sh tests      what the tests need as well
#
# Running it again is quick: what is there is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH="$PATH:/usr/sbin:/sbin"

# command:package
needed=(conmon:conmon nft:nftables conntrack:conntrack)
# either OCI runtime will do; crun is the faster one
if [ "${1:-}" = tests ] || [ "$(id -u)" = 0 ] || ! command -v runc >/dev/null; then needed+=(crun:crun); fi
if [ "${1:-}" = tests ]; then
  needed+=(ip:iproute2 dig:dnsutils docker-registry:docker-registry skopeo:skopeo containerd:containerd)
  needed+=(runc:runc dbus-daemon:dbus-daemon losetup:mount mkfs.ext4:e2fsprogs)
fi

missing=()
for entry in "${needed[@]}"; do
  command -v "${entry%%:*}" >/dev/null || missing+=("${entry##*:}")
done
if [ "${1:-}" = tests ] && ! [ -x /usr/lib/cni/bridge ]; then missing+=(containernetworking-plugins); fi
# busybox must be the static one: the sample's image holds nothing else
if ! [ -x /bin/busybox ] || ldd /bin/busybox >/dev/null 2>&1; then missing+=(busybox-static); fi
[ "${1:-}" = tests ] && ! command -v kubectl >/dev/null && missing+=(kubernetes-client)
[ "${1:-}" = tests ] && ! command -v npm >/dev/null && missing+=(nodejs npm)
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)

if ((${#missing[@]})); then
  if [ "$(id -u)" != 0 ]; then
    echo "missing: ${missing[*]}. Ask an administrator for: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  echo "installing from Debian: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

ready=.venv/.ready
if ! [ -e "$ready" ] || [ pyproject.toml -nt "$ready" ]; then
  echo "installing from PyPI into .venv"
  python3 -m venv .venv
  .venv/bin/pip install --quiet --disable-pip-version-check -e '.[dev,openapi]'
  touch "$ready"
fi

# the suites of other projects, which the tests run against a cluster: quick when they are there
if [ "${1:-}" = tests ]; then .venv/bin/python tests/suites_lab.py >/dev/null; fi
