#!/bin/sh
# make_root.sh DIRECTORY: a Debian 12 for arm64 with the libraries that the build needs. Nothing in it
# is run or configured: it is a sysroot, and a place for an emulator to find libraries in. As root.
# From where this machine has its own Debian 12, or from $MIRROR.
set -eu
root=${1:?usage: make_root.sh DIRECTORY}
sources=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' || true)
mirror=${MIRROR:-$(echo "$sources" | sed -n 's/^bookworm //p' | head -n 1)}
: "${mirror:?no Debian 12 among the sources of apt: set MIRROR to one}"
packages=gcc,libc6-dev,libunwind-dev,libcmocka-dev,libdw-dev,libelf-dev,libmnl-dev,libjansson-dev
packages=$packages,libprotobuf-c-dev,zlib1g-dev,libiberty-dev

debootstrap --arch=arm64 --foreign --variant=minbase --include="$packages" bookworm "$root" "$mirror"
for package in "$root"/var/cache/apt/archives/*.deb; do
    # By tar, which keeps /lib -> usr/lib where dpkg-deb -x puts a directory in its place.
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$root" --keep-directory-symlink
done
# Absolute links lead into the machine that compiles.
find "$root/usr/lib/aarch64-linux-gnu" -type l -lname '/*' | while read -r link; do
    ln -sfnr "$root$(readlink "$link")" "$link"
done
