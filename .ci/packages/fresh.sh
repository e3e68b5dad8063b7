# shellcheck shell=bash
# The .deb on a system without settings, and its first start.

# shellcheck source=.ci/packages/systemd.sh
. .ci/packages/systemd.sh

# test_fresh ROOT LOG
test_fresh() {
  local root=$1 log=$2 etc=$1/etc/$name settings
  check 'packages/fresh: apt installs the package' install_deb "$log" "$version"
  check 'packages/fresh: the package reports what to do first' reports "$log" "not started: fill in /etc/$name/config.env"
  check 'packages/fresh: the service is not started' property_is ActiveState inactive
  check 'packages/fresh: no unit has failed' is_running
  check 'packages/fresh: the service is enabled' eq "$(sc is-enabled "$name")" enabled
  check 'packages/fresh: systemd-analyze verify accepts the unit' eq \
    "$(systemd-analyze --root="$root" verify --man=no "$name.service" 2>&1)" ''
  check 'packages/fresh: the settings are those of systemd/' cmp "$etc/config.env" systemd/config.env
  settings=$(list_settings "$root")
  check 'packages/fresh: only root can read the settings' grep -qx '600 0:0 f config.env' <<<"$settings"
  check 'packages/fresh: only root can read the folder of the secrets' grep -qx '700 0:0 d credentials' <<<"$settings"
  check 'packages/fresh: the package makes no user, because systemd does' refuses grep -q '^pia-sync:' "$root/etc/passwd"

  configure "$root"
  check 'packages/fresh: the service starts with an account' sc start "$name"
  check 'packages/fresh: the service becomes healthy within 10 s' wait_for 10 is_healthy
  check 'packages/fresh: the service runs the installed binary' eq "$(main_program)" "$installed"
  check 'packages/fresh: the check command takes the settings of the service' has "$(inside "$installed" check)" 'all is well'
  apt "$log" purge "$name"
}

# test_existing_settings ROOT LOG: as left by an administrator or a restored backup.
test_existing_settings() {
  local root=$1 log=$2 etc=$1/etc/$name
  install -D -m 600 "$root/sim/settings" "$etc/config.env"
  mkdir -m 700 "$etc/credentials"
  configure "$root"
  check 'packages/existing-settings: apt installs the package' install_deb "$log" "$version"
  check 'packages/existing-settings: the service is started at once' property_is ActiveState active
  apt "$log" purge "$name"
}
