# shellcheck shell=bash
# Synology's DSM, which runs the scripts in /usr/local/etc/rc.d.
# shellcheck source=.ci/homes/lib.sh
. .ci/homes/lib.sh

test_dsm() {
  local machine=$1/dsm prefix=usr/local/$name config=usr/local/$name/etc/config.env script=/usr/local/etc/rc.d/$name.sh
  make_machine "$machine"
  : >"$machine/root/etc/synoinfo.conf"
  check 'homes/dsm: a first installation succeeds' installs "$machine"
  check 'homes/dsm: the installer detects DSM' prints "$machine" 'init system: dsm'
  configure "$machine" "$config"
  check 'homes/dsm: the installer prints a check command with the path of a binary that is not on the PATH' \
    prints "$machine" "/$prefix/bin/$name --config /$config check"
  check 'homes/dsm: the rc.d script starts the service' enter "$machine" "$script" start
  check 'homes/dsm: the service is healthy' wait_for 10 is_well "$machine" "$config"
  check_reused_pid "$machine" "$script"
  check 'homes/dsm: the rc.d script stops the service' enter "$machine" "$script" stop
  check 'homes/dsm: no process is left after the stop' wait_for 5 is_stopped "$machine"
  check 'homes/dsm: --uninstall succeeds' installs "$machine" --uninstall
  check 'homes/dsm: --uninstall keeps the lease' has_file "$machine" "$prefix/state/lease.json"
  check 'homes/dsm: --uninstall removes the rc.d script' has_no "$machine" "usr/local/etc/rc.d/$name.sh"
  remove_machine "$machine"
}

# check_reused_pid MACHINE SCRIPT: the number in the PID file is a different program's by now.
check_reused_pid() {
  local pid_file=$1/root/var/run/$name.pid stranger
  cp "$pid_file" "$1/loop.pid"
  enter "$1" sleep 100 &
  stranger=$!
  printf '%s\n' "$stranger" >"$pid_file"
  check "homes/dsm: stop succeeds when the PID file has another program's number" enter "$1" "$2" stop
  check 'homes/dsm: stop spares that other program' kill -0 "$stranger"
  end_process "$stranger"
  cp "$1/loop.pid" "$pid_file"
}
