# shellcheck shell=bash
# The archives as .ci/make-packages leaves them: their names, their bytes and the binaries in them.

# shellcheck source=.ci/packages/lib.sh
. .ci/packages/lib.sh

# stage_binaries FOLDER: under the names of a release.
stage_binaries() {
  local arch
  mkdir "$1"
  for arch in x86_64 aarch64 armv7; do
    cp "$(musl_binary "$arch")" "$1/$name-$(triple_of "$arch")" || fatal "the binary for $arch is missing: .ci/build-musl $arch"
  done
}

packs_nothing() { .ci/make-packages "$1" "$1/packages" >/dev/null 2>&1; }
sums() { (cd "$1" && sha256sum -- *); }

# test_archives FOLDER: leaves FOLDER/packages, FOLDER/later with a higher version, and FOLDER/SUFFIX with the files of each
# package.
test_archives() {
  local folder=$1 pair arch suffix
  mkdir "$folder" "$folder/none"
  stage_binaries "$folder/binaries"
  check 'packages/archives: .ci/make-packages succeeds' .ci/make-packages "$folder/binaries" "$folder/packages"
  .ci/make-packages "$folder/binaries" "$folder/later" "$later"
  check 'packages/archives: there is a package of each format and architecture' eq "$(cd "$folder/packages" && printf '%s ' *)" \
    "$(printf "${name}_$version"'_%s ' aarch64.apk aarch64_generic.ipk amd64.deb arm64.deb arm_cortex-a7_neon-vfpv4.ipk armhf.deb \
      armv7.apk x86_64.apk x86_64.ipk)"
  # A time of creation in a package would differ a second later.
  sleep 1.1
  check 'packages/archives: .ci/make-packages succeeds again' .ci/make-packages "$folder/binaries" "$folder/again"
  check 'packages/archives: the second run makes the same bytes' eq "$(sums "$folder/again")" "$(sums "$folder/packages")"
  check 'packages/archives: .ci/make-packages fails without binaries' refuses packs_nothing "$folder/none"

  for pair in x86_64:amd64.deb aarch64:arm64.deb armv7:armhf.deb x86_64:x86_64.apk aarch64:aarch64.apk armv7:armv7.apk \
    x86_64:x86_64.ipk aarch64:aarch64_generic.ipk armv7:arm_cortex-a7_neon-vfpv4.ipk; do
    arch=${pair%%:*} suffix=${pair#*:}
    unpack "$folder/packages/${name}_${version}_$suffix" "$folder/$suffix"
    check "packages/archives: the package $suffix contains the binary for $arch" \
      cmp "$folder/$suffix/files$installed" "$(musl_binary "$arch")"
  done
}
