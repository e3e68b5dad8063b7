# shellcheck shell=bash
# OpenWrt, with a stand-in for procd.
# shellcheck source=.ci/homes/lib.sh
. .ci/homes/lib.sh

test_openwrt() {
  local machine=$1/openwrt root=$1/openwrt/root etc=etc/$name config=etc/$name/config.env script=/etc/init.d/$name binds pid
  make_machine "$machine"
  add_procd "$machine"
  check 'homes/openwrt: a first installation succeeds' installs "$machine"
  check 'homes/openwrt: the installer detects procd' prints "$machine" 'init system: procd'
  check 'homes/openwrt: the binary is on the PATH' eq "$(enter "$machine" sh -c "readlink -f \$(which $name)")" "/usr/bin/$name"
  check 'homes/openwrt: the service is enabled' has_file "$machine" "etc/rc.d/S95$name"
  check 'homes/openwrt: the installer reports that the service is not started without an account' \
    prints "$machine" 'service not started: correct the configuration first'
  check 'homes/openwrt: the configuration puts the state on flash storage' grep -qx "STATE_DIR=/$etc/state" "$root/$config"
  check 'homes/openwrt: the installer creates no user' refuses grep -q pia-sync "$root/etc/passwd"
  check 'homes/openwrt: a firmware upgrade keeps the service' grep -qx "/etc/rc.d/S95$name" "$root/lib/upgrade/keep.d/$name"
  check 'homes/openwrt: the installer prints a check command that works when typed' \
    prints "$machine" "test everything: $name check"
  check 'homes/openwrt: a second run changes nothing' changes_nothing "$machine"
  check 'homes/openwrt: the init script refuses to start without an account' refuses enter "$machine" "$script" start
  check 'homes/openwrt: the log has the reason for the refused start' \
    grep -q 'not started: .*PIA_USERNAME: is not set' "$root/var/log/logger"
  configure "$machine" "$config"
  check 'homes/openwrt: the service starts with an account, as at boot' enter "$machine" "/etc/rc.d/S95$name" start
  check 'homes/openwrt: the service is healthy' wait_for 10 is_well "$machine" "$config"
  check "homes/openwrt: the init script's healthcheck succeeds" enter "$machine" "$script" healthcheck
  check 'homes/openwrt: the lease is on flash storage' has_file "$machine" "$etc/state/lease.json"
  check 'homes/openwrt: procd restarts the service without a limit' \
    eq "$(tr '\n' ' ' <"$root/var/run/procd/$name/respawn")" '3600 5 0 '
  binds=$(count_of binds)
  check 'homes/openwrt: a reload succeeds' enter "$machine" "$script" reload
  check 'homes/openwrt: a reload binds the port at once' wait_for 4 counted_over binds "$binds"
  check 'homes/openwrt: the service is healthy again after SIGKILL' recovers "$machine" "$config"
  pid=$(daemon_pid "$machine")
  change_binary "$machine"
  check 'homes/openwrt: an upgrade succeeds' installs "$machine"
  check 'homes/openwrt: an upgrade restarts the service, which is healthy' wait_for 10 is_another_and_well "$machine" "$pid" "$config"
  check 'homes/openwrt: the init script stops the service' enter "$machine" "$script" stop
  check 'homes/openwrt: no process is left after the stop' wait_for 5 is_stopped "$machine"
  check 'homes/openwrt: --uninstall --purge succeeds' installs "$machine" --uninstall --purge
  check 'homes/openwrt: --purge removes every file of ours' is_gone "$machine"
  remove_machine "$machine"
}

is_another_and_well() { is_another "$1" "$2" && is_well "$1" "$3"; }

# add_procd MACHINE: /etc/rc.common and procd as far as our script uses them. Parameters that the real procd lacks are an
# error, `respawn` is obeyed, and `reload` without `reload_service` is a start.
add_procd() {
  local root=$1/root
  printf 'DISTRIB_ID="OpenWrt"\n' >"$root/etc/openwrt_release"
  mkdir -p "$root/etc/rc.d" "$root/lib/upgrade/keep.d"
  cat >"$root/etc/rc.common" <<'RC'
#!/bin/sh
script=$1 action=${2:-help}
name=$(basename "$(readlink "$script" || printf %s "$script")")
instance=/var/run/procd/$name
procd_open_instance() { rm -rf "$instance.new" && mkdir -p "$instance.new"; }
procd_set_param() {
  kind=$1
  shift
  case $kind in
  command | respawn | limits | file | stdout | stderr | term_timeout | user | env) printf '%s\n' "$@" >"$instance.new/$kind" ;;
  *) echo "procd: unknown parameter $kind" >&2 && exit 1 ;;
  esac
}
procd_close_instance() { :; }
procd_send_signal() { kill -"$3" "$(cat "$instance/pid")"; }
running() { [ -s "$instance/supervisor" ] && kill -0 "$(cat "$instance/supervisor")" 2>/dev/null; }
start() {
  start_service || return 1
  [ -d "$instance.new" ] || return 1
  running && return 0
  rm -rf "$instance" && mv "$instance.new" "$instance"
  sh /sbin/supervise "$instance" </dev/null >/dev/null 2>&1 &
  echo $! >"$instance/supervisor"
}
stop() {
  running || return 0
  : >"$instance/halt"
  kill "$(cat "$instance/pid")" 2>/dev/null
  left=$(cat "$instance/term_timeout")
  while running && [ "$left" -gt 0 ]; do sleep 1 && left=$((left - 1)); done
}
restart() { stop && start; }
reload() { if type reload_service >/dev/null 2>&1; then reload_service; else start; fi; }
enable() { ln -sf "../init.d/$name" "/etc/rc.d/S$START$name" && ln -sf "../init.d/$name" "/etc/rc.d/K$STOP$name"; }
disable() { rm -f "/etc/rc.d/S$START$name" "/etc/rc.d/K$STOP$name"; }
. "$script"
case " start stop restart reload enable disable running $EXTRA_COMMANDS " in
*" $action "*) "$action" ;;
*) echo "Syntax: $script [command]" && exit 1 ;;
esac
RC
  cat >"$root/sbin/supervise" <<'SUPERVISE'
cd "$1" || exit 1
set --
while read -r word; do set -- "$@" "$word"; done <command
{ read -r _ && read -r delay && read -r retries; } <respawn
ends=0
while :; do
  (ulimit -c 0 && exec env -i "$@") >>/var/log/procd.log 2>&1 &
  echo $! >pid
  wait $!
  ends=$((ends + 1))
  [ ! -e halt ] && { [ "$retries" -eq 0 ] || [ "$ends" -le "$retries" ]; } || exit 0
  sleep "$delay"
done
SUPERVISE
  rm -f "$root/usr/bin/logger"
  printf '#!/bin/sh\nshift 2\nprintf "%%s\\n" "$*" >>/var/log/logger\n' >"$root/usr/bin/logger"
  chmod 755 "$root/etc/rc.common" "$root/usr/bin/logger"
}
