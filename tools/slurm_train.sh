#!/usr/bin/env bash
# Train under Slurm: tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS size the job; SBATCH_ARGS adds to it, such as --time=24:00:00.
# Submits a batch job. SIGNAL_SECONDS (300) before its time limit, Slurm signals the training. It then writes a checkpoint
# and ends with exit code 75, and the job goes back to the queue and continues. Inside a job, this runs the training itself.
set -euo pipefail
if [ $# -lt 4 ]; then echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]" >&2; exit 2; fi
partition=$1 job_name=$2 config=$3 work_dir=$4
gpus=${GPUS:-8} gpus_per_node=${GPUS_PER_NODE:-8}
tools=${MMTWINS_TOOLS:-$(cd "$(dirname "$0")" && pwd)} # Slurm runs a copy of this file from elsewhere
size=(--partition="$partition" --job-name="$job_name" --gres="gpu:$gpus_per_node" --ntasks="$gpus"
    --ntasks-per-node="$gpus_per_node" --cpus-per-task="${CPUS_PER_TASK:-5}")

if [ -z "${SLURM_JOB_ID:-}" ] && command -v sbatch >/dev/null; then
    mkdir -p "$work_dir"
    # shellcheck disable=SC2086  # SBATCH_ARGS holds several arguments
    MMTWINS_TOOLS=$tools exec sbatch "${size[@]}" --requeue --open-mode=append --output="$work_dir/slurm-%j.out" \
        --signal="USR1@${SIGNAL_SECONDS:-300}" ${SBATCH_ARGS:-} "$tools/slurm_train.sh" "$@"
fi

resume=()
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then resume=(--resume); fi # last, so that it replaces a checkpoint named above
code=0
# shellcheck disable=SC2086  # SRUN_ARGS holds several arguments
srun "${size[@]}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$tools/train.py" "$config" --work-dir "$work_dir" --launcher slurm "${@:5}" ${resume[@]+"${resume[@]}"} || code=$?
if [ "$code" -eq 75 ] && [ -n "${SLURM_JOB_ID:-}" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
