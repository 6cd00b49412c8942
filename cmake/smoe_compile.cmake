# How every target here is compiled.

find_program(SMOE_CCACHE ccache)
if(SMOE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # The sloppiness is what ccache asks for where a precompiled header is used.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${SMOE_CCACHE})
endif()

# at::parallel_for is a template that without this runs on one thread and says nothing. LibTorch brings the runtime.
if(SMOE_LIBTORCH)
  find_package(OpenMP REQUIRED COMPONENTS CXX)
endif()

function(smoe_target target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_link_libraries(${target} PRIVATE $<TARGET_NAME_IF_EXISTS:OpenMP::OpenMP_CXX>)
  # -fPIC everywhere, executables too, so that one precompiled header serves all targets.
  set(options -fPIC -Wall -Wextra -Wshadow -Wnon-virtual-dtor)
  if(SMOE_WARNINGS_AS_ERRORS)
    list(APPEND options -Werror)
  endif()
  # GCC 12 sees overlapping copies in std::string where there are none (its bug 105651).
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    list(APPEND options -Wno-restrict)
  endif()
  # Clang takes it for ours that std::stable_sort of libstdc++ 12 uses a deprecated function.
  if(CMAKE_CXX_COMPILER_ID STREQUAL Clang)
    list(APPEND options -Wno-deprecated-declarations)
  endif()
  # The two halves of bitwise equality that the compiler has a say in: no fused multiply-add behind our back.
  list(APPEND options -ffp-contract=off)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${options}>)
  if(SMOE_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${SMOE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    # GCC guesses wrong about std::function once sanitizers have been at it.
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
    target_link_options(${target} PRIVATE -fsanitize=${SMOE_SANITIZE})
  endif()
  # The C++ runtime before LibTorch, whose wheels have parts of one among their symbols: std::filesystem::remove_all of
  # 2.11's calls what is not there.
  if(SMOE_LIBTORCH)
    target_link_options(${target} PRIVATE LINKER:--push-state,--no-as-needed,-lstdc++,--pop-state)
  endif()
  set_target_properties(${target} PROPERTIES DEFINE_SYMBOL "")
endfunction()

# LibTorch's headers cost seconds a file: one precompiled header, made by the library and reused by all.
function(smoe_precompiled_header target)
  if(target STREQUAL "smoe")
    target_precompile_headers(smoe PRIVATE "${PROJECT_SOURCE_DIR}/smoe/tensor/precompiled.h")
    target_compile_options(smoe PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
  else()
    target_precompile_headers(${target} REUSE_FROM smoe)
    target_compile_options(${target} PRIVATE -fpch-preprocess)
  endif()
endfunction()

# Compiles the sources of a folder as one, where nobody waits for a single file: most of a file's time goes to headers.
# Left alone are folders whose files give their own things the same names, a file each kind or each kernel.
function(smoe_compile_folders_as_one target)
  get_target_property(sources ${target} SOURCES)
  foreach(source ${sources})
    cmake_path(GET source PARENT_PATH folder)
    if(source MATCHES "\\.cpp$" AND NOT folder MATCHES "(smoe/kernels|/routers)$")
      string(MAKE_C_IDENTIFIER "${folder}" group)
      set_source_files_properties(${source} PROPERTIES UNITY_GROUP ${group})
    endif()
  endforeach()
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
endfunction()
