#!/usr/bin/env bash
# Split data sets among clients and make their credentials, below /deployment; what is there already stays.
# Runs in the container "prepare", as root, so that private files can be handed to the user of the other containers.
#   prepare-deployment.sh NAME...
set -euo pipefail

people=/deployment/people credentials=/deployment/credentials
[ -e "$people" ] || python -m shared.data split "$@" --out "$people"
mapfile -t files < <(find "$people" -name "person_*.npz")
[ -e "$credentials" ] || scripts/make-credentials.sh "$credentials" --nodes "${#files[@]}"

private=("${files[@]}" "$credentials"/{server.key,superexec.secret,node-*})
chown -R --reference=/deployment "$people" "$credentials"
chmod 400 "${private[@]}"
chown fedhar "${private[@]}"
