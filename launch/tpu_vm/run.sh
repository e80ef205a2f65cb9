#!/usr/bin/env bash
# Runs a command on all hosts of a TPU slice as the processes of one run:
#
#   launch/tpu_vm/run.sh NAME ZONE python -m amt_jax.train --config=demo --config.dataset=gs://... --run=gs://...
#
# Once before, install with the same: launch/tpu_vm/run.sh NAME ZONE pip install 'amt_jax[tpu] @ git+URL'
# Ctrl-C here leaves the hosts running; this makes them save and stop:
#   launch/tpu_vm/run.sh NAME ZONE pkill -TERM -f amt_jax.train
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "error: three words at least: launch/tpu_vm/run.sh NAME ZONE COMMAND ..." >&2
  exit 2
fi
name=$1 zone=$2
shift 2

# Runs on each host, which asks the metadata server who it is. An entry of the list is a host's name, or
# NAME:NUMBER:ADDRESS; the first is process 0.
# shellcheck disable=SC2016
place='
attribute() {
  curl --silent --show-error --fail --header "Metadata-Flavor: Google" \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}
hosts=$(attribute worker-network-endpoints) && number=$(attribute agent-worker-number) || exit 2
first=${hosts%%,*}
commas=$(printf %s "$hosts" | tr -dc ,)
export JAX_COORDINATOR_ADDRESS="${first##*:}:8476" JAX_NUM_PROCESSES=$((${#commas} + 1)) JAX_PROCESS_ID=$number
'
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$place exec $(printf '%q ' "$@")"
