# shellcheck shell=bash
# Upgrades of the .deb: of a service that runs, is stopped or disabled, or has settings that do not work.

# shellcheck source=.ci/packages/systemd.sh
. .ci/packages/systemd.sh

# test_upgrade ROOT LOG
test_upgrade() {
  local root=$1 log=$2 etc=$1/etc/$name pid settings signatures
  start_service "$root" "$log"
  settings=$(sha256sum "$etc"/*.env "$etc"/credentials/*)
  signatures=$(count_of signatures)
  pid=$(main_pid)
  check 'packages/upgrade: apt upgrades a running service' install_deb "$log" "$later"
  check 'packages/upgrade: the upgrade restarts a running service' has_restarted "$pid"
  check 'packages/upgrade: the restarted service still has its lease' counted signatures "$signatures"
  check 'packages/upgrade: the restarted service becomes healthy within 10 s' wait_for 10 is_healthy
  check 'packages/upgrade: the upgrade changes neither settings nor secrets' \
    eq "$(sha256sum "$etc"/*.env "$etc"/credentials/*)" "$settings"
  check 'packages/upgrade: the upgrade changes no mode of settings or secrets' \
    eq "$(stat -c %a "$etc/config.env" "$etc/credentials" "$etc/credentials/PIA_PASSWORD" | tr '\n' ' ')" '600 700 600 '

  pid=$(main_pid)
  printf 'CHECK_INTERVAL=never\n' >>"$etc/config.env"
  check 'packages/upgrade: apt upgrades a service whose settings do not work' install_deb "$log" "$version"
  check 'packages/upgrade: with settings that do not work, the old process keeps running' \
    eq "$(main_pid) $(property ActiveState)" "$pid active"
  check 'packages/upgrade: the package reports that the old process keeps running' reports "$log" 'the previous version keeps running'

  configure "$root"
  sc stop "$name"
  check 'packages/upgrade: apt upgrades a stopped service' install_deb "$log" "$later"
  check 'packages/upgrade: a stopped service stays stopped' property_is ActiveState inactive
  check 'packages/upgrade: the package reports how to start a stopped service' reports "$log" "to start it: systemctl start $name"

  sc --quiet disable "$name"
  check 'packages/upgrade: apt upgrades a disabled service' install_deb "$log" "$version"
  check 'packages/upgrade: a disabled service stays disabled' refuses sc --quiet is-enabled "$name"
  apt "$log" purge "$name"
}
