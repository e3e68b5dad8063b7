# shellcheck shell=bash
# The manifests against the API's schemas.

# shellcheck source=.ci/kubernetes/lib.sh
. .ci/kubernetes/lib.sh

# Every minor version from the oldest one that has a schema.
minor_versions() {
  "$venv/bin/python" -c 'import kubernetes_validate; print(*sorted({int(v.split(".")[1]) for v in kubernetes_validate.utils.all_versions()}))' |
    tr ' ' '\n' | awk -v oldest="$oldest" '$1 >= oldest'
}

# test_schemas FOLDER: for broken manifests.
test_schemas() {
  local folder=$1 minors kind minor
  mkdir "$folder"
  mapfile -t minors < <(minor_versions)
  check "kubernetes/schemas: the oldest schema is that of 1.$oldest" eq "${minors[0]}" "$oldest"
  for kind in openvpn wireguard; do
    for minor in "${minors[@]}"; do
      check "kubernetes/schemas: $kind.yaml is valid for Kubernetes 1.$minor" is_valid "contrib/kubernetes/$kind.yaml" "$minor"
    done
    check "kubernetes/schemas: $kind.yaml is invalid for Kubernetes 1.27, which has no native sidecars" \
      is_invalid "contrib/kubernetes/$kind.yaml" 27 "'restartPolicy' was unexpected"
  done
  sed 's/periodSeconds: 10/periodSeconds: "10"/' contrib/kubernetes/openvpn.yaml >"$folder/type.yaml"
  check 'kubernetes/schemas: a value of the wrong type is detected' \
    is_invalid "$folder/type.yaml" "$oldest" "'10' is not of type 'integer'"
  sed 's/drop: /dropp: /' contrib/kubernetes/openvpn.yaml >"$folder/member.yaml"
  check 'kubernetes/schemas: a member that the API does not know is detected' \
    is_invalid "$folder/member.yaml" "$oldest" "'dropp' was unexpected"
}
