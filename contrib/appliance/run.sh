#!/bin/sh
# Keeps pia-qbittorrent-sync running where there is no service manager to do so, or none that survives an update of the system:
#
#   sh run.sh start|stop|restart|status|pid
#
# It stands beside bin, etc and state, as `install.sh --prefix` puts them there. For any POSIX shell.

set -eu
umask 077
name=pia-qbittorrent-sync
here=$(CDPATH='' cd -P -- "$(dirname -- "$0")" && pwd -P)
binary=$here/bin/$name
settings=$here/etc/config.env
pidfile=/var/run/$name.pid
log=/var/log/pia_qbittorrent_sync.log

# Unraid runs nothing from its flash drive, and forgets at each boot what is elsewhere.
find_binary() {
  case $here in
  /boot/*) ;;
  *) return ;;
  esac
  copy=/usr/local/bin/$name
  cmp -s "$binary" "$copy" || {
    cp "$binary" "$copy.part"
    chmod 755 "$copy.part"
    mv -f "$copy.part" "$copy"
  }
  binary=$copy
}

# The loop's, as long as it runs. Its number may be another program's by now.
pid() {
  [ -s "$pidfile" ] && read -r pid <"$pidfile" && grep -q run.sh "/proc/$pid/cmdline" 2>/dev/null && printf '%s\n' "$pid"
}

tell() { printf '%s %s: %s\n' "$(date)" "$name" "$*"; }

# At boot only the log can be told.
check_settings() {
  said=$(env -i "$binary" --config "$settings" check --config-only 2>&1) && return
  tell "not started: ${said#"$name: "}" | tee -a "$log" >&2
  exit 78
}

# Until it is told to end, or has nothing to try again: 64 is wrong usage, 78 wrong settings.
keep_running() {
  child=''
  # The terminal that it is started from may be closed.
  trap '' HUP
  trap 'kill "$child" 2>/dev/null; wait "$child" || true; rm -f "$pidfile"; exit 0' TERM INT
  # shellcheck disable=SC3045 # where a shell has it, no core file: it would have the passwords
  ulimit -c 0 2>/dev/null || true
  while :; do
    env -i PATH=/usr/bin:/bin "$binary" --config "$settings" &
    child=$!
    code=0
    wait "$child" || code=$?
    case $code in
    0 | 64 | 78)
      tell "ended with $code and is not started again"
      break
      ;;
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
  check_settings
  # With exec, because a shell that leads a function elsewhere keeps the old output open, and whoever reads that would wait.
  (exec </dev/null >>"$log" 2>&1 && keep_running) &
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
  while kill -0 "$running" 2>/dev/null; do
    seconds=$((seconds + 1))
    if [ "$seconds" -gt 30 ]; then
      echo "$name has not ended within 30 seconds" >&2
      exit 1
    fi
    sleep 1
  done
  echo "$name is stopped"
}

case ${1-} in
start) start ;;
stop) stop ;;
restart)
  # With wrong settings the one that runs goes on.
  find_binary
  check_settings
  stop
  start
  ;;
pid) pid ;;
status)
  find_binary
  exec "$binary" --config "$settings" status
  ;;
*)
  echo "usage: sh $0 start|stop|restart|status|pid" >&2
  exit 64
  ;;
esac
