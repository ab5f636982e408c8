#!/usr/bin/env bash
# Put the certificates and Dask's settings into the cluster, from a folder that deploy/make_tls.sh has made.
#   deploy/kubernetes/tls.sh FOLDER [NAMESPACE]
set -euo pipefail
folder=$1
namespace=${2:-default}
kubectl -n "$namespace" create secret generic popclust-tls --dry-run=client -o yaml \
  --from-file="$folder/tls/ca.pem" --from-file="$folder/tls/node.pem" --from-file="$folder/tls/key.pem" | kubectl apply -f -
sed 's|: .*/tls/|: /etc/popclust/tls/|; s|, key: .*/tls/|, key: /etc/popclust/tls/|; s|cert: .*/tls/node|cert: /etc/popclust/tls/node|' \
  "$folder/dask.yaml" | kubectl -n "$namespace" create configmap popclust-dask --dry-run=client -o yaml \
  --from-file=dask.yaml=/dev/stdin | kubectl apply -f -
