# shellcheck shell=bash
# What the scenarios of .ci/test-homes share. Definitions only, no state. For machines see .ci/install/run-lib.sh; these
# have a simulator that runs, and what a command starts in them goes on until remove_machine.
# shellcheck source=.ci/install/run-lib.sh
. .ci/install/run-lib.sh

# make_machine MACHINE: busybox without an init system, as far as install.sh could notice one.
make_machine() {
  local root=$1/root
  mkdir "$1"
  at_exit remove_machine "$1"
  ip netns add "$(network_name "$1")"
  ip -n "$(network_name "$1")" link set lo up
  cp -a "${1%/*}/busybox" "$root"
  add_programs "$root" "${1%/*}/$name"
  mv "$root/usr/local/bin/$name" "$root/src/$name"
  mount --bind /dev "$root/dev"
  mount --bind /proc "$root/proc"
  # shellcheck disable=SC2086,SC2154 # words on purpose, from boot.sh
  enter "$1" $simulator_command >/dev/null 2>&1 &
  wait_for 20 test -s "$root/sim/env" || fail "homes/${1##*/}: the simulator starts"
}

# Does nothing the second time: it is called at the scenario's end and at the script's.
remove_machine() {
  local pid place
  [ -d "$1" ] || return 0
  for pid in $(processes_of "$1"); do kill -KILL "$pid" 2>/dev/null || true; done
  wait_for 10 has_no_processes "$1"
  awk -v root="$1/" 'index($2, root) == 1 { print $2 }' /proc/mounts | sort --reverse | while read -r place; do umount --lazy "$place"; done
  ip netns delete "$(network_name "$1")"
  rm -rf --one-file-system "$1"
}

# Those whose root it is.
processes_of() {
  local pid
  for pid in /proc/[0-9]*; do
    [ "$(readlink "$pid/root" 2>/dev/null)" != "$1/root" ] || printf '%s\n' "${pid##*/}"
  done
}
has_no_processes() { eq "$(processes_of "$1")" ''; }

network_name() { printf 'pia-sync-homes-%d-%s\n' "$$" "${1##*/}"; }

# enter MACHINE COMMAND...: without a PID namespace, so that what it starts goes on.
enter() {
  nsenter --net="/run/netns/$(network_name "$1")" chroot "$1/root" \
    env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$nowhere" "${@:2}"
}

# For changes_nothing: all but the state.
snapshot() { (cd "$1/root" && find etc usr boot lib mnt -path "*/state" -prune -o -type f -printf '%p %m %T@\n' 2>/dev/null | sort); }

# change_binary MACHINE: the next installation is an upgrade.
change_binary() { printf 'x' >>"$1/root/src/$name"; }
# has_files MACHINE PATH...
has_files() {
  local machine=$1 path
  for path in "${@:2}"; do
    [ -e "$machine/root/$path" ] || {
      printf '  no %s\n' "$path"
      return 1
    }
  done
}
is_gone() {
  eq "$(cd "$1/root" && find . -xdev \( -path ./src -o -path ./proc -o -path ./dev -o -path ./sim -o -path ./run/procd \) -prune -o \
    -path '*pia[-_]*' -print)" ''
}

# configure MACHINE FILE: for the simulator.
configure() {
  {
    cat "$1/root/sim/settings"
    # shellcheck disable=SC2154 # from boot.sh
    printf "%s='%s'\n" PIA_USERNAME "$account_username" PIA_PASSWORD "$account_password" \
      QBITTORRENT_USERNAME "$webui_username" QBITTORRENT_PASSWORD "$webui_password"
  } >>"$1/root/$2"
}

# daemon MACHINE CONFIGURATION ARGUMENT...: as a user would type it; not everywhere is it on the PATH.
daemon() {
  local program
  program=$(enter "$1" sh -c "command -v $name || printf '%s\n' '/${2%/etc/*}/bin/$name'")
  enter "$1" "$program" --config "/$2" "${@:3}"
}
is_well() { daemon "$1" "$2" healthcheck; }

# Our process; empty when there is none.
daemon_pid() {
  local pid
  for pid in $(processes_of "$1"); do
    [ "$(cat "/proc/$pid/comm")" != pia-qbittorrent ] || printf '%s\n' "$pid"
  done
}
is_stopped() { eq "$(daemon_pid "$1")" ''; }
# is_another MACHINE PID, is_still MACHINE PID: the process that runs is not PID, or is.
is_another() { [ -n "$(daemon_pid "$1")" ] && [ "$(daemon_pid "$1")" != "$2" ]; }
is_still() { eq "$(daemon_pid "$1")" "$2"; }

# recovers MACHINE CONFIGURATION: after SIGKILL.
recovers() {
  local pid
  pid=$(daemon_pid "$1")
  kill -KILL "$pid"
  wait_for 20 is_another "$1" "$pid" && wait_for 10 is_well "$1" "$2"
}
