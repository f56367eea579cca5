#!/usr/bin/env bash
# Unpacks Mesa of Debian's backports into target/mesa25, beside the installed one, and prints the folder. The system
# is not changed: the backports are a source in a private configuration, with the address of the system's own sources.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder="$PWD/target/mesa25"
if compgen -G "$folder/usr/lib/*/libvulkan_radeon.so" >/dev/null; then
    echo "$folder"
    exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "unpacking Mesa takes Debian's apt-get and dpkg-deb; elsewhere, install Mesa 25 or later" >&2
    exit 1
fi

# The installed Mesa brings the libraries that have no backport: Vulkan's loader, LLVM, X11's and Wayland's.
if ! ldconfig -p | grep -q 'libvulkan\.so\.1'; then
    echo "Vulkan's loader is not installed: run tools/setup.sh, or install mesa-vulkan-drivers" >&2
    exit 1
fi
read -r site codename < <(apt-get indextargets --format '$(SITE) $(CODENAME)' 'Created-By: Packages' 'Component: main' |
    grep -v -e '-security$' -e '-updates$' -e '-backports$' | head -n 1) || true
if [ -z "${codename:-}" ]; then
    echo "apt-get knows no archive to take the backports from: run apt-get update" >&2
    exit 1
fi

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/root"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $codename-backports main" >"$work/sources.list"
private=(-q -q -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists"
    -o "Dir::Cache=$work/cache" -o APT::Sandbox::User= -o Debug::NoLocking=1)
apt-get "${private[@]}" update >&2
cd "$work"
apt-get "${private[@]}" download "mesa-vulkan-drivers/$codename-backports" >&2
# The dependencies of Mesa that the backports have, too: it requires those versions.
for package in $(dpkg-deb --field mesa-vulkan-drivers_*.deb Depends | tr ',' '\n' | awk '{ print $1 }'); do
    apt-get "${private[@]}" download "$package/$codename-backports" >/dev/null 2>&1 || true
done
for archive in *.deb; do
    dpkg-deb --extract "$archive" root
done
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
mv root "$folder"
echo "$folder"
