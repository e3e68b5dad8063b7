# shellcheck shell=bash
# The Docker Engine of .ci/test-docker and questions about its images and containers. Source it after .ci/lib.sh.

# Constants of the scenarios.
# shellcheck disable=SC2034
{
  # Choices of the user of the compose files.
  account_password='password of PIA'
  web_password='Web UI & pass=word'
  first_port=47047
  second_port=51820
  # PIA's gateway, inside the stand-in's tunnel.
  gateway=10.7.0.1
  vpn_image=pia-sync/vpn:ci
  qbittorrent_image=pia-sync/qbittorrent:ci
}

# By its path: a different client that comes first on the PATH may lack BuildKit.
docker() { DOCKER_BUILDKIT=1 /usr/bin/docker "$@"; }
inspect() { docker inspect --format "$1" "$2"; }
has_image() { docker image inspect "$1" >/dev/null 2>&1; }
build() { docker build --quiet --network none "$@" >/dev/null; }

# lacks TEXT PART: the opposite of `has`, silently.
lacks() { ! has "$@" >/dev/null; }
differ() { [ "$1" != "$2" ]; }

# Compose of Debian 13: that of Debian 12 does not support `depends_on.restart`.
fetch_compose() {
  [ ! -x "$CACHE/compose/usr/libexec/docker/cli-plugins/docker-compose" ] || return 0
  rm -rf "$CACHE/compose"
  unpack_debs trixie "$CACHE/compose" docker-compose
}

# start_engine FOLDER NAMESPACE: starts dockerd in a new network namespace that has only loopback, with its socket and logs
# in FOLDER and its images in $CACHE/docker, which makes the next run faster. Exports where the client finds it.
start_engine() {
  local folder=$1 namespace=$2 engine
  export DOCKER_HOST=unix://$folder/socket DOCKER_CONFIG=$folder/client
  fetch_compose
  mkdir -p "$folder/client/cli-plugins" "$CACHE/docker"
  ln -s "$CACHE/compose/usr/libexec/docker/cli-plugins/docker-compose" "$folder/client/cli-plugins/"
  printf '{}\n' >"$folder/daemon.json"
  ip netns add "$namespace"
  at_exit ip netns delete "$namespace"
  ip -n "$namespace" link set lo up
  # `ip netns exec` would mount a new /sys, without the control groups that the Engine needs.
  nsenter --net="/run/netns/$namespace" dockerd --config-file="$folder/daemon.json" --host="$DOCKER_HOST" \
    --data-root="$CACHE/docker" --exec-root="$folder/exec" --pidfile="$folder/pid" --storage-driver=overlay2 \
    --iptables=false --ip6tables=false --bridge=none >"$folder/log" 2>&1 &
  engine=$!
  at_exit stop_engine "$folder" "$engine"
  wait_for 30 docker version || {
    tail -n 20 "$folder/log"
    return 1
  }
  # Left over if an earlier run was killed.
  remove_containers
}

remove_containers() {
  docker ps --all --quiet | xargs -r /usr/bin/docker rm --force --volumes >/dev/null
  docker network prune --force >/dev/null
  docker image prune --force >/dev/null
  docker volume ls --quiet | xargs -r /usr/bin/docker volume rm --force >/dev/null
}

# stop_engine FOLDER PID
stop_engine() {
  local group
  remove_containers || true
  end_process "$2" 30
  grep -o "$1[^ ]*" /proc/mounts | sort --reverse | xargs -r umount --lazy
  for group in /sys/fs/cgroup/*/docker /sys/fs/cgroup/docker; do
    [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null
  done
}
