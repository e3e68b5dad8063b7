# shellcheck shell=bash
# A release that another user may have planted, and what became of it. Definitions only.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh

# plant MACHINE FOLDER [BINARY]: a different release, whose binary leaves a mark when it is run.
plant() {
  local folder=$1/root$2 binary=$1/root$2/${3:-$name}
  mkdir -p "${binary%/*}"
  cp "$1/root/src/install.sh" "$folder/"
  cp -R systemd openrc contrib "$folder/"
  printf '# planted\n' | tee -a "$folder"/systemd/* "$folder"/openrc/* >/dev/null
  printf '#!/bin/sh\n: >/planted\necho %s 9.9.9\n' "$name" >"$binary"
  chmod 755 "$binary"
}

# run_planted MACHINE FOLDER VARIABLE=VALUE...: the install.sh in that folder.
run_planted() {
  rm -f "$1/root/planted"
  run_script "$1" "$2/install.sh" "${@:3}" --init none
}

has_planted_services() { grep -q '^# planted' "$1/root/usr/local/share/$name/config.env"; }
has_own_services() { has_copy "$1" "usr/local/share/$name/config.env" systemd/config.env; }
is_planted() { has_file "$1" planted && has_planted_services "$1"; }
is_not_planted() { has_no "$1" planted && has_copy "$1" "$installed" "${1%/*}/$name" && has_own_services "$1"; }

fails_without_release() {
  run_planted "$@"
  has_status "$1" 1 && prints "$1" releases
}
# distrusts_and_fails MACHINE FOLDER WHY
distrusts_and_fails() {
  run_planted "$1" "$2"
  prints "$1" "; $3. If you trust" && has_no "$1" planted
}

# check_without_release MACHINE: there is nothing that could be installed in place of what is distrusted.
check_without_release() {
  local scenario=install/${1##*/} folder=/opt/release
  plant "$1" "$folder"
  chmod 777 "$1/root$folder"
  check "$scenario: the installer fails when there is no release to replace distrusted files" fails_without_release "$1" "$folder"
  check "$scenario: distrusted files are not run when there is no release" \
    distrusts_and_fails "$1" "$folder" "others can write to $folder"
  rm -r "$1/root$folder"
}
