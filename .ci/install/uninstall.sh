# shellcheck shell=bash
# --uninstall and --purge, without an init system.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh

test_uninstall() {
  local machine=$1/uninstall
  make_machine "$machine"
  installs "$machine" || fail 'install/uninstall: a first installation succeeds'
  # So that there is an edited configuration, and a new template next to it.
  printf '# mine\n' >>"$machine/root/$etc/config.env"
  change_templates "$machine"
  installs "$machine" || fail 'install/uninstall: an upgrade succeeds'

  check 'install/uninstall: --uninstall --purge --dry-run changes nothing' changes_nothing "$machine" --uninstall --purge --dry-run
  check 'install/uninstall: --uninstall succeeds' installs "$machine" --uninstall
  check 'install/uninstall: --uninstall removes the binary' has_no "$machine" "$installed"
  check 'install/uninstall: --uninstall removes the templates' has_no "$machine" "usr/local/share/$name"
  check 'install/uninstall: --uninstall keeps the configuration' grep -q mine "$machine/root/$etc/config.env"
  check 'install/uninstall: --uninstall keeps the state' has_file "$machine" "var/lib/$name"
  check 'install/uninstall: a second --uninstall succeeds' installs "$machine" --uninstall
  check 'install/uninstall: --uninstall --purge succeeds' installs "$machine" --uninstall --purge
  check 'install/uninstall: --purge removes every file of ours' is_gone "$machine"
  check "install/uninstall: --purge removes the service's user and group" \
    refuses grep -q pia-sync "$machine/root/etc/passwd" "$machine/root/etc/group"
  remove_machine "$machine"
}
