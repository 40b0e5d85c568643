#!/bin/bash
# A Slurm cluster of one node, this machine: Debian's slurm-wlm and munge, with all of its files in one folder.
#
#   tests/slurm/cluster.sh up FOLDER      installs the packages where they are missing, starts munged, slurmctld and slurmd,
#                                         runs a job, and says what to export; as root
#   tests/slurm/cluster.sh down FOLDER    ends the jobs and the three daemons; the packages stay
set -euo pipefail

folder=$(realpath -m "${2:?usage: cluster.sh up|down FOLDER}")
export SLURM_CONF=$folder/slurm.conf

up() {
    if ! type slurmctld slurmd munged srun >/dev/null 2>&1; then
        apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends slurm-wlm munge
    fi
    mkdir -p "$folder"/{state,spool}
    chmod 755 "$folder"
    [ -e "$folder/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
    # no accounting database, no cgroups: the launcher has to do without
    cat >"$SLURM_CONF" <<END
ClusterName=suny
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=2
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(awk "/MemTotal/ {print int(\$2 / 1024)}" /proc/meminfo) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    slurmctld
    slurmd
    for _ in $(seq 60); do
        [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ] && break
        sleep 0.5
    done
    srun --time=1 echo "hello from a Slurm job" || {
        tail -n 5 "$folder"/*.log >&2
        exit 1
    }
    echo "export SLURM_CONF=$SLURM_CONF"
}

down() {
    scancel --user="$(id -un)" --full 2>/dev/null || true
    for daemon in slurmd slurmctld munged; do
        if [ -e "$folder/$daemon.pid" ]; then
            kill "$(cat "$folder/$daemon.pid")" 2>/dev/null || true
        fi
    done
}

case $1 in
up) up ;;
down) down ;;
*) echo "usage: cluster.sh up|down FOLDER" >&2 && exit 2 ;;
esac
