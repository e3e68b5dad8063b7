# shellcheck shell=bash
# The firewall rules of contrib/compose/wireguard, in two network namespaces with the kernel's own iptables. No container.

# shellcheck source=.ci/docker/lib.sh
. .ci/docker/lib.sh

# add_cable NAMESPACE OTHER DEVICE NETWORK: a device of that name in both; the first gets NETWORK.2, the other NETWORK.1.
add_cable() {
  ip -n "$1" link add "$3" type veth peer name "$3" netns "$2"
  ip -n "$1" address add "$4.2/24" dev "$3"
  ip -n "$2" address add "$4.1/24" dev "$3"
  ip -n "$1" link set "$3" up
  ip -n "$2" link set "$3" up
}

# reaches NAMESPACE tcp|udp ADDRESS PORT: the port is closed, so a refusal shows that the packet passed the firewall.
reaches() {
  ip netns exec "$1" python3 -c '
import socket, sys
protocol, address, port = sys.argv[1:]
peer = socket.socket(type=socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
peer.settimeout(0.5)
try:
    peer.connect((address, int(port)))
    peer.send(b"?")
    peer.recv(1)
except ConnectionRefusedError:
    sys.exit(0)
except TimeoutError:
    sys.exit(1)
sys.exit(2)' "${@:2}"
}

test_rules() {
  local vpn=pia-sync-vpn-$$ world=pia-sync-world-$$ name line words
  for name in "$vpn" "$world"; do
    ip netns add "$name"
    at_exit ip netns delete "$name"
    ip -n "$name" link set lo up
  done
  add_cable "$vpn" "$world" tun0 10.7.0
  add_cable "$vpn" "$world" eth0 172.30.0
  check 'docker/rules: without a firewall, TCP gets in through the tunnel' reaches "$world" tcp 10.7.0.2 "$first_port"
  check 'docker/rules: without a firewall, UDP gets in through the other device' reaches "$world" udp 172.30.0.2 "$first_port"
  ip netns exec "$vpn" iptables --policy INPUT DROP
  check 'docker/rules: with the policy DROP, TCP does not get in through the tunnel' refuses reaches "$world" tcp 10.7.0.2 "$first_port"
  # As gluetun runs them: each line that begins with the program's name, split at its blanks, without a shell.
  while read -r line; do
    [[ $line == 'iptables '* ]] || continue
    read -ra words <<<"$line"
    check "docker/rules: this rule is accepted: $line" ip netns exec "$vpn" "${words[@]}"
  done <contrib/compose/wireguard/post-rules.txt
  check 'docker/rules: with the rules, TCP gets in through the tunnel' reaches "$world" tcp 10.7.0.2 "$first_port"
  check 'docker/rules: with the rules, UDP gets in through the tunnel' reaches "$world" udp 10.7.0.2 "$first_port"
  for line in '8000 control server' '8080 Web UI' '8388 Shadowsocks server' '8888 HTTP proxy' '9849 status server'; do
    check "docker/rules: with the rules, the ${line#* } cannot be reached through the tunnel" \
      refuses reaches "$world" tcp 10.7.0.2 "${line%% *}"
  done
  check 'docker/rules: with the rules, the Shadowsocks server cannot be reached over UDP either' \
    refuses reaches "$world" udp 10.7.0.2 8388
  check 'docker/rules: with the rules, TCP does not get in through the other device' refuses reaches "$world" tcp 172.30.0.2 "$first_port"
  check 'docker/rules: with the rules, UDP does not get in through the other device' refuses reaches "$world" udp 172.30.0.2 "$first_port"
  check 'docker/rules: with the rules, a port below 1024 stays closed' refuses reaches "$world" tcp 10.7.0.2 22
}
