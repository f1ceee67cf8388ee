#!/usr/bin/env bash
# Install what some tests use and are skipped without, unless it is there: Debian's Chromium, which looks at the report
# page, and nginx and ip, with which clients on other machines are tried in network namespaces.
set -euo pipefail
PATH=$PATH:/usr/sbin

packages=()
command -v nginx >/dev/null || packages+=(nginx-light)
command -v ip >/dev/null || packages+=(iproute2)
command -v chromium >/dev/null || packages+=(chromium fonts-liberation)
[ ${#packages[@]} -gt 0 ] || exit 0

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
# Debian starts what it installs, and nginx would be a web server on port 80: this policy forbids it.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'as_root rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
  as_root chmod 755 "$policy"
fi
if ! { as_root apt-get update -qq &&
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"; }; then
  echo "error: apt-get could not install ${packages[*]}: install them by hand" >&2
  exit 2
fi
if [[ ${packages[*]} == *nginx* ]] && command -v systemctl >/dev/null; then
  as_root systemctl disable --quiet nginx || true # not at the next start either
fi
