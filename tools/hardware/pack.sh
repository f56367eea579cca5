#!/usr/bin/env bash
# Packs the programs and files that run.sh needs into one folder of at most 40 MiB, which runs on any x86-64 Linux
# with glibc 2.36 and a Vulkan driver, without Rust and without a network:
#
#     tools/hardware/pack.sh [--out DIR] [--programs DIR] [--data]
#
# --out       the folder [default: target/hardware]; an existing one is replaced
# --programs  takes `train` and `hardware` from there (target/debug) instead of building them for release
# --data      also packs CIFAR-10, fetched if missing, into three pieces of at most 60 MiB, in DIR-data
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../.." && pwd)"

out="$root/target/hardware" programs="" data=""
while [ $# -gt 0 ]; do
    case "$1" in
        --out | --programs)
            if [ -z "${2:-}" ]; then
                echo "$1 names a folder" >&2
                exit 2
            fi
            if [ "$1" = --out ]; then out="$(realpath -m "$2")"; else programs="$(realpath -m "$2")"; fi
            shift 2
            ;;
        --data)
            data=yes
            shift
            ;;
        *)
            echo "there is no option $1; usage: pack.sh [--out DIR] [--programs DIR] [--data]" >&2
            exit 2
            ;;
    esac
done
for tool in strip objdump; do
    if ! command -v "$tool" >/dev/null; then
        echo "packing takes $tool: install binutils" >&2
        exit 1
    fi
done
if [ -e "$out" ] && [ ! -e "$out/PACKED" ] && [ -n "$(ls -A "$out")" ]; then
    echo "$out holds something else: name an empty folder, or one that pack.sh made" >&2
    exit 1
fi
cd "$root"

commit="$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)"
if [ -n "$(git status --porcelain --untracked-files=no 2>/dev/null)" ]; then
    commit="$commit, changed"
fi
compiler="$(rustc --version 2>/dev/null || echo unknown)"
if [ -z "$programs" ]; then
    ONFLY_COMMIT="$commit" cargo build --locked --release -p train -p hardware
    programs="${CARGO_TARGET_DIR:-$root/target}/release"
fi
for program in train hardware; do
    if [ ! -x "$programs/$program" ]; then
        echo "$programs holds no program $program: build it, or leave --programs out" >&2
        exit 1
    fi
done

# The folder is made under a temporary name, and replaces the old one when complete.
new="$out.new"
rm -rf "$new"
mkdir -p "$new"
trap 'rm -rf "$new"' EXIT
for program in train hardware; do
    strip -o "$new/$program" "$programs/$program"
done
cp "$here/run.sh" "$here/pytorch.py" "$root/tools/pytorch_one.py" "$root/docs/hardware/README.md" \
    "$root/LICENSE-MIT" "$root/LICENSE-APACHE" "$new/"

# The newest glibc version among the program's symbols.
glibc="$(objdump -T "$new/train" "$new/hardware" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1 | cut -d _ -f 2)"
if [ "$(printf '%s\n2.36\n' "$glibc" | sort -V | tail -n 1)" != 2.36 ]; then
    echo "the program asks for glibc $glibc, and 2.36 is what it may ask for: build on an older system (Debian 12)" >&2
    exit 1
fi

# Vulkan's loader and the libraries that NVIDIA's driver loads, for machines that have only the driver.
packages=(libvulkan1 libegl1 libglvnd0 libopengl0 libgl1 libglx0 libgles2)
work="$(mktemp -d)"
trap 'rm -rf "$new" "$work"' EXIT
if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null &&
    (cd "$work" && apt-get -q -q -o APT::Sandbox::User= download "${packages[@]/%/:amd64}" >&2); then
    mkdir "$new/lib"
    for archive in "$work"/*.deb; do
        dpkg-deb --extract "$archive" "$work/root"
    done
    # Each under the name that programs load (libvulkan.so.1), as a separate file: some ways of copying lose links.
    for library in "$work"/root/usr/lib/x86_64-linux-gnu/lib*.so.[0-9]; do
        cp -L "$library" "$new/lib/"
    done
    for package in "${packages[@]}"; do
        cp "$work/root/usr/share/doc/$package/copyright" "$new/lib/$package.copyright"
    done
    {
        echo "Libraries of Debian or Ubuntu, unchanged; run.sh takes them where the system's find no hardware:"
        for archive in "$work"/*.deb; do
            # shellcheck disable=SC2016 # The names in it are dpkg-deb's.
            dpkg-deb --showformat '  ${Package} ${Version} (source ${source:Package})\n' --show "$archive"
        done
        echo "Their licences (Apache 2.0, MIT and alike) are in the files PACKAGE.copyright beside this one."
    } >"$new/lib/NOTES"
else
    echo "no Vulkan loader is packed: it takes apt-get with lists of packages (apt-get update) and dpkg-deb" >&2
fi

printf 'commit %s\n%s\npacked %s UTC\nneeds glibc %s\n' "$commit" "$compiler" "$(date -u '+%Y-%m-%d %H:%M')" "$glibc" \
    >"$new/PACKED"
size="$(du -sk --apparent-size "$new" | cut -f 1)"
if [ "$size" -gt $((40 * 1024)) ]; then
    echo "the folder has $size KiB, and 40 MiB is the most that it may have" >&2
    exit 1
fi
rm -rf "$out"
mv "$new" "$out"
echo "$out: $((size / 1024 + 1)) MiB, glibc $glibc or later"

[ -n "$data" ] || exit 0
sets="$root/datasets"
if ! "$out/train" fetch cifar10 --verify --data-dir "$sets" >/dev/null 2>&1; then
    "$out/train" fetch cifar10 --data-dir "$sets"
fi
pieces="$out-data"
rm -rf "$pieces"
mkdir -p "$pieces"
# gzip, since it is everywhere; xz saves a sixth in forty times the time.
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$sets" -cf - \
    cifar10/{data_batch_{1,2,3,4,5},test_batch}.bin | gzip -9n >"$pieces/whole"
sha256sum "$pieces/whole" | cut -d ' ' -f 1 >"$pieces/cifar10.sha256"
split -n 3 --numeric-suffixes=1 -a 1 "$pieces/whole" "$pieces/cifar10.tar.gz."
rm "$pieces/whole"
for piece in "$pieces"/cifar10.tar.gz.?; do
    if [ "$(stat -c %s "$piece")" -gt $((60 << 20)) ]; then
        echo "$piece is larger than 60 MiB, which is the most that a piece may have" >&2
        exit 1
    fi
done
echo "$pieces: $(du -sm --apparent-size "$pieces" | cut -f 1) MiB in three pieces"
