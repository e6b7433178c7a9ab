#!/usr/bin/env bash
# A Slurm of this one machine, for tests: `slurm.sh start FOLDER`, then SLURM_CONF=FOLDER/slurm.conf squeue ..., then `slurm.sh stop FOLDER`.
# Needs root, and Debian's slurmctld, slurmd, slurm-client and munge.
set -euo pipefail
action=$1 folder=$(realpath -m "$2")
export SLURM_CONF="$folder/slurm.conf"

stop() {
    for file in "$folder/slurmctld.pid" "$folder/slurmd.pid" "$folder/munged.pid"; do
        if [ -s "$file" ]; then kill "$(cat "$file")" 2>/dev/null || true; fi
    done
    for _ in $(seq 100); do
        if ! pgrep -F "$folder/slurmctld.pid" >/dev/null 2>&1; then break; fi
        sleep 0.1
    done
}

start() {
    mkdir -p "$folder/state" "$folder/spool"
    if ! munge -n >/dev/null 2>&1; then  # else there is one, which stays
        install -d -o munge -g munge -m 0755 /run/munge  # only its owner may write there: no place in a test's folder would do
        runuser -u munge -- /usr/sbin/munged
        cp /run/munge/munged.pid "$folder/munged.pid"
    fi
    cat >"$SLURM_CONF" <<END
ClusterName=onehost
SlurmctldHost=$(hostname -s)(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=60
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(free -m | awk '/^Mem:/ {print $2 - 1000}') State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF"
    for _ in $(seq 300); do
        if [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ]; then return; fi
        sleep 0.1
    done
    tail -n 20 "$folder"/slurm*.log >&2
    exit 1
}

"$action"
