# shellcheck shell=bash
# The scripts of the .apk and the .ipk, run without apk and opkg on a booted OpenRC with busybox. ROOT is its folder on this
# machine.

# shellcheck source=.ci/packages/lib.sh
. .ci/packages/lib.sh

# run_script LOG UPGRADE SCRIPT ARGUMENT...: UPGRADE is 1 during an upgrade by opkg, else 0.
run_script() { run_logged "$1" env PKG_UPGRADE="$2" "/control/$3" "${@:4}"; }

has_default_runlevel() { eq "$(inside rc-status --runlevel)" default; }

# boot_openrc ROOT
boot_openrc() {
  local root=$1
  make_openrc_root "$root"
  add_programs "$root" "$(musl_binary x86_64)"
  mkdir "$root/control"
  boot "$root" /sbin/openrc-init
  wait_for 30 has_default_runlevel || fail 'packages/openrc: OpenRC reaches its default runlevel within 30 s'
  # shellcheck disable=SC2086 # words on purpose
  inside start-stop-daemon -S -b -m -p /run/simulator.pid -x /sim/simulator -- ${simulator_command#* }
  wait_for 20 test -s "$root/sim/env" || fail 'packages/openrc: the simulator starts within 20 s'
}

shut_down_openrc() {
  inside openrc-shutdown --poweroff now
  check 'packages/openrc: the machine shuts down within 30 s' wait_for 30 halted
}
