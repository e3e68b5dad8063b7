# shellcheck shell=bash
# Helpers of the scenarios with Compose. A STACK is a folder with compose files; its last part is the project's name.

# shellcheck source=.ci/docker/lib.sh
. .ci/docker/lib.sh

# follow_header STACK FILE: types the commands in the first lines of a compose file, with the values of this test.
follow_header() {
  local commands
  commands=$(sed -n '/^# Before/,/^#$/s/^#   //p' "$1/$2")
  commands=${commands//'its password'/"$account_password"}
  commands=${commands//'the Web UI password'/"$web_password"}
  commands=${commands//'/etc/wireguard/pia.conf'/"$1/pia.conf"}
  bash -euo pipefail -c "sudo() { \"\$@\"; }
cd \"\$0\"
$commands" "$1"
}

# hash_password PASSWORD: as qBittorrent stores it.
hash_password() {
  python3 -c '
import base64, hashlib, os, sys
salt = os.urandom(16)
key = hashlib.pbkdf2_hmac("sha512", sys.argv[1].encode(), salt, 100_000, 64)
print(base64.b64encode(salt).decode() + ":" + base64.b64encode(key).decode())' "$1"
}

# write_override STACK BUILDER LOCAL_LOGIN: the images of the stand-ins, and intervals short enough for a test. LOCAL_LOGIN
# is false if qBittorrent needs no password on loopback. The sidecar keeps the image name of the file. It exits 5 s after the
# VPN, so that its health in between can be seen on a busy machine, too.
write_override() {
  cat >"$1/override.yml" <<COMPOSE
services:
  gluetun:
    image: $vpn_image
    environment: {ACCOUNT: 'p1234567:$account_password'}
    volumes: ["./run:/run/simulator"]
  qbittorrent:
    image: $qbittorrent_image
    environment: {PASSWORD_HASH: "$(hash_password "$web_password")", LOCALHOST_AUTH: "$3"}
    healthcheck: {test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1:8080/"], interval: 1s}
  sync:
    build: {context: "$PWD", network: none, args: {RUST_IMAGE: "$2"}}
    environment: {CHECK_INTERVAL: "1", EXIT_WHEN_ISOLATED: "5"}
    healthcheck: {interval: 1s, retries: 1, start_period: 0s}
COMPOSE
}

# compose STACK ARGUMENT...
compose() {
  local stack=$1 files=() file
  shift
  for file in docker-compose add-to-gluetun override pia; do
    [ ! -e "$stack/$file.yml" ] || files+=(--file "$stack/$file.yml")
  done
  docker compose --project-directory "$stack" --project-name "${stack##*/}" "${files[@]}" "$@" 2>>"$stack.log"
}

remove_stack() { compose "$1" down --timeout 0 --volumes; }

# build_context OPTION...: the folder that Compose would build the sidecar from.
build_context() {
  docker compose "$@" config --format json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["services"]["sync"]["build"]["context"])'
}

# container STACK SERVICE, and so on
container() { compose "$1" ps --all --quiet "$2"; }
process() { inspect '{{.State.Pid}}' "$(container "$1" "$2")"; }
network_of() { readlink "/proc/$(process "$1" "$2")/ns/net"; }
in_network_of_gluetun() { eq "$(network_of "$1" "$2")" "$(network_of "$1" gluetun)"; }
share_network() { in_network_of_gluetun "$1" sync && in_network_of_gluetun "$1" qbittorrent; }

# health_is CONTAINER STATE
health_is() { eq "$(inspect '{{.State.Health.Status}}' "$1")" "$2"; }
# last_health_output CONTAINER: what its last health check printed.
last_health_output() { inspect '{{range .State.Health.Log}}{{println .Output}}{{end}}' "$1" | grep . | tail -n 1; }

# becomes STACK STATE SECONDS OUTPUT: the sidecar's health, and a part of what its health check prints.
becomes() {
  local id
  id=$(container "$1" sync)
  wait_for "$3" health_is "$id" "$2" || {
    docker logs --tail 15 "$id" 2>&1
    inspect '{{json .State}}' "$id"
    return 1
  }
  has "$(last_health_output "$id")" "$4"
}

# listens STACK PORT: qBittorrent has a TCP socket for the port, according to the kernel.
listens() {
  local hex pid
  hex=$(printf ':%04X' "$2")
  pid=$(process "$1" qbittorrent)
  awk -v port="$hex" '$4 == "0A" && substr($2, length($2) - 4) == port { found = 1 } END { exit !found }' \
    "/proc/$pid/net/tcp" "/proc/$pid/net/tcp6"
}

# count STACK SIMULATOR NAME: requests that a simulator has counted.
count() { sed -n "s/^$3=//p" "$1/run/$2/counts"; }

# check_start STACK: from `up` to healthy.
check_start() {
  local stack=$1 project=${1##*/} begin took
  begin=$(now_ms)
  check "docker/$project: docker compose up starts the stack as written" compose "$stack" up --detach
  check "docker/$project: the sidecar becomes healthy within 60 s" becomes "$stack" healthy 60 "port $first_port"
  took=$(($(now_ms) - begin))
  info "docker/$project: healthy $took ms after docker compose up, with all images in place"
  check "docker/$project: qBittorrent listens on port $first_port" listens "$stack" "$first_port"
}
