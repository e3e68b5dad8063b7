# shellcheck shell=bash
# A pod that podman plays, and the checks that both manifests share. A POD is a copy of contrib/kubernetes; its last part is
# the kind.

# shellcheck source=.ci/kubernetes/podman.sh
. .ci/kubernetes/podman.sh

# make_manifest POD: mine.yaml, by the commands of the README, and the command of the sidecar's readiness probe.
make_manifest() {
  cp -R contrib/kubernetes "$1"
  follow_readme "$1" "${1##*/}"
  manifest probe "$1/mine.yaml" sync readiness >"$1/probe"
}

# derive_pod POD [CONTAINER:NAME=VALUE...]: the pod for podman, with these variables in addition.
derive_pod() {
  manifest derive "$1/mine.yaml" "$1" localhost/pia-sync-NAME:ci "gluetun:ACCOUNT=p1234567:$account_password" \
    "qbittorrent:WEB_PASSWORD=$web_password" "${@:2}" >"$1/claims"
}

# make_volumes ENGINE POD: like new volumes of a cluster, they belong to root and the pod's fsGroup and contain a folder of
# the file system. podman gives a volume to the first container that mounts it, hence the container that exits at once.
make_volumes() {
  local name folder
  while read -r name; do
    podman "$1" volume create "$name" >/dev/null
    podman "$1" run --rm --network none --entrypoint '["/bin/busybox", "mkdir", "/volume/lost+found"]' --volume "$name:/volume" \
      localhost/pia-sync-gluetun:ci
    folder=$(volume "$1" "$name")
    chown 0:1000 "$folder"
    chmod 2775 "$folder"
  done <"$2/claims"
}

# play ENGINE POD CONNECT [OPTION...]: makes the containers and starts all but qBittorrent in the kubelet's order. CONNECT is
# called with ENGINE and POD while gluetun starts.
play() {
  podman "$1" kube play --network none --start=false "${@:4}" "$2/pod.yaml" >"$2/play.log" || {
    tail -n 20 "$1/log" "$2/play.log"
    return 1
  }
  { start_container "$1" gluetun && "$3" "$1" "$2" && wait_until_started "$1" "$2" gluetun; } || {
    logs "$1" gluetun
    return 1
  }
  start_container "$1" sync && wait_until_started "$1" "$2" sync
}

# wait_until_started ENGINE POD NAME: until the next container may start: at once, unless there is a startup probe.
wait_until_started() {
  local command
  mapfile -t command < <(manifest probe "$2/mine.yaml" "$3" startup)
  [ ${#command[@]} -eq 0 ] || wait_for 20 podman "$1" exec "torrent-$3" "${command[@]}"
}

# is_ready ENGINE POD PORT: with the manifest's own probe, run without a shell as the kubelet does.
is_ready() {
  local probe
  mapfile -t probe <"$2/probe"
  podman "$1" exec torrent-sync "${probe[@]}" >"$2/probe-output" && has "$(cat "$2/probe-output")" "port $3"
}
is_not_ready() { ! is_ready "$@" >/dev/null; }

# becomes_ready ENGINE POD PORT
becomes_ready() {
  wait_for 60 is_ready "$@" || {
    cat "$2/probe-output"
    podman "$1" ps --all
    logs "$1" gluetun
    logs "$1" sync
    return 1
  }
}

process_status() { awk -v ORS=' ' '/^(Uid|Gid|Groups|CapEff|CapBnd|NoNewPrivs|Seccomp):/ { print $1 $2 }' "/proc/$1/status"; }
root_options() { awk '$5 == "/" { print $6 }' "/proc/$1/mountinfo"; }

# check_sidecar ENGINE POD: a healthy one.
check_sidecar() {
  local engine=$1 kind=${2##*/} pid
  pid=$(process "$engine" sync)
  check "kubernetes/$kind: all containers share a network namespace" eq "$(network_of "$engine" sync) $(network_of "$engine" qbittorrent)" \
    "$(network_of "$engine" gluetun) $(network_of "$engine" gluetun)"
  check "kubernetes/$kind: the sidecar runs as user 65532 in qBittorrent's group without capabilities or new privileges, and with seccomp" \
    eq "$(process_status "$pid")" \
    'Uid:65532 Gid:65532 Groups:1000 CapEff:0000000000000000 CapBnd:0000000000000000 NoNewPrivs:1 Seccomp:2 '
  check "kubernetes/$kind: the sidecar has a read-only root file system" has "$(root_options "$pid")" ro,
  check "kubernetes/$kind: the sidecar may use 48 MB" eq "$(podman "$engine" inspect --format '{{.HostConfig.Memory}}' torrent-sync)" 50331648
  check "kubernetes/$kind: only the sidecar can read its status, in a volume of qBittorrent's group" \
    eq "$(stat -c '%u:%g %a' "$(volume "$engine" state)"{,/status.json})" $'0:1000 2775\n65532:1000 600'
}

# check_log ENGINE POD
check_log() {
  local kind=${2##*/}
  check "kubernetes/$kind: the sidecar writes a log" has "$(logs "$1" sync)" ' started: '
  check "kubernetes/$kind: the log contains no password" lacks "$(logs "$1" sync)" "$account_password" "$web_password"
}

# check_same_port ENGINE POD CONNECT: after a kill, and in a new pod, although a new lease would have a different port.
check_same_port() {
  local engine=$1 pod=$2 kind=${2##*/} begin pid
  pid=$(process "$engine" sync)
  begin=$(now_ms)
  kill -KILL "$pid"
  check "kubernetes/$kind: a killed sidecar restarts within 30 s" wait_for 30 has_new_process "$engine" sync "$pid"
  check "kubernetes/$kind: a killed sidecar has the same port again" becomes_ready "$engine" "$pod" "$first_port"
  info "kubernetes/$kind: healthy $(($(now_ms) - begin)) ms after a kill"

  begin=$(now_ms)
  check "kubernetes/$kind: kube play --replace makes a new pod" play "$engine" "$pod" "$3" --replace
  start_container "$engine" qbittorrent
  check "kubernetes/$kind: the new pod has the same port" becomes_ready "$engine" "$pod" "$first_port"
  info "kubernetes/$kind: healthy $(($(now_ms) - begin)) ms after kube play --replace"
}
