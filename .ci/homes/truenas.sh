# shellcheck shell=bash
# TrueNAS: /usr is read-only, so all of it goes into a folder of a pool, and nothing starts the service at boot.
# shellcheck source=.ci/homes/lib.sh
. .ci/homes/lib.sh

test_truenas() {
  local machine=$1/truenas prefix=mnt/pool/pia
  make_machine "$machine"
  mkdir -p "$machine/root/$prefix" "$machine/root/run/systemd/system"
  mount --bind "$machine/root/usr" "$machine/root/usr"
  mount -o remount,bind,ro "$machine/root/usr"
  check_prefixes "$machine" "$prefix"
  add_other_installation "$machine"
  check_prefix_installation "$machine" "$prefix"
  check_wrong_settings "$machine" "$prefix"
  check_planted_script "$machine" "$prefix"
  check_prefix_removal "$machine" "$prefix"
  remove_machine "$machine"
}

# check_prefixes MACHINE PREFIX: folders that root would run programs from, and --uninstall remove.
check_prefixes() {
  local machine=$1 pool=$1/root/mnt/pool prefix=$2 folder
  check 'homes/truenas: the installer asks for a --prefix when /usr is read-only' \
    refuses_with "$machine" 1 'cannot write to /usr/local/bin: choose a different folder with --prefix'
  info "install.sh printed: $(tr '\n' '|' <"$machine/output")"
  check 'homes/truenas: the installer refuses / as --prefix' refuses_with "$machine" 64 'other than /' --prefix //
  check 'homes/truenas: the installer refuses a --prefix with a space' \
    refuses_with "$machine" 64 'letters, digits' --prefix '/mnt/my pool'
  : >"$pool/movie"
  check 'homes/truenas: the installer refuses a --prefix with other files and changes nothing' \
    leaves_unchanged "$machine" refuses_with "$machine" 1 '/mnt/pool contains other files' --prefix /mnt/pool
  check 'homes/truenas: --uninstall --purge refuses a --prefix with other files and changes nothing' \
    leaves_unchanged "$machine" refuses_with "$machine" 1 '/mnt/pool was not installed by this script' --uninstall --purge --prefix /mnt/pool
  chmod 777 "$machine/root/$prefix"
  check 'homes/truenas: the installer refuses a --prefix to which every user can write and changes nothing' \
    leaves_unchanged "$machine" refuses_with "$machine" 1 "others can write to /$prefix: root would run" --prefix "/$prefix"
  chmod 755 "$machine/root/$prefix"
  check_planted_folders "$machine" "$prefix"
  for folder in /pia /pia/in/there; do
    check "homes/truenas: the --prefix $folder need not exist" would_install "$machine" --prefix "$folder"
  done
}

# check_planted_folders MACHINE PREFIX: a user who can write to a part of the prefix, or replace a part of its path.
check_planted_folders() {
  local machine=$1 root=$1/root prefix=$2
  mkdir "$root/$prefix/bin"
  chown 1000 "$root/$prefix/bin"
  check 'homes/truenas: the installer refuses a --prefix with a folder of another user and changes nothing' \
    leaves_unchanged "$machine" refuses_with "$machine" 1 "users other than root can change /$prefix/bin: root would run" --prefix "/$prefix"
  rmdir "$root/$prefix/bin"
  chown 1000 "$root/$prefix"
  check "homes/truenas: the installer refuses a --prefix of sudo's user and changes nothing" \
    leaves_unchanged "$machine" refuses_with "$machine" 1 "/$prefix belongs to another user: root would run" SUDO_UID=1000 --prefix "/$prefix"
  chown 0 "$root/$prefix"
  check 'homes/truenas: the installer refuses a --prefix with ..' refuses_with "$machine" 64 'may not contain ..' --prefix "/$prefix/new/../.."
  ln -s /mnt/pool "$root/home/link"
  check 'homes/truenas: the installer replaces a link in --prefix by the folder itself' \
    prints_for "$machine" "/$prefix/bin/$name" --dry-run --prefix /home/link/pia
  rm "$root/home/link"
}

# prints_for MACHINE PART OPTION...
prints_for() { installs "$1" "${@:3}" && prints "$1" "$2"; }

# check_planted_script MACHINE PREFIX: another user has replaced run.sh, or can.
check_planted_script() {
  local machine=$1 folder=$1/root/$2 script=/$2/run.sh
  cp -p "$folder/run.sh" "$machine/run.sh"
  printf '#!/bin/sh\n: >/planted\n' >"$folder/run.sh"
  chown 1000 "$folder/run.sh"
  check "homes/truenas: --uninstall refuses a --prefix with another user's run.sh and changes nothing" \
    leaves_unchanged "$machine" refuses_with "$machine" 1 "users other than root can change $script; nothing was removed" \
    SUDO_UID=1000 --uninstall --prefix "/$2"
  check "homes/truenas: an upgrade refuses a --prefix with another user's run.sh and changes nothing" \
    leaves_unchanged "$machine" refuses_with "$machine" 1 "users other than root can change $script: root would run" --prefix "/$2"
  check 'homes/truenas: the installer prints the command for files that the user trusts' \
    prints "$machine" "run: chown -hR 0:0 /$2; chmod -R go-w /$2"
  chown 0 "$folder/run.sh"
  chmod 777 "$folder"
  check 'homes/truenas: --uninstall refuses a --prefix to which every user can write and changes nothing' \
    leaves_unchanged "$machine" refuses_with "$machine" 1 "others can write to /$2; nothing was removed" --uninstall --purge --prefix "/$2"
  check "homes/truenas: root does not run another user's run.sh" has_no "$machine" planted
  chmod 755 "$folder"
  cp -p "$machine/run.sh" "$folder/run.sh"
}

# would_install MACHINE OPTION...: in limited time.
would_install() { enter "$1" timeout -s KILL 20 sh /src/install.sh --dry-run "${@:2}" >/dev/null; }

other_installation=(
  "etc/systemd/system/$name.service"
  "etc/$name/config.env"
  "var/lib/$name/lease.json"
)
# Without a --prefix; the one with a --prefix has nothing to do with its files.
add_other_installation() {
  local file
  for file in "${other_installation[@]}"; do
    mkdir -p "$(dirname "$1/root/$file")"
    : >"$1/root/$file"
  done
  printf 'ExecStart=/usr/local/bin/%s\n' "$name" >"$1/root/etc/systemd/system/$name.service"
}

# check_prefix_installation MACHINE PREFIX
check_prefix_installation() {
  local machine=$1 prefix=$2 config=$2/etc/config.env pid
  check 'homes/truenas: an installation with --prefix succeeds' installs "$machine" --prefix "/$prefix"
  check 'homes/truenas: the --prefix gets all files of the installation' \
    eq "$(cd "$machine/root/$prefix" && find . -type f | sort | tr '\n' ' ')" \
    "./bin/$name ./etc/config.env ./run.sh ./share/config.env "
  check 'homes/truenas: the installer reports that nothing starts the service at boot' \
    prints "$machine" 'at boot: nothing starts it yet'
  configure "$machine" "$config"
  check 'homes/truenas: run.sh starts the service' enter "$machine" sh "/$prefix/run.sh" start
  check 'homes/truenas: the service is healthy' wait_for 10 is_well "$machine" "$config"
  pid=$(daemon_pid "$machine")
  change_binary "$machine"
  check 'homes/truenas: an upgrade succeeds' installs "$machine" --prefix "/$prefix"
  check 'homes/truenas: an upgrade restarts the service' is_another "$machine" "$pid"
  check 'homes/truenas: the service is healthy after an upgrade' wait_for 10 is_well "$machine" "$config"
  check 'homes/truenas: an upgrade reports, too, that nothing starts the service at boot' \
    prints "$machine" 'at boot: nothing starts it yet'
}

# check_wrong_settings MACHINE PREFIX
check_wrong_settings() {
  local machine=$1 script=/$2/run.sh pid
  pid=$(daemon_pid "$machine")
  printf 'CHECK_INTERVAL=never\n' >>"$machine/root/$2/etc/config.env"
  check 'homes/truenas: run.sh refuses a restart with wrong settings' refuses enter "$machine" sh "$script" restart
  check 'homes/truenas: a refused restart leaves the service running' is_still "$machine" "$pid"
  check 'homes/truenas: the running service can be killed' kill -KILL "$pid"
  check 'homes/truenas: the log reports that a service with wrong settings is not restarted after SIGKILL' \
    wait_for 20 logged "$machine" 'exited with 78; not restarting'
  check 'homes/truenas: the log names the wrong setting' logged "$machine" 'CHECK_INTERVAL=never'
  check 'homes/truenas: run.sh stop succeeds when the service does not run' enter "$machine" sh "$script" stop
  check 'homes/truenas: run.sh refuses to start with wrong settings' refuses enter "$machine" sh "$script" start
  check 'homes/truenas: the log reports the refused start' logged "$machine" 'not started: CHECK_INTERVAL=never'
}

logged() { grep -q "$2" "$1/root/var/log/pia_qbittorrent_sync.log"; }

# check_prefix_removal MACHINE PREFIX
check_prefix_removal() {
  local machine=$1 prefix=$2
  printf "CHECK_INTERVAL=300\nQBITTORRENT_PASSWORD_FILE='/mnt/pool/secret'\nQBITTORRENT_PASSWORD=\n" >>"$machine/root/$prefix/etc/config.env"
  # shellcheck disable=SC2154 # from boot.sh
  printf '%s\n' "$webui_password" >"$machine/root/mnt/pool/secret"
  check 'homes/truenas: --uninstall --purge succeeds' installs "$machine" --uninstall --purge --prefix "/$prefix"
  check "homes/truenas: --purge names the user's own file that it leaves" \
    prints "$machine" 'not removed, delete it yourself if it is no longer needed: /mnt/pool/secret'
  check 'homes/truenas: --purge removes the --prefix' has_no "$machine" "$prefix"
  check 'homes/truenas: --purge leaves the files of an installation without --prefix' \
    has_files "$machine" "${other_installation[@]}"
}
