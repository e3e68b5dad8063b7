# shellcheck shell=bash
# A VPN container that is restarted, stopped or replaced without Compose leaves the others in a dead network namespace.

# shellcheck source=.ci/docker/compose.sh
. .ci/docker/compose.sh

sidecar_has_exited() { eq "$(inspect '{{.State.Status}}' "$(container "$1" sync)")" exited; }

# test_vpn_restart STACK: a healthy one; it is healthy again afterwards.
test_vpn_restart() {
  check_restarted_vpn "$1"
  check_stopped_vpn "$1"
  check_replaced_vpn "$1"
}

# restart_count STACK: restarts of the sidecar by its own policy, which `docker restart` does not count.
restart_count() { inspect '{{.RestartCount}}' "$(container "$1" sync)"; }
# has_rejoined STACK COUNT: the sidecar has restarted by itself, once, and is in gluetun's network namespace.
has_rejoined() { eq "$(restart_count "$1")" $(($2 + 1)) && in_network_of_gluetun "$1" sync; }

check_restarted_vpn() {
  local stack=$1 begin moved network count
  network=$(network_of "$stack" sync)
  count=$(restart_count "$stack")
  begin=$(now_ms)
  docker restart --time 2 "$(container "$stack" gluetun)" >/dev/null
  check 'docker/vpn-restart: after docker restart, gluetun is not in the network namespace of the sidecar' \
    differ "$network" "$(network_of "$stack" gluetun)"
  check 'docker/vpn-restart: the sidecar in the old namespace becomes unhealthy within 10 s' becomes "$stack" unhealthy 10 'no route'
  check 'docker/vpn-restart: the sidecar exits, and restarts in the new namespace within 30 s' wait_for 30 has_rejoined "$stack" "$count"
  moved=$(($(now_ms) - begin))
  # qBittorrent does not exit without a network.
  docker restart --time 2 "$(container "$stack" qbittorrent)" >/dev/null
  check 'docker/vpn-restart: the sidecar becomes healthy within 60 s once qBittorrent is restarted, too' becomes "$stack" healthy 60 port
  info "docker/vpn-restart: in the new namespace after $moved ms, 5000 of them EXIT_WHEN_ISOLATED; healthy after $(($(now_ms) - begin)) ms"
}

check_stopped_vpn() {
  local stack=$1
  docker stop --time 2 "$(container "$stack" gluetun)" >/dev/null
  check 'docker/vpn-restart: with gluetun stopped, the sidecar exits and cannot restart' wait_for 30 sidecar_has_exited "$stack"
  docker start "$(container "$stack" gluetun)" >/dev/null
  sleep 3
  check 'docker/vpn-restart: the sidecar stays down when gluetun is started again' sidecar_has_exited "$stack"
  # --force-recreate, because qBittorrent would run on in the dead namespace.
  check 'docker/vpn-restart: docker compose up -d --force-recreate succeeds after that' compose "$stack" up --detach --force-recreate
  check 'docker/vpn-restart: docker compose up -d --force-recreate makes the sidecar healthy within 60 s' becomes "$stack" healthy 60 port
}

check_replaced_vpn() {
  local stack=$1
  check 'docker/vpn-restart: Compose replaces the container of gluetun' compose "$stack" up --detach --no-deps --force-recreate gluetun
  check 'docker/vpn-restart: with gluetun replaced, the sidecar exits and cannot restart' wait_for 30 sidecar_has_exited "$stack"
  check 'docker/vpn-restart: docker compose up -d succeeds after that' compose "$stack" up --detach
  check 'docker/vpn-restart: docker compose up -d makes the sidecar healthy within 60 s' becomes "$stack" healthy 60 port
}
