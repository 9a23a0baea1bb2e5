#!/usr/bin/env bash
# Train on several GPUs of one or more machines, or in several processes without GPUs:
# tools/dist_train.sh CONFIG GPUS [arguments of train.py]
# For several machines, NNODES, NODE_RANK, MASTER_ADDR and PORT describe them. On one, any free port is taken.
set -euo pipefail
if [ $# -lt 2 ] || ! [ "$2" -gt 0 ] 2>/dev/null; then echo "usage: $0 CONFIG GPUS [arguments of train.py]" >&2; exit 2; fi
config=$1 gpus=$2
machines=(--standalone)
if [ "${NNODES:-1}" != 1 ] || [ -n "${PORT:-}" ]; then
    machines=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}"
        --master_port="${PORT:-29500}")
fi
# SIGUSR1, which batch systems send ahead of a time limit, would end torchrun alone. An older PyTorch does not know this setting.
export PET_SIGNALS_TO_HANDLE=${PET_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1}
exec torchrun "${machines[@]}" --nproc_per_node="$gpus" "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}"
