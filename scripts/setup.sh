#!/usr/bin/env bash
# Make .venv with the pinned packages. Debian and Ubuntu ship Python without venv: it is installed where that is allowed.
set -euo pipefail
cd "$(dirname "$0")/.."

for candidate in python3.11 python3.12 python3.13 python3; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
    python=$candidate
    break
  fi
done
if [ -z "${python:-}" ]; then
  echo "error: Python 3.11, 3.12 or 3.13 is needed; found $(python3 --version 2>&1 || echo none)" >&2
  exit 2
fi

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  as_root=
  [ "$(id -u)" = 0 ] || as_root=sudo
  if ! { $as_root apt-get update -qq && $as_root apt-get install -y -qq "python$version-venv"; }; then
    echo "error: $python has no venv module and it could not be installed: install python$version-venv" >&2
    exit 2
  fi
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
