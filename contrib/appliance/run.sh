#!/bin/sh
# Keeps pia-qbittorrent-sync running on systems without a service manager, or with one that loses services at a system update:
#
#   sh run.sh start|stop|restart|status|pid
#
# `install.sh --prefix` installs this script next to bin, etc and state. Runs in any POSIX shell.

set -eu
umask 077
name=pia-qbittorrent-sync
here=$(CDPATH='' cd -P -- "$(dirname -- "$0")" && pwd -P)
binary=$here/bin/$name
settings=$here/etc/config.env
pidfile=/var/run/$name.pid
log=/var/log/pia_qbittorrent_sync.log

# Unraid cannot run programs from its flash drive, and loses all other files at each boot.
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

# identify PID: prints the start time of the process if it runs as root. With the process ID it is unique until the next boot. The
# program's name in front of it may contain spaces and parentheses.
identify() {
  grep -q '^Uid:[[:space:]]*0[[:space:]]' "/proc/$1/status" 2>/dev/null && sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20
}

# Prints the process ID of the running loop. A stale pidfile may contain the ID of a different program, of any user.
pid() {
  pid='' started=''
  [ ! -s "$pidfile" ] || read -r pid started <"$pidfile"
  [ -n "$started" ] && [ "$(identify "$pid")" = "$started" ] && printf '%s\n' "$pid"
}

print_log_line() { printf '%s %s: %s\n' "$(date)" "$name" "$*"; }

# Logs errors as well as printing them, because at boot no user sees the output.
check_settings() {
  output=$(env -i "$binary" --config "$settings" check --config-only 2>&1) && return
  print_log_line "not started: ${output#"$name: "}" | tee -a "$log" >&2
  exit 78
}

# Restarts the program until a stop is requested or a restart cannot help: 64 is wrong usage, 78 invalid settings.
keep_running() {
  child=''
  # Survive the end of the terminal.
  trap '' HUP
  trap 'kill "$child" 2>/dev/null; wait "$child" || true; rm -f "$pidfile"; exit 0' TERM INT
  # shellcheck disable=SC3045 # if the shell supports it: no core file, because it would contain the passwords
  ulimit -c 0 2>/dev/null || true
  while :; do
    env -i PATH=/usr/bin:/bin "$binary" --config "$settings" &
    child=$!
    code=0
    wait "$child" || code=$?
    case $code in
    0 | 64 | 78)
      print_log_line "exited with $code; not restarting"
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
    echo "$name is already running"
    return
  fi
  find_binary
  check_settings
  # exec, because a shell that redirects only a function keeps the old output open, and a reader of that output would wait.
  (exec </dev/null >>"$log" 2>&1 && keep_running) &
  printf '%s %s\n' $! "$(identify $!)" >"$pidfile"
  echo "$name started"
}

stop() {
  running=$(pid) || {
    echo "$name is not running"
    return
  }
  kill "$running"
  # The program finishes a bounce of the client's port first.
  seconds=0
  while kill -0 "$running" 2>/dev/null; do
    seconds=$((seconds + 1))
    if [ "$seconds" -gt 30 ]; then
      echo "$name did not stop within 30 seconds" >&2
      exit 1
    fi
    sleep 1
  done
  echo "$name stopped"
}

case ${1-} in
start) start ;;
stop) stop ;;
restart)
  # With invalid settings the running process is left alone.
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
