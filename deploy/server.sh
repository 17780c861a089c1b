#!/bin/sh
# The server in a container, with the Ray node that it needs there. The node offers nothing, and is
# started again when it ends, as it does when the head was away.
set -eu

while :; do
    ray start --block --address="$SVD_CLUSTER" --num-cpus=0 --num-gpus=0 \
        --include-log-monitor=false --object-store-memory=1000000000 || true
    sleep 1
done &
exec python app.py
