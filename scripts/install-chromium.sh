#!/usr/bin/env bash
# Install Debian's Chromium, which the tests of the report page look at it with, unless a chromium is there.
set -euo pipefail

if command -v chromium >/dev/null; then
  exit 0
fi
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
export DEBIAN_FRONTEND=noninteractive
if ! { $as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends chromium fonts-liberation; }; then
  echo "error: chromium could not be installed with apt-get: install it by hand, so that 'chromium' is on the PATH" >&2
  exit 2
fi
