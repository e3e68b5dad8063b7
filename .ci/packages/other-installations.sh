# shellcheck shell=bash
# The .deb on a system where install.sh or the Python daemon has installed a service.

# shellcheck source=.ci/packages/systemd.sh
. .ci/packages/systemd.sh

# test_install_sh ROOT LOG
test_install_sh() {
  local root=$1 log=$2 etc=$1/etc/$name pid signatures settings
  install_deb "$log" "$version"
  settings=$(list_settings "$root")
  apt "$log" purge "$name"
  check 'packages/install.sh: install.sh installs the service' install_sh "$log"
  check 'packages/install.sh: install.sh and the package make the same modes and owners' eq "$(list_settings "$root")" "$settings"
  configure "$root"
  sc start "$name"
  pid=$(main_pid)
  check 'packages/install.sh: apt installs the package next to the service of install.sh' install_deb "$log" "$version"
  check 'packages/install.sh: the package reports that the unit of install.sh takes precedence' \
    reports "$log" "/etc/systemd/system/$name.service overrides this package's unit: remove it"
  check 'packages/install.sh: apt upgrades the package next to the service of install.sh' install_deb "$log" "$later"
  check 'packages/install.sh: the package leaves the running service alone' eq "$(main_pid) $(main_program)" "$pid /usr/local/bin/$name"
  check 'packages/install.sh: apt purges the package' apt "$log" purge "$name"
  check 'packages/install.sh: the purge leaves the running service alone' eq "$(main_pid) $(property ActiveState)" "$pid active"
  check 'packages/install.sh: the purge leaves the settings' cmp "$root/sim/settings" "$etc/config.env"
  check 'packages/install.sh: the purge leaves the lease' test -s "$root/var/lib/private/$name/lease.json"
  check 'packages/install.sh: the purge reports that settings and state are kept' reports "$log" 'settings and state are kept'
  install_deb "$log" "$version"
  signatures=$(count_of signatures)
  check 'packages/install.sh: install.sh --uninstall succeeds next to the package' install_sh "$log" --uninstall
  check 'packages/install.sh: systemctl enable --now succeeds after that' sc --quiet enable --now "$name"
  check 'packages/install.sh: the service runs the binary of the package' eq "$(main_program)" "$installed"
  check 'packages/install.sh: the service of the package becomes healthy within 10 s' wait_for 10 is_healthy
  check 'packages/install.sh: the service of the package has the lease of install.sh' counted signatures "$signatures"
  apt "$log" purge "$name"
}

# test_python_daemon ROOT LOG
test_python_daemon() {
  local root=$1 log=$2 unit=$1/etc/systemd/system/$name.service
  printf '[Service]\nExecStart=/opt/%s/venv/bin/python3 sync.py\n' "$name" >"$unit"
  check "packages/python-daemon: apt installs the package next to the Python daemon's unit" install_deb "$log" "$version"
  check "packages/python-daemon: the package reports that the Python daemon's unit takes precedence" \
    reports "$log" "the Python daemon's /etc/systemd/system/$name.service overrides this package's unit"
  rm "$unit"
  apt "$log" purge "$name"
}
