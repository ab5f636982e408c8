#!/usr/bin/env bash
# Make the certificates of a Dask cluster and the Dask settings that use them: one command, one folder.
#
#   deploy/make_tls.sh FOLDER [DAYS]
#
# FOLDER/tls/ gets ca.pem, node.pem and key.pem, FOLDER/dask.yaml the settings; readable by you alone. The key of the
# authority that signs never reaches a disk that a worker sees: it lives in memory (/dev/shm, else a private temporary
# folder) and is gone when this ends, so nobody can make a second certificate. For new certificates remove FOLDER/tls.
# Copy FOLDER to every machine under the same path; whoever holds key.pem can run code on the cluster.
set -euo pipefail
umask 077
folder=$(mkdir -p "$1" && cd "$1" && pwd)
days=${2:-365}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [[ ! -f $folder/tls/node.pem ]]; then
  aside=$(mktemp -d -p "$([[ -w /dev/shm ]] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
  trap 'rm -rf "$aside"' EXIT
  openssl req -x509 -newkey rsa:3072 -nodes -days "$days" -subj /CN=popclust-ca \
    -keyout "$aside/ca-key.pem" -out "$aside/ca.pem" 2>/dev/null
  openssl req -newkey rsa:3072 -nodes -subj /CN=popclust -keyout "$aside/key.pem" -out "$aside/node.csr" 2>/dev/null
  openssl x509 -req -days "$days" -in "$aside/node.csr" -CA "$aside/ca.pem" -CAkey "$aside/ca-key.pem" \
    -set_serial "0x$(openssl rand -hex 16)" -out "$aside/node.pem" 2>/dev/null
  mkdir -p "$folder/tls"
  cp "$aside/ca.pem" "$aside/key.pem" "$folder/tls/"
  cp "$aside/node.pem" "$folder/tls/" # last: its presence says that the set is whole
fi
sed "s|@FOLDER@|$folder|g" "$here/dask.yaml" >"$folder/dask.yaml"
