# shellcheck shell=bash
# systemd before 247, which hands over no credentials; with a stand-in for systemctl.
# shellcheck source=.ci/homes/lib.sh
. .ci/homes/lib.sh

test_old_systemd() {
  local machine=$1/old-systemd root=$1/old-systemd/root etc=etc/$name
  local drop_in=etc/systemd/system/$name.service.d/before-247.conf
  make_machine "$machine"
  mkdir -p "$root/run/systemd/system" "$root/etc/systemd/system"
  printf '#!/bin/sh\n[ "$1" != --version ] || echo "systemd 245 (245.4-4ubuntu3.24)"\necho "$*" >>/var/log/systemctl\n' >"$root/usr/bin/systemctl"
  chmod 755 "$root/usr/bin/systemctl"
  check 'homes/old-systemd: an installation under systemd 245 succeeds' installs "$machine"
  check 'homes/old-systemd: the installer reports how the service reads its settings without credentials' prints "$machine" \
    "systemd 245 has no credentials (247 does): the service runs as user pia-sync, which can read /$etc"
  check 'homes/old-systemd: a drop-in runs the service as a user of its own' grep -qx 'User=pia-sync' "$root/$drop_in"
  check "homes/old-systemd: the service's group can read the settings" \
    eq "$(enter "$machine" stat -c '%a %G' "/$etc/config.env" "/$etc/credentials")" $'640 pia-sync\n750 pia-sync'
  # shellcheck disable=SC2154 # from boot.sh
  printf '%s' "$account_username" >"$root/$etc/credentials/PIA_USERNAME"
  # shellcheck disable=SC2154 # from boot.sh
  printf '%s' "$account_password" >"$root/$etc/credentials/PIA_PASSWORD"
  check 'homes/old-systemd: a second run succeeds' installs "$machine"
  check "homes/old-systemd: a second run lets the service's group read the new secrets" \
    eq "$(enter "$machine" stat -c '%a %G' "/$etc/credentials/PIA_PASSWORD")" '640 pia-sync'
  check "homes/old-systemd: the service's user finds all settings" \
    enter "$machine" su -s /bin/sh pia-sync -c "/usr/local/bin/$name check --config-only"
  sed -i 's/245/252/' "$root/usr/bin/systemctl"
  : >"$root/var/log/systemctl"
  check 'homes/old-systemd: a run after an upgrade of systemd succeeds' installs "$machine"
  check 'homes/old-systemd: a run after an upgrade of systemd removes the drop-in' has_no "$machine" "$drop_in"
  check 'homes/old-systemd: a run after an upgrade of systemd reloads the units' grep -qx daemon-reload "$root/var/log/systemctl"
  check 'homes/old-systemd: a run after an upgrade of systemd lets only root read settings and secrets' \
    eq "$(enter "$machine" stat -c %a "/$etc/config.env" "/$etc/credentials/PIA_PASSWORD")" $'600\n600'
  remove_machine "$machine"
}
