# What a build says of itself (smoe/base/build_info.h). Its commit can change from one build to the next without CMake being
# asked again, so that each build looks for itself: this file is also the script of that step.
if(CMAKE_SCRIPT_MODE_FILE)
  set(SMOE_COMMIT "")
  find_program(git git)
  if(git AND EXISTS "${SOURCE_DIR}/.git")  # not a checkout that only contains this folder
    execute_process(COMMAND ${git} -C "${SOURCE_DIR}" describe --always --exclude=* --abbrev=12 --dirty=+changes
                    OUTPUT_VARIABLE SMOE_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  configure_file("${CMAKE_CURRENT_LIST_DIR}/build_info.cpp.in" "${OUTPUT}" @ONLY)  # left alone where nothing changed
  return()
endif()

set(SMOE_BUILD_INFO "${PROJECT_BINARY_DIR}/build_info.cpp")
add_custom_target(
  smoe_build_info
  COMMAND ${CMAKE_COMMAND} -DSOURCE_DIR=${PROJECT_SOURCE_DIR} -DOUTPUT=${SMOE_BUILD_INFO}
          -DPROJECT_VERSION=${PROJECT_VERSION} -DCMAKE_BUILD_TYPE=${CMAKE_BUILD_TYPE}
          "-DCOMPILER=${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}" -P ${CMAKE_CURRENT_LIST_FILE}
  BYPRODUCTS ${SMOE_BUILD_INFO}
  VERBATIM)
