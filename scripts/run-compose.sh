#!/usr/bin/env bash
# Bring the containers up, follow the job, and end with its exit code. A client that dies does not end the others.
#   run-compose.sh --config FILE key=value ...      (see python -m deployment --help)
set -euo pipefail
cd "$(dirname "$0")/.."
export FEDHAR_JOB="$*"

trap 'docker compose down --volumes' EXIT
docker compose up --detach || true # a job that ends early leaves clients that wait for it: its own code counts
docker compose logs --follow --no-log-prefix job
code=$(docker compose ps --all --format '{{.ExitCode}}' job)
[ "$code" = 0 ] || docker compose logs --no-color --tail 20 superlink server
exit "$code"
