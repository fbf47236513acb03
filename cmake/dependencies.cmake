# What nybble is built with: a target that the surrounding project has already, else the system's package,
# else, where NYBBLE_FETCH allows it, the source.
include(CheckIncludeFileCXX)
include(FetchContent)

# Nothing is fetched in a cross build: it has a sysroot, and often no network.
if(CMAKE_CROSSCOMPILING)
  set(nybble_fetch_default OFF)
else()
  set(nybble_fetch_default ON)
endif()
option(NYBBLE_FETCH "Fetch the source of packages that are not found" ${nybble_fetch_default})

# nybble_dependency(NAME TARGET URL [OPTIONAL]): TARGET exists afterwards, or it is a fatal error;
# with OPTIONAL, only if it can be had.
macro(nybble_dependency name target url)
  if(NOT TARGET ${target})
    find_package(${name} QUIET)
  endif()
  if(NOT TARGET ${target} AND NYBBLE_FETCH)
    message(STATUS "nybble: ${name} not found, fetching ${url}")
    FetchContent_Declare(${name} URL ${url})
    FetchContent_MakeAvailable(${name})
  endif()
  if(NOT TARGET ${target} AND NOT "${ARGN}" STREQUAL "OPTIONAL")
    message(FATAL_ERROR "nybble: ${name} not found. Install it for the compiler that builds nybble, or "
                        "set NYBBLE_FETCH=ON to fetch ${url}")
  endif()
endmacro()

# fmt's headers alone will do where the compiler finds them and the package is another CPU's: what a
# cross build meets on Debian. Slower to compile.
if(NOT TARGET fmt::fmt)
  find_package(fmt QUIET)
endif()
if(NOT TARGET fmt::fmt)
  set(CMAKE_REQUIRED_DEFINITIONS -DFMT_HEADER_ONLY)
  check_include_file_cxx(fmt/format.h NYBBLE_FMT_HEADERS)
  unset(CMAKE_REQUIRED_DEFINITIONS)
endif()
if(NOT TARGET fmt::fmt AND NYBBLE_FMT_HEADERS)
  add_library(nybble_fmt_headers INTERFACE)
  target_compile_definitions(nybble_fmt_headers INTERFACE FMT_HEADER_ONLY)
  add_library(fmt::fmt ALIAS nybble_fmt_headers)
else()
  # Part of a shared nybble, and installed beside a static one.
  set(FMT_INSTALL ${NYBBLE_INSTALL})
  nybble_dependency(fmt fmt::fmt https://github.com/fmtlib/fmt/archive/refs/tags/9.1.0.tar.gz)
  if(TARGET fmt)
    set_target_properties(fmt PROPERTIES POSITION_INDEPENDENT_CODE ON)
  endif()
endif()
nybble_dependency(nlohmann_json nlohmann_json::nlohmann_json
  https://github.com/nlohmann/json/releases/download/v3.11.2/json.tar.xz)
find_package(OpenMP QUIET COMPONENTS CXX)
