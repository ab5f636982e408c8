#!/usr/bin/env bash
# Start a Dask cluster for popclust with TLS: a scheduler here and workers here or, over ssh, elsewhere.
#
#   deploy/start_cluster.sh FOLDER [N_WORKERS] [HOST]
#
# FOLDER gets the certificates (deploy/make_tls.sh), the settings and the logs. Copy it to other machines under the same
# path and start workers there with the last command of this script. Clients, popclust among them, find everything with
# DASK_CONFIG=FOLDER. Ctrl-C ends scheduler and workers.
set -euo pipefail
"$(dirname "${BASH_SOURCE[0]}")/make_tls.sh" "$1"
folder=$(cd "$1" && pwd)
n_workers=${2:-$(nproc)}
host=${3:-127.0.0.1}
port=${POPCLUST_SCHEDULER_PORT:-8786}

umask 077
echo "scheduler-address: tls://$host:$port" >"$folder/scheduler.yaml"
export DASK_CONFIG=$folder

# Dashboards, health and metrics are plain HTTP even under TLS, so they stay on loopback, the workers' too.
dask scheduler --host "$host" --port "$port" --protocol tls \
  --dashboard-address "127.0.0.1:${POPCLUST_DASHBOARD_PORT:-0}" >"$folder/scheduler.log" 2>&1 &
scheduler=$!
trap 'kill $scheduler ${workers:-} 2>/dev/null; wait' EXIT
dask worker "tls://$host:$port" --host "$host" --nworkers "$n_workers" --nthreads 1 --dashboard-address 127.0.0.1:0 \
  --local-directory "$folder/scratch" >"$folder/workers.log" 2>&1 &
workers=$!
echo "scheduler tls://$host:$port, $n_workers workers; in another shell:"
echo "  DASK_CONFIG=$folder popclust run STUDY"
wait $scheduler
