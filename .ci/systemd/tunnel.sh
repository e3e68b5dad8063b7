# shellcheck shell=bash
# A gateway at the other end of a tunnel. The service has to find it, and read the kernel's routes, in spite of its sandbox.
# shellcheck source=.ci/systemd/lib.sh
. .ci/systemd/lib.sh

test_tunnel() {
  local machine=$1 root=$1/root beyond tunnel
  sc stop "$unit"
  rm "$root/$state/lease.json"
  inside ip netns add beyond
  # shellcheck disable=SC2154 # from boot.sh
  nsenter --target "$init_pid" --mount nsenter --net=/run/netns/beyond sleep 600 &
  beyond=$!
  wait_for 5 is_sleep "$beyond" || fail 'systemd/tunnel: a process enters the namespace beyond the tunnel'
  start_tunnel "$machine" "$beyond"
  tunnel=$!
  configure_tunnel "$machine"
  start_gateway "$machine"
  sc start "$unit"
  check 'systemd/tunnel: the service finds the gateway' \
    wait_for 5 logged 'gateway 10.7.112.1:19999 found: the next hop of a route through pialink'
  check 'systemd/tunnel: the service binds the port at that gateway' grep -qx 'bound=47047' "$root/sim/beyond/counts"
  end_tunnel "$tunnel"
  check 'systemd/tunnel: the healthcheck command fails at once without a tunnel' exits 1 daemon healthcheck
  check 'systemd/tunnel: the journal has the missing tunnel as an error' \
    wait_for 20 logged 'tunnel: no route to 10.7.112.1:19999' --priority=err..err
  start_tunnel "$machine" "$beyond"
  tunnel=$!
  configure_tunnel "$machine"
  check 'systemd/tunnel: the service is healthy again with a new tunnel' wait_for 20 daemon healthcheck
  check 'systemd/tunnel: qBittorrent reopens its socket for the new tunnel' wait_for 20 logged 'reopened its socket on port 47047'
  sc stop "$unit" beyond
  end_tunnel "$tunnel"
  kill "$beyond"
  inside ip netns delete beyond
  rm "$root/$state/lease.json"
  restore "$machine"
}

is_sleep() { eq "$(cat "/proc/$1/comm")" sleep; }

# start_tunnel MACHINE PID: as OpenVPN makes one, with TUN devices, into the namespace of PID. $! is its process, which
# ends when its standard input does.
start_tunnel() {
  rm -f "$1/link"
  [ -p "$1/nothing" ] || mkfifo "$1/nothing"
  python3 tests/support/link.py --ends "$init_pid" 10.7.112.9 "$2" 10.7.112.1 --ready "$1/link" 0<>"$1/nothing" &
}

# Once both ends are up.
configure_tunnel() {
  wait_for 10 test -e "$1/link" || fail 'systemd/tunnel: the tunnel comes up'
  inside ip address flush dev pialink
  inside ip address add 10.7.112.9/24 dev pialink
  inside ip route add 128.0.0.0/1 via 10.7.112.1
}

end_tunnel() {
  kill "$1"
  wait "$1" || true
}

# start_gateway MACHINE: at the other end. The settings do not name it.
start_gateway() {
  local root=$1/root
  mkdir "$root/sim/beyond"
  # shellcheck disable=SC2154 # from boot.sh
  inside systemd-run --quiet --unit=beyond --property=NetworkNamespacePath=/run/netns/beyond /sim/simulator \
    --address 10.7.112.1 --gateway-port 19999 --login-port 18443 --pia "$account_username:$account_password" /sim/beyond
  wait_for 10 test -e "$root/sim/beyond/env" || fail 'systemd/tunnel: the gateway beyond the tunnel starts'
  sed -e '/^PIA_GATEWAY=/d' -e 's,/sim/\(.*\.pem\),/sim/beyond/\1,' -e 's,127.0.0.1:18443,10.7.112.1:18443,' \
    "$root/sim/settings" >"$root/$etc/config.env"
}
