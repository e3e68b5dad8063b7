# shellcheck shell=bash
# The scripts of the .apk, in the order in which apk would run them.

# shellcheck source=.ci/packages/openrc.sh
. .ci/packages/openrc.sh

service() { inside rc-service "$name" "$@" 2>&1; }
# The supervisor's child.
service_pid() { inside pgrep -P "$(inside cat "/run/$name.pid")"; }
has_new_pid() { refuses eq "$(service_pid)" "$1" >/dev/null; }

# test_apk_scripts ROOT LOG UNPACKED: with the folder of the package's files.
test_apk_scripts() {
  cp "$3/control"/.p* "$1/control/"
  check_apk_installation "$1" "$2" "$3/files"
  check_apk_service "$1" "$2"
}

# check_apk_installation ROOT LOG FILES
check_apk_installation() {
  local root=$1 log=$2
  check 'packages/apk-scripts: pre-install succeeds' run_script "$log" 0 .pre-install "$version"
  cp -a "$3/." "$root"
  check 'packages/apk-scripts: pre-install makes user and group' eq "$(inside id -un pia-sync) $(inside id -gn pia-sync)" 'pia-sync pia-sync'
  check 'packages/apk-scripts: pre-install succeeds if the user exists' run_script "$log" 0 .pre-install "$version"
  check 'packages/apk-scripts: post-install succeeds' run_script "$log" 0 .post-install "$version"
  check 'packages/apk-scripts: post-install reports what to do' reports "$log" "fill in /etc/conf.d/$name"
  check 'packages/apk-scripts: post-install next to install.sh reports how to remove it' reports "$log" "sh install.sh --uninstall"
  rm "$root/usr/local/bin/$name"
  check 'packages/apk-scripts: post-install succeeds without install.sh' run_script "$log" 0 .post-install "$version"
  check 'packages/apk-scripts: post-install without install.sh does not mention it' \
    omits "$log" 'sh install.sh --uninstall'
  check 'packages/apk-scripts: only the user can read the state' eq "$(inside stat -c '%a %U:%G' "/var/lib/$name")" '700 pia-sync:pia-sync'
  check 'packages/apk-scripts: post-install does not start the service' refuses service --quiet status
  check 'packages/apk-scripts: post-install does not enable the service' refuses test -L "$root/etc/runlevels/default/$name"
}

# check_apk_service ROOT LOG
check_apk_service() {
  local root=$1 log=$2 confd=$1/etc/conf.d/$name pid
  {
    cat "$root/sim/settings"
    printf "%s='%s'\n" PIA_USERNAME "$account_username" PIA_PASSWORD "$account_password" \
      QBITTORRENT_USERNAME "$webui_username" QBITTORRENT_PASSWORD "$webui_password"
  } >>"$confd"
  inside rc-update --quiet add "$name"
  check 'packages/apk-scripts: rc-update enables the service' test -L "$root/etc/runlevels/default/$name"
  check 'packages/apk-scripts: the service starts with an account' service --quiet start
  check 'packages/apk-scripts: the service becomes healthy within 10 s' wait_for 10 service healthcheck
  pid=$(service_pid)
  check 'packages/apk-scripts: post-upgrade succeeds' run_script "$log" 0 .post-upgrade "$later" "$version"
  check 'packages/apk-scripts: post-upgrade restarts the service within 10 s' wait_for 10 has_new_pid "$pid"
  check 'packages/apk-scripts: the restarted service becomes healthy within 10 s' wait_for 10 service healthcheck
  pid=$(service_pid)
  printf 'CHECK_INTERVAL=never\n' >>"$confd"
  check 'packages/apk-scripts: post-upgrade succeeds with settings that do not work' run_script "$log" 0 .post-upgrade "$later" "$version"
  check 'packages/apk-scripts: with settings that do not work, the old process keeps running' eq "$(service_pid)" "$pid"
  check 'packages/apk-scripts: post-upgrade reports that the service was not restarted' reports "$log" 'not restarted: run'
  check 'packages/apk-scripts: pre-deinstall succeeds' run_script "$log" 0 .pre-deinstall "$version"
  check 'packages/apk-scripts: pre-deinstall stops the service' refuses service --quiet status
  check 'packages/apk-scripts: pre-deinstall disables the service' refuses test -L "$root/etc/runlevels/default/$name"
  sed -i '/^CHECK_INTERVAL=never$/d' "$confd"
  check 'packages/apk-scripts: post-upgrade succeeds for a stopped service' run_script "$log" 0 .post-upgrade "$later" "$version"
  check 'packages/apk-scripts: post-upgrade does not start a stopped service' refuses service --quiet status
}
