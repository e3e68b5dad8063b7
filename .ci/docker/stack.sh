# shellcheck shell=bash
# docker-compose.yml: gluetun with OpenVPN, qBittorrent and the sidecar, from the first start to a stop.

# shellcheck source=.ci/docker/compose.sh
. .ci/docker/compose.sh
# shellcheck source=.ci/docker/vpn-restart.sh
. .ci/docker/vpn-restart.sh

process_status() { awk -v ORS=' ' '/^(Uid|Gid|CapEff|CapBnd|NoNewPrivs|Seccomp):/ { print $1 $2 }' "/proc/$1/status"; }
root_options() { awk '$5 == "/" { print $6 }' "/proc/$1/mountinfo"; }
# create_containers STACK: and their images, but does not start them.
create_containers() { compose "$1" up --no-start >>"$1.log"; }

# change_port STACK PORT: gluetun gets a different port.
change_port() { printf 'port %d\n' "$2" >>"$1/run/gluetun/commands"; }

# test_stack FOLDER BUILDER NAMESPACE: with a folder for the stack, and the Engine's network namespace.
test_stack() {
  local stack=$1 namespace=$3
  mkdir "$stack"
  cp docker-compose.yml "$stack/"
  check 'docker/stack: the commands in the first lines of docker-compose.yml work' follow_header "$stack" docker-compose.yml
  write_override "$stack" "$2" true
  check 'docker/stack: Compose accepts the files' compose "$stack" config --quiet
  check 'docker/stack: docker-compose.yml builds the sidecar from the repository' eq "$(build_context -f docker-compose.yml)" "$PWD"
  # From an earlier run.
  docker image rm --force "$(compose "$stack" config --images sync)" >/dev/null 2>&1
  check 'docker/stack: Compose builds the image if it cannot be pulled' create_containers "$stack"
  compose "$stack" down
  check_start "$stack"
  check_sidecar "$stack" "$namespace"
  test_vpn_restart "$stack"
  check_compose_restart "$stack"
  check_stop "$stack"
  remove_stack "$stack"
}

# check_sidecar STACK NAMESPACE: its container as it runs.
check_sidecar() {
  local stack=$1 namespace=$2 pid id
  pid=$(process "$stack" sync)
  id=$(container "$stack" sync)
  check 'docker/stack: all three containers share a network namespace' share_network "$stack"
  check 'docker/stack: the sidecar runs as user 65532 without capabilities or new privileges, and with seccomp' \
    eq "$(process_status "$pid")" \
    'Uid:65532 Gid:65532 CapEff:0000000000000000 CapBnd:0000000000000000 NoNewPrivs:1 Seccomp:2 '
  check 'docker/stack: the sidecar has a read-only root file system' has "$(root_options "$pid")" ro,
  check 'docker/stack: the sidecar has no shell' lacks "$(docker exec "$id" sh -c 'echo a shell' 2>&1)" 'a shell'
  check 'docker/stack: the sidecar may use 48 MB and 16 processes' \
    eq "$(inspect '{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}' "$id")" '50331648 16'
  check 'docker/stack: the logs of the sidecar rotate' \
    eq "$(inspect '{{json .HostConfig.LogConfig.Config}}' "$id")" '{"max-file":"3","max-size":"1m"}'
  check 'docker/stack: no variable of the sidecar contains the password' lacks "$(inspect '{{json .Config.Env}}' "$id")" "$web_password"
  check 'docker/stack: gluetun accepted every request of the sidecar' eq "$(count "$stack" gluetun gluetun_rejected)" 0
  check 'docker/stack: PIA received no request' eq "$(count "$stack" pia logins)$(count "$stack" pia signatures)" 00
  check 'docker/stack: the Web UI is published on port 8080 of the host' \
    nsenter --net="/run/netns/$namespace" busybox wget -q -O /dev/null http://127.0.0.1:8080/
  check 'docker/stack: the sidecar is still healthy after these checks' becomes "$stack" healthy 30 "port $first_port"
  check 'docker/stack: qBittorrent still listens on the port after these checks' listens "$stack" "$first_port"
}

check_compose_restart() {
  local stack=$1
  change_port "$stack" "$second_port"
  check 'docker/stack: docker compose restart gluetun succeeds' compose "$stack" restart --timeout 5 gluetun
  check 'docker/stack: after docker compose restart, the sidecar becomes healthy within 30 s' becomes "$stack" healthy 30 'port'
  check 'docker/stack: after docker compose restart, all three containers share a network namespace' share_network "$stack"
  check 'docker/stack: after docker compose restart, qBittorrent listens on the port' wait_for 10 listens "$stack" "$first_port"
  change_port "$stack" "$second_port"
  check 'docker/stack: qBittorrent follows a new port of gluetun within 25 s' wait_for 25 listens "$stack" "$second_port"
}

check_stop() {
  local id begin took
  id=$(container "$1" sync)
  begin=$(date +%s%3N)
  docker stop "$id" >/dev/null
  took=$(($(date --date "$(inspect '{{.State.FinishedAt}}' "$id")" +%s%3N) - begin))
  check "docker/stack: SIGTERM ends the sidecar in $took ms, less than 1 s" test "$took" -lt 1000
  check 'docker/stack: SIGTERM ends the sidecar with exit code 0' eq "$(inspect '{{.State.ExitCode}} {{.State.OOMKilled}}' "$id")" '0 false'
  check 'docker/stack: the sidecar logs that it is stopping' has "$(docker logs "$id" 2>&1)" stopping
}
