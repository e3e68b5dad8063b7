# shellcheck shell=bash
# PIA outside the pod, for WireGuard. A PIA is the folder of its simulator; it is the first argument of each function.

# shellcheck source=.ci/kubernetes/podman.sh
. .ci/kubernetes/podman.sh

# start_pia PIA
start_pia() {
  local pia=$1
  mkdir "$pia" "$pia/data"
  ip -n "$pia_namespace" address add "$gateway/32" dev lo
  nsenter --net="/run/netns/$pia_namespace" "$(simulator_binary)" --address "$gateway" --gateway-port 19999 \
    --login-port 443 --port "$first_port" --pia "p1234567:$account_password" "$pia/data" >"$pia/log" 2>&1 &
  printf '%d\n' $! >"$pia/pid"
  at_exit end_process $!
  # PIA's website, with its CA certificate.
  nsenter --net="/run/netns/$pia_namespace" busybox httpd -f -h "$pia/data" -p "$gateway:80" &
  at_exit end_process $!
  wait_for 20 test -s "$pia/data/env" || fail 'kubernetes/wireguard: PIA starts within 20 s'
  # The link ends when no process can write to it any more.
  mkfifo "$pia/wire"
  exec 7<>"$pia/wire"
  at_exit disconnect "$pia"
}

# connect PIA PID: gluetun's tunnel: a device in the network namespace of the process, one at PIA, and a process that carries
# packets between them.
connect() {
  local pia=$1
  disconnect "$pia"
  rm -f "$pia/connected"
  python3 tests/support/link.py --ends "$2" 10.7.0.2 "$(cat "$pia/pid")" "$gateway" --ready "$pia/connected" \
    <"$pia/wire" >"$pia/link.log" 2>&1 &
  printf '%d\n' $! >"$pia/link.pid"
  wait_for 10 test -e "$pia/connected" || {
    cat "$pia/link.log"
    return 1
  }
}

disconnect() { [ ! -e "$1/link.pid" ] || end_process "$(cat "$1/link.pid")"; }

# count PIA NAME: requests that the simulator has counted.
count() { sed -n "s/^$2=//p" "$1/data/counts"; }
is_bound() { eq "$(count "$1" bound)" "$2"; }

# pia_settings PIA: the sidecar's settings that point it to this PIA, as CONTAINER:NAME=VALUE.
pia_settings() {
  printf 'sync:%s\n' "PIA_CA_URL=http://$gateway/gateway-ca.pem" \
    "PIA_CA_SHA256=$(openssl x509 -in "$1/data/gateway-ca.pem" -outform der | sha256sum | cut -d ' ' -f 1)" \
    PIA_LOGIN_CA_CERT=/run/secrets/login-ca.pem
  sed -nE 's/^(PIA_HOSTNAME|PIA_LOGIN_URL)=/sync:&/p' "$1/data/env"
}
