# shellcheck shell=bash disable=SC2034 # the scenarios use the constants
# What the scenarios of .ci/test-systemd share. Definitions only, no state.
#
# Each scenario gets the booted machine, a folder with its `root`. It starts with the service on default settings, makes
# the settings that it needs, and ends with `restore`. `inside`, `counted` and the like are those of .ci/boot.sh, which
# has one booted machine per script.

unit=pia-qbittorrent-sync
unit_file=systemd/$unit.service
etc=etc/$unit
state=var/lib/private/$unit

sc() { inside systemctl "$@"; }
prop() { sc show "$unit" --property="$1" --value; }
# is NAME VALUE, is_like NAME PART: of the unit's properties.
is() { eq "$(prop "$1")" "$2"; }
is_like() { has "$(prop "$1")" "$2"; }
# journal OPTION..., logged PART OPTION...: of the unit's present or last run.
journal() { inside journalctl "_SYSTEMD_INVOCATION_ID=$(prop InvocationID)" --no-pager --output=cat "$@"; }
logged() { has "$(journal "${@:2}")" "$1"; }
# logged_since CURSOR PART: for a run that ends at once. systemd may have forgotten its invocation before the journal looks
# for it; the unit's name comes with the message.
journal_cursor() { inside journalctl --lines=1 --show-cursor --quiet | sed -n 's/^-- cursor: //p'; }
logged_since() { has "$(inside journalctl --unit="$unit" --after-cursor="$1" --no-pager --output=cat)" "$2"; }
daemon() { inside /usr/local/bin/pia-qbittorrent-sync "$@"; }
# exits STATUS COMMAND...
exits() {
  local wanted=$1 got=0
  shift
  "$@" || got=$?
  eq "$got" "$wanted"
}
# refuses_connections PORT: on the machine's loopback.
refuses_connections() { ! inside bash -c "exec 3<>/dev/tcp/127.0.0.1/$1" 2>/dev/null; }

# Mode and owner of lease and token.
owners() { inside stat -c '%a %u' "/var/lib/$unit/lease.json" /run/pia/token; }
# restarted COUNT: automatically, since the last manual start.
restarted() { is NRestarts "$1" && is ActiveState active; }
starts() { sc --quiet restart "$unit" && is ActiveState active; }
# failed_with STATUS: and was not restarted.
failed_with() { eq "$(prop ExecMainStatus) $(prop SubState) $(prop NRestarts)" "$1 failed 0"; }

# drop_in MACHINE LINE...: these and no others are added to the unit's service section.
drop_in() {
  local dir=$1/root/etc/systemd/system/$unit.service.d
  rm -rf "$dir"
  if [ $# -gt 1 ]; then
    mkdir -p "$dir"
    printf '%s\n' '[Service]' "${@:2}" >"$dir/test.conf"
  fi
  sc daemon-reload
}

# add_settings MACHINE LINE...: to the default ones, and to no others.
add_settings() {
  cp "$1/root/sim/settings" "$1/root/$etc/config.env"
  [ $# -eq 1 ] || printf '%s\n' "${@:2}" >>"$1/root/$etc/config.env"
}

# restore MACHINE: the unit as it ships, default settings, and a service that runs.
restore() {
  drop_in "$1"
  add_settings "$1"
  sc restart "$unit"
}

# --- the machine

make_machine() {
  local root=$1/root
  make_systemd_root "$root"
  add_programs "$root" "$2"
  install -D -m 644 "$unit_file" "$root/etc/systemd/system/$unit.service"
  install -D -m 600 "$root/sim/settings" "$root/$etc/config.env"
  # shellcheck disable=SC2154 # from boot.sh
  {
    add_credential "$root" PIA_USERNAME "$account_username"
    add_credential "$root" PIA_PASSWORD "$account_password"
    add_credential "$root" QBITTORRENT_USERNAME "$webui_username"
    add_credential "$root" QBITTORRENT_PASSWORD "$webui_password"
  }
  # Its name is that of a tunnel, and it is slow: without the unit's ordering the daemon would not find its certificates.
  # shellcheck disable=SC2154 # from boot.sh
  cat >"$root/etc/systemd/system/wg-quick@pia.service" <<UNIT
[Service]
ExecStartPre=/bin/sleep 1
ExecStart=$simulator_command
ExecStartPost=/bin/sh -c 'until [ -e /sim/env ]; do sleep 0.1; done'
[Install]
WantedBy=multi-user.target
UNIT
  systemctl --root="$root" --quiet enable "$unit.service" wg-quick@pia.service
}

# add_credential ROOT NAME VALUE: as the unit asks its users to.
add_credential() { install -D -m 600 /dev/stdin "$1/$etc/credentials/$2" <<<"$3"; }

boot_machine() {
  local begin
  begin=$(now_ms)
  boot "$1/root" --boot
  wait_for 60 is_up || fail "systemd/boot: systemd completes its boot: $(sc list-units --failed --no-legend --plain)"
  info "booted in $(($(now_ms) - begin)) ms"
}
is_up() { eq "$(sc is-system-running)" running; }
