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
  check_reused_pid "$machine" "$script" "$config" 1000
  check_reused_pid "$machine" "$script" "$config" 0
  check 'homes/dsm: the rc.d script stops the service' enter "$machine" "$script" stop
  check 'homes/dsm: no process is left after the stop' wait_for 5 is_stopped "$machine"
  check 'homes/dsm: --uninstall succeeds' installs "$machine" --uninstall
  check 'homes/dsm: --uninstall keeps the lease' has_file "$machine" "$prefix/state/lease.json"
  check 'homes/dsm: --uninstall removes the rc.d script' has_no "$machine" "usr/local/etc/rc.d/$name.sh"
  remove_machine "$machine"
}

# check_reused_pid MACHINE SCRIPT CONFIGURATION USER: after the death of the loop its PID has become that of a different program, with
# run.sh in its command line.
check_reused_pid() {
  local machine=$1 pid_file=$1/root/var/run/$name.pid program=user\ $4 stranger
  cp "$pid_file" "$machine/loop.pid"
  enter "$machine" "$2" stop
  nsenter --net="/run/netns/$(network_name "$machine")" chroot --userspec="$4:$4" "$machine/root" sh -c 'sleep 300; :' run.sh &
  stranger=$!
  wait_for 10 grep -q run.sh "/proc/$stranger/cmdline"
  sed "s/^[0-9]*/$stranger/" "$machine/loop.pid" >"$pid_file"
  check "homes/dsm: stop succeeds when the PID file has the number of a program of $program" enter "$machine" "$2" stop
  check "homes/dsm: stop spares the program of $program" kill -0 "$stranger"
  check "homes/dsm: start succeeds when the PID file has the number of a program of $program" enter "$machine" "$2" start
  check "homes/dsm: the service is healthy next to the program of $program" wait_for 10 is_well "$machine" "$3"
  end_process "$stranger"
}
