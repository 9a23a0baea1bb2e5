#!/usr/bin/env bash
# Test on several GPUs of one or more machines, or in several processes without GPUs:
# tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]
# For several machines, NNODES, NODE_RANK, MASTER_ADDR and PORT describe them. On one, any free port is taken.
set -euo pipefail
if [ $# -lt 3 ] || ! [ "$3" -gt 0 ] 2>/dev/null; then echo "usage: $0 CONFIG CHECKPOINT GPUS [arguments of test.py]" >&2; exit 2; fi
config=$1 checkpoint=$2 gpus=$3
machines=(--standalone)
if [ "${NNODES:-1}" != 1 ] || [ -n "${PORT:-}" ]; then
    machines=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}"
        --master_port="${PORT:-29500}")
fi
exec torchrun "${machines[@]}" --nproc_per_node="$gpus" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
