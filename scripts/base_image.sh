#!/usr/bin/env bash
# Makes Debian's slim base image from Debian's packages alone, for where no registry of images can be reached:
# `base_image.sh [NAME]` imports it into podman's (or $BUILDER's) store. `deploy images` builds upon it where the setting
# deploy.base_image says so. Needs root and debootstrap.
set -euo pipefail

name=${1:-localhost/debian:bookworm-slim}
builder=${BUILDER:-podman}

if [ "$(id -u)" -ne 0 ] || ! command -v debootstrap >/dev/null; then
  echo "base_image.sh needs root and debootstrap. As root: apt-get install debootstrap" >&2
  exit 1
fi
# The mirror of this machine's own apt, which is known to be reachable.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/\?$' || true)

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
log=$folder/log
root=$folder/root
if ! debootstrap --variant=minbase bookworm "$root" "${mirror:-http://deb.debian.org/debian}" >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "debootstrap could not make a root file system; its last lines are above." >&2
  exit 1
fi
# What Debian's own slim images leave out: caches, lists, documentation (but licences), translations.
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/cache/apt/*.bin "$root"/var/lib/apt/lists/* "$root"/var/log/*
rm -rf "$root"/usr/share/{man,info,locale,lintian,groff}/*
find "$root"/usr/share/doc -type f ! -name copyright -delete
printf 'path-exclude /usr/share/%s/*\n' man info locale lintian groff >"$root"/etc/dpkg/dpkg.cfg.d/slim
printf 'path-exclude /usr/share/doc/*\npath-include /usr/share/doc/*/copyright\n' >>"$root"/etc/dpkg/dpkg.cfg.d/slim
if ! tar -C "$root" --sort=name -c . | "$builder" import --change CMD=bash - "$name" >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  exit 1
fi
echo "$name"
