# shellcheck shell=bash
# The pod of wireguard.yaml: the sidecar leases the port from PIA, which is outside the pod and outlives it.

# shellcheck source=.ci/kubernetes/pod.sh
. .ci/kubernetes/pod.sh
# shellcheck source=.ci/kubernetes/pia.sh
. .ci/kubernetes/pia.sh

# connect_gluetun ENGINE POD
connect_gluetun() { connect "$2/pia" "$(process "$1" gluetun)"; }

# test_wireguard POD ENGINE
test_wireguard() {
  local pod=$1 engine=$2 pia=$1/pia begin settings
  make_manifest "$pod"
  start_pia "$pia"
  mapfile -t settings < <(pia_settings "$pia")
  derive_pod "$pod" "${settings[@]}"
  cp "$pia/data/login-ca.pem" "$pod/volumes/sync-secrets/"
  make_volumes "$engine" "$pod"
  begin=$(now_ms)
  check 'kubernetes/wireguard: podman plays the pod, gluetun first' play "$engine" "$pod" connect_gluetun
  check 'kubernetes/wireguard: the sidecar binds the port before qBittorrent starts' wait_for 20 is_bound "$pia" "$first_port"
  check 'kubernetes/wireguard: the sidecar is not healthy before qBittorrent starts, so a startup probe would wait forever' \
    is_not_ready "$engine" "$pod" "$first_port"
  check 'kubernetes/wireguard: qBittorrent starts after the sidecars' start_container "$engine" qbittorrent
  check "kubernetes/wireguard: the sidecar becomes healthy within 60 s with port $first_port" becomes_ready "$engine" "$pod" "$first_port"
  info "kubernetes/wireguard: healthy $(($(now_ms) - begin)) ms after kube play"
  check_sidecar "$engine" "$pod"
  check 'kubernetes/wireguard: only the sidecar can read its lease' eq "$(stat -c '%u %a' "$(volume "$engine" state)/lease.json")" '65532 600'
  check_log "$engine" "$pod"
  # For a sidecar without a lease.
  printf 'port %d\n' "$second_port" >>"$pia/data/commands"
  check_same_port "$engine" "$pod" connect_gluetun
  check 'kubernetes/wireguard: PIA got one login and one request for a port, and has no complaints' \
    eq "$(count "$pia" logins) $(count "$pia" signatures) $(count "$pia" complaints)" '1 1 0'
  remove_pod "$engine"
}
