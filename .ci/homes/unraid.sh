# shellcheck shell=bash
# Unraid: a system in RAM, a flash drive without owners and without executable files, and a file `go` that runs at boot.
# shellcheck source=.ci/homes/lib.sh
. .ci/homes/lib.sh

test_unraid() {
  local machine=$1/unraid
  make_machine "$machine"
  printf 'version="7.0.0"\n' >"$machine/root/etc/unraid-version"
  mkdir -p "$machine/root/boot/config"
  mount -t tmpfs -o noexec tmpfs "$machine/root/boot"
  mkdir -p "$machine/root/boot/config"
  printf '#!/bin/bash\n/usr/local/sbin/emhttp &\n' >"$machine/root/boot/config/go"
  cp "$machine/root/boot/config/go" "$machine/go"
  check_shares "$machine"
  check_unraid_installation "$machine" "boot/config/plugins/$name"
  check_unraid_service "$machine" "boot/config/plugins/$name"
  check 'homes/unraid: --uninstall --purge succeeds' installs "$machine" --uninstall --purge
  check 'homes/unraid: --purge restores the go file' cmp "$machine/root/boot/config/go" "$machine/go"
  check 'homes/unraid: --purge removes every file of ours' is_gone "$machine"
  remove_machine "$machine"
}

# Unraid's shares belong to its user for shares, and every user of the network can write to them.
check_shares() {
  local machine=$1 user=$1/root/mnt/user share=/mnt/user/appdata
  mkdir -p "$user/appdata"
  chown 99:100 "$user/appdata"
  check 'homes/unraid: the installer refuses a --prefix in a share of another user and changes nothing' \
    leaves_unchanged "$machine" refuses_with "$machine" 1 "$share belongs to another user: root would run" --prefix "$share/pia"
  check 'homes/unraid: the installer names the default for a share' prints "$machine" 'the default is on the flash drive'
  chown 0:0 "$user/appdata"
  chmod 777 "$user/appdata"
  check 'homes/unraid: the installer refuses a --prefix in a share to which every user can write and changes nothing' \
    leaves_unchanged "$machine" refuses_with "$machine" 1 "others can write to $share: root would run" --prefix "$share/pia"
  chmod 755 "$user/appdata"
  chmod 777 "$user"
  check 'homes/unraid: the installer refuses a --prefix below a folder to which every user can write and changes nothing' \
    leaves_unchanged "$machine" refuses_with "$machine" 1 'others can write to /mnt/user: root would run' --prefix "$share/pia"
  rm -r "$user"
}

# check_unraid_installation MACHINE PREFIX
check_unraid_installation() {
  local machine=$1 go=$1/root/boot/config/go prefix=$2
  check 'homes/unraid: a first installation succeeds' installs "$machine"
  check 'homes/unraid: the installer detects Unraid' prints "$machine" 'init system: unraid'
  check 'homes/unraid: binary, script and configuration are on the flash drive' \
    has_files "$machine" "$prefix"/{bin/"$name",run.sh,etc/config.env}
  check 'homes/unraid: the go file starts the service' grep -qx "sh /$prefix/run.sh start # $name" "$go"
  check 'homes/unraid: the go file keeps its former lines' eq "$(head -n 2 "$go")" "$(cat "$machine/go")"
  # This flash drive is one.
  check 'homes/unraid: the installer warns about a state folder on a RAM disk' \
    prints "$machine" 'is on a RAM disk: each boot will need a login and get a different port'
  check 'homes/unraid: a second run changes nothing' changes_nothing "$machine"
  check 'homes/unraid: the installer reports that the flash drive has no file permissions' \
    prints "$machine" 'the flash drive has no file owners'
  check 'homes/unraid: the installed program names the missing settings' prints "$machine" 'PIA_USERNAME: is not set'
  check 'homes/unraid: the installer prints a check command that works when typed' \
    prints "$machine" "test everything: $name --config /$prefix/etc/config.env check"
}

# check_unraid_service MACHINE PREFIX
check_unraid_service() {
  local machine=$1 prefix=$2 config=$2/etc/config.env pid
  configure "$machine" "$config"
  # As after a reboot, which empties the RAM.
  rm -f "$machine/root/usr/local/bin/$name"
  check 'homes/unraid: the go file starts the service without keeping its own output open' \
    closes_output enter "$machine" sh -c "$(tail -n 1 "$machine/root/boot/config/go")"
  check 'homes/unraid: the service is healthy after a boot' wait_for 10 is_well "$machine" "$config"
  pid=$(daemon_pid "$machine")
  change_binary "$machine"
  check 'homes/unraid: an upgrade succeeds' installs "$machine"
  check 'homes/unraid: an upgrade restarts the service' is_another "$machine" "$pid"
  check 'homes/unraid: the service is healthy after an upgrade' wait_for 10 is_well "$machine" "$config"
  check 'homes/unraid: the lease is on the flash drive' has_file "$machine" "$prefix/state/lease.json"
  check 'homes/unraid: the service is healthy again after SIGKILL' recovers "$machine" "$config"
  check 'homes/unraid: run.sh stops the service' enter "$machine" sh "/$prefix/run.sh" stop
  check 'homes/unraid: no process is left after the stop' wait_for 5 is_stopped "$machine"
}

# closes_output COMMAND...: what it leaves running does not keep its output open.
closes_output() { "$@" | timeout 10 cat; }
