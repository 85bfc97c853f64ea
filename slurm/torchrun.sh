#!/usr/bin/env bash
# Start `sparc3 predict` under torchrun; on several nodes, start it on every one of them.
#   slurm/torchrun.sh [--dry-run] --config FILE [--config FILE ...] [--key value ...]
#
#   NNODES=4 NPROC=8 RDZV=first-node:29500 slurm/torchrun.sh --config configs/llama3_8b/suppress.yaml \
#     --config configs/trainer/fsdp_multinode.yaml
#
# --dry-run prints the command, checks the config, and starts nothing. The run starts at the project's root, wherever the
# script was; a config is looked for where the script was started, then at the root.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

NNODES=${NNODES:-1}                # nodes: as `trainer.num_nodes`
NPROC=${NPROC:-8}                  # processes a node, one a GPU: as `trainer.devices`
RDZV=${RDZV:-localhost:29500}      # a free port of one node that the others reach; the same on all
JOB_ID=${JOB_ID:-sparc3}           # another one for another run on the same nodes
PYTHON=${PYTHON:-python}           # of the environment that this project is installed in
# SIGUSR1 reaches the processes too, and they have the time to save. (By environment: an older torch has no options for it.)
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
export TORCHELASTIC_SIGNALS_TO_HANDLE=$PET_SIGNALS_TO_HANDLE
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}

dry_run=
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi
if (($# == 0)); then
  echo "usage: slurm/torchrun.sh [--dry-run] --config FILE [--config FILE ...] [--key value ...]" >&2
  exit 2
fi

config_path() {
  case $1 in
    /*) echo "$1" ;;
    *) if [[ -e $1 ]]; then echo "$PWD/$1"; else echo "$root/$1"; fi ;;
  esac
}
words=()
previous=
for word in "$@"; do
  case $previous in --config | -c) word=$(config_path "$word") ;; esac
  case $word in --config=*) word=--config=$(config_path "${word#--config=}") ;; esac
  words+=("$word")
  previous=$word
done
set -- "${words[@]}"

run=(-m sparc3_lightning predict "$@" --trainer.num_nodes "$NNODES" --trainer.devices "$NPROC")
launch=("$PYTHON" -m torch.distributed.run --nnodes "$NNODES" --nproc-per-node "$NPROC"
  --rdzv-backend c10d --rdzv-endpoint "$RDZV" --rdzv-id "$JOB_ID" --max-restarts 0)

if [[ -n $dry_run ]]; then
  # The whole config as the run would read it, its errors those of the run; what it needs is told on stderr.
  "$PYTHON" "${run[@]}" --print_config >/dev/null
  "$PYTHON" -m sparc3_lightning plan "$@" --num_nodes "$NNODES" --devices "$NPROC" 2>&1 | sed -E 's/^sparc3( plan)?: error: /no estimate: /' >&2 ||
    echo "The config is good, and the command below goes on without an estimate." >&2
  printf '%q ' "${launch[@]}" "${run[@]}"
  echo
  exit
fi
cd "$root"
exec "${launch[@]}" "${run[@]}"
