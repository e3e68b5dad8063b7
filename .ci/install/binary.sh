# shellcheck shell=bash
# The binary that lies next to install.sh or that the user names.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh

test_binary() {
  local machine=$1/binary src=$1/binary/root/src
  local built=target/x86_64-unknown-linux-musl/release/$name
  make_machine "$machine"
  installs "$machine" || fail 'install/binary: a first installation succeeds'
  mkdir -p "$src/${built%/*}"
  mv "$src/$name" "$src/$built"
  printf 'y' >>"$src/$built"
  check 'install/binary: an installation with a local build succeeds' installs "$machine"
  check 'install/binary: the local build is installed' has_copy "$machine" "$installed" "$src/$built"
  printf '\177ELF of another machine' >"$src/other"
  check 'install/binary: a binary that does not run here changes nothing' \
    leaves_unchanged "$machine" refuses_with "$machine" 1 'does not run on this machine' --binary /src/other
  printf '#!/bin/sh\necho other 1.0\n' >"$src/other"
  check 'install/binary: a different program changes nothing' \
    leaves_unchanged "$machine" refuses_with "$machine" 1 'is not pia-qbittorrent-sync: its --version prints other 1.0' --binary /src/other
  check_swapped "$machine" "$1/$name"
  check 'install/binary: a binary with a wrong checksum changes nothing' \
    leaves_unchanged "$machine" refuses_with "$machine" 1 'wrong SHA-256' --binary /src/other --sha256 "$(printf '%064d' 0)"
  remove_machine "$machine"
}

# check_swapped MACHINE BINARY: an attacker who can write to a binary replaces it as soon as it was checked.
check_swapped() {
  local machine=$1 root=$1/root sum program=$1/root/usr/local/bin/sha256sum
  mkdir -p "$root/srv/open"
  chmod 777 "$root/srv/open"
  cp "$2" "$root/srv/open/given"
  printf 'z' >>"$root/srv/open/given"
  cp "$root/srv/open/given" "$machine/given"
  sum=$(sha256sum <"$machine/given")
  printf '#!/bin/sh\n: >/planted\necho %s 9.9.9\n' "$name" >"$root/srv/swapped"
  cat >"$program" <<'SHIM'
#!/bin/sh
readlink /proc/self/fd/0 >>/srv/checked
busybox sha256sum "$@"
for file in /srv/open/given /src/pia-qbittorrent-sync; do [ ! -e "$file" ] || cat /srv/swapped >"$file"; done
SHIM
  chmod 755 "$program"
  check 'install/binary: an installation succeeds when --binary is swapped after its check' \
    installs "$machine" --binary /srv/open/given --sha256 "${sum%% *}"
  check 'install/binary: a binary that was swapped in for --binary is not run' has_no "$machine" planted
  check 'install/binary: the checked copy of --binary is installed' has_copy "$machine" "$installed" "$machine/given"

  cp "$machine/given" "$root/src/$name"
  printf 'z' >>"$root/src/$name"
  cp "$root/src/$name" "$machine/given"
  sum=$(sha256sum <"$machine/given")
  check 'install/binary: an installation succeeds when the binary next to install.sh is swapped after its check' \
    installs "$machine" TMPDIR=/srv/open --sha256 "${sum%% *}"
  check 'install/binary: a binary that was swapped in next to install.sh is not run' has_no "$machine" planted
  check 'install/binary: the checked copy of the binary next to install.sh is installed' \
    has_copy "$machine" "$installed" "$machine/given"
  check 'install/binary: temporary folders are made only where other users cannot swap them' \
    eq "$(cut -d . -f 1 "$root/srv/checked" | sort -u)" "/tmp/$name"
  rm "$program"
}
