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

  add_returns "$machine"
  change_templates "$machine"
  check 'install/configuration: an upgrade to templates with carriage returns succeeds' installs "$machine"
  check 'install/configuration: no installed text has carriage returns' has_no_returns "$machine" "$config"
  remove_machine "$machine"
}
