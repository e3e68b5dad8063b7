# shellcheck shell=bash
# Files, metadata and scripts of one package of each format, as read from the archive.

# shellcheck source=.ci/packages/lib.sh
. .ci/packages/lib.sh

# list_files FOLDER: mode, owner and path of all but folders with something in them.
list_files() { (cd "$1" && find . \( -type f -o -type d -empty \) -printf '%m %U:%G %P\n' | LC_ALL=C sort -k 3); }
# lines LINE...
lines() { printf '%s\n' "$@"; }
# matches_but_for_path FILE SOURCE: SOURCE with the binary in /usr/bin.
matches_but_for_path() { refuses grep -n /usr/local "$1" && cmp <(sed "s,/usr/bin/$name,/usr/local/bin/$name," "$1") "$2"; }

page="644 0:0 usr/share/man/man1/$name.1.gz"

# test_contents PACKAGES UNPACKED: the folders of the archives and of their files.
test_contents() {
  check_deb "$1" "$2/amd64.deb"
  check_apk "$2/x86_64.apk"
  check_ipk "$2/x86_64.ipk"
}

# check_deb PACKAGES FOLDER
check_deb() {
  local files=$2/files
  check 'packages/contents: the .deb has these files with these modes and owners' eq "$(list_files "$files")" "$(lines \
    "755 0:0 usr/bin/$name" \
    "644 0:0 usr/lib/systemd/system/$name.service" \
    "644 0:0 usr/share/doc/$name/changelog.gz" \
    "644 0:0 usr/share/doc/$name/copyright" \
    "644 0:0 usr/share/lintian/overrides/$name" \
    "$page" \
    "644 0:0 usr/share/$name/config.env")"
  check 'packages/contents: the .deb has this metadata' eq "$(dpkg-deb --field "$1/$(deb_file "$version")" \
    Package Version Architecture Breaks Depends)" "$(lines "Package: $name" "Version: $version" 'Architecture: amd64' \
      'Breaks: systemd (<< 247~)')"
  check 'packages/contents: the .deb has the unit of systemd/' \
    matches_but_for_path "$files/usr/lib/systemd/system/$name.service" "systemd/$name.service"
  check 'packages/contents: lintian accepts each .deb' eq "$(lintian --allow-root --fail-on none "$1"/*.deb)" ''
}

# check_apk FOLDER
check_apk() {
  local folder=$1 script
  check 'packages/contents: the .apk has these files with these modes and owners' eq "$(list_files "$folder/files")" "$(lines \
    "600 0:0 etc/conf.d/$name" \
    "755 0:0 etc/init.d/$name" \
    "755 0:0 usr/bin/$name" \
    "$page")"
  check 'packages/contents: the .apk has the init script of openrc/' \
    matches_but_for_path "$folder/files/etc/init.d/$name" "openrc/$name.initd"
  check 'packages/contents: the .apk has the settings of openrc/' cmp "$folder/files/etc/conf.d/$name" "openrc/$name.confd"
  check 'packages/contents: the .apk has this metadata' \
    eq "$(sed -nE '/^(datahash|size|maintainer|url) = /!p' "$folder/control/.PKGINFO")" "$(lines \
      "pkgname = $name" "pkgver = $version" 'arch = x86_64' "pkgdesc = $(head -n 1 contrib/packages/description)" 'license = MIT')"
  check 'packages/contents: the scripts of the .apk have names that apk knows' eq "$(cd "$folder/control" && printf '%s ' .p*)" \
    '.post-install .post-upgrade .pre-deinstall .pre-install '
  for script in contrib/packages/apk/*; do
    check "packages/contents: the .apk has the script $script" cmp "$script" "$folder/control/.${script##*/}"
  done
}

# check_ipk FOLDER
check_ipk() {
  local folder=$1 script
  check 'packages/contents: the .ipk has these files with these modes and owners' eq "$(list_files "$folder/files")" "$(lines \
    "755 0:0 etc/init.d/$name" \
    "600 0:0 etc/$name/config.env" \
    "700 0:0 etc/$name/state" \
    "644 0:0 lib/upgrade/keep.d/$name" \
    "755 0:0 usr/bin/$name")"
  check 'packages/contents: the .ipk has the init script of contrib/procd' cmp "$folder/files/etc/init.d/$name" "contrib/procd/$name.init"
  check 'packages/contents: the settings of the .ipk put the lease on the flash' eq \
    "$(diff systemd/config.env "$folder/files/etc/$name/config.env" | grep '^[<>] [^#]')" "> STATE_DIR=/etc/$name/state"
  check 'packages/contents: the .ipk declares its settings as the user'\''s' eq "$(cat "$folder/control/conffiles")" "/etc/$name/config.env"
  check 'packages/contents: the .ipk has this metadata' \
    eq "$(grep -E '^(Package|Version|Architecture|License):' "$folder/control/control" | sort)" "$(lines \
      'Architecture: x86_64' 'License: MIT' "Package: $name" "Version: $version")"
  for script in contrib/packages/ipk/*; do
    check "packages/contents: the .ipk has the script $script" cmp "$script" "$folder/control/${script##*/}"
  done
}
