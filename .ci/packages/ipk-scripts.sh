# shellcheck shell=bash
# The scripts of the .ipk, next to an init script that only records its arguments.

# shellcheck source=.ci/packages/openrc.sh
. .ci/packages/openrc.sh

# calls ROOT: of the init script since the last time.
calls() {
  tr '\n' ' ' <"$1/calls"
  : >"$1/calls"
}

# write_init_script ROOT: /runs says whether the service runs, /broken whether it cannot start.
write_init_script() {
  printf '%s\n' '#!/bin/sh' 'echo "$1" >>/calls' 'case $1 in' 'running) [ -e /runs ] ;;' 'start) [ ! -e /broken ] ;;' 'esac' \
    >"$1/etc/init.d/$name"
  chmod 755 "$1/etc/init.d/$name"
}

# plant_link ROOT: every user can make a link in /tmp.
plant_link() {
  printf 'precious\n' >"$1/etc/precious"
  inside ln -s /etc/precious "/tmp/$name.was-running"
}

# test_ipk_scripts ROOT LOG UNPACKED: with the folder of the package's files.
test_ipk_scripts() {
  local root=$1 log=$2
  cp "$3/control/"{postinst,prerm} "$root/control/"
  write_init_script "$root"
  check 'packages/ipk-scripts: postinst succeeds' run_script "$log" 0 postinst configure
  check 'packages/ipk-scripts: postinst enables and starts the service' eq "$(calls "$root")" 'enable start '
  : >"$root/broken"
  check 'packages/ipk-scripts: postinst succeeds even if the service does not start' run_script "$log" 0 postinst configure
  check 'packages/ipk-scripts: postinst reports what to do if the service does not start' \
    reports "$log" "not started: fill in /etc/$name/config.env"
  rm "$root/broken"
  calls "$root" >/dev/null
  run_script "$log" 1 prerm upgrade "$later"
  check 'packages/ipk-scripts: prerm of an upgrade stops a stopped service, too' eq "$(calls "$root")" 'running stop '
  run_script "$log" 1 postinst configure
  check 'packages/ipk-scripts: postinst of an upgrade does not start a stopped service' eq "$(calls "$root")" ''
  : >"$root/runs"
  plant_link "$root"
  run_script "$log" 1 prerm upgrade "$later"
  check 'packages/ipk-scripts: prerm of an upgrade does not write through a link in /tmp' eq "$(cat "$root/etc/precious")" precious
  check 'packages/ipk-scripts: prerm of an upgrade stops a running service' eq "$(calls "$root")" 'running stop '
  run_script "$log" 1 postinst configure
  check 'packages/ipk-scripts: postinst of an upgrade starts a service that ran before' eq "$(calls "$root")" 'start '
  run_script "$log" 1 postinst configure
  check 'packages/ipk-scripts: a second postinst of an upgrade does nothing' eq "$(calls "$root")" ''
  run_script "$log" 0 prerm remove
  check 'packages/ipk-scripts: prerm of a removal disables and stops the service' eq "$(calls "$root")" 'disable stop '
  inside env IPKG_INSTROOT=/image /control/postinst configure
  inside env IPKG_INSTROOT=/image /control/prerm remove
  check 'packages/ipk-scripts: the scripts do nothing while an image is built' eq "$(calls "$root")" ''
}
