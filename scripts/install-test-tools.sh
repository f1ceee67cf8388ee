#!/usr/bin/env bash
# Install what some tests use and are skipped without, unless it is there: Debian's Chromium, which looks at the report
# page, and nginx and ip, with which clients on other machines are tried in network namespaces.
set -euo pipefail

packages=()
command -v chromium >/dev/null || packages+=(chromium fonts-liberation)
PATH=$PATH:/usr/sbin command -v nginx >/dev/null || packages+=(nginx-light)
PATH=$PATH:/usr/sbin command -v ip >/dev/null || packages+=(iproute2)
[ ${#packages[@]} -gt 0 ] || exit 0

as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
export DEBIAN_FRONTEND=noninteractive
# Debian would start nginx at once, on port 80.
if ! { $as_root apt-get update -qq &&
  $as_root env RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${packages[@]}"; }; then
  echo "error: apt-get could not install ${packages[*]}: install them by hand" >&2
  exit 2
fi
