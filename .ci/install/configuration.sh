# shellcheck shell=bash
# The user's configuration over upgrades, without an init system.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh

test_configuration() {
  local machine=$1/configuration config=$etc/config.env
  make_machine "$machine"
  installs "$machine" || fail 'install/configuration: a first installation succeeds'

  printf '# mine\n' >>"$machine/root/$config"
  cp "$machine/root/$config" "$machine/mine"
  check 'install/configuration: an edited configuration is left alone' changes_nothing "$machine"
  change_templates "$machine"
  check 'install/configuration: an upgrade with a new template succeeds' installs "$machine"
  check 'install/configuration: the edited configuration is kept' has_copy "$machine" "$config" "$machine/mine"
  check 'install/configuration: the new template is stored next to the configuration' \
    has_copy "$machine" "$config.new" "$machine/root/src/systemd/config.env"
  check 'install/configuration: the installer reports the kept configuration and the new template' \
    prints "$machine" "kept your /$config; the new version is /$config.new"
  check 'install/configuration: a second run with the same template changes nothing' changes_nothing "$machine"
  rm "$machine/root/$config.new"
  check 'install/configuration: a template that the user deleted stays away' changes_nothing "$machine"

  check_owner_of_settings "$machine"

  add_returns "$machine"
  change_templates "$machine"
  check 'install/configuration: an upgrade to templates with carriage returns succeeds' installs "$machine"
  check 'install/configuration: no installed text has carriage returns' has_no_returns "$machine" "$config"
  remove_machine "$machine"
}

# A user who owns the settings could have root create folders for the service's user.
check_owner_of_settings() {
  local machine=$1 root=$1/root typed
  cp "$root/$etc/config.env" "$machine/saved"
  printf 'STATE_DIR=/etc/new\n' >>"$root/$etc/config.env"
  enter "$machine" chown pia-sync "/$etc/config.env"
  check "install/configuration: settings of the service's user are refused and nothing changes" \
    leaves_unchanged "$machine" refuses_with "$machine" 1 "/$etc/config.env belongs to another user: only root may change the settings"
  typed=$(sed -n 's/.* Run: //p' "$machine/output")
  check 'install/configuration: the command in that message succeeds' enter "$machine" sh -c "$typed"
  check "install/configuration: after that command the service's user can still read the settings" \
    eq "$(enter "$machine" stat -c '%a %U %G' "/$etc/config.env")" '640 root pia-sync'
  cp "$machine/saved" "$root/$etc/config.env"
  check 'install/configuration: after that command an installation succeeds' installs "$machine"
}
