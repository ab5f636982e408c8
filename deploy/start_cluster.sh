#!/usr/bin/env bash
# Start a Dask cluster for popclust with TLS: a scheduler here and workers here or, over ssh, elsewhere.
#
#   deploy/start_cluster.sh FOLDER [N_WORKERS] [HOST]
#
# FOLDER gets the certificates (made once, readable by you alone), the settings file dask.yaml and the logs. Copy
# FOLDER/tls and FOLDER/dask.yaml to other machines and start workers there with the last command of this script.
# Clients, popclust among them, find everything with DASK_CONFIG=FOLDER. Ctrl-C ends scheduler and workers.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
n_workers=${2:-$(nproc)}
host=${3:-127.0.0.1}
port=${POPCLUST_SCHEDULER_PORT:-8786}

umask 077
mkdir -p "$folder/tls"
if [[ ! -f $folder/tls/node.pem ]]; then
  openssl req -x509 -newkey rsa:3072 -nodes -days 365 -subj /CN=popclust-ca \
    -keyout "$folder/tls/ca-key.pem" -out "$folder/tls/ca.pem" 2>/dev/null
  openssl req -newkey rsa:3072 -nodes -subj /CN=popclust \
    -keyout "$folder/tls/key.pem" -out "$folder/tls/node.csr" 2>/dev/null
  openssl x509 -req -days 365 -in "$folder/tls/node.csr" -CA "$folder/tls/ca.pem" -CAkey "$folder/tls/ca-key.pem" \
    -CAcreateserial -out "$folder/tls/node.pem" 2>/dev/null
fi
cat >"$folder/dask.yaml" <<YAML
scheduler-address: tls://$host:$port
distributed:
  comm:
    require-encryption: true
    tls:
      ca-file: $folder/tls/ca.pem
      scheduler: {cert: $folder/tls/node.pem, key: $folder/tls/key.pem}
      worker: {cert: $folder/tls/node.pem, key: $folder/tls/key.pem}
      client: {cert: $folder/tls/node.pem, key: $folder/tls/key.pem}
  worker:
    daemon: false  # a worker owns a child process for elastix
  nanny:
    pre-spawn-environ:  # Dask makes the parallelism, libraries must not make their own on top
      OMP_NUM_THREADS: 1
      MKL_NUM_THREADS: 1
      OPENBLAS_NUM_THREADS: 1
      ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS: 1
      NUMBA_NUM_THREADS: 1
      MALLOC_TRIM_THRESHOLD_: 65536
YAML
export DASK_CONFIG=$folder

# The dashboard is plain HTTP even under TLS, so it stays on loopback; look at it through an ssh tunnel.
dask scheduler --host "$host" --port "$port" --protocol tls --dashboard-address 127.0.0.1:0 >"$folder/scheduler.log" 2>&1 &
scheduler=$!
trap 'kill $scheduler ${workers:-} 2>/dev/null; wait' EXIT
dask worker "tls://$host:$port" --host "$host" --nworkers "$n_workers" --nthreads 1 --no-dashboard \
  --local-directory "$folder/scratch" >"$folder/workers.log" 2>&1 &
workers=$!
echo "scheduler tls://$host:$port, $n_workers workers; in another shell:"
echo "  DASK_CONFIG=$folder popclust run STUDY"
wait $scheduler
