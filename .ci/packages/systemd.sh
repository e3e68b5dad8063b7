# shellcheck shell=bash
# A booted systemd for the scenarios of the .deb. ROOT is its folder on this machine. Each scenario starts without the package
# and leaves no trace of it.

# shellcheck source=.ci/packages/lib.sh
. .ci/packages/lib.sh

sc() { inside systemctl "$@"; }
property() { sc show "$name" --property="$1" --value; }
property_is() { eq "$(property "$1")" "$2"; }
is_running() { eq "$(sc is-system-running)" running; }
is_healthy() { inside "$installed" healthcheck; }
main_pid() { property MainPID; }
main_program() { inside readlink "/proc/$(main_pid)/exe"; }
# has_restarted PID: the service runs with a different main process.
has_restarted() { refuses eq "$(main_pid)" "$1" >/dev/null && property_is ActiveState active; }

# apt LOG COMMAND...: the system has no network.
apt() { run_logged "$1" env DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --allow-downgrades "${@:2}"; }
# install_deb LOG VERSION
install_deb() { apt "$1" install "/packages/$(deb_file "$2")"; }
install_sh() { run_logged "$1" env PIA_CA_URL=http://127.0.0.1:9/ sh /src/install.sh "${@:2}"; }

# list_settings ROOT: mode, owner, type and path below the folder of the settings.
list_settings() { (cd "$1/etc/$name" && find . -printf '%m %U:%G %y %P\n' | LC_ALL=C sort -k 4); }

# configure ROOT: settings and secrets for the simulator.
configure() {
  local etc=$1/etc/$name
  install -m 600 "$1/sim/settings" "$etc/config.env"
  install -m 600 /dev/stdin "$etc/credentials/PIA_USERNAME" <<<"$account_username"
  install -m 600 /dev/stdin "$etc/credentials/PIA_PASSWORD" <<<"$account_password"
  install -m 600 /dev/stdin "$etc/credentials/QBITTORRENT_USERNAME" <<<"$webui_username"
  install -m 600 /dev/stdin "$etc/credentials/QBITTORRENT_PASSWORD" <<<"$webui_password"
}

# start_service ROOT LOG: installs the package, and starts the service with an account.
start_service() {
  install_deb "$2" "$version"
  configure "$1"
  sc start "$name"
  wait_for 10 is_healthy || fail 'packages/systemd: the service becomes healthy within 10 s'
}

# boot_systemd ROOT PACKAGES LATER: with the packages of both versions, and the files of install.sh.
boot_systemd() {
  local root=$1
  make_systemd_root "$root"
  add_programs "$root" "$(musl_binary x86_64)"
  rm "$root/usr/local/bin/$name"
  mkdir "$root/packages" "$root/src"
  cp "$2"/*_amd64.deb "$3"/*_amd64.deb "$root/packages/"
  cp -R install.sh systemd openrc contrib "$root/src/"
  cp "$(musl_binary x86_64)" "$root/src/$name"
  boot "$root" --boot
  wait_for 60 is_running || fail "packages/systemd: systemd is running within 60 s: $(sc list-units --failed --no-legend --plain)"
  # shellcheck disable=SC2086 # words on purpose
  inside systemd-run --quiet --unit=simulator $simulator_command
  wait_for 20 test -s "$root/sim/env" || fail 'packages/systemd: the simulator starts within 20 s'
}

shut_down_systemd() {
  kill -s RTMIN+4 "$init_pid"
  check 'packages/systemd: the machine shuts down within 30 s' wait_for 30 halted
}
