# shellcheck shell=bash
# install.sh under a booted OpenRC with busybox and under a booted systemd: fresh, again, upgrading, and out again. Each
# boots once; install/openrc-over-python and install/systemd-over-python get the same machine.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh
# shellcheck source=.ci/install/over-python.sh
. .ci/install/over-python.sh
# shellcheck source=.ci/install/service-lib.sh
. .ci/install/service-lib.sh

test_booted() {
  make_machine "$1/openrc"
  boot_machine "$1/openrc" openrc
  check_booted "$1/openrc" "$confd" "$initd"
  make_systemd_machine "$1/systemd"
  boot_machine "$1/systemd" systemd
  check_booted "$1/systemd" "$etc/config.env" "$unit"
}

# check_booted MACHINE CONFIGURATION SERVICE_FILE
check_booted() {
  make_ca "$1"
  check_first_installation "$@"
  write_settings "$@"
  check_running "$1"
  check_upgrades "$@"
  check_unwanted_restarts "$@"
  check_unfinished "$@"
  check_removal "$@"
  check_over_python "$@"
  halt_machine "$1"
  remove_machine "$1"
}

check_first_installation() {
  local machine=$1 scenario=install/${1##*/} configuration=$2 init owner=pia-sync ca
  init=$(cat "$machine/init")
  # Under systemd the user is dynamic.
  [ "$init" = openrc ] || owner=root
  ca=(PIA_CA_URL=http://127.0.0.1:8001/ca.pem "PIA_CA_SHA256=$(sum_of_ca "$machine/ca/ca.pem")")
  serve "$machine" "$machine/ca" 8001
  check "$scenario: --dry-run changes nothing" changes_nothing "$machine" "${ca[@]}" --dry-run
  check "$scenario: --dry-run sends no request" received "$machine" ''
  check "$scenario: a first installation succeeds" installs "$machine" "${ca[@]}"
  check "$scenario: the installer finds the init system that runs" prints "$machine" "init system: $init"
  check "$scenario: PIA's CA is stored" has_ca "$machine"
  check "$scenario: only the service can read the CA" ca_belongs_to "$machine" "$owner"
  check "$scenario: the service is enabled" is_enabled "$machine"
  check "$scenario: the service is not started before it is configured" is_stopped "$machine"
  check "$scenario: the installer names the missing settings" prints "$machine" 'PIA_USERNAME: is not set'
  check "$scenario: only root can read the configuration" has_mode "$machine" "$configuration" 600
  check "$scenario: the installer leaves no temporary files" is_tidy "$machine"
  check "$scenario: a second run changes nothing" changes_nothing "$machine" "${ca[@]}"
  check "$scenario: a second run does not fetch the CA again" received "$machine" /ca.pem
  stop_serving "$machine"
}

check_running() {
  local machine=$1 scenario=install/${1##*/} pid
  service "$machine" start || fail "$scenario: the service starts once it is configured"
  check "$scenario: the service runs once it is configured" wait_for 5 is_running "$machine"
  check "$scenario: the service trusts the stored CA and proceeds to PIA's gateway" \
    wait_for 10 reports "$machine" 'getSignature: cannot connect to 127.0.0.1:9'
  pid=$(daemon_pid "$machine")
  check "$scenario: the CA belongs to the service's user" \
    eq "$(enter "$machine" stat -L -c '%a %u' "/$stored_ca")" "600 $(enter "$machine" stat -c %u "/proc/$pid")"
  check "$scenario: a run without changes leaves all files alone" changes_nothing "$machine"
  check "$scenario: a run without changes does not restart the service" is_still "$machine" "$pid"
  check "$scenario: a run without changes reports that nothing has changed" prints "$machine" 'nothing has changed'
}

check_upgrades() {
  local machine=$1 scenario=install/${1##*/} service_file=$3 src=$1/root/src pid
  pid=$(daemon_pid "$machine")
  change_binary "$machine"
  check "$scenario: an upgrade of the binary succeeds" installs "$machine"
  check "$scenario: an upgrade of the binary restarts the service" wait_for 5 is_another "$machine" "$pid"
  pid=$(daemon_pid "$machine")
  printf '# Edition 2\n' | tee -a "$src/systemd/$name.service" >>"$src/openrc/$name.initd"
  add_returns "$machine"
  check "$scenario: an upgrade of the service file, which has carriage returns, succeeds" installs "$machine"
  check "$scenario: an upgrade of the service file restarts the service" wait_for 5 is_another "$machine" "$pid"
  check "$scenario: the installed service file has no carriage returns" has_no_returns "$machine" "$service_file"
}

check_unwanted_restarts() {
  local machine=$1 scenario=install/${1##*/} configuration=$2 pid
  pid=$(daemon_pid "$machine")
  change_binary "$machine"
  cp "$machine/root/$configuration" "$machine/settings"
  write_bad_setting "$machine" "$configuration"
  check "$scenario: an upgrade succeeds while the configuration is wrong" installs "$machine"
  check "$scenario: an upgrade does not restart the service while the configuration is wrong" is_still "$machine" "$pid"
  check "$scenario: the installer names the wrong setting" prints "$machine" 'CHECK_INTERVAL=never'
  cp "$machine/settings" "$machine/root/$configuration"

  change_binary "$machine"
  service "$machine" stop || fail "$scenario: the service stops"
  check "$scenario: an upgrade succeeds while the service is stopped" installs "$machine"
  check "$scenario: an upgrade does not start a stopped service" is_stopped "$machine"
  service "$machine" start || fail "$scenario: the service starts after the upgrade"
  check "$scenario: the service runs after the upgrade" wait_for 5 is_running "$machine"
}

# As after SIGKILL between the last file and the restart.
check_unfinished() {
  local machine=$1 scenario=install/${1##*/} service_file=$3 pid
  pid=$(daemon_pid "$machine")
  printf 'restart\n' >"$machine/root/$etc/.unfinished"
  check "$scenario: a run after an interrupted one succeeds" installs "$machine"
  check "$scenario: a run after an interrupted one restarts the service" wait_for 5 is_another "$machine" "$pid"
  check "$scenario: a run after an interrupted one keeps the service file" has_file "$machine" "$service_file"
  check "$scenario: a run after an interrupted one leaves no temporary files" is_tidy "$machine"
}

check_removal() {
  local machine=$1 scenario=install/${1##*/} configuration=$2 service_file=$3
  cp "$machine/root/$configuration" "$machine/settings"
  check "$scenario: --uninstall succeeds" installs "$machine" --uninstall
  check "$scenario: --uninstall stops the service" is_stopped "$machine"
  check "$scenario: --uninstall removes the service file" has_no "$machine" "$service_file"
  check "$scenario: --uninstall keeps the configuration" has_copy "$machine" "$configuration" "$machine/settings"
  installs "$machine" --init "$(cat "$machine/init")" || fail "$scenario: an installation after --uninstall succeeds"
  check "$scenario: the service runs with the kept configuration after a new installation" wait_for 5 is_running "$machine"
  check "$scenario: --uninstall --purge succeeds" installs "$machine" --uninstall --purge
  check "$scenario: --purge stops the service" is_stopped "$machine"
  check "$scenario: --purge removes every file of ours" is_gone "$machine"
}
