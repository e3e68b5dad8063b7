# shellcheck shell=bash
# Constants and helpers of the scenarios of .ci/test-packages. Source it after .ci/lib.sh.

# shellcheck source=.ci/boot.sh
. .ci/boot.sh

# Constants of the scenarios.
# shellcheck disable=SC2034
{
  name=pia-qbittorrent-sync
  version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
  # The same binaries with a higher version, for upgrades.
  later=99.0.0
  installed=/usr/bin/$name
}

# deb_file VERSION: for this machine's architecture.
deb_file() { printf '%s_%s_amd64.deb\n' "$name" "$1"; }

# unpack PACKAGE FOLDER: its files to FOLDER/files, those for the package manager to FOLDER/control.
unpack() {
  mkdir -p "$2/files" "$2/control"
  case $1 in
  *.deb)
    dpkg-deb --extract "$1" "$2/files"
    dpkg-deb --control "$1" "$2/control"
    ;;
  # Concatenated streams of tar; the names of the control files begin with a dot.
  *.apk)
    tar -xzf "$1" --ignore-zeros --warning=no-unknown-keyword -C "$2/files"
    find "$2/files" -mindepth 1 -maxdepth 1 -name '.*' -exec mv -t "$2/control" {} +
    ;;
  *.ipk)
    tar -xzf "$1" -C "$2"
    tar -xzf "$2/data.tar.gz" -C "$2/files"
    tar -xzf "$2/control.tar.gz" -C "$2/control"
    ;;
  esac
}

# run_logged LOG COMMAND...: inside the booted system; prints its output only if it fails.
run_logged() {
  inside "${@:2}" >"$1" 2>&1 || {
    cat "$1"
    return 1
  }
}
# reports LOG TEXT, omits LOG TEXT
reports() { has "$(cat "$1")" "$2"; }
omits() { ! grep -F -e "$2" "$1"; }
