# shellcheck shell=bash
# podman in network namespaces without a way out of this machine. An ENGINE is the folder with its containers and logs; it is
# the first argument of each function.

# shellcheck source=.ci/kubernetes/lib.sh
. .ci/kubernetes/lib.sh

# Network namespaces of this run: the pod's, and the one of PIA.
pod_namespace=pia-sync-pod-$$
# shellcheck disable=SC2034 # for pia.sh
pia_namespace=pia-sync-world-$$

# engine ENGINE ARGUMENT...: the namespace has no network, so nothing can be pulled. conmon keeps standard output and error
# while the pod lives, so neither may be a pipe.
engine() {
  nsenter --net="/run/netns/$pod_namespace" /usr/bin/podman --root "$1/root" --runroot "$1/run" --tmpdir "$1/tmp" \
    --runtime "$1/runtime" --storage-driver vfs --cgroup-manager cgroupfs --events-backend file "${@:2}" </dev/null
}
podman() { engine "$@" 2>>"$1/log"; }

# write_runtime FILE: runc without rlimits. podman sets some that this process may not exceed, and `kube play` does not read
# containers.conf.
write_runtime() {
  cat >"$1" <<'RUNTIME'
#!/bin/bash
file=
for ((i = 1; i < $#; i++)); do
  next=$((i + 1))
  case ${!i} in
  --bundle | -b) file=${!next}/config.json ;;
  --process | -p) file=${!next} ;;
  esac
done
[ -z "$file" ] || /usr/bin/python3 -c '
import json, sys
settings = json.load(open(sys.argv[1]))
settings.get("process", settings).pop("rlimits", None)
json.dump(settings, open(sys.argv[1], "w"))' "$file"
exec /usr/sbin/runc "$@"
RUNTIME
  chmod 755 "$1"
}

# start_podman ENGINE
start_podman() {
  local name
  mkdir "$1"
  for name in "$pod_namespace" "$pia_namespace"; do
    ip netns add "$name"
    at_exit ip netns delete "$name"
    ip -n "$name" link set lo up
  done
  write_runtime "$1/runtime"
  at_exit stop_podman "$1"
}

stop_podman() {
  local group
  podman "$1" pod rm --all --force --time 2 >/dev/null
  grep -o "$1[^ ]*" /proc/mounts | sort --reverse | xargs -r umount --lazy
  # podman leaves its control groups; only those without a process can be removed.
  for group in /sys/fs/cgroup/*/libpod_parent; do
    [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null
  done
}

remove_pod() {
  podman "$1" pod rm --all --force --time 2 >/dev/null
  podman "$1" volume rm --all --force >/dev/null
}

# start_container ENGINE NAME, and so on: NAME is gluetun, sync or qbittorrent.
start_container() { podman "$1" start "torrent-$2" >/dev/null; }
process() { podman "$1" inspect --format '{{.State.Pid}}' "torrent-$2"; }
network_of() { readlink "/proc/$(process "$1" "$2")/ns/net"; }
has_new_process() { local now && now=$(process "$1" "$2") && [ "$now" != 0 ] && [ "$now" != "$3" ]; }
volume() { printf '%s/root/volumes/%s/_data\n' "$1" "$2"; }
logs() { engine "$1" logs "torrent-$2" >"$1/logs" 2>&1 && cat "$1/logs"; }
