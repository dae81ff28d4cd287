#!/usr/bin/env bash
# Debian's packages that the tests of S3, PostgreSQL and web pages need: installed where they are missing and the user may
# install them. Never an error: a test that lacks one says so, as a skip or, in CI, as a failure.
set -u

declare -A package_of=(
  [radosgw]=radosgw [ceph-mon]=ceph-mon [ceph-osd]=ceph-osd [ceph]=ceph-common [chromium]=chromium [initdb]=postgresql
)
for folder in /usr/lib/postgresql/*/bin; do
  PATH+=:$folder # where Debian puts a server's own programs
done
missing=()
for command in "${!package_of[@]}"; do
  command -v "$command" >/dev/null || missing+=("${package_of[$command]}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "missing for some tests: ${missing[*]} (Debian's names); they will be skipped"
  exit 0
fi
if [ "$(id -u)" = 0 ]; then
  as_root=(env)
elif sudo -n true 2>/dev/null; then
  as_root=(sudo -n env)
else
  echo "missing for some tests, which will be skipped; to run them: sudo apt-get install --no-install-recommends ${missing[*]}"
  exit 0
fi

echo "installing for the tests: ${missing[*]} (1 to 3 minutes)"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{
  "${as_root[@]}" apt-get update -q &&
    "${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
} </dev/null >"$log" 2>&1 || { echo "that did not work; its last lines:"; tail -n 8 "$log"; }
