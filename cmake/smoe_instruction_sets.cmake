# Files with the name of an instruction set are compiled for it, and chosen at run time; -O3 makes vectors of their loops.
set(SMOE_AVX2_FLAGS -O3 -mavx2 -mfma)
# GCC 12 warns of its own header: an operand that an instruction ignores is not initialised there (its bug 105593).
set(SMOE_AVX512_FLAGS -O3 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512 -Wno-uninitialized)

# Sets them for the sources in the list of that name, and takes off the list what the processor's family has not. To be
# called in the folder whose target compiles them.
function(smoe_instruction_sets list)
  set(sources ${${list}})
  foreach(source ${sources})
    if(source MATCHES "_(avx2|avx512)\\.cpp$")
      string(TOUPPER ${CMAKE_MATCH_1} level)
      if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
        # Without LibTorch they need no precompiled header, which other flags could not read anyway.
        set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${SMOE_${level}_FLAGS}" SKIP_PRECOMPILE_HEADERS ON)
      else()
        list(REMOVE_ITEM sources ${source})
      endif()
    endif()
  endforeach()
  set(${list} ${sources} PARENT_SCOPE)
endfunction()
