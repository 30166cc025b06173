#!/usr/bin/env bash
# install.sh CMAKE GENERATOR BUILD_DIR SOURCE_DIR CC CXX PYTHON - installs a build into a fresh folder, moves that folder (nothing may point back), and builds a
# small program against it: through the CMake package, by the build's own generator, and through pkg-config, shared and static, C and C++. The shared library exports
# what the installed headers declare, nothing else; the documents' links lead somewhere.
# Exit codes: 0 all hold, 1 something does not.
set -u
cmake=$1 generator=$2 build=$3 source=$4 cc=$5 cxx=$6 python=$7
. "$source/tests/expect.sh"
unset LD_LIBRARY_PATH IFA_LIBRARY IFA_REAL_DIR # programs must find what is installed without being told
check "install" "$cmake" --install "$build" --prefix "$folder/first"
[ $failed = 0 ] || exit 1
mv "$folder/first" "$folder/moved" || exit 1
prefix=$folder/moved
lib=$(dirname "$(find "$prefix" -name libifa.so)")
pc=$(dirname "$(find "$prefix" -name ifa.pc)")

# ---- the files: soname and what is exported
version=$(sed -n 's/^#define IFA_VERSION "\(.*\)".*/\1/p' "$prefix/include/ifa.h")
check "version in the name" test -f "$lib/libifa.so.$version"
check "soname" sh -c "readelf -d '$lib/libifa.so' | grep -q 'SONAME.*\\[libifa.so.${version%%.*}\\]'"
for header in "$prefix"/include/*.h; do # but ifa_plugin.h: its function is a plug-in's to define
  [ "${header##*/}" = ifa_plugin.h ] || "$cc" -E -P "$header" | grep -oE '\bifa_[a-z0-9_]+\(' | tr -d '('
done | sort -u >"$folder/declared"
nm -D --defined-only "$lib/libifa.so" | awk '{print $3}' | sort -u >"$folder/exported"
check "exported is what the headers declare" diff "$folder/declared" "$folder/exported"
check "exported has ifa_run" grep -qx ifa_run "$folder/exported"
check "nothing but ifa_*" sh -c "! grep -v '^ifa_' '$folder/exported'"

# loads PROGRAM: the program loads the library of the moved tree.
loads() { [ "$(readlink -f "$(ldd "$1" | sed -n 's/.*libifa\.so[^ ]* => \([^ ]*\) .*/\1/p')")" = "$(readlink -f "$lib/libifa.so")" ]; }

# ---- through CMake
check "cmake: configure" "$cmake" -G "$generator" -S "$source/tests/install" -B "$folder/build" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx"
check "cmake: build" "$cmake" --build "$folder/build"
for program in c_ifa c_ifa_static cpp_ifa cpp_ifa_static; do check "cmake: $program" "$folder/build/$program"; done
check "cmake: shared is shared" loads "$folder/build/c_ifa"
check "cmake: static is static" sh -c "! ldd '$folder/build/cpp_ifa_static' | grep libifa"

# ---- through pkg-config, without CMake: README's line, and with warnings
export PKG_CONFIG_PATH=$pc
check "pkg-config: version" test "$(pkg-config --modversion ifa)" = "$version"
line=$(sed -nE 's/^    (cc service\.c [^#]*[^# ]) *(#.*)?$/\1/p' "$source/README.md")
check "README: a line for pkg-config" test -n "$line"
cp "$source/tests/install/consumer.c" "$folder/service.c"
check "README: $line" sh -c "cd '$folder' && $line && ./a.out"
check "README: the library of the prefix" loads "$folder/a.out"
warnings="-Wall -Wextra -Wpedantic -Werror"
shared=$(pkg-config --cflags --libs ifa) static=$(pkg-config --cflags --libs --static ifa | sed 's/-lifa/-l:libifa.a/')
check "pkg-config: C" "$cc" -std=c11 $warnings -o "$folder/c" "$source/tests/install/consumer.c" $shared
check "pkg-config: C, static" "$cc" -std=c11 $warnings -o "$folder/c_static" "$source/tests/install/consumer.c" $static
check "pkg-config: C++" "$cxx" -std=c++17 $warnings -o "$folder/cpp" "$source/tests/install/consumer.cpp" $shared
for program in c c_static cpp; do check "pkg-config: run $program" "$folder/$program"; done
check "pkg-config: shared is shared" loads "$folder/cpp"
check "pkg-config: static is static" sh -c "! ldd '$folder/c_static' | grep libifa"

# ---- documents
check "documents: ref/README.md" test -f "$prefix/share/doc/ifa/ref/README.md"
check "documents: links" "$python" "$source/tests/links.py" "$prefix"

# ---- the program; its real tensors are those installed beside it
if [ -x "$prefix/bin/validate" ]; then
  check "validate: a case" "$prefix/bin/validate" run --backend scalar --case "b=1 hq=1 hkv=1 nq=3 nk=70 d=16"
  check "validate: real tensors" "$prefix/bin/validate" run --backend scalar --case "input=minilm_layer0 rows=2"
  : >"$prefix/share/ifa/real/minilm_layer0.safetensors"
  check "validate: the installed tensors" sh -c "'$prefix/bin/validate' run --backend scalar --case 'input=minilm_layer0 rows=2' 2>&1 | grep -q '$prefix/share/ifa/real/minilm_layer0.safetensors'"
fi

"$folder/c" | tail -2
finish install
