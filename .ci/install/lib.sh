# shellcheck shell=bash disable=SC2034 # the scenarios use the constants
# What the scenarios of .ci/test-install share: machines, and install.sh on them. Definitions only, no state.
#
# A machine is a folder that its scenario makes and removes, and the first argument of the functions here:
#   root      its root file system, with install.sh and what ships with it in /src
#   output    what install.sh printed last; `status` is how that run ended
#   init      systemd or openrc, once it is booted; `pid` is that of its PID 1 on this machine
#   ca        a stand-in for PIA's CA
#   requests  what its HTTP server was asked for; `server` is that server's PID
# The folder around it has what all machines start from: `pia-qbittorrent-sync`, the binary, and `busybox`, a root.
# shellcheck source=.ci/install/run-lib.sh
. .ci/install/run-lib.sh

installed=usr/local/bin/$name
etc=etc/$name
unit=etc/systemd/system/$name.service
initd=etc/init.d/$name
confd=etc/conf.d/$name
stored_ca=var/lib/$name/ca.rsa.4096.crt
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# --- machines

# make_machine MACHINE: busybox and OpenRC's files, but no init system that runs.
make_machine() {
  start_machine "$1"
  cp -a "${1%/*}/busybox" "$1/root"
  make_source "$1"
}

make_systemd_machine() {
  start_machine "$1"
  make_systemd_root "$1/root"
  make_source "$1"
}

start_machine() {
  mkdir "$1"
  at_exit remove_machine "$1"
  ip netns add "$(network_name "$1")"
  ip -n "$(network_name "$1")" link set lo up
}

# Does nothing the second time: it is called at the scenario's end and at the script's.
remove_machine() {
  [ -d "$1" ] || return 0
  stop_serving "$1"
  ip netns delete "$(network_name "$1")"
  rm -rf "$1"
}

# make_source MACHINE: what a checkout has next to install.sh, and the binary.
make_source() {
  local root=$1/root
  rm -rf "$root/src"
  mkdir -p "$root/src" "$root/opt"
  cp -R install.sh systemd openrc contrib "$root/src/"
  cp "${1%/*}/$name" "$root/src/$name"
}

# boot_machine MACHINE systemd|openrc
boot_machine() {
  case $2 in
  systemd) boot "$1/root" --boot ;;
  openrc) boot "$1/root" /sbin/openrc-init ;;
  esac
  printf '%s\n' "$2" >"$1/init"
  # shellcheck disable=SC2154 # from boot
  printf '%d\n' "$init_pid" >"$1/pid"
  wait_for 60 is_up "$1" || fail "install/${1##*/}: $2 completes its boot"
}

is_up() {
  case $(cat "$1/init") in
  systemd) eq "$(enter "$1" systemctl is-system-running)" running ;;
  openrc) eq "$(enter "$1" rc-status -r)" default ;;
  esac
}

halt_machine() {
  case $(cat "$1/init") in
  systemd) kill -s RTMIN+4 "$(cat "$1/pid")" ;;
  openrc) enter "$1" openrc-shutdown --poweroff now || true ;;
  esac
  wait_for 30 halted || fail "install/${1##*/}: the machine shuts down"
  rm "$1/pid"
}

network_name() { printf 'pia-sync-install-%d-%s\n' "$$" "${1##*/}"; }
network_of() {
  if [ -e "$1/pid" ]; then printf '/proc/%d/ns/net\n' "$(cat "$1/pid")"; else printf '/run/netns/%s\n' "$(network_name "$1")"; fi
}

# enter MACHINE COMMAND...: as root in it, with loopback only. A machine that is not booted gets a PID namespace for the
# command; its shell stays, because PID 1 would be spared by the signals of the interruptions.
enter() {
  local machine=$1
  shift
  if [ -e "$machine/pid" ]; then
    inside_of "$(cat "$machine/pid")" "$@"
    return
  fi
  nsenter --net="$(network_of "$machine")" unshare --mount --pid --fork sh -c '
    mount --rbind /dev "$0/dev"
    mount -t proc proc "$0/proc"
    "$@"
    exit $?' "$machine/root" chroot "$machine/root" env -i PATH="$path" HOME=/root "$@"
}

# --- servers

# serve MACHINE FOLDER PORT: over HTTP, on the machine's loopback.
serve() {
  : >"$1/requests"
  nsenter --net="$(network_of "$1")" python3 -u -m http.server --bind 127.0.0.1 --directory "$2" "$3" >>"$1/requests" 2>&1 &
  printf '%d\n' "$!" >"$1/server"
  wait_for 20 grep -q Serving "$1/requests" || fail "install/${1##*/}: the HTTP server starts"
}

stop_serving() {
  [ ! -e "$1/server" ] || end_process "$(cat "$1/server")"
  rm -f "$1/server"
}

# received MACHINE PATHS: since the server started, one a line.
received() { eq "$(sed -nE 's/.*"GET ([^ ]*) .*/\1/p' "$1/requests")" "$2"; }

make_ca() {
  mkdir "$1/ca"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj '/CN=A CA' -keyout /dev/null \
    -out "$1/ca/ca.pem" 2>/dev/null
}
sum_of_ca() { openssl x509 -in "$1" -outform der | sha256sum | cut -d ' ' -f 1; }
has_ca() { eq "$(sum_of_ca "$1/root/$stored_ca")" "$(sum_of_ca "$1/ca/ca.pem")"; }
# ca_belongs_to MACHINE USER: with its folder.
ca_belongs_to() { eq "$(enter "$1" stat -L -c '%a %U %G' "/var/lib/$name" "/$stored_ca")" "700 $2 $2"$'\n'"600 $2 $2"; }
has_no_state() { eq "$(ls -A "$1/root/var/lib/$name")" ''; }

# --- files

# For changes_nothing: everything that install.sh might touch, files down to the times of change; but not what the daemon
# writes meanwhile.
snapshot() {
  (cd "$1/root" && find etc usr/local opt var/lib tmp -path var/lib/systemd -prune -o -path "var/lib/*$name/*" -prune -o \
    -type d -printf '%p %i %m %U:%G\n' -o -printf '%p %i %y %m %U:%G %s %T@ %l\n' | sort)
}

temporary_files() { (cd "$1/root" && find etc usr/local tmp var/lib -name '*.part' -o -path "tmp/$name.*" -o -name .unfinished); }
is_tidy() { eq "$(temporary_files "$1")" ''; }
is_gone() {
  eq "$(cd "$1/root" && find . -xdev \( -path ./src -o -path ./srv -o -path ./proc \) -prune -o -path '*pia[-_]*' -print)" ''
}
# has_no_returns MACHINE PATH: nor carriage returns in the configuration and the templates.
has_no_returns() { refuses grep -rl $'\r' "$1/root/$etc" "$1/root/usr/local/share/$name" "$1/root/$2"; }

# Changes to what is installed next: a different binary that works, new templates, text files with carriage returns.
change_binary() { printf 'x' >>"$1/root/src/$name"; }
change_templates() { sed -i '1s/$/ Edition 2./' "$1"/root/src/systemd/config.env "$1"/root/src/openrc/*.confd; }
add_returns() { sed -i 's/$/\r/' "$1"/root/src/systemd/* "$1"/root/src/openrc/*; }
