# shellcheck shell=bash
# The pod of openvpn.yaml: gluetun leases the port.

# shellcheck source=.ci/kubernetes/pod.sh
. .ci/kubernetes/pod.sh

# test_openvpn POD ENGINE
test_openvpn() {
  local pod=$1 engine=$2 begin
  make_manifest "$pod"
  derive_pod "$pod" "gluetun:PORT=$first_port"
  make_volumes "$engine" "$pod"
  begin=$(now_ms)
  # gluetun makes its own tunnel: `true` has nothing to connect.
  check 'kubernetes/openvpn: podman plays the pod, gluetun first' play "$engine" "$pod" true
  check 'kubernetes/openvpn: qBittorrent starts after the sidecars' start_container "$engine" qbittorrent
  check "kubernetes/openvpn: the sidecar becomes healthy within 60 s with port $first_port" becomes_ready "$engine" "$pod" "$first_port"
  info "kubernetes/openvpn: healthy $(($(now_ms) - begin)) ms after kube play"
  check_sidecar "$engine" "$pod"
  check_log "$engine" "$pod"
  # For a gluetun whose volume has no port.
  derive_pod "$pod" "gluetun:PORT=$second_port"
  check_same_port "$engine" "$pod" true
  check_killed_gluetun "$engine" "$pod"
  remove_pod "$engine"
}

# check_killed_gluetun ENGINE POD: unlike with Docker, the other containers keep their network.
check_killed_gluetun() {
  local engine=$1 pod=$2 begin pid network
  pid=$(process "$engine" gluetun)
  network=$(network_of "$engine" sync)
  printf '%d\n' "$second_port" >"$(volume "$engine" gluetun)/port"
  begin=$(now_ms)
  kill -KILL "$pid"
  check 'kubernetes/openvpn: a killed gluetun restarts within 30 s' wait_for 30 has_new_process "$engine" gluetun "$pid"
  check 'kubernetes/openvpn: a killed gluetun restarts in the network namespace of the pod' \
    eq "$(network_of "$engine" gluetun) $(network_of "$engine" sync)" "$network $network"
  check 'kubernetes/openvpn: the sidecar follows the new port of a restarted gluetun' becomes_ready "$engine" "$pod" "$second_port"
  info "kubernetes/openvpn: on gluetun's new port $(($(now_ms) - begin)) ms after gluetun was killed"
}
