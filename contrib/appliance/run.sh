#!/bin/sh
# Keeps pia-qbittorrent-sync running where there is no service manager to do so, or none that survives an update of the system:
#
#   sh run.sh start|stop|restart|status
#
# It stands beside bin, etc and state, as `install.sh --prefix` puts them there. For any POSIX shell.

set -eu
name=pia-qbittorrent-sync
here=$(CDPATH='' cd -P -- "$(dirname -- "$0")" && pwd -P)
binary=$here/bin/$name
settings=$here/etc/config.env
pidfile=/var/run/$name.pid

# Some flash drives run nothing, or know no modes.
find_binary() {
  if ! "$binary" --version >/dev/null 2>&1; then
    mkdir -p /usr/local/bin
    cp "$binary" "/usr/local/bin/$name.part"
    chmod 755 "/usr/local/bin/$name.part"
    mv -f "/usr/local/bin/$name.part" "/usr/local/bin/$name"
    binary=/usr/local/bin/$name
  fi
}

# The loop's, as long as it runs.
pid() {
  [ -s "$pidfile" ] && read -r pid <"$pidfile" && kill -0 "$pid" 2>/dev/null && printf '%s\n' "$pid"
}

# Until it is told to end, or has nothing to try again: 64 is wrong usage, 78 wrong settings.
keep_running() {
  child=''
  trap 'kill "$child" 2>/dev/null; wait "$child" || true; rm -f "$pidfile"; exit 0' TERM INT
  # shellcheck disable=SC3045 # where a shell has it, no core file: it would have the passwords
  ulimit -c 0 2>/dev/null || true
  while :; do
    env -i PATH=/usr/bin:/bin "$binary" --config "$settings" &
    child=$!
    code=0
    wait "$child" || code=$?
    case $code in
    0 | 64 | 78) break ;;
    esac
    sleep 5 &
    child=$!
    wait "$child" || true
  done
  rm -f "$pidfile"
}

start() {
  if pid >/dev/null; then
    echo "$name runs already"
    return
  fi
  find_binary
  env -i "$binary" --config "$settings" check --config-only >/dev/null
  keep_running </dev/null >/dev/null 2>&1 &
  printf '%s\n' $! >"$pidfile"
  echo "$name is started"
}

stop() {
  running=$(pid) || {
    echo "$name does not run"
    return
  }
  kill "$running"
  # It finishes a bounce of qBittorrent's port first.
  seconds=0
  while kill -0 "$running" 2>/dev/null && [ "$seconds" -lt 30 ]; do
    seconds=$((seconds + 1))
    sleep 1
  done
  echo "$name is stopped"
}

case ${1-} in
start) start ;;
stop) stop ;;
restart)
  stop
  start
  ;;
status)
  find_binary
  exec "$binary" --config "$settings" status
  ;;
*)
  echo "usage: sh $0 start|stop|restart|status" >&2
  exit 64
  ;;
esac
