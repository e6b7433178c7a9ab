#!/usr/bin/env bash
# A Slurm of this one machine, for tests: `slurm.sh start FOLDER`, then squeue, sbatch and so on, then `slurm.sh stop FOLDER`.
# Needs root, Debian's slurmctld, slurmd, slurm-client and munge, and no Slurm that is there already.
set -euo pipefail
action=$1 folder=$(realpath -m "$2")
conf=/etc/slurm/slurm.conf  # where a job looks, whatever its environment was stripped of

stop() {
    if grep -qs "^StateSaveLocation=$folder/" "$conf"; then rm "$conf"; fi
    for file in "$folder/slurmctld.pid" "$folder/slurmd.pid" "$folder/munged.pid"; do
        if [ -s "$file" ]; then kill "$(cat "$file")" 2>/dev/null || true; fi
    done
    for _ in $(seq 100); do
        if ! pgrep -F "$folder/slurmctld.pid" >/dev/null 2>&1; then break; fi
        sleep 0.1
    done
}

start() {
    if [ -e "$conf" ]; then
        echo "$conf is there: not ours" >&2
        exit 1
    fi
    mkdir -p "$folder/state" "$folder/spool"
    if ! munge -n >/dev/null 2>&1; then  # else there is one, which stays
        install -d -o munge -g munge -m 0755 /run/munge  # only its owner may write there: no place in a test's folder would do
        runuser -u munge -- /usr/sbin/munged
        cp /run/munge/munged.pid "$folder/munged.pid"
    fi
    cat >"$conf" <<END
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
    slurmctld
    slurmd
    for _ in $(seq 300); do
        if [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ]; then return; fi
        sleep 0.1
    done
    tail -n 20 "$folder"/slurm*.log >&2
    exit 1
}

"$action"
