# shellcheck shell=bash
# install.sh where nothing of ours was before, without an init system.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh

test_fresh() {
  local machine=$1/fresh
  make_machine "$machine"

  check 'install/fresh: an unknown init system is a usage error that lists the known ones' refuses_with "$machine" 64 \
    '--init must be systemd, openrc, procd, unraid, dsm or none' --init upstart
  check 'install/fresh: --purge without --uninstall is a usage error' refuses_with "$machine" 64 '--purge needs --uninstall' --purge
  check 'install/fresh: --dry-run changes nothing' changes_nothing "$machine" --dry-run
  check 'install/fresh: --dry-run names the binary to be installed' prints "$machine" "would install /$installed"

  check 'install/fresh: a first installation succeeds' installs "$machine"
  check 'install/fresh: the installer reports that no init system runs' prints "$machine" 'init system: none'
  check 'install/fresh: the binary is installed' has_copy "$machine" "$installed" "$1/$name"
  check 'install/fresh: every user can run the binary' has_mode "$machine" "$installed" 755
  check 'install/fresh: the configuration is the template' has_copy "$machine" "$etc/config.env" systemd/config.env
  check 'install/fresh: only root can read the configuration' has_mode "$machine" "$etc/config.env" 600
  check "install/fresh: the state folder belongs to the service's user" \
    eq "$(enter "$machine" stat -c '%a %U %G' "/var/lib/$name")" '700 pia-sync pia-sync'
  check "install/fresh: the service's user cannot log in" grep -qE '^pia-sync:.*/(nologin|false)$' "$machine/root/etc/passwd"
  check 'install/fresh: the installer adds neither a unit nor an init script' \
    refuses test -e "$machine/root/$unit" -o -e "$machine/root/$initd"
  check "install/fresh: the installer reports that PIA's CA could not be fetched" prints "$machine" 'cannot connect to 127.0.0.1:9'
  check 'install/fresh: the installer announces that the service will fetch the CA' \
    prints "$machine" "the service will fetch it"
  check 'install/fresh: no file takes the place of the missing CA' has_no_state "$machine"
  check 'install/fresh: the installer names the missing settings' prints "$machine" 'PIA_USERNAME: is not set'
  check 'install/fresh: the installer names the next step' prints "$machine" 'pia-qbittorrent-sync check'
  check_user_of_settings "$machine"
  check 'install/fresh: the installer leaves no temporary files' is_tidy "$machine"
  check 'install/fresh: a second run changes nothing' changes_nothing "$machine"
  check 'install/fresh: a second run reports that nothing has changed' prints "$machine" 'nothing has changed'
  remove_machine "$machine"
}

# The service's user may read the settings, but root reads them, too: they must stay root's.
check_user_of_settings() {
  local machine=$1 typed
  typed=$(sed -n 's/.*to run it as pia-sync: //p' "$machine/output")
  printf 'PIA_USERNAME=p1234567\nPIA_PASSWORD=x\n' >>"$machine/root/$etc/config.env"
  check "install/fresh: the command that lets the service's user read the settings succeeds" enter "$machine" sh -c "$typed"
  check 'install/fresh: the settings still belong to root, and no other user can change them' \
    eq "$(enter "$machine" stat -c '%a %U %G' "/$etc/config.env")" '640 root pia-sync'
  check "install/fresh: the service's user can read the settings" \
    enter "$machine" su -s /bin/sh pia-sync -c "/$installed check --config-only"
  enter "$machine" sh -c "chgrp root /$etc/config.env && chmod 600 /$etc/config.env"
}
