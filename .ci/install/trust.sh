# shellcheck shell=bash
# What lies next to install.sh is installed only if no other user can have put it there. Otherwise the release is.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh
# shellcheck source=.ci/install/release-lib.sh
. .ci/install/release-lib.sh
# shellcheck source=.ci/install/trust-lib.sh
. .ci/install/trust-lib.sh

test_trust() {
  local machine=$1/trust
  make_machine "$machine"
  add_release "$machine"
  chmod 1777 "$machine/root/tmp"
  check_writable_bin "$machine"
  check_in_tmp "$machine"
  check_folders "$machine"
  check_single_files "$machine"
  check_links "$machine"
  check_sudo "$machine"
  rm "$machine/root/srv/$services"
  check_without_release "$machine"
  remove_machine "$machine"
}

# distrusts MACHINE FOLDER WHY VARIABLE=VALUE...: the release is installed, and one line of output gives the reason.
distrusts() {
  run_planted "$1" "$2" "${@:4}"
  has_status "$1" 0 || return 1
  is_not_planted "$1" || { cat "$1/output" && return 1; }
  eq "$(grep -c 'not used:' "$1/output")" 1 && prints "$1" "; $3. If you trust"
}

# trusts MACHINE FOLDER VARIABLE=VALUE...: and afterwards the release is back.
trusts() {
  run_planted "$@"
  { has_status "$1" 0 && is_planted "$1" && omits "$1" 'not used'; } || { cat "$1/output" && return 1; }
  run_planted "$1" /src
  has_status "$1" 0 && is_not_planted "$1"
}

installs_quietly() {
  run_planted "$@"
  has_status "$1" 0 && omits "$1" 'not used'
}

# Debian's group staff may write to /usr/local.
check_writable_bin() {
  local machine=$1 root=$1/root suffix
  printf 'precious\n' >"$root/srv/precious"
  for suffix in probe part; do ln -s /srv/precious "$root/usr/local/bin/.$name.$suffix"; done
  run_planted "$machine" /src
  check 'install/trust: an installation succeeds next to planted links' has_status "$machine" 0
  check 'install/trust: nothing is written through links with the names of temporary files' eq "$(cat "$root/srv/precious")" precious
  rm -f "$root/usr/local/bin/.$name".*
}

check_in_tmp() {
  local machine=$1 tmp=$1/root/tmp
  plant "$machine" /tmp
  check 'install/trust: an install.sh in /tmp itself distrusts the files there' distrusts "$machine" /tmp 'others can write to /tmp'
  chown -R 1000:1000 "$tmp/$name" "$tmp"/{systemd,openrc}
  check "install/trust: an install.sh in /tmp itself distrusts another user's files there" \
    distrusts "$machine" /tmp 'others can write to /tmp'
  rm -r "${tmp:?}"/{systemd,openrc,contrib,"$name"}
  check 'install/trust: a lone install.sh in /tmp prints no warning' installs_quietly "$machine" /tmp
  plant "$machine" /tmp/release
  check "install/trust: root's own folder in /tmp is trusted" trusts "$machine" /tmp/release
  rm -r "$tmp"/{install.sh,release}
}

check_folders() {
  local machine=$1 folder=/opt/release opt=$1/root/opt
  plant "$machine" "$folder"
  check "install/trust: a release in root's own folder is trusted" trusts "$machine" "$folder"
  chmod 777 "$opt/release"
  check 'install/trust: a folder to which every user can write is distrusted' \
    distrusts "$machine" "$folder" "others can write to $folder"
  chmod 775 "$opt/release"
  check 'install/trust: a folder to which a group can write is distrusted' \
    distrusts "$machine" "$folder" "others can write to $folder"
  chmod 755 "$opt/release"
  chown 1000 "$opt/release"
  check "install/trust: another user's folder is distrusted" distrusts "$machine" "$folder" "$folder belongs to another user"
  chown 0 "$opt/release"
  chmod 757 "$opt"
  check 'install/trust: a folder that every user can swap is distrusted' distrusts "$machine" "$folder" 'others can write to /opt'
  chmod 755 "$opt"
  chown 1000 "$opt"
  check 'install/trust: a folder that the owner of the one above can swap is distrusted' \
    distrusts "$machine" "$folder" '/opt belongs to another user'
  chown 0 "$opt"
  rm -r "$opt/release"
}

# Each of them counts for itself: the rest of the folder is trusted.
check_single_files() {
  local machine=$1 folder=/opt/release release_dir=$1/root/opt/release
  plant "$machine" "$folder"
  chmod 777 "$release_dir/systemd"
  run_planted "$machine" "$folder"
  check 'install/trust: service files in a folder to which every user can write are reported' \
    prints "$machine" "not used: systemd openrc contrib; others can write to $folder/systemd."
  check 'install/trust: service files in a folder to which every user can write are not installed' has_own_services "$machine"
  check 'install/trust: the binary next to distrusted service files is used' has_file "$machine" planted
  chmod 755 "$release_dir/systemd"
  chmod 646 "$release_dir/openrc/$name.initd"
  run_planted "$machine" "$folder"
  check 'install/trust: a service file to which every user can write is reported' \
    prints "$machine" "openrc/$name.initd. If you trust"
  check 'install/trust: no service file is installed when every user can write to one' has_own_services "$machine"
  chmod 644 "$release_dir/openrc/$name.initd"
  chown 1000 "$release_dir/$name"
  run_planted "$machine" "$folder"
  check "install/trust: another user's binary is reported" \
    prints "$machine" "not used: $name; $folder/$name belongs to another user."
  check "install/trust: another user's binary is not run" has_no "$machine" planted
  check "install/trust: another user's binary is not installed" has_copy "$machine" "$installed" "${machine%/*}/$name"
  check "install/trust: the service files next to another user's binary are installed" has_planted_services "$machine"
  rm -r "$release_dir"
  plant "$machine" "$folder" "target/release/$name"
  chmod 777 "$release_dir/target"
  run_planted "$machine" "$folder"
  check 'install/trust: a build in a folder to which every user can write is reported' \
    prints "$machine" "not used: target/release/$name; others can write to $folder/target."
  check 'install/trust: a build in a folder to which every user can write is not run' has_no "$machine" planted
  rm -r "$release_dir"
}

check_links() {
  local machine=$1 folder=/opt/release root=$1/root release_dir=$1/root/opt/release
  plant "$machine" /tmp/theirs
  chown -R 1000:1000 "$root/tmp/theirs"
  ln -s ../tmp/theirs "$release_dir"
  check "install/trust: a link to another user's folder is distrusted" \
    distrusts "$machine" "$folder" '/tmp/theirs belongs to another user'
  rm "$release_dir"
  plant "$machine" "$folder"
  rm -r "${release_dir:?}"/{systemd,openrc,contrib,"$name"}
  ln -s /tmp/theirs/{systemd,openrc,contrib,"$name"} "$release_dir/"
  check "install/trust: links to another user's files are distrusted" \
    distrusts "$machine" "$folder" "$folder/$name is a symbolic link"
  rm "$release_dir"/{systemd,openrc,contrib}
  cp -R systemd openrc contrib "$release_dir/"
  ln -sf /tmp/theirs/systemd/config.env "$release_dir/systemd/"
  rm "$release_dir/$name"
  check "install/trust: a single link to another user's file is distrusted" \
    distrusts "$machine" "$folder" "$folder/systemd/config.env is a symbolic link"
  rm -r "$release_dir"
  # The link lies where every user can write, but it is its real path that counts.
  plant "$machine" "$folder"
  ln -s "$folder" "$root/tmp/link"
  check 'install/trust: a link to a safe folder is trusted' trusts "$machine" /tmp/link
  rm -r "$root/tmp/link" "$root/tmp/theirs" "$release_dir"
}

check_sudo() {
  local machine=$1 folder=/home/me/release home=$1/root/home/me typed
  plant "$machine" "$folder"
  chown -R 1000:1000 "$home"
  check "install/trust: the folder of sudo's user is trusted" trusts "$machine" "$folder" SUDO_UID=1000
  check "install/trust: the folder of a different user than sudo's is distrusted" \
    distrusts "$machine" "$folder" "$folder belongs to another user" SUDO_UID=1001
  check "install/trust: another user's folder is distrusted without sudo" \
    distrusts "$machine" "$folder" "$folder belongs to another user"
  check "install/trust: another user's folder is distrusted when sudo's user is not a number" \
    distrusts "$machine" "$folder" "$folder belongs to another user" SUDO_UID=me
  chmod -R g+w "$home/release"
  check "install/trust: a folder of sudo's user to which a group can write is distrusted" \
    distrusts "$machine" "$folder" "others can write to $folder" SUDO_UID=1000
  typed=$(sed -n 's/.*run: *//p' "$machine/output" | head -n 1)
  check 'install/trust: the command that the installer suggests succeeds' \
    enter "$machine" env "$nowhere" SUDO_UID=1000 sh -c "${typed/%install.sh/install.sh --init none} >/said 2>&1"
  check 'install/trust: the suggested command installs the distrusted files' is_planted "$machine"
}
