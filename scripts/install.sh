#!/bin/sh
# Installs UniCon: the program, and its C and C++ side:
#
#   PREFIX/bin/unicon
#   PREFIX/lib/libunicon.so.1.VERSION, libunicon.so.1, libunicon.so, libunicon.a    (stripped, where binutils are installed)
#   PREFIX/lib/.debug/libunicon.so.1.VERSION           (its debug information, where debuggers look for it)
#   PREFIX/include/unicon.h, unicon.hpp
#   PREFIX/lib/pkgconfig/unicon.pc, unicon-static.pc   (relocatable: the tree may be moved)
#   PREFIX/lib/cmake/UniCon/UniConConfig*.cmake        (find_package(UniCon): UniCon::unicon, UniCon::unicon_static)
#   PREFIX/share/man/man1/unicon*.1, and completions of bash, zsh and fish
#   PREFIX/share/doc/unicon/                           (licences, those of all that is linked in too; `files`: what was installed)
#
# usage: scripts/install.sh [--prefix DIR] [--libdir NAME] [--from DIR] [--destdir DIR] [--uninstall]
#   --prefix     where to, default /usr/local
#   --libdir     the library folder below it, default lib (Debian: lib/x86_64-linux-gnu)
#   --from       a folder with libunicon.so, libunicon.a and unicon (without unicon: the C side alone); default: build them with cargo
#   --destdir    put the tree below DIR instead (packaging); its pkg-config files name PREFIX, where it will be
#   --uninstall  remove what was installed in PREFIX
set -eu
prefix=/usr/local libdir=lib from= destdir= uninstall=
usage() { sed -n '2,18s/^# \{0,1\}//p' "$0" && exit 2; }
while [ $# -gt 0 ]; do
    case $1 in
    --uninstall) uninstall=1 && shift && continue ;;
    --prefix | --libdir | --from | --destdir) [ $# -gt 1 ] || usage ;;
    *) usage ;;
    esac
    case $1 in
    --prefix) prefix=$2 ;;
    --libdir) libdir=$2 ;;
    --from) from=$2 ;;
    --destdir) destdir=$2 ;;
    esac
    shift 2
done
case $libdir in
/* | *..*) echo "scripts/install.sh: --libdir: expected a folder below the prefix, such as lib, got $libdir" >&2 && exit 2 ;;
esac
root=$(cd "$(dirname "$0")/.." && pwd)
to=$destdir$prefix
doc=$to/share/doc/unicon
list=$doc/files

if [ -n "$uninstall" ]; then
    [ -f "$list" ] || {
        echo "scripts/install.sh: --uninstall: expected $list, which an installation leaves; is --prefix that of one?" >&2
        exit 1
    }
    (
        cd "$to"
        list=share/doc/unicon/files
        folders=$(sed 's|/[^/]*$||' "$list" | sort -ru)
        while read -r file; do rm -f "$file"; done <"$list"
        # Folders that nothing else is in.
        echo "$folders" | while read -r folder; do
            rmdir -p "$folder" 2>/dev/null || true
        done
    )
    echo "removed UniCon from $to"
    exit
fi

if [ -z "$from" ]; then
    (cd "$root" && cargo build --release -p unicon -p unicon-c)
    from=${CARGO_TARGET_DIR:-$root/target}/release
fi
for file in libunicon.so libunicon.a; do
    [ -f "$from/$file" ] || {
        echo "scripts/install.sh: --from: expected a folder with $file (cargo build --release -p unicon-c), got $from" >&2
        exit 1
    }
done
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
abi=$(sed -n 's/^#define UNICON_ABI_VERSION \([0-9]*\).*/\1/p' "$root/include/unicon.h")
# What a program that links the static library must link too (rustc --print native-static-libs), but for what every C compiler links by
# itself: libc, and libgcc in the kind that fits.
private="-lutil -lrt -lpthread -lm -ldl"

lib=$to/$libdir
mkdir -p "$doc"
: >"$list"
# put MODE FILE PLACE: installs a file at a place below the prefix, and notes it.
put() {
    mkdir -p "$to/$(dirname "$3")"
    install -m "$1" "$2" "$to/$3"
    echo "$3" >>"$list"
}
# text PLACE: the same for standard input.
text() {
    mkdir -p "$to/$(dirname "$1")"
    cat >"$to/$1"
    chmod 644 "$to/$1"
    echo "$1" >>"$list"
}
link() {
    ln -sf "$1" "$to/$2"
    echo "$2" >>"$list"
}
# one_object ARCHIVE SHARED: of the hundreds of objects of a static library what the functions of the shared one need, as one object
# that has those functions' names and no others: a fifth of the size, and it meets no names of another static library made with Rust.
# (.llvmbc: code of Rust's own library for another kind of linking, which does not survive this.)
one_object() {
    folder=$(mktemp -d)
    nm -D --defined-only "$2" | sed -n 's/.* T //p' >"$folder/names"
    # shellcheck disable=SC2046 # a word for each
    ld -r --gc-sections -z noexecstack $(sed 's/^/-u /' "$folder/names") "$1" -o "$folder/all.o"
    objcopy --strip-debug --strip-unneeded -R .llvmbc -R .llvmcmd --keep-global-symbols="$folder/names" \
        "$folder/all.o" "$folder/unicon.o"
    rm "$1"
    ar rcsD "$1" "$folder/unicon.o"
    chmod 644 "$1"
    rm -r "$folder"
}
binutils=
if command -v objcopy >/dev/null && command -v strip >/dev/null; then binutils=1; fi

shared=libunicon.so.$abi.$version
put 755 "$from/libunicon.so" "$libdir/$shared"
link "$shared" "$libdir/libunicon.so.$abi"
link "libunicon.so.$abi" "$libdir/libunicon.so"
put 644 "$from/libunicon.a" "$libdir/libunicon.a"
if [ -n "$binutils" ]; then
    mkdir -p "$lib/.debug"
    objcopy --only-keep-debug --compress-debug-sections "$lib/$shared" "$lib/.debug/$shared"
    chmod 644 "$lib/.debug/$shared"
    echo "$libdir/.debug/$shared" >>"$list"
    strip --strip-unneeded "$lib/$shared"
    objcopy --add-gnu-debuglink="$lib/.debug/$shared" "$lib/$shared"
    # Other linkers do not leave out what nobody calls from an object.
    case $(ld --version 2>/dev/null) in
    "GNU ld"*) one_object "$lib/libunicon.a" "$from/libunicon.so" ;;
    *) strip --strip-debug "$lib/libunicon.a" ;;
    esac
fi
put 644 "$root/include/unicon.h" include/unicon.h
put 644 "$root/include/unicon.hpp" include/unicon.hpp

for file in LICENSE-MIT LICENSE-APACHE LICENSE-DEPENDENCIES.txt CHANGELOG.md data/digits_halves/ATTRIBUTION.md; do
    put 644 "$root/$file" "share/doc/unicon/$(basename "$file")"
done

if [ -f "$from/unicon" ]; then
    put 755 "$from/unicon" bin/unicon
    [ -z "$binutils" ] || strip "$to/bin/unicon"
    pages=$(mktemp -d)
    "$from/unicon" man --out "$pages" >/dev/null
    for page in "$pages"/*.1; do
        put 644 "$page" "share/man/man1/$(basename "$page")"
    done
    rm -r "$pages"
    "$from/unicon" completions bash | text share/bash-completion/completions/unicon
    "$from/unicon" completions zsh | text share/zsh/site-functions/_unicon
    "$from/unicon" completions fish | text share/fish/vendor_completions.d/unicon.fish
else
    echo "without the program: $from has none (cargo build --release)"
fi

# From the library folder up to PREFIX, as often as its name has parts.
up=$(echo "$libdir" | sed 's|//*|/|g; s|/$||; s|[^/][^/]*|..|g')
# A package's tree will be at PREFIX; any other may be moved.
here="\${pcfiledir}/../$up"
[ -z "$destdir" ] || here=$prefix
pc() {
    text "$libdir/pkgconfig/$1.pc" <<PC
prefix=$here
libdir=\${prefix}/$libdir
includedir=\${prefix}/include

Name: $1
Description: Closed-form contrastive alignment on CPU and CUDA$2
Version: $version
$3
Cflags: -I\${includedir}
PC
}
pc unicon "" "Libs: -L\${libdir} -lunicon
Libs.private: $private"
pc unicon-static ", the static library in programs that are not" "Libs: \${libdir}/libunicon.a $private"

text "$libdir/cmake/UniCon/UniConConfig.cmake" <<CMAKE
# find_package(UniCon) gives UniCon::unicon (shared) and UniCon::unicon_static.
# Without symbolic links: /lib may be one to /usr/lib.
get_filename_component(_unicon_here "\${CMAKE_CURRENT_LIST_DIR}" REALPATH)
get_filename_component(_unicon_lib "\${_unicon_here}/../.." ABSOLUTE)
get_filename_component(_unicon_prefix "\${_unicon_lib}/$up" ABSOLUTE)
if(NOT TARGET UniCon::unicon)
    add_library(UniCon::unicon SHARED IMPORTED)
    set_target_properties(UniCon::unicon PROPERTIES
        IMPORTED_LOCATION "\${_unicon_lib}/libunicon.so.$abi"
        IMPORTED_SONAME "libunicon.so.$abi"
        INTERFACE_INCLUDE_DIRECTORIES "\${_unicon_prefix}/include")
    add_library(UniCon::unicon_static STATIC IMPORTED)
    set_target_properties(UniCon::unicon_static PROPERTIES
        IMPORTED_LOCATION "\${_unicon_lib}/libunicon.a"
        INTERFACE_INCLUDE_DIRECTORIES "\${_unicon_prefix}/include"
        INTERFACE_LINK_LIBRARIES "$(echo "$private" | sed 's/ /;/g')")
endif()
unset(_unicon_here)
unset(_unicon_lib)
unset(_unicon_prefix)
CMAKE

# Minor versions may add; before 1.0 they may also change what is not the ABI, which has its own number.
text "$libdir/cmake/UniCon/UniConConfigVersion.cmake" <<CMAKE
set(PACKAGE_VERSION "$version")
if(PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
    set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
    set(PACKAGE_VERSION_COMPATIBLE TRUE)
    if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
        set(PACKAGE_VERSION_EXACT TRUE)
    endif()
endif()
CMAKE
echo "share/doc/unicon/files" >>"$list"
echo "installed UniCon $version (ABI $abi) in $to"
