#!/bin/sh
# Installs the C and C++ side of UniCon:
#
#   PREFIX/lib/libunicon.so.1.VERSION, libunicon.so.1, libunicon.so, libunicon.a    (stripped, where binutils are installed)
#   PREFIX/lib/.debug/libunicon.so.1.VERSION           (its debug information, where debuggers look for it)
#   PREFIX/include/unicon.h, unicon.hpp
#   PREFIX/lib/pkgconfig/unicon.pc                     (relocatable: the tree may be moved)
#   PREFIX/lib/cmake/UniCon/UniConConfig*.cmake        (find_package(UniCon): UniCon::unicon, UniCon::unicon_static)
#
# usage: scripts/install.sh [--prefix DIR] [--libdir NAME] [--from DIR] [--destdir DIR]
#   --prefix   where to, default /usr/local
#   --libdir   the library folder below it, default lib (Debian: lib/x86_64-linux-gnu)
#   --from     a folder with libunicon.so and libunicon.a; default: build them with cargo
#   --destdir  put the tree below DIR instead (packaging)
set -eu
prefix=/usr/local libdir=lib from= destdir=
while [ $# -gt 0 ]; do
    case $1 in
    --prefix) prefix=$2 && shift 2 ;;
    --libdir) libdir=$2 && shift 2 ;;
    --from) from=$2 && shift 2 ;;
    --destdir) destdir=$2 && shift 2 ;;
    *) sed -n '2,15s/^# \{0,1\}//p' "$0" && exit 2 ;;
    esac
done
root=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "$from" ]; then
    (cd "$root" && cargo build --release -p unicon-c)
    from=${CARGO_TARGET_DIR:-$root/target}/release
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
abi=$(sed -n 's/^#define UNICON_ABI_VERSION \([0-9]*\).*/\1/p' "$root/include/unicon.h")
# What a program that links the static library must link too (rustc --print native-static-libs).
private="-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc"

to=$destdir$prefix
lib=$to/$libdir
mkdir -p "$lib/pkgconfig" "$lib/cmake/UniCon" "$to/include"
shared=libunicon.so.$abi.$version
install -m 755 "$from/libunicon.so" "$lib/$shared"
ln -sf "$shared" "$lib/libunicon.so.$abi"
ln -sf "libunicon.so.$abi" "$lib/libunicon.so"
install -m 644 "$from/libunicon.a" "$lib/libunicon.a"
if command -v objcopy >/dev/null && command -v strip >/dev/null; then
    mkdir -p "$lib/.debug"
    objcopy --only-keep-debug "$lib/$shared" "$lib/.debug/$shared"
    chmod 644 "$lib/.debug/$shared"
    strip --strip-unneeded "$lib/$shared"
    objcopy --add-gnu-debuglink="$lib/.debug/$shared" "$lib/$shared"
    strip --strip-debug "$lib/libunicon.a"
fi
# From the library folder up to PREFIX, as often as its name has parts.
up=$(echo "$libdir" | sed 's|//*|/|g; s|/$||; s|[^/][^/]*|..|g')
install -m 644 "$root/include/unicon.h" "$root/include/unicon.hpp" "$to/include/"

cat >"$lib/pkgconfig/unicon.pc" <<PC
prefix=\${pcfiledir}/../$up
libdir=\${prefix}/$libdir
includedir=\${prefix}/include

Name: unicon
Description: Closed-form contrastive alignment on CPU and CUDA
Version: $version
Libs: -L\${libdir} -lunicon
Libs.private: $private
Cflags: -I\${includedir}
PC

cat >"$lib/cmake/UniCon/UniConConfig.cmake" <<CMAKE
# find_package(UniCon) gives UniCon::unicon (shared) and UniCon::unicon_static.
get_filename_component(_unicon_lib "\${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
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
unset(_unicon_lib)
unset(_unicon_prefix)
CMAKE

# Minor versions may add; before 1.0 they may also change what is not the ABI, which has its own number.
cat >"$lib/cmake/UniCon/UniConConfigVersion.cmake" <<CMAKE
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
echo "installed UniCon $version (ABI $abi) in $to"
